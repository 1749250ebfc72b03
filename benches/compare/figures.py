"""From what rounds measured to medians, ranges, ratios and goals. Pure; the JSON file's format.

A file holds `format` (1), `date`, `pace`, `machine` (facts by name), `busy` (share of the
processors that was taken before each round), `products` (in the table's order: `name`, `label`,
`version` or `absent`, why not), `rounds` (figures by product and key) and `failures` (`round`,
`product`, `job`, `reason`).
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

FORMAT = 1

LOSSES = (0.0, 0.001, 0.01, 0.05)


def loss_key(share: float) -> str:
    """The key of TCP goodput where *share* of all packets is lost."""
    return f"loss_{share * 100:g}"


@dataclass(frozen=True, slots=True)
class Figure:
    """What a key means."""

    title: str
    unit: str
    digits: int = 0


FIGURES: dict[str, Figure] = {
    "tcp1_there": Figure("TCP, 1 flow", "Mbit/s"),
    "tcp1_back": Figure("1 flow back", "Mbit/s"),
    "tcp8_there": Figure("TCP, 8 flows", "Mbit/s"),
    "tcp8_back": Figure("8 flows back", "Mbit/s"),
    "udp64": Figure("UDP 64 B", "1,000/s", 1),
    "udp64_sent": Figure("UDP 64 B sent", "1,000/s", 1),
    "udp1200": Figure("UDP 1,200 B", "1,000/s", 1),
    "udp1200_sent": Figure("UDP 1,200 B sent", "1,000/s", 1),
    "rtt_p50": Figure("RTT p50", "µs"),
    "rtt_p99": Figure("RTT p99", "µs"),
    "loaded_p50": Figure("RTT p50 under load", "µs"),
    "loaded_p99": Figure("RTT p99 under load", "µs"),
    "loaded_lost": Figure("lost under load", "%", 1),
    "cpu": Figure("CPU, product", "s/GB", 2),
    "machine_cpu": Figure("CPU, machine", "s/GB", 2),
    "memory": Figure("memory a node", "MB"),
    "memory_loaded": Figure("memory after load", "MB"),
    "cold": Figure("first answer", "ms", 1),
    "cold_lost": Figure("first packets lost", ""),
    **{
        loss_key(share): Figure(f"{share * 100:g} % lost", "Mbit/s")
        for share in LOSSES
    },
    "relay1": Figure("TCP, 1 relay", "Mbit/s"),
    "relay1_rtt": Figure("RTT p50, 1 relay", "µs"),
    "relay1_cold": Figure("first answer, 1 relay", "ms"),
    "relay2": Figure("TCP, 2 relays", "Mbit/s"),
    "relay2_rtt": Figure("RTT p50, 2 relays", "µs"),
    "relay2_cold": Figure("first answer, 2 relays", "ms"),
    "channel": Figure("one data channel", "Mbit/s"),
    "rest_memory": Figure("memory at rest", "MB", 1),
    "rest_cpu": Figure("CPU at rest", "%", 2),
    "help": Figure("CLI --help", "ms"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Entry:
    """A row: a product that was run, or why it was not."""

    name: str
    label: str
    version: str = ""
    absent: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """A job that broke in one round. What it would have measured is missing there."""

    round: int
    product: str
    job: str
    reason: str


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over all rounds that have it."""

    median: float
    low: float
    high: float


@dataclass(slots=True)
class Results:
    """All that one run has measured."""

    date: str
    pace: str
    machine: dict[str, str]
    products: list[Entry]
    busy: list[float] = field(default_factory=list)
    rounds: list[dict[str, dict[str, float]]] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def values(self, product: str, key: str) -> list[float]:
        """One for each round that has it, in order."""
        found = (measured.get(product, {}).get(key) for measured in self.rounds)
        return [value for value in found if value is not None]

    def spread(self, product: str, key: str) -> Spread | None:
        """Median and range; None if no round has it."""
        values = self.values(product, key)
        if not values:
            return None
        return Spread(statistics.median(values), min(values), max(values))

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Results:
        """Raises ValueError for anything but what `to_json` writes."""
        try:
            data: dict[str, Any] = json.loads(text)
            if data.pop("format") != FORMAT:
                raise ValueError(f"not of format {FORMAT}")
            data["products"] = [Entry(**entry) for entry in data["products"]]
            data["failures"] = [Failure(**failure) for failure in data["failures"]]
            results = cls(**data)
            results._check_rounds()
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a file of results: {error!r}") from None
        return results

    def _check_rounds(self) -> None:
        names = {entry.name for entry in self.products}
        for measured in self.rounds:
            if unknown := measured.keys() - names:
                raise ValueError(f"figures of unknown products: {sorted(unknown)}")
            for figures in measured.values():
                if unknown := figures.keys() - FIGURES.keys():
                    raise ValueError(f"unknown figures: {sorted(unknown)}")
                if not all(type(value) in (int, float) for value in figures.values()):
                    raise ValueError("a figure that is no number")


# Goals


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound on a figure, or on its ratio to the same or another figure of others."""

    title: str
    product: str
    key: str
    bound: float
    is_floor: bool
    """Whether at least the bound is wanted; else at most."""
    against: tuple[str, ...] = ()
    """Compared with the best of these; with none, the figure itself is bounded."""
    against_key: str = ""
    """Their figure, if it is another one."""
    in_every_round: bool = False
    """Whether the median is not enough."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one goal stands. `value` is None where a side of it was not measured."""

    goal: Goal
    value: Spread | None
    rival: str = ""
    """The one that was compared with."""

    @property
    def is_met(self) -> bool | None:
        if self.value is None:
            return None
        if self.goal.is_floor:
            return self.value.median >= self.goal.bound
        most = self.value.high if self.goal.in_every_round else self.value.median
        return most <= self.goal.bound


def at_least(
    title: str, product: str, key: str, bound: float, *against: str, against_key: str = ""
) -> Goal:
    return Goal(title, product, key, bound, is_floor=True, against=against, against_key=against_key)


def at_most(
    title: str, product: str, key: str, bound: float, *against: str, against_key: str = ""
) -> Goal:
    return Goal(
        title, product, key, bound, is_floor=False, against=against, against_key=against_key
    )


PEERS = ("wireguard-go", "nebula", "tinc", "openvpn", "n2n")

GOALS = (
    at_least("TCP, `handshake`", "conflux-udp-handshake", "tcp1_there", 2.0, "wireguard-go"),
    at_least("TCP, `handshake`", "conflux-udp-handshake", "tcp1_there", 4.0, "nebula"),
    at_least("TCP, `handshake`", "conflux-udp-handshake", "tcp1_there", 0.4, "vxlan"),
    at_least("TCP, `checkpoint`", "conflux-udp", "tcp1_there", 0.9, "conflux-udp-handshake"),
    at_least("UDP 64 B", "conflux-udp", "udp64", 3.0, "wireguard-go"),
    at_least("UDP 64 B", "conflux-udp", "udp64", 1.5, "nebula"),
    at_least("UDP 1,200 B", "conflux-udp", "udp1200", 1.5, *PEERS),
    at_most("RTT p50", "conflux-udp", "rtt_p50", 0.7, "wireguard-go"),
    at_most("RTT p99 under load", "conflux-udp", "loaded_p99", 1.0, "wireguard-go"),
    at_most("CPU per GB", "conflux-udp", "cpu", 0.6, "wireguard-go"),
    at_least(
        "TCP, one relay", "conflux-udp", "relay1", 0.5, "conflux-udp", against_key="tcp1_there"
    ),
    at_least("TCP at 1 % loss", "conflux-udp", "loss_1", 1.0, "wireguard-go"),
    at_least(
        "TCP, WebRTC", "conflux-webrtc", "tcp1_there", 0.6, "channel-aiortc", against_key="channel"
    ),
    at_most("first answer, ms", "conflux-udp", "cold", 50.0),
    Goal(
        "first packets lost", "conflux-udp", "cold_lost", 0.0, is_floor=False, in_every_round=True
    ),
    at_most("memory at rest, MB", "conflux-udp", "rest_memory", 60.0),
    at_most("memory at rest, MB", "conflux-webrtc", "rest_memory", 90.0),
    at_most("CPU at rest, %", "conflux-udp", "rest_cpu", 0.2),
    at_most("CLI `--help`, ms", "conflux-udp", "help", 100.0),
)


def judge(results: Results, goals: Sequence[Goal] = GOALS) -> list[Verdict]:
    """Say of each goal how it stands.

    A ratio is that of two medians; its range is that of the ratios of single rounds.
    """
    return [_judge(results, goal) for goal in goals]


def _judge(results: Results, goal: Goal) -> Verdict:
    mine = results.spread(goal.product, goal.key)
    if not goal.against:
        return Verdict(goal, mine)
    rival_key = goal.against_key or goal.key
    medians = {
        rival: spread.median
        for rival in goal.against
        if (spread := results.spread(rival, rival_key)) is not None and spread.median > 0
    }
    if mine is None or not medians:
        return Verdict(goal, None)
    rival = (max if goal.is_floor else min)(medians, key=lambda name: medians[name])
    ratios = [
        ratio
        for measured in results.rounds
        if (ratio := _ratio(measured, (goal.product, goal.key), (rival, rival_key))) is not None
    ]
    median = mine.median / medians[rival]
    return Verdict(
        goal, Spread(median, min(ratios, default=median), max(ratios, default=median)), rival
    )


def _ratio(
    measured: Mapping[str, Mapping[str, float]], one: tuple[str, str], other: tuple[str, str]
) -> float | None:
    a, b = (measured.get(product, {}).get(key) for product, key in (one, other))
    return a / b if a is not None and b else None
