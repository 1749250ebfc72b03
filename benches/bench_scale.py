"""What 10, 100, 1,000 peers cost one node: handshakes, memory, rest, its loop's punctuality.

    .venv/bin/python benches/bench_scale.py [PEERS ...] [--write]

The node is a process of its own, `veilnet-conflux run`, with its real UDP tethers, cryptography and
router; its TUN device is in memory, and a host behind it sends each packet back. One other process
plays all peers (scale/peers.py), on real sockets, and Guardian and Master. Both are in a network
namespace with nothing but its loopback. Settings are the defaults.

CPU is that of the node's process alone: it is a fair measure also where the machine has other work,
which times are not. `--write` puts the tables into docs/scale.md.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import logging
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benches.scale.node_plugin import SOCKET_VARIABLE
from benches.scale.peers import NODE, NODE_ADDRESS, Ether, Master, Peer
from conflux import lab
from conflux.api import UsageError
from conflux.registry import Registry
from conflux.runtime import localapi, saved

PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
BEGIN, END = "<!-- bench_scale.py -->", "<!-- end -->"
AT_ONCE = 8
"""So many peers make their first contact side by side."""
SETTLE_S = 3.0
IDLE_S = 20.0
LAG_S = 10.0
ACTIVE_S = 20.0
EACH_S = 10.0
"""Active peers send one packet in so many seconds, evenly spread, and get it back."""
GONE_S = 180.0
CONFIG = "[plugin.tether.udp]\nallow_loopback = true\n"


@dataclass(kw_only=True)
class Figures:
    """Of one node with so many peers."""

    peers: int
    rest_mb: float = 0.0
    rest_cpu_s_per_min: float = 0.0
    contact_s: float = 0.0
    contact_cpu_ms: float = 0.0
    tries: int = 0
    kb_per_peer: float = 0.0
    idle_cpu_s_per_hour: float = 0.0
    """Of one peer."""
    packet_us: float = 0.0
    """CPU for a lone packet of a peer and its answer, beside what it costs at rest."""
    answered: float = 0.0
    lag_ms: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Median and 99th percentile, with nobody, with idle and with active peers."""
    status_ms: float = 0.0
    gone_s: float = 0.0
    gone_cpu_ms: float = 0.0
    """For each peer, until all is dissolved."""
    after_kb: float = 0.0
    """More than at rest before, in all."""
    again_kb: float = 0.0
    """More than after the first time, once all have come and gone a second time."""
    left: int = 0
    """Peers and neighbours that are still there."""


class NodeProcess:
    """The node under test."""

    def __init__(self, folder: Path, token: str) -> None:
        self._folder = folder
        info = folder / "scale-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: scale\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(
            "[conflux.plugins]\nscale = benches.scale.node_plugin\n"
        )
        home = folder / NODE
        home.mkdir(mode=0o700)
        (home / "conflux.toml").write_text(CONFIG)
        saved.save(home / "conflux.json", saved.Membership(guardian="bench", conflux_token=token))
        self.api = home / "api.sock"
        pins = {"TUN": "scale", "AUTH": "scale", "CONTROL": "scale", "TETHER": "udp"}
        self._log = (folder / "log").open("w")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "conflux", "run", "--config-dir", str(home)],
            env={
                **os.environ,
                **{f"VEILNET_PLUGIN_{kind}": name for kind, name in pins.items()},
                "PYTHONPATH": f"{folder}:{Path(__file__).parents[1]}",
                SOCKET_VARIABLE: str(folder / "world"),
            },
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )

    async def runs(self) -> None:
        ends = time.monotonic() + 30
        while time.monotonic() < ends:
            await asyncio.sleep(0.2)
            with contextlib.suppress(UsageError):
                if (await self.status())["state"] == "running":
                    return
        raise SystemExit(f"the node does not run:\n{(self._folder / 'log').read_text()[-2_000:]}")

    async def status(self) -> localapi.Answer:
        found: localapi.Answer = await asyncio.to_thread(localapi.call, self.api, "status")
        return found

    def cpu_s(self) -> float:
        """Of all threads so far (proc(5), schedstat)."""
        tasks = Path(f"/proc/{self._process.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9

    def resident_kb(self) -> int:
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize() >> 10

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


async def measure(count: int, folder: Path) -> Figures:
    """Everything about *count* peers."""
    figures = Figures(peers=count)
    master = Master(folder / "world")
    node = NodeProcess(folder, master.token(NODE, NODE_ADDRESS))
    try:
        await master.node_comes()
        await node.runs()
        await _rest(figures, node, master)
        ether, registry = Ether(), Registry()
        await ether.start()
        with ThreadPoolExecutor(2) as executor:
            async with asyncio.TaskGroup() as tasks:
                peers = [
                    Peer(number, master, ether, tasks, executor, registry)
                    for number in range(count)
                ]
                await _contact(figures, node, peers)
                await _idle(figures, node, master)
                await _active(figures, node, master, peers)
                await _gone(figures, node)
                await _again(figures, node, peers)
                for peer in peers:
                    peer.close()
                await ether.driver.stop()
    finally:
        node.stop()
        master.close()
    return figures


async def _rest(figures: Figures, node: NodeProcess, master: Master) -> None:
    await asyncio.sleep(SETTLE_S)
    before = node.cpu_s()
    await asyncio.sleep(IDLE_S)
    figures.rest_cpu_s_per_min = (node.cpu_s() - before) / IDLE_S * 60
    figures.rest_mb = node.resident_kb() / 1024
    figures.lag_ms["nobody"] = _lag_ms(await master.lag(LAG_S))


async def _contact(figures: Figures, node: NodeProcess, peers: Sequence[Peer]) -> None:
    rested, cpu_s, began = node.resident_kb(), node.cpu_s(), time.monotonic()
    figures.tries = await _reach_all(peers)
    figures.contact_s = time.monotonic() - began
    await asyncio.sleep(SETTLE_S)
    figures.contact_cpu_ms = (node.cpu_s() - cpu_s) / len(peers) * 1e3
    figures.kb_per_peer = (node.resident_kb() - rested) / len(peers)
    figures.after_kb = -rested


async def _reach_all(peers: Sequence[Peer]) -> int:
    """Every peer gets an answer, so many at a time; return how many packets that took."""
    waiting, tries = iter(peers), 0

    async def one_by_one() -> None:
        nonlocal tries
        for peer in waiting:
            took = await peer.reach()
            tries += took

    async with asyncio.TaskGroup() as side_by_side:
        for _ in range(AT_ONCE):
            side_by_side.create_task(one_by_one())
    return tries


async def _idle(figures: Figures, node: NodeProcess, master: Master) -> None:
    cpu_s = node.cpu_s()
    await asyncio.sleep(IDLE_S)
    spent = node.cpu_s() - cpu_s - figures.rest_cpu_s_per_min / 60 * IDLE_S
    figures.idle_cpu_s_per_hour = spent / figures.peers / IDLE_S * 3_600
    figures.lag_ms["idle"] = _lag_ms(await master.lag(LAG_S))


async def _active(
    figures: Figures, node: NodeProcess, master: Master, peers: Sequence[Peer]
) -> None:
    before, cpu_s = sum(peer.answers for peer in peers), node.cpu_s()
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(master.lag(ACTIVE_S))
        sent = await _trickle(peers)
    await asyncio.sleep(1)
    figures.lag_ms["active"] = _lag_ms(watching.result())
    figures.answered = (sum(peer.answers for peer in peers) - before) / sent
    at_rest = figures.idle_cpu_s_per_hour / 3_600 * figures.peers * (ACTIVE_S + 1)
    figures.packet_us = (node.cpu_s() - cpu_s - at_rest) / sent * 1e6
    began = time.perf_counter()
    await node.status()
    figures.status_ms = (time.perf_counter() - began) * 1e3


async def _trickle(peers: Sequence[Peer]) -> int:
    """Each peer sends a packet every EACH_S, evenly spread; return how many."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    for sent, peer in enumerate(itertools.cycle(peers)):
        due = began + sent * EACH_S / len(peers)
        if due - began > ACTIVE_S:
            return sent
        if due > loop.time():
            await asyncio.sleep(due - loop.time())
        peer.ask()
    raise AssertionError("there are no peers")


async def _gone(figures: Figures, node: NodeProcess) -> None:
    began, cpu_s = time.monotonic(), node.cpu_s()
    while time.monotonic() - began < GONE_S:
        await asyncio.sleep(1)
        status = await node.status()
        figures.left = len(status["peers"]) + len(status["neighbours"])
        if not figures.left:
            break
    figures.gone_s = time.monotonic() - began
    figures.gone_cpu_ms = (node.cpu_s() - cpu_s) / figures.peers * 1e3
    await asyncio.sleep(SETTLE_S)
    figures.after_kb += node.resident_kb()


async def _again(figures: Figures, node: NodeProcess, peers: Sequence[Peer]) -> None:
    before = node.resident_kb()
    await _reach_all(peers)
    once_more = Figures(peers=figures.peers)
    await _gone(once_more, node)
    figures.left += once_more.left
    figures.again_kb = node.resident_kb() - before


def _lag_ms(late: Sequence[float]) -> tuple[float, float]:
    ordered = sorted(late)
    return (
        statistics.median(ordered) * 1e3,
        ordered[min(len(ordered) - 1, math.ceil(len(ordered) * 0.99))] * 1e3,
    )


# What is shown


def table(found: Sequence[Figures]) -> str:
    """The figures as Markdown, a column for each number of peers."""

    def lag(figures: Figures, when: str) -> str:
        return "{:.1f}, {:.0f}".format(*figures.lag_ms[when])

    rows: list[tuple[str, list[str]]] = [
        ("first contacts a second", [f"{f.peers / f.contact_s:.0f}" for f in found]),
        ("CPU for a first contact, ms", [f"{f.contact_cpu_ms:.1f}" for f in found]),
        ("first packets lost", [f"{f.tries - f.peers}" for f in found]),
        ("memory for a peer, kB", [f"{f.kb_per_peer:.0f}" for f in found]),
        ("CPU for an idle peer, s an hour", [f"{f.idle_cpu_s_per_hour:.2f}" for f in found]),
        ("CPU for a lone packet and its answer, µs", [f"{f.packet_us:.0f}" for f in found]),
        ("of those answered", [f"{f.answered:.2%}" for f in found]),
        ("loop late by, nobody there, ms (p50, p99)", [lag(f, "nobody") for f in found]),
        ("the same, all idle", [lag(f, "idle") for f in found]),
        ("the same, all active", [lag(f, "active") for f in found]),
        ("`status`, ms", [f"{f.status_ms:.0f}" for f in found]),
        ("all dissolved after their last packet, s", [f"{f.gone_s:.0f}" for f in found]),
        ("CPU until then, ms a peer", [f"{f.gone_cpu_ms:.1f}" for f in found]),
        ("peers and tethers left", [f"{f.left}" for f in found]),
        ("memory more than before, kB", [f"{f.after_kb:,.0f}" for f in found]),
        ("and after a second time, kB", [f"{f.again_kb:+,.0f}" for f in found]),
    ]
    head = ["peers", *(f"{f.peers:,}" for f in found)]
    rest = statistics.median(f.rest_mb for f in found)
    cpu = statistics.median(f.rest_cpu_s_per_min for f in found)
    system = f"Linux {platform.release()}, Python {platform.python_version()}"
    machine = f"{system}, {os.cpu_count()} cores"
    lines = [
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
        *(f"| {name} | {' | '.join(cells)} |" for name, cells in rows),
        "",
        f"At rest, without a peer: {rest:.0f} MB, {cpu / 60:.2%} of a core.",
        f"{time.strftime('%Y-%m-%d')}, {machine}, load {os.getloadavg()[1]:.1f}.",
    ]
    return "\n".join(lines)


def write(text: str) -> None:
    """Put *text* between the page's markers."""
    page = PAGE.read_text()
    before, rest = page.split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}")


@contextlib.contextmanager
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def inside(count: int) -> None:
    """In the namespace: measure, print the figures as JSON."""
    logging.basicConfig(level=logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="veilnet-scale-") as folder, many_files():
        print(json.dumps(asdict(asyncio.run(measure(count, Path(folder))))))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("peers", nargs="*", type=int, default=[10, 100, 1_000])
    parser.add_argument("--write", action="store_true", help="put the table into docs/scale.md")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        inside(given.peers[0])
        return
    found = []
    for count in given.peers:
        with lab.World() as world:
            place = world.namespace("scale")
            # As of an Ethernet: one of 64 kB would have each tether look for datagrams as long.
            place.run(["ip", "link", "set", "lo", "mtu", "1500"])
            command = [sys.executable, str(Path(__file__).resolve()), "--inside", str(count)]
            found.append(Figures(**json.loads(place.run(command, timeout_s=1_800.0).stdout)))
        print(f"{count} peers are done", file=sys.stderr)
    print(table(found))
    if given.write:
        write(table(found))


if __name__ == "__main__":
    main()
