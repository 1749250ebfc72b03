"""The host before a recorded service manager: what it says, and when."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from conflux_service_windows import advapi, host
from conflux_service_windows.host import Host

SAYS = "import sys; print('STATUS=reads\\nSTATUS=waits\\nREADY=1', flush=True); sys.stdin.read()"


class Manager:
    """advapi32.dll, of which a service uses three functions."""

    def __init__(self) -> None:
        self.heard = []
        self.runs = threading.Event()
        self.control = None

    def call(self, name, *arguments):
        if name == "RegisterServiceCtrlHandlerExW":
            self.control = arguments[1]
        elif name == "SetServiceStatus":
            status = arguments[1]._obj
            self.heard.append((status.dwCurrentState, status.dwCheckPoint, status.dwWaitHint))
            if status.dwCurrentState == advapi.SERVICE_RUNNING:
                self.runs.set()
        return 1


@pytest.fixture
def manager(tmp_path, monkeypatch):
    monkeypatch.setattr(host, "FOLDER", tmp_path)
    monkeypatch.setattr(host, "LOG", tmp_path / "log")
    monkeypatch.setattr(host, "LAST_WORDS", tmp_path / "status")
    return Manager()


def test_service_is_pending_at_once_and_each_line_of_the_node_moves_its_check_point(manager):
    service = Host(manager, [sys.executable, "-c", SAYS])
    thread = threading.Thread(target=service._main, args=(0, None))
    thread.start()
    assert manager.runs.wait(60)
    manager.control(advapi.SERVICE_CONTROL_STOP, 0, None, None)
    thread.join(60)
    pending = [(advapi.SERVICE_START_PENDING, n, host.START_HINT_MS) for n in (1, 2, 3)]
    assert manager.heard == [
        *pending,
        (advapi.SERVICE_RUNNING, 0, 0),
        (advapi.SERVICE_STOP_PENDING, 1, host.STOP_HINT_MS),
        (advapi.SERVICE_STOPPED, 0, 0),
    ]
    assert host.LAST_WORDS.read_text() == "waits\n"


def test_host_imports_nothing_of_the_product_before_it_answers_the_manager():
    program = (
        "import sys; before = set(sys.modules); import conflux_service_windows.host; "
        "print(*sorted({n.partition('.')[0] for n in set(sys.modules) - before}))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True
    )
    imported = set(done.stdout.split())
    assert "conflux_service_windows" in imported
    assert not imported & {"asyncio", "click", "conflux", "cryptography", "pluggy", "socket"}
