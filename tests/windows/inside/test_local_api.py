"""The local API over a named pipe: whole answers, one node a folder, nobody else's."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from conflux.api import UsageError
from conflux.runtime import localapi, loop, winpipe
from conflux.runtime.localapi import LocalApi

LARGE = "x" * 300_000  # more than a pipe's buffer holds


@contextlib.asynccontextmanager
async def serving(path: Path) -> AsyncIterator[LocalApi]:
    api = LocalApi(path, {"status": lambda: {"state": "running"}, "info": lambda: LARGE})
    await api.start()
    try:
        yield api
    finally:
        await api.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "api.sock"


def test_node_answers_as_often_as_it_is_asked(path: Path) -> None:
    async def main() -> None:
        async with serving(path):
            for _ in range(3):
                assert await asyncio.to_thread(localapi.call, path, "status") == {
                    "state": "running"
                }
            assert await asyncio.to_thread(localapi.call, path, "info") == LARGE
            assert await asyncio.to_thread(localapi.is_running, path)

    loop.run(main())


def test_many_may_ask_at_once(path: Path) -> None:
    async def main() -> None:
        async with serving(path):
            asking = [asyncio.to_thread(localapi.call, path, "status") for _ in range(20)]
            assert await asyncio.gather(*asking) == [{"state": "running"}] * 20

    loop.run(main())


def test_unknown_verb_is_told(path: Path) -> None:
    async def main() -> None:
        async with serving(path):
            with pytest.raises(UsageError, match="is of another version, it knows no dance"):
                await asyncio.to_thread(localapi.call, path, "dance")

    loop.run(main())


def test_without_a_node_that_is_told(path: Path) -> None:
    assert not localapi.is_running(path)
    with pytest.raises(UsageError, match="no node runs at"):
        localapi.call(path, "status")


def test_second_node_on_a_folder_is_refused_and_the_first_goes_on(path: Path) -> None:
    async def main() -> None:
        async with serving(path):
            with pytest.raises(UsageError, match="a node is running already"):
                await LocalApi(path, {}).start()
            assert await asyncio.to_thread(localapi.is_running, path)
            async with serving(path.parent / "other" / "api.sock"):
                pass

    loop.run(main())


def test_folder_is_free_again_after_close(path: Path) -> None:
    async def main() -> None:
        for _ in range(3):
            async with serving(path):
                assert await asyncio.to_thread(localapi.is_running, path)
            assert not await asyncio.to_thread(localapi.is_running, path)

    loop.run(main())


def test_client_that_says_nothing_keeps_nobody_waiting(path: Path) -> None:
    async def main() -> None:
        async with serving(path):
            silent = await asyncio.to_thread(winpipe._connect, path, time.monotonic() + 5)
            assert await asyncio.to_thread(localapi.call, path, "status") == {"state": "running"}
            os.close(silent)
            assert await asyncio.to_thread(localapi.call, path, "status") == {"state": "running"}

    loop.run(main())


def test_client_that_sends_noise_gets_an_error(path: Path) -> None:
    async def main() -> None:
        async with serving(path):
            answer = await asyncio.to_thread(
                lambda: winpipe.ask(path, b"\xff{\n", within_s=5, most_bytes=10_000)
            )
            assert "error" in json.loads(answer)

    loop.run(main())


def test_pipe_is_for_the_system_administrators_and_its_owner_alone() -> None:
    """The descriptor goes to Windows and comes back with these entries and no other."""
    advapi32 = ctypes.WinDLL("advapi32")
    back = advapi32.ConvertSecurityDescriptorToStringSecurityDescriptorW
    text = ctypes.c_wchar_p()
    with winpipe._SecurityAttributes(winpipe.ACCESS) as attributes:
        assert back(ctypes.c_void_p(attributes.descriptor), 1, 4, ctypes.byref(text), None)
    assert text.value is not None
    assert text.value.count("(A;") == 3
    assert "WD" not in text.value


def test_folders_spelled_alike_have_one_pipe(tmp_path: Path) -> None:
    name = winpipe.name_of(tmp_path / "api.sock")
    assert name == winpipe.name_of(Path(str(tmp_path).upper()) / "API.SOCK")
    assert name != winpipe.name_of(tmp_path / "other.sock")
