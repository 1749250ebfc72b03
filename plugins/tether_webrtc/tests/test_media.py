"""conflux_tether_webrtc/rtc.py: aiortc without PyAV, and PyAV for whoever wants it later."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest


def run(code):
    """Run *code* in a Python of its own; return what it printed."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_driver_loads_no_media():
    code = """if True:
        import sys, conflux_tether_webrtc.driver
        print(*(name for name in sys.modules if name.partition(".")[0] == "av"))
        libraries = open("/proc/self/maps").read() if sys.platform == "linux" else ""
        print(*("libavcodec" for line in libraries.splitlines() if "libavcodec" in line))
    """
    assert run(code) == []


def test_who_imports_pyav_later_gets_the_real_one():
    code = """if True:
        import sys, conflux_tether_webrtc.driver
        import av
        print(av.__version__.split(".")[0].isdigit(), av.AudioFrame.__module__)
    """
    assert run(code) == ["True", "av.audio.frame"]


def test_pyav_that_was_there_before_stays():
    code = """if True:
        import av, sys, conflux_tether_webrtc.driver
        import aiortc.mediastreams
        print(sys.modules["av"] is av, aiortc.mediastreams.AudioFrame is av.AudioFrame)
    """
    assert run(code) == ["True", "True"]


def test_whoever_wants_media_of_this_process_is_told_that_there_is_none():
    import conflux_tether_webrtc.rtc as rtc

    module = rtc._Placeholder("av")
    with pytest.raises(ImportError, match="this process has no media"):
        module.AudioFrame(format="s16")
    with pytest.raises(AttributeError):
        _ = module.__wrapped__


def test_without_pyav_at_all_the_driver_loads_too():
    """As in the executable and the Debian package, which leave it out."""
    code = """if True:
        import sys
        class NoMedia:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] == "av":
                    raise ModuleNotFoundError(name)
        sys.meta_path.insert(0, NoMedia())
        import conflux_tether_webrtc.driver
        print("loaded")
    """
    assert run(code) == ["loaded"]


def test_release_of_aiortc_that_uses_pyav_at_import_gets_the_real_one(tmp_path):
    newer = tmp_path / "aiortc"
    newer.mkdir()
    (newer / "__init__.py").write_text(f"""if True:
        import av
        av.AudioFrame(format="s16", layout="mono", samples=1)
        __path__.append({str(Path(find_spec("aiortc").origin).parent)!r})
        from . import mediastreams, rtcdatachannel
    """)
    code = f"""if True:
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        import conflux_tether_webrtc.driver
        from aiortc import __file__, mediastreams
        print(__file__ == {str(newer / "__init__.py")!r}, mediastreams.AudioFrame.__module__)
    """
    assert run(code) == ["True", "av.audio.frame"]
