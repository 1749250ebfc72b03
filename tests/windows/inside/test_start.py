"""Hardening, clocks, signals and files as the start of a node uses them, on Windows."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from conflux.api import UsageError
from conflux.config import default_config_dir, load_config
from conflux.hardening import SEM_NOGPFAULTERRORBOX, harden
from conflux.runtime import continuity, loop, saved
from conflux.runtime.saved import Attempt, Membership


class TestHardening:
    def test_crashes_are_not_reported_and_what_lacks_is_told(self) -> None:
        script = (
            "import ctypes\n"
            "from conflux.hardening import harden\n"
            "print(harden())\n"
            "print(ctypes.WinDLL('kernel32').GetErrorMode())\n"
        )
        said = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        )
        done, mode = said.stdout.splitlines()
        assert "core_dumps=False, memory_locked=False" in done
        assert "EncryptPagingFile" in done
        assert int(mode) & SEM_NOGPFAULTERRORBOX

    def test_hardening_twice_is_fine(self) -> None:
        before = ctypes.WinDLL("kernel32").GetErrorMode()
        assert harden() == harden()
        ctypes.WinDLL("kernel32").SetErrorMode(before)


class TestContinuity:
    def test_clocks_run_and_nothing_is_broken(self) -> None:
        found = continuity.Continuity(continuity.Clocks())
        assert found.look() is None
        clocks = continuity.Clocks()
        assert clocks.boot() >= clocks.monotonic() - 1

    def test_time_in_which_nothing_ran_is_a_break_without_sleep(self) -> None:
        """The clocks go on while Windows sleeps: what peers count as silence is all that tells."""

        class Slept(continuity.Clocks):
            ran_s = 0.0

            def monotonic(self) -> float:
                return 1_000.0 + self.ran_s

            boot = monotonic

            def wall(self) -> float:
                return 2_000.0 + self.ran_s

        clocks = Slept()
        found = continuity.Continuity(clocks)
        clocks.ran_s += 3_600
        assert found.look() == continuity.Break("nothing ran for 3600.0 s", 0.0)

    def test_nodes_loop_is_watched(self) -> None:
        async def main() -> None:
            with continuity.watching(lambda found: None) as look:
                look()

        loop.run(main())


class TestSignals:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGBREAK])
    def test_console_event_wakes_a_loop_that_sleeps(self, number: signal.Signals) -> None:
        async def main() -> None:
            stopped = asyncio.Event()
            loop.stop_on_signals(stopped.set)
            threading.Timer(0.05, signal.raise_signal, [number]).start()
            async with asyncio.timeout(10):
                await stopped.wait()

        before = signal.getsignal(number)
        loop.run(main())
        signal.raise_signal(number)  # late, and without effect
        signal.signal(number, before)


class TestFiles:
    MEMBERSHIP = Membership(guardian="https://guardian.example", conflux_token="a.b.c", tag="tokyo")

    def test_membership_is_written_whole_and_over_another(self, tmp_path: Path) -> None:
        path = tmp_path / "conflux" / saved.REGISTERED
        saved.check_writable(path)
        for _ in range(2):
            saved.save(path, self.MEMBERSHIP)
            assert saved.load(path) == self.MEMBERSHIP
        assert [file.name for file in path.parent.iterdir()] == [saved.REGISTERED]
        saved.remove(path)
        assert saved.load(path) is None

    def test_attempt_is_remembered_until_it_is_over(self, tmp_path: Path) -> None:
        value = Attempt(tmp_path).begin()
        again = Attempt(tmp_path)
        assert again.was_cut_short
        assert again.begin() == value
        again.forget()
        assert not Attempt(tmp_path).was_cut_short

    def test_folder_that_cannot_be_made_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(UsageError, match="cannot be written"):
            saved.save(tmp_path / "file" / "conflux.json", self.MEMBERSHIP)

    def test_configuration_is_read_from_the_roaming_folder(self, tmp_path: Path) -> None:
        environ = {"APPDATA": str(tmp_path)}
        folder = default_config_dir("win32", environ)
        assert folder == tmp_path / "conflux"
        folder.mkdir()
        (folder / "conflux.toml").write_text("mtu_bytes = 1400\n")
        assert load_config(None, environ).mtu_bytes == 1400
        assert os.sep == "\\"
