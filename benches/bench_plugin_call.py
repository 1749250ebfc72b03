"""What being a plugin costs: per call, and once at start.

A driver is bound once and called directly; a hook goes through pluggy. Prints the median time per
call of each way to the same empty method, beside the budget of a packet, and the time that finding
and describing all installed plugins takes. Rounds are interleaved, so that a slow moment hits all.

    .venv/bin/python benches/bench_plugin_call.py
"""

from __future__ import annotations

import statistics
import timeit
from collections.abc import Callable

import pluggy

from conflux.api import Layout, NodeId, TunDevice, hookimpl, hookspecs
from conflux.registry import Registry
from conflux.testing import MemoryTun

CALLS = 20_000
ROUNDS = 15
STARTS = 5
PACKET_US = 8.0
"""What one packet may cost on a core that moves one Gbit/s in packets of 1,000 bytes."""

NODE = NodeId(bytes(32))
EMPTY = memoryview(b"")


class Plain:
    """The same method without any contract."""

    def send(self, burst: memoryview, layout: Layout) -> int:
        return 0


class Driver(MemoryTun):
    """A driver of a contract: a subclass of its ABC."""

    def send(self, burst: memoryview, layout: Layout) -> int:
        return 0


class Observer:
    @hookimpl
    def conflux_node_started(self, node: NodeId) -> None:
        """Looks on."""


def main() -> None:
    ways = _ways()
    medians = _interleaved(ways)
    plain = medians["plain method"]
    print(f"{'one call':<38}{'us':>8}{'ratio':>8}{'of a packet':>13}")
    for name, seconds in medians.items():
        us = seconds * 1_000_000
        print(f"{name:<38}{us:>8.3f}{seconds / plain:>8.1f}{us / PACKET_US:>12.1%}")
    starts = sorted(timeit.repeat(_start, number=1, repeat=STARTS))
    print(f"\nfinding and describing every plugin: {starts[STARTS // 2] * 1_000:.1f} ms, once")


def _ways() -> dict[str, Callable[[], object]]:
    plain, driver = Plain(), Driver("bench")
    device: TunDevice = driver
    bound = device.send
    manager = pluggy.PluginManager("conflux")
    manager.add_hookspecs(hookspecs)
    manager.register(Observer())
    hook = manager.hook.conflux_node_started
    registry = Registry()
    registry.add(Observer(), name="observer")
    return {
        "plain method": lambda: plain.send(EMPTY, Layout.BARE),
        "driver method, looked up": lambda: device.send(EMPTY, Layout.BARE),
        "driver method, bound once": lambda: bound(EMPTY, Layout.BARE),
        "pluggy hook, one plugin": lambda: hook(node=NODE),
        "Registry.notify, one observer": lambda: registry.notify("conflux_node_started", node=NODE),
    }


def _nothing() -> None:
    """What the loop and the call of the lambda cost is not the contract's."""


def _interleaved(ways: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return the median seconds per call of each way."""
    rounds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        base = timeit.timeit(_nothing, number=CALLS)
        for name, call in ways.items():
            rounds[name].append((timeit.timeit(call, number=CALLS) - base) / CALLS)
    return {name: statistics.median(times) for name, times in rounds.items()}


def _start() -> None:
    Registry().load()


if __name__ == "__main__":
    main()
