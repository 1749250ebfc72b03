"""What the tether contract costs: the WebRTC tether beside the data channels of two libraries.

aiortc's, and libdatachannel's where `aiolibdatachannel` is installed (it is no dependency; Python
3.12 and later). Two processes of this machine, one end each; four channels, unordered, no
retransmits, on all sides of the comparison. The sender keeps its queue full for SECONDS; CPU time
is that of both processes for a message that arrived. Then the price of the contract's calls alone,
on a tether whose queue is full.

    .venv/bin/python benches/bench_tether_contract.py [SIZE ...]
"""

from __future__ import annotations

import asyncio
import importlib.util
import multiprocessing
import os
import sys
import time
import timeit
from multiprocessing.connection import Connection as Pipe
from typing import Any

SIZES = (100, 1_400, 16_000, 60_000)
SECONDS = 3.0
QUEUE_BYTES = 256 * 1024
SECRET = bytes(32)


def main() -> None:
    sizes = tuple(map(int, sys.argv[1:])) or SIZES
    ends = {"aiortc": _plain_end, "tether": _tether_end}
    if importlib.util.find_spec("aiolibdatachannel"):
        ends["libdatachannel"] = _libdatachannel_end
    else:
        print("aiolibdatachannel is not installed: not measured")
    print(f"{'bytes':>7} | " + " | ".join(f"{name:>28}" for name in ends))
    print(f"{'':7} | " + " | ".join([f"{'Mbit/s':>8} {'msg/s':>8} {'CPU us/msg':>10}"] * len(ends)))
    for size in sizes:
        cells = [_measure(end, size) for end in ends.values()]
        print(f"{size:>7} | " + " | ".join(cells))
    asyncio.run(_price_of_calls())


def _measure(end: Any, size: int) -> str:
    here, there = multiprocessing.Pipe()
    spawn = multiprocessing.get_context("spawn")
    receiver = spawn.Process(target=_run, args=(end, there, size, False), daemon=True)
    sender = spawn.Process(target=_run, args=(end, here, size, True), daemon=True)
    for process in (receiver, sender):
        process.start()
    for process in (receiver, sender):
        process.join()
        if process.exitcode:
            sys.exit(f"an end of the benchmark failed with exit code {process.exitcode}")
    (messages, theirs), ours = here.recv(), there.recv()
    cpu_s = ours + theirs
    rate = messages / SECONDS
    return f"{rate * size * 8 / 1e6:8.0f} {rate:8.0f} {cpu_s / max(messages, 1) * 1e6:10.1f}"


def _run(end: Any, pipe: Pipe, size: int, is_sender: bool) -> None:
    asyncio.run(end(pipe, size, is_sender))


async def _receive(pipe: Pipe, count: list[int]) -> None:
    """Count what arrives in the middle of the sender's time; report it through the pipe."""
    while not count[0]:  # noqa: ASYNC110 (an event would cost every message)
        await asyncio.sleep(0.001)
    before, cpu = count[0], time.process_time()
    await asyncio.sleep(SECONDS)
    pipe.send((count[0] - before, time.process_time() - cpu))
    await asyncio.sleep(1)


async def _tell(pipe: Pipe, value: Any) -> Any:
    """Give *value* to the other end and take its value."""
    pipe.send(value)
    return await asyncio.get_running_loop().run_in_executor(None, pipe.recv)


async def _tether_end(pipe: Pipe, size: int, is_sender: bool) -> None:
    driver = await _driver()
    loop = asyncio.get_running_loop()
    if is_sender:
        tether = await driver.offer()
        remote = await _tell(pipe, tether.description)
    else:
        tether = await driver.answer(await loop.run_in_executor(None, pipe.recv))
        pipe.send(tether.description)
        remote = None
    count = [0]

    def arrived(message: memoryview) -> None:
        count[0] += 1

    tether.attach(arrived, arrived, lambda reason: None)
    await tether.connect(SECRET, remote)
    if is_sender:
        burst = [os.urandom(size)] * max(1, 60_000 // size)
        cpu = time.process_time()
        ends = loop.time() + SECONDS
        while loop.time() < ends:
            tether.send(burst)
            await asyncio.sleep(0)
        pipe.send(time.process_time() - cpu)
        await asyncio.sleep(1)
    else:
        await _receive(pipe, count)
    await driver.stop()


async def _driver() -> Any:
    from conflux.api import TetherConfig
    from conflux_tether_webrtc.driver import WebRtcTetherDriver

    driver = WebRtcTetherDriver({"allow_loopback": True})
    await driver.start(TetherConfig(is_overlay=lambda address: str(address) != "127.0.0.1"))
    return driver


async def _plain_end(pipe: Pipe, size: int, is_sender: bool) -> None:
    from aioice import Connection
    from aiortc import (
        RTCCertificate,
        RTCDataChannel,
        RTCDataChannelParameters,
        RTCDtlsTransport,
        RTCIceGatherer,
        RTCIceTransport,
        RTCSctpCapabilities,
        RTCSctpTransport,
    )

    class Loopback(Connection):
        async def gather_candidates(self) -> None:
            self._local_candidates = await self.get_component_candidates(1, ["127.0.0.1"])
            self._local_candidates_start = self._local_candidates_end = True

    gatherer = RTCIceGatherer(iceServers=[])
    gatherer._connection = Loopback(ice_controlling=is_sender)  # noqa: SLF001
    ice = RTCIceTransport(gatherer)
    dtls = RTCDtlsTransport(ice, [RTCCertificate.generateCertificate()])
    sctp = RTCSctpTransport(dtls)
    count = [0]
    is_open = asyncio.Event()
    channels = []
    for number in range(4):
        rules = RTCDataChannelParameters(
            ordered=False, maxRetransmits=0, negotiated=True, id=number
        )
        channel = RTCDataChannel(sctp, rules)
        channel.on("message", lambda message: count.__setitem__(0, count[0] + 1))
        channel.on("open", is_open.set)
        channels.append(channel)
    await gatherer.gather()
    mine = gatherer.getLocalParameters(), gatherer.getLocalCandidates(), dtls.getLocalParameters()
    parameters, candidates, fingerprints = await _tell(pipe, mine)
    for candidate in [*candidates, None]:
        await ice.addRemoteCandidate(candidate)
    await ice.start(parameters)
    await dtls.start(fingerprints)
    await sctp.start(RTCSctpCapabilities(65_536), 5_000)
    await is_open.wait()
    if is_sender:
        message = os.urandom(size)
        sent = 0
        cpu = time.process_time()
        ends = time.perf_counter() + SECONDS
        while time.perf_counter() < ends:
            room = QUEUE_BYTES - sum(channel.bufferedAmount for channel in channels)
            for _ in range(room // size):
                channels[sent % 4].send(message)
                sent += 1
            await asyncio.sleep(0)
        pipe.send(time.process_time() - cpu)
        await asyncio.sleep(1)
    else:
        await _receive(pipe, count)
    await sctp.stop()
    await dtls.stop()
    await ice.stop()


async def _libdatachannel_end(pipe: Pipe, size: int, is_sender: bool) -> None:
    from aiolibdatachannel import DataChannelOptions, GatheringState, PeerConnection

    connection = PeerConnection()
    channels = [
        await connection.create_data_channel(
            str(number),
            DataChannelOptions(ordered=False, max_retransmits=0, negotiated=True, stream_id=number),
        )
        for number in range(4)
    ]
    theirs = None
    if not is_sender:
        theirs = await asyncio.get_running_loop().run_in_executor(None, pipe.recv)
        await connection.set_remote_description(theirs, "offer")
    await connection.set_local_description("offer" if is_sender else "answer")
    while connection.gathering_state is not GatheringState.COMPLETE:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    ours = connection.local_description
    if is_sender:
        await connection.set_remote_description(await _tell(pipe, ours.sdp), "answer")
    else:
        pipe.send(ours.sdp)
    count = [0]

    async def take(channel: Any) -> None:
        async for _ in channel:
            count[0] += 1

    for channel in channels:
        await channel.wait_open()
        channel.spawn_task(take(channel))
    if is_sender:
        message, sent = os.urandom(size), 0
        cpu = time.process_time()
        ends = time.perf_counter() + SECONDS
        while time.perf_counter() < ends:
            room = QUEUE_BYTES - sum(channel.buffered_amount for channel in channels)
            for _ in range(max(room, 0) // size):
                await channels[sent % 4].send(message, wait_for_drain=False)
                sent += 1
            await asyncio.sleep(0)
        pipe.send(time.process_time() - cpu)
        await asyncio.sleep(1)
    else:
        await _receive(pipe, count)
    await connection.aclose()


async def _price_of_calls() -> None:
    near, far = await _driver(), await _driver()
    offer = await near.offer()
    answer = await far.answer(offer.description)
    async with asyncio.TaskGroup() as both:
        both.create_task(offer.connect(SECRET, answer.description))
        both.create_task(answer.connect(SECRET, None))
    message = bytes(60_000)
    while offer.send([message]):
        pass
    calls = {
        "send to a full queue": lambda: offer.send([message]),
        "room_bytes": offer.room_bytes,
        "stats": offer.stats,
    }
    for name, call in calls.items():
        runs = 20_000
        print(f"{name:>22}: {timeit.timeit(call, number=runs) / runs * 1e6:.2f} us")
    await near.stop()
    await far.stop()


if __name__ == "__main__":
    main()
