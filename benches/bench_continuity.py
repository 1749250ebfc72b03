"""What it costs to look for breaks in time at every wake-up of the loop, before anything is sealed.

Prints the median of a look that comes soon after another, of one that reads every clock (at most
one in 10 ms), of a whole turn of the loop with and without, and for comparison of sealing one frame
of 1,400 bytes. Rounds are interleaved, so that a slow moment hits all.

    .venv/bin/python benches/bench_continuity.py
"""

from __future__ import annotations

import asyncio
import statistics
import time
import timeit
from collections.abc import Callable

from conflux.anchor.handshake import StreamKeys
from conflux.anchor.stream import OutStream
from conflux.runtime.continuity import Clocks, Continuity
from conflux.runtime.loop import LookingLoop

CALLS = 5_000
ROUNDS = 25


class Ahead(Clocks):
    """Ahead by as many seconds as it is told."""

    by_s = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.by_s


def turns(loop: LookingLoop) -> Callable[[], None]:
    """CALLS turns of *loop* that do nothing."""

    async def main() -> None:
        for _ in range(CALLS):
            await asyncio.sleep(0)

    return lambda: loop.run_until_complete(main())


def main() -> None:
    clocks = Ahead()
    watch, eager = Continuity(Clocks()), Continuity(clocks)

    def look_a_second_later() -> None:
        clocks.by_s += 1.0
        eager.look()

    def look() -> None:
        watch.look()

    stream = OutStream(StreamKeys(bytes(32), bytes(12), 1), now=0.0)
    packet = memoryview(bytes(1_400))
    bare, looking = LookingLoop(), LookingLoop()
    looking.look_first(look)
    ways: dict[str, Callable[[], None]] = {
        "a look": lambda: repeat(watch.look),
        "a look at every clock": lambda: repeat(look_a_second_later),
        "a turn of the loop": turns(bare),
        "a turn with a look": turns(looking),
        "sealing 1,400 bytes": lambda: repeat(lambda: stream.seal(packet, now=0.0)),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            times[name].append(timeit.timeit(way, number=1) / CALLS * 1e9)
    for name, each in times.items():
        print(f"{name:24} {statistics.median(each):8,.0f} ns")
    bare.close()
    looking.close()


def repeat(call: Callable[[], object]) -> None:
    for _ in range(CALLS):
        call()


if __name__ == "__main__":
    main()
