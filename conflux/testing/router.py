"""Conformance of routers."""

from __future__ import annotations

import abc
import contextlib
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conflux.api import Link, LinkSample, NodeId, Path, PathSample, Router, WireError

MAX_RELAYS = 4
MAX_GOSSIP_BYTES = 8_192

NODES = tuple(NodeId(bytes([n]) * 32) for n in range(12))
HERE = NODES[0]
DESTINATIONS = NODES[1:4]
RELAYS = NODES[4:]


def paths_to(destination: NodeId) -> st.SearchStrategy[list[Path]]:
    """Strategy: different simple paths from HERE to *destination*, at least one."""
    relays = st.lists(st.sampled_from(RELAYS), max_size=MAX_RELAYS, unique=True)
    path = relays.map(lambda between: (HERE, *between, destination))
    return st.lists(path, min_size=1, max_size=6, unique=True)


# Links are either this node's own or stand on a path that it knows.
_links = st.tuples(st.sampled_from((HERE, *RELAYS)), st.sampled_from(NODES[1:])).filter(
    lambda link: link[0] != link[1]
)
_link_samples = st.builds(
    LinkSample,
    rtt_s=st.none() | st.floats(0, 100),
    loss=st.floats(0, 1),
    queued_bytes=st.integers(0, 1 << 40),
    rate_bytes_s=st.floats(0, 1e12),
)
_path_samples = st.builds(
    PathSample,
    delay_s=st.none() | st.floats(-1e6, 1e6),
    delivered=st.integers(0, 1 << 40),
    lost=st.integers(0, 1 << 40),
)
_offers = st.sampled_from(DESTINATIONS).flatmap(
    lambda destination: st.tuples(st.just(destination), paths_to(destination))
)
_avoided = st.frozensets(st.sampled_from(RELAYS))

EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("weigh"), _offers),
        st.tuples(st.just("measured"), st.tuples(_links, _link_samples)),
        st.tuples(st.just("lost"), _links),
        st.tuples(
            st.just("reported"), st.tuples(_offers.map(lambda offer: offer[1][0]), _path_samples)
        ),
        st.tuples(
            st.just("propose"),
            st.tuples(st.sampled_from(DESTINATIONS), st.integers(0, 5), _avoided),
        ),
        st.tuples(st.just("gossip"), st.none()),
        st.tuples(st.just("hear"), st.tuples(st.sampled_from(NODES[1:]), st.binary(max_size=300))),
    ),
    max_size=40,
)
"""What can happen to a router, in any order."""

# differing_executors: hypothesis warns when a method with @given runs for several classes, which
# is what a conformance class is for. No deadline: a busy machine is no fault of the router.
_properly = settings(
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.differing_executors],
)


@dataclass
class History:
    """Plays events to a router as the kernel would, checks every answer and notes it down."""

    router: Router
    seed: int = 1
    now: float = 1_000.0
    answers: list[Any] = field(default_factory=list)
    lost: set[Link] = field(default_factory=set)

    def play(self, events: Sequence[tuple[str, Any]]) -> list[Any]:
        """Return all that the router answered."""
        with _no_clock_and_no_chance():
            self.router.start(HERE, self.seed)
            for name, value in events:
                self.now += 0.125
                getattr(self, f"_{name}")(value)
        return self.answers

    def _weigh(self, offer: tuple[NodeId, list[Path]]) -> None:
        destination, offered = offer
        paths = [path for path in offered if not self.lost & set(links_of(path))]
        if paths:
            self.weigh(destination, paths)

    def _ask(self, offer: tuple[NodeId, list[Path]]) -> None:
        """Weigh paths whose links all live: those that were lost are measured again first."""
        for link in sorted({link for path in offer[1] for link in links_of(path)} & self.lost):
            self._measured((link, LinkSample(rtt_s=0.05)))
        self.weigh(*offer)

    def weigh(self, destination: NodeId, paths: list[Path]) -> list[float]:
        """Ask for weights and check them."""
        given_paths = tuple(paths)
        weights = list(self.router.weigh(destination, given_paths, now=self.now))
        assert len(weights) == len(paths), "one weight for each path"
        assert all(math.isfinite(weight) for weight in weights), weights
        assert all(weight >= 0 for weight in weights), weights
        assert any(weight > 0 for weight in weights), "no path would carry anything"
        self.answers.append(weights)
        return weights

    def _measured(self, event: tuple[Link, LinkSample]) -> None:
        link, sample = event
        self.lost.discard(link)
        self.router.link_measured(link, sample, now=self.now)

    def _lost(self, link: Link) -> None:
        self.lost.add(link)
        self.router.link_lost(link, now=self.now)

    def _reported(self, event: tuple[Path, PathSample]) -> None:
        path, sample = event
        self.router.path_measured(path, sample, now=self.now)

    def _propose(self, event: tuple[NodeId, int, frozenset[NodeId]]) -> None:
        destination, limit, avoid = event
        proposed = [
            tuple(path)
            for path in self.router.propose(destination, limit=limit, avoid=avoid, now=self.now)
        ]
        assert len(proposed) <= limit
        for path in proposed:
            assert path[0] == HERE
            assert path[-1] == destination
            assert len(path) <= MAX_RELAYS + 2
            assert len(set(path)) == len(path), "a path that visits a node twice"
            assert not avoid & set(path[1:-1])
        self.answers.append(proposed)

    def _gossip(self, _: None) -> None:
        gossip = self.router.gossip(now=self.now)
        assert type(gossip) is bytes
        assert len(gossip) <= MAX_GOSSIP_BYTES
        self.answers.append(gossip)

    def _hear(self, event: tuple[NodeId, bytes]) -> None:
        origin, gossip = event
        with contextlib.suppress(WireError):
            self.router.hear(origin, gossip, now=self.now)


class RouterConformance(abc.ABC):
    """Subclass, return a fresh router from `make_router`, run pytest.

    hypothesis tells histories: measurements, losses, reports, gossip of any bytes, questions. The
    router is told only of what the kernel would tell it: it is never offered a lost path.
    """

    @abc.abstractmethod
    def make_router(self) -> Router:
        """Return a router that has not been started."""

    @_properly
    @given(EVENTS)
    def test_weights_are_shares_whatever_happened(self, events: list[tuple[str, Any]]) -> None:
        History(self.make_router()).play([*events, _question()])

    @_properly
    @given(EVENTS, st.integers(0, 2**63 - 1))
    def test_same_history_and_seed_give_the_same_answers(
        self, events: list[tuple[str, Any]], seed: int
    ) -> None:
        first = History(self.make_router(), seed).play([*events, _question()])
        assert History(self.make_router(), seed).play([*events, _question()]) == first

    @_properly
    @given(_offers)
    def test_unmeasured_paths_are_weighed_too(self, offer: tuple[NodeId, list[Path]]) -> None:
        """At the start nothing is known, and the first packets must go somewhere."""
        (weights,) = History(self.make_router()).play([("weigh", offer)])
        assert any(weight > 0 for weight in weights)

    @_properly
    @given(st.binary(max_size=MAX_GOSSIP_BYTES), st.sampled_from(NODES[1:]))
    def test_gossip_that_is_noise_is_a_wire_error_or_nothing(
        self, noise: bytes, origin: NodeId
    ) -> None:
        History(self.make_router()).play([("hear", (origin, noise)), _question()])

    @_properly
    @given(EVENTS, st.data())
    def test_damaged_gossip_is_a_wire_error_or_nothing(
        self, events: list[tuple[str, Any]], data: st.DataObject
    ) -> None:
        """The router's own format, with one byte changed and the end cut off."""
        gossip = bytearray(History(self.make_router()).play([*events, ("gossip", None)])[-1])
        if gossip:
            gossip[data.draw(st.integers(0, len(gossip) - 1))] ^= data.draw(st.integers(1, 255))
        damaged = bytes(gossip[: data.draw(st.integers(0, len(gossip)))])
        History(self.make_router()).play([("hear", (NODES[5], damaged)), _question()])

    @_properly
    @given(EVENTS)
    def test_own_gossip_is_understood(self, events: list[tuple[str, Any]]) -> None:
        gossip = History(self.make_router()).play([*events, ("gossip", None)])[-1]
        listener = self.make_router()
        listener.start(NODES[5], 2)
        if gossip:
            listener.hear(HERE, gossip, now=2_000.0)  # raises nothing


def links_of(path: Path) -> list[Link]:
    """The hops of *path*, in travel order."""
    return list(itertools.pairwise(path))


def _question() -> tuple[str, Any]:
    """A last `weigh`, so that no history ends without an answer."""
    destination = NODES[2]
    relayed = [(HERE, relay, destination) for relay in RELAYS[:2]]
    return "ask", (destination, [(HERE, destination), *relayed])


@contextlib.contextmanager
def _no_clock_and_no_chance() -> Iterator[None]:
    """Fail a router that reads the clock or the global random source behind the kernel's back."""

    def refuse(*_: object, **__: object) -> Any:
        raise AssertionError("a router reads no clock and no global random source")

    with contextlib.ExitStack() as stack:
        for name in (
            "time.time", "time.monotonic", "time.perf_counter", "random.random", "random.choice",
            "random.randrange", "random.uniform", "random.shuffle", "os.urandom",
        ):  # fmt: skip
            stack.enter_context(mock.patch(name, refuse))
        yield
