"""The local API: for its owner, one node a folder, and no client can hurt it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from conflux.api import UsageError
from conflux.runtime import localapi, peers
from conflux.runtime.localapi import LocalApi


@pytest.fixture
def path() -> Iterator[Path]:
    """A socket's path short enough for the kernel, wherever pytest keeps its folders."""
    with tempfile.TemporaryDirectory(prefix="veilnet-api-") as folder:
        yield Path(folder) / "node" / "api.sock"


@contextlib.asynccontextmanager
async def serving(path: Path, **verbs: Callable[[], object]):
    api = LocalApi(path, verbs or {"status": lambda: {"state": "running"}})
    await api.start()
    try:
        yield api
    finally:
        await api.close()


async def ask(path: Path, verb: str) -> object:
    return await asyncio.to_thread(localapi.call, path, verb)


async def send(path: Path, octets: bytes) -> bytes:
    """What a client gets that sends *octets* and then reads to the end."""
    reader, writer = await asyncio.open_unix_connection(path)
    with contextlib.suppress(ConnectionError):
        writer.write(octets)
        writer.write_eof()
        await writer.drain()
    try:
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


def test_verbs_are_answered_and_nothing_is_left(path):
    async def main():
        async with serving(path, status=lambda: {"a": [1]}, info=lambda: "me"):
            assert await ask(path, "status") == {"a": [1]}
            assert await ask(path, "info") == "me"
        assert os.listdir(path.parent) == []

    asyncio.run(main())


def test_large_answers_arrive_whole(path):
    answer = ["x" * 1000] * 5_000  # more than what a node with so many peers tells

    async def main():
        async with serving(path, status=lambda: answer):
            assert await ask(path, "status") == answer

    asyncio.run(main())


def test_only_the_owner_can_connect(path):
    async def main():
        before = os.umask(0)
        try:
            async with serving(path):
                assert stat.S_IMODE(path.stat().st_mode) == 0o600
                assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
                assert os.umask(0) == 0, "the mask is as it was"
        finally:
            os.umask(before)

    asyncio.run(main())


def test_second_node_is_refused_and_the_first_goes_on(path):
    async def main():
        async with serving(path):
            with pytest.raises(UsageError, match=r"a node is running already on .*--config-dir"):
                await LocalApi(path, {}).start()
            assert await ask(path, "status") == {"state": "running"}

    asyncio.run(main())


def test_of_many_nodes_that_start_at_once_one_wins(path):
    async def main():
        nodes = [LocalApi(path, {"status": lambda n=n: n}) for n in range(8)]
        results = await asyncio.gather(*(n.start() for n in nodes), return_exceptions=True)
        assert sorted(r is None for r in results) == [False] * 7 + [True]
        assert await ask(path, "status") == results.index(None)
        for node in nodes:
            await node.close()
        assert os.listdir(path.parent) == []

    asyncio.run(main())


def test_socket_of_a_killed_node_is_no_obstacle(path):
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert path.is_socket()
    assert not localapi.is_running(path)

    async def main():
        async with serving(path):
            assert await ask(path, "status") == {"state": "running"}

    asyncio.run(main())


def test_node_can_start_again_after_it_closed(path):
    async def main():
        for _ in range(2):
            async with serving(path) as api:
                assert await ask(path, "status") == {"state": "running"}
            await api.close()

    asyncio.run(main())


@given(st.binary(max_size=200))
@example(b"")
@example(b"\n")
@example(b"[" * 100_000 + b"\n")
@example(b'{"verb": ["status"]}\n')
@example(b'{"verb": {}}\n')
@example(b"7\n")
@example(b"null\n")
@example(b"\xff\xff\n")
@example(b"x" * (2 * localapi.MAX_LINE_BYTES))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_noise_gets_a_line_or_nothing_and_is_not_logged(path, caplog, noise):
    async def main():
        async with serving(path):
            reply = await send(path, noise)
            assert reply == b"" or json.loads(reply) == {"error": "no such verb; there are status"}
            assert await ask(path, "status") == {"state": "running"}

    asyncio.run(main())
    assert not caplog.records


def test_clients_that_only_hold_the_line_are_cut_off(path, caplog, monkeypatch):
    monkeypatch.setattr(localapi, "REPLY_S", 3.0)
    monkeypatch.setattr(localapi, "MAX_CLIENTS", 4)

    async def main():
        async with serving(path):
            idle = [await asyncio.open_unix_connection(path) for _ in range(6)]
            with pytest.raises(UsageError, match="too many ask at once: ask again"):
                await ask(path, "status")
            for reader, _ in idle:
                async with asyncio.timeout(30):
                    assert b"status" not in await reader.read()
            assert await ask(path, "status") == {"state": "running"}
            for _, writer in idle:
                writer.close()

    asyncio.run(main())
    assert not caplog.records


def test_client_that_does_not_read_keeps_nothing_alive(path, monkeypatch):
    monkeypatch.setattr(localapi, "REPLY_S", 0.2)

    async def main():
        asked = asyncio.Event()

        def more_than_the_kernel_buffers():
            asked.set()
            return "x" * 5_000_000

        async with serving(path, status=more_than_the_kernel_buffers):
            before = asyncio.all_tasks()
            deaf = socket.socket(socket.AF_UNIX)
            deaf.connect(str(path))
            deaf.sendall(b'{"verb": "status"}\n')
            await asked.wait()
            _, waiting = await asyncio.wait(asyncio.all_tasks() - before, timeout=5)
            assert not waiting
            deaf.close()

    asyncio.run(main())


def test_no_node_gives_a_line_that_says_how_to_start_one(path):
    with pytest.raises(UsageError, match=r"no node runs at .*veilnet-conflux run.*--config-dir"):
        localapi.call(path, "status")
    assert not localapi.is_running(path)
    path.parent.mkdir()
    path.write_text("a file")
    assert not localapi.is_running(path)


@pytest.mark.parametrize(
    "reply", [b"", b"noise\n", b"7\n", b"[]\n", b"{}\n", b"[" * 100_000 + b"\n"]
)
def test_answer_that_is_none_gives_one_line(path, reply):
    async def answer(reader, writer):
        await reader.readline()
        writer.write(reply)
        writer.close()

    async def main():
        path.parent.mkdir()
        async with await asyncio.start_unix_server(answer, path):
            with pytest.raises(UsageError, match="does not answer: restart it"):
                await ask(path, "status")

    asyncio.run(main())


def test_node_that_lacks_a_verb_is_of_another_version(path):
    async def main():
        async with serving(path):
            assert b"no such verb; there are status" in await send(path, b'{"verb": "dance"}\n')
            line = (
                r"of another version, it knows no dance: restart it with `veilnet-conflux restart`"
            )
            with pytest.raises(UsageError, match=line):
                await ask(path, "dance")

    asyncio.run(main())


def test_stop_returns_once_the_node_has_closed(path):
    async def main():
        stopping = asyncio.Event()
        async with serving(path, stop=lambda: stopping.set() or "stopping"):
            ended = asyncio.get_running_loop().run_in_executor(None, localapi.stop, path)
            await stopping.wait()
            assert not ended.done()
        await ended

    asyncio.run(main())


def test_path_that_the_kernel_does_not_take_is_named(tmp_path):
    path = tmp_path / ("x" * 120) / "api.sock"
    with pytest.raises(UsageError, match=r"too long for a socket.*--config-dir"):
        asyncio.run(LocalApi(path, {}).start())


def test_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"api.sock cannot be made \(Not a directory\)"):
        asyncio.run(LocalApi(tmp_path / "file" / "folder" / "api.sock", {}).start())


def as_user(path: Path, uid: int, groups: list[int]) -> str:
    """What a process of another user gets that asks for the status."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from conflux.api import UsageError\n"
        "from conflux.runtime import localapi\n"
        "import os; os.setgroups(eval(sys.argv[4]))\n"
        "os.setgid(65534); os.setuid(int(sys.argv[3]))\n"
        "try: print(localapi.call(Path(sys.argv[2]), 'status'))\n"
        "except UsageError as error: print(error)\n"
    )
    arguments = [str(Path(localapi.__file__).parents[2]), str(path), str(uid), str(groups)]
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout.strip()  # fmt: skip


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be other users")
class TestOthers:
    GROUP = 64_123

    @pytest.fixture(autouse=True)
    def group(self, monkeypatch, path):
        monkeypatch.setattr(peers, "group_id", lambda: self.GROUP)
        monkeypatch.setattr(localapi, "SYSTEM_SOCKET", path)

    def asked(self, path: Path, uid: int, groups: list[int], *, open_to_all: bool = False) -> str:
        async def main():
            async with serving(path):
                for folder in [path.parent.parent, *([path.parent] * open_to_all)]:
                    os.chmod(folder, 0o755)  # noqa: S103
                if open_to_all:
                    os.chmod(path, 0o666)  # noqa: S103
                return await asyncio.to_thread(as_user, path, uid, groups)

        return asyncio.run(main())

    def test_group_may_ask_the_systems_node(self, path):
        assert self.asked(path, 65_534, [self.GROUP]) == "{'state': 'running'}"
        assert self.asked(path, 0, []) == "{'state': 'running'}"

    def test_others_are_refused_by_the_sockets_mode(self, path):
        assert self.asked(path, 65_534, []) == f"{path}: {peers.REFUSED}"

    def test_others_are_refused_by_their_credentials_whatever_the_mode(self, path):
        said = self.asked(path, 65_534, [], open_to_all=True)
        assert said == f"the node at {path} says: {peers.REFUSED}"
        assert self.asked(path, 65_534, [self.GROUP], open_to_all=True) == "{'state': 'running'}"

    def test_node_in_a_folder_of_its_own_is_its_owners_alone(self, path, monkeypatch):
        monkeypatch.setattr(localapi, "SYSTEM_SOCKET", path.parent / "other")
        assert self.asked(path, 65_534, [self.GROUP]) == f"{path}: {peers.REFUSED}"


class TestMacOs:
    """struct xucred of sys/ucred.h: version 0, uid, count, padding, 16 groups."""

    def test_peer_is_read(self):
        octets = struct.pack("=IIhxx16I", 0, 501, 2, 20, 80, *[0] * 14)
        assert len(octets) == 76
        assert peers.parse_xucred(octets) == peers.Peer(501, frozenset({20, 80}))

    @pytest.mark.parametrize(
        "octets", [b"", bytes(75), struct.pack("=IIh", 1, 0, 0) + bytes(66), b"\0" * 8 + b"\x11\0"]
    )
    def test_what_is_no_xucred_is_refused(self, octets):
        with pytest.raises(OSError, match="xucred"):
            peers.parse_xucred(octets)
