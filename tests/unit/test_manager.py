"""What a node tells its service manager, on real sockets and pipes."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile

import pytest

from conflux.runtime.manager import Manager


@pytest.fixture
def ear():
    with (
        tempfile.TemporaryDirectory(prefix="veilnet-") as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear,
    ):
        ear.bind(f"{folder}/notify")
        ear.settimeout(10)
        yield ear


def manager_of(ear, **variables: str) -> Manager:
    return Manager({"NOTIFY_SOCKET": ear.getsockname(), **variables})


def test_ready_is_told_once_and_status_on_one_line(ear):
    manager = manager_of(ear)
    manager.ready("waiting for Guardian:\n no answer")
    manager.ready("running")
    manager.stopping()
    assert ear.recv(999) == b"READY=1\nSTATUS=waiting for Guardian: no answer"
    assert ear.recv(999) == b"STATUS=running"
    assert ear.recv(999) == b"STOPPING=1\nSTATUS=stopping"


def test_abstract_socket_is_reached():
    name = f"veilnet-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind("\0" + name)
        Manager({"NOTIFY_SOCKET": "@" + name}).status("x")
        assert ear.recv(99) == b"STATUS=x"


def test_loop_says_that_it_turns_twice_within_the_limit(ear):
    manager = manager_of(ear, WATCHDOG_USEC="30000000", WATCHDOG_PID=str(os.getpid()))
    assert manager.beat_s == 15

    async def main():
        beat = asyncio.get_running_loop().create_task(manager.beat())
        assert await asyncio.to_thread(ear.recv, 99) == b"WATCHDOG=1"
        beat.cancel()

    asyncio.run(main())


@pytest.mark.parametrize(
    "variables",
    [{}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}],
)
def test_no_beat_where_nobody_listens(ear, variables):
    assert manager_of(ear, **variables).beat_s is None


def test_manager_that_is_gone_is_no_error():
    manager = Manager({"NOTIFY_SOCKET": "/nonexistent/notify"})
    manager.ready("running")
    manager.stopping()
    Manager({}).ready("running")


def test_stdio_carries_lines_and_its_end_means_stop(capfd, monkeypatch):
    reader, writer = os.pipe()
    with os.fdopen(reader) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        manager = Manager({"VEILNET_NOTIFY": "stdio"})

        async def main():
            told = asyncio.Event()
            manager.when_told_to_stop(told.set)
            manager.ready("running")
            assert not told.is_set()
            os.close(writer)
            async with asyncio.timeout(10):
                await told.wait()

        asyncio.run(main())
    assert capfd.readouterr().out == "READY=1\nSTATUS=running\n"
