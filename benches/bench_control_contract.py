"""What the control contract costs over nats-py's own publish and subscribe.

Prints microseconds per message through the driver, through nats-py, and their ratio: `publish` is
the call alone, `deliver` the whole way from publish over the server to the handler. Medians of
interleaved rounds, so that a slow moment hits both. Server, sender and receiver share the machine.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

import nats
import nkeys
from nats.aio.client import Client
from nats.aio.msg import Msg

from conflux.api import ControlChannel, ControlCredentials
from conflux.with_parent import with_parent
from conflux_control_nats.driver import NatsControlDriver

ROUNDS = 15
MESSAGES = 2_000
BATCH = 40  # fits the bounded buffer with an Ask of each
PAUSE_S = 0.002  # outside of what is measured: the server takes the batch
ROUND_WITHIN_S = 60.0  # takes less than one: whatever does not arrive is an error, no endless wait
SIZES = (100, 8_500)  # a small one; an Ask

HANDLE, TAG, SHARED = (bytes([n]) * 16 for n in (1, 2, 3))
PREFIX = "v1.0011223344556677"

Round = Callable[[bytes], Awaitable[float]]


def main() -> None:
    print(f"{'operation':<10}{'bytes':>7}{'driver µs':>11}{'nats-py µs':>12}{'ratio':>8}")
    with nats_server() as url:
        asyncio.run(measure(url))


async def measure(url: str) -> None:
    received = Received()
    driver = NatsControlDriver({})
    sender = await driver.connect(credentials(url, HANDLE), ignore, ignore)
    listener = await driver.connect(credentials(url, TAG), received.on_message, ignore)
    raw = await nats.connect(url)
    subject = f"{PREFIX}.raw.{HANDLE.hex()}"
    await raw.subscribe(f"{PREFIX}.raw.*", cb=received.on_msg)
    for size in SIZES:
        payload = os.urandom(size)
        compare("publish", payload, await rounds(payload, published(sender), raw_published(raw)))
        compare(
            "deliver",
            payload,
            await rounds(payload, received.over(sender), received.raw_over(raw, subject)),
        )
    await raw.close()
    await listener.close()
    await sender.close()


def compare(operation: str, payload: bytes, medians: tuple[float, float]) -> None:
    ours, theirs = medians
    print(
        f"{operation:<10}{len(payload):>7}{ours * 1e6:>11.2f}{theirs * 1e6:>12.2f}"
        f"{ours / theirs:>8.2f}"
    )


async def rounds(payload: bytes, ours: Round, theirs: Round) -> tuple[float, float]:
    """Median seconds per message of both."""
    pairs = [(await bounded(ours, payload), await bounded(theirs, payload)) for _ in range(ROUNDS)]
    driver, library = zip(*pairs, strict=True)
    return statistics.median(driver) / MESSAGES, statistics.median(library) / MESSAGES


async def bounded(way: Round, payload: bytes) -> float:
    async with asyncio.timeout(ROUND_WITHIN_S):
        return await way(payload)


def published(channel: ControlChannel) -> Round:
    nobody = bytes(16)

    async def run(payload: bytes) -> float:
        spent = 0.0
        for _ in range(MESSAGES // BATCH):
            start = perf_counter()
            for _ in range(BATCH):
                assert channel.publish(nobody, payload)
            spent += perf_counter() - start
            await asyncio.sleep(PAUSE_S)
        return spent

    return run


def raw_published(client: Client) -> Round:
    async def run(payload: bytes) -> float:
        nobody, handle = bytes(16), HANDLE.hex()
        spent = 0.0
        for _ in range(MESSAGES // BATCH):
            start = perf_counter()
            for _ in range(BATCH):
                await client.publish(f"{PREFIX}.{nobody.hex()}.{handle}", payload)
            spent += perf_counter() - start
            await asyncio.sleep(PAUSE_S)
        return spent

    return run


class Received:
    """Counts what arrives, both ways, and wakes who waits for a whole round."""

    def __init__(self) -> None:
        self._count = 0
        self._all = asyncio.Event()

    def on_message(self, tag: bytes, sender: bytes, payload: bytes) -> None:
        self._count += 1
        if self._count == MESSAGES:
            self._all.set()

    async def on_msg(self, msg: Msg) -> None:
        self.on_message(b"", b"", msg.data)

    def over(self, channel: ControlChannel) -> Round:
        async def run(payload: bytes) -> float:
            start = self._start()
            sent = 0
            while sent < MESSAGES:
                taken = channel.publish(TAG, payload)
                sent += taken
                if not taken or sent % BATCH == 0:
                    await asyncio.sleep(0)
            await self._all.wait()
            return perf_counter() - start

        return run

    def raw_over(self, client: Client, subject: str) -> Round:
        async def run(payload: bytes) -> float:
            start = self._start()
            for n in range(MESSAGES):
                await client.publish(subject, payload)
                if n % BATCH == 0:
                    await asyncio.sleep(0)
            await self._all.wait()
            return perf_counter() - start

        return run

    def _start(self) -> float:
        self._count = 0
        self._all.clear()
        return perf_counter()


def ignore(*_: object) -> None:
    """Take no notice."""


def credentials(url: str, handle: bytes) -> ControlCredentials:
    """For a server that asks for none."""
    seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER).decode()
    return ControlCredentials(
        urls=[url],
        prefix=PREFIX,
        handle=handle,
        tags=[handle],
        shared_tag=SHARED,
        jwt="none",
        seed=seed,
    )


@contextmanager
def nats_server() -> Iterator[str]:
    """Run a server on a free port of loopback."""
    program = Path(sys.executable).with_name("nats-server")
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen(
            with_parent([program, "-a", "127.0.0.1", "-p", "-1"]),
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
        )
        try:
            assert server.stderr is not None
            lines = (line for line in server.stderr if "Listening for client" in line)
            yield f"nats://127.0.0.1:{next(lines).rsplit(':', 1)[1].strip()}"
        finally:
            server.kill()
            server.communicate()


if __name__ == "__main__":
    main()
