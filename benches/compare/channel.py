"""One raw data channel of a WebRTC library between the two hosts: aiortc's, libdatachannel's.

The WebRTC tether builds on aiortc. Nothing of VeilNet: a peer connection with one channel as it is
by default, ordered and reliable, which was aiortc's faster kind; messages of the size that
superframes have. The sender keeps the channel's queue full; the receiver compares every byte. Each
end is this file as a program:

    python -m benches.compare.channel LIBRARY offer|answer WARM_S SECONDS
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

from benches.compare.products import Tunnel
from benches.compare.programs import Missing
from benches.compare.worlds import Underlay
from conflux.lab import LabError, Process

MESSAGE_BYTES = 60_000
QUEUE_BYTES = 256 * 1024
LOW_BYTES = QUEUE_BYTES - MESSAGE_BYTES
"""Below this there is room for one more message."""

BODY = random.Random(8831).randbytes(MESSAGE_BYTES)  # noqa: S311 (both ends need the same)
END_S = 60.0
PACKAGES = {"aiortc": "aiortc", "libdatachannel": "aiolibdatachannel"}


class RawChannel:
    """No tunnel: only `measure` can be asked of it."""

    def __init__(self, library: str) -> None:
        self._library = library
        self.name = f"channel-{library}"
        self.label = f"one raw data channel ({library})"

    def prepare(self) -> str:
        package = PACKAGES[self._library]
        try:
            return version(package)
        except PackageNotFoundError:
            raise Missing(f"{package} is not installed: tools/far-end") from None

    def start(self, underlay: Underlay, folder: Path) -> Tunnel:
        return Tunnel(underlay.near.address, underlay.far.address)

    def measure(self, underlay: Underlay, folder: Path, warm_s: float, seconds: float) -> float:
        """Mbit/s that arrived unharmed. Raises LabError."""
        near, far = (
            _End(host.place.popen, folder, (self._library, role, str(warm_s), str(seconds)))
            for host, role in ((underlay.near, "offer"), (underlay.far, "answer"))
        )
        far.tell(near.hear())
        near.tell(far.hear())
        figures = far.hear()
        near.tell("enough")
        if figures["wrong"]:
            raise LabError(f"the data channel broke: {figures}")
        return float(figures["bytes"] * 8 / figures["seconds"] / 1e6)


class _End:
    """The program at one end, seen from the benchmark."""

    def __init__(
        self, popen: Callable[..., Process], folder: Path, arguments: tuple[str, ...]
    ) -> None:
        self._log = folder / f"channel-{arguments[1]}.log"
        argv = [sys.executable, "-m", "benches.compare.channel", *arguments]
        with self._log.open("w") as file:
            self._process = popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file)

    def tell(self, value: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(value) + "\n")
        self._process.stdin.flush()

    def hear(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise LabError(f"the data channel's end died: {self._log.read_text()[-600:]}")
        return json.loads(line)


# The program


Take = Callable[[bytes | str], None]


class _Peer(Protocol):
    """A peer connection with one channel, by whichever library."""

    async def offer(self) -> str:
        """Make the channel; return the description, candidates in it."""

    async def answer(self, offer: str, take: Take, group: asyncio.TaskGroup) -> str:
        """Return the answer; each message of the channel goes to *take*, by a task of *group*."""

    async def fill(self, answer: str) -> None:
        """Connect; begin to keep the channel's queue full of BODY."""

    async def close(self) -> None: ...


class _Aiortc:
    def __init__(self) -> None:
        from aiortc import RTCConfiguration, RTCPeerConnection

        self._connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._channel: Any = None
        self._is_open = asyncio.Event()

    async def offer(self) -> str:
        self._channel = self._connection.createDataChannel("bench")
        self._channel.bufferedAmountLowThreshold = LOW_BYTES
        self._channel.on("open", self._is_open.set)
        await self._connection.setLocalDescription(await self._connection.createOffer())
        return str(self._connection.localDescription.sdp)

    async def answer(self, offer: str, take: Take, group: asyncio.TaskGroup) -> str:
        self._connection.on("datachannel", lambda channel: channel.on("message", take))
        await self._hear(offer, "offer")
        await self._connection.setLocalDescription(await self._connection.createAnswer())
        return str(self._connection.localDescription.sdp)

    async def fill(self, answer: str) -> None:
        await self._hear(answer, "answer")
        await self._is_open.wait()
        self._channel.on("bufferedamountlow", self._refill)
        self._refill()

    def _refill(self) -> None:
        while self._channel.bufferedAmount <= LOW_BYTES:
            self._channel.send(BODY)

    async def _hear(self, sdp: str, kind: str) -> None:
        from aiortc import RTCSessionDescription

        await self._connection.setRemoteDescription(RTCSessionDescription(sdp, kind))

    async def close(self) -> None:
        await self._connection.close()


class _Libdatachannel:
    def __init__(self) -> None:
        from aiolibdatachannel import PeerConnection

        self._connection = PeerConnection()
        self._channel: Any = None

    async def offer(self) -> str:
        self._channel = await self._connection.create_data_channel("bench")
        self._channel.set_buffered_amount_low_threshold(LOW_BYTES)
        return str((await self._connection.create_offer()).sdp)

    async def answer(self, offer: str, take: Take, group: asyncio.TaskGroup) -> str:
        async def taking() -> None:
            channel = await self._connection.accept_data_channel()
            async for message in channel:
                take(message)

        await self._connection.set_remote_description(offer, "offer")
        group.create_task(taking())
        return str((await self._connection.create_answer()).sdp)

    async def fill(self, answer: str) -> None:
        async def filling() -> None:
            while True:
                await self._channel.send(
                    BODY, wait_for_drain=self._channel.buffered_amount > LOW_BYTES
                )

        await self._connection.set_remote_description(answer, "answer")
        await self._channel.wait_open()
        self._channel.spawn_task(filling())

    async def close(self) -> None:
        await self._connection.aclose()


LIBRARIES: dict[str, type[_Peer]] = {"aiortc": _Aiortc, "libdatachannel": _Libdatachannel}


async def _offer(peer: _Peer) -> None:
    _tell(await peer.offer())
    await peer.fill(await _hear())
    await _hear()  # that it was enough
    await peer.close()


async def _answer(peer: _Peer, warm_s: float, seconds: float) -> None:
    taken = {"bytes": 0, "wrong": 0}
    has_begun = asyncio.Event()

    def take(message: bytes | str) -> None:
        taken["bytes"] += len(message)
        taken["wrong"] += message != BODY
        has_begun.set()

    async with asyncio.TaskGroup() as group:
        _tell(await peer.answer(await _hear(), take, group))
        await has_begun.wait()
        await asyncio.sleep(warm_s)
        before, began = taken["bytes"], time.perf_counter()
        await asyncio.sleep(seconds)
        within = {"bytes": taken["bytes"] - before, "seconds": time.perf_counter() - began}
        _tell({**within, "wrong": taken["wrong"]})
        await peer.close()


def _tell(value: Any) -> None:
    print(json.dumps(value), flush=True)


async def _hear() -> Any:
    loop = asyncio.get_running_loop()
    return json.loads(await loop.run_in_executor(None, sys.stdin.readline))


async def _main(library: str, role: str, warm_s: float, seconds: float) -> None:
    peer = LIBRARIES[library]()
    async with asyncio.timeout(END_S):
        await (_offer(peer) if role == "offer" else _answer(peer, warm_s, seconds))


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], sys.argv[2], *map(float, sys.argv[3:])))
