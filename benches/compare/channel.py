"""One raw data channel of the library that the WebRTC tether builds on, between the two hosts.

Nothing of VeilNet: `RTCPeerConnection` of aiortc with one channel as it is by default, ordered and
reliable, which was the faster kind; messages of the size that superframes have. The sender keeps
the channel's queue full; the receiver compares every byte. Each end is this file as a program:

    python -m benches.compare.channel offer|answer WARM_S SECONDS
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benches.compare.products import Tunnel
from benches.compare.worlds import Underlay
from conflux.lab import LabError, Process

MESSAGE_BYTES = 60_000
QUEUE_BYTES = 256 * 1024
BODY = random.Random(8831).randbytes(MESSAGE_BYTES)  # noqa: S311 (both ends need the same)
END_S = 60.0


class RawChannel:
    """No tunnel: only `measure` can be asked of it."""

    name = "channel-aiortc"
    label = "one raw data channel (aiortc)"

    def prepare(self) -> str:
        return version("aiortc")

    def start(self, underlay: Underlay, folder: Path) -> Tunnel:
        return Tunnel(underlay.near.address, underlay.far.address)

    def measure(self, underlay: Underlay, folder: Path, warm_s: float, seconds: float) -> float:
        """Mbit/s that arrived unharmed. Raises LabError."""
        near, far = (
            _End(host.place.popen, role, folder / f"channel-{role}.log", warm_s, seconds)
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
        self, popen: Callable[..., Process], role: str, log: Path, warm_s: float, seconds: float
    ) -> None:
        self._log = log
        argv = [sys.executable, "-m", "benches.compare.channel", role, str(warm_s), str(seconds)]
        with log.open("w") as file:
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


async def _offer() -> None:
    connection = _connection()
    channel = connection.createDataChannel("bench")
    channel.bufferedAmountLowThreshold = QUEUE_BYTES - MESSAGE_BYTES
    is_open = asyncio.Event()
    channel.on("open", is_open.set)

    def fill() -> None:
        while channel.bufferedAmount + MESSAGE_BYTES <= QUEUE_BYTES:
            channel.send(BODY)

    await connection.setLocalDescription(await connection.createOffer())
    _tell(connection.localDescription.sdp)
    await connection.setRemoteDescription(_description(await _hear(), "answer"))
    await is_open.wait()
    channel.on("bufferedamountlow", fill)
    fill()
    await _hear()  # that it was enough
    await connection.close()


async def _answer(warm_s: float, seconds: float) -> None:
    connection = _connection()
    taken = {"bytes": 0, "wrong": 0}
    has_begun = asyncio.Event()

    def take(message: bytes) -> None:
        taken["bytes"] += len(message)
        taken["wrong"] += message != BODY
        has_begun.set()

    connection.on("datachannel", lambda channel: channel.on("message", take))
    await connection.setRemoteDescription(_description(await _hear(), "offer"))
    await connection.setLocalDescription(await connection.createAnswer())
    _tell(connection.localDescription.sdp)
    await has_begun.wait()
    await asyncio.sleep(warm_s)
    before, began = taken["bytes"], time.perf_counter()
    await asyncio.sleep(seconds)
    within = {"bytes": taken["bytes"] - before, "seconds": time.perf_counter() - began}
    _tell({**within, "wrong": taken["wrong"]})
    await connection.close()


def _connection() -> Any:
    from aiortc import RTCConfiguration, RTCPeerConnection

    return RTCPeerConnection(RTCConfiguration(iceServers=[]))


def _description(sdp: str, kind: str) -> Any:
    from aiortc import RTCSessionDescription

    return RTCSessionDescription(sdp, kind)


def _tell(value: Any) -> None:
    print(json.dumps(value), flush=True)


async def _hear() -> Any:
    loop = asyncio.get_running_loop()
    return json.loads(await loop.run_in_executor(None, sys.stdin.readline))


async def _main(role: str, warm_s: float, seconds: float) -> None:
    async with asyncio.timeout(END_S):
        await (_offer() if role == "offer" else _answer(warm_s, seconds))


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], float(sys.argv[2]), float(sys.argv[3])))
