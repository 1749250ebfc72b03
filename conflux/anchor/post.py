"""Which way a control message goes: inside a stream, by the Master, or from tether to tether.

    to a node with which we have streams   inside the stream; repeats by the Master, too
    to anybody else                        by the Master
    the Master gone, or silent for 2 s     flooded over tethers: at most 4 relays, each id once

A flooded message is as sealed as any other. Every node on its way remembers from where it came, so
that the answer to its sender's tag goes straight back. docs/protocol/control.md §4.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable

from conflux.anchor.limits import RateLimit, SeenNonces
from conflux.anchor.seal import Entropy
from conflux.anchor.tether import Neighbour, Neighbours
from conflux.anchor.world import World
from conflux.wire.inband import FLOOD_HEADER_BYTES, FLOOD_ID_BYTES, Flood

FLOOD_RELAYS = 4
ANY_RELAY_RELAYS = 1
"""An Ask for any relay goes one node beyond our neighbours, all of which it names to be avoided."""
MAX_FLOOD_BYTES = 16_384 - FLOOD_HEADER_BYTES
FLOODS_PER_S = 20.0
FLOODS_BURST = 40.0
FLOOD_KEEP_S = 60.0
MAX_FLOODS = 16_384
MAX_WAYS = 4_096
WAY_S = 60.0
MAX_CLAIMS = 4
"""Neighbours from which one handle was heard. A flood is not signed: more than one may claim it,
and all of them get what goes there; with more than so many everybody does."""


class Post:
    """Sends control messages of this node the way that suits them (docs/protocol/control.md §4).

    *tell(tag, message, now)* sends inside the stream to the node of *tag*; False if there is none.
    """

    def __init__(
        self, world: World, flooding: Flooding, *, tell: Callable[[bytes, bytes, float], bool]
    ) -> None:
        self._world = world
        self._flooding = flooding
        self._tell = tell

    def send(self, tag: bytes, message: bytes, *, now: float) -> None:
        """Send by the Master; if it is gone, or the tag was heard from by flood, flood."""
        if not self._world.publish(tag, message) or self._flooding.knows_way(tag, now=now):
            self._flooding.send(tag, message, now=now)

    def send_in_stream(self, tag: bytes, message: bytes, *, now: float) -> None:
        """Send inside the stream to a node that has one with us; else as any other."""
        if not self._tell(tag, message, now):
            self.send(tag, message, now=now)

    def send_every_way(self, tag: bytes, message: bytes, *, now: float) -> None:
        """What had no answer goes out again by every way there is."""
        self._tell(tag, message, now)
        self._world.publish(tag, message)
        self._flooding.send(tag, message, now=now)


class Flooding:
    """Carries control messages over tethers, for this node and for others."""

    def __init__(
        self,
        neighbours: Neighbours,
        entropy: Entropy,
        counters: Counter[str],
        *,
        own_handle: Callable[[], bytes],
        own_tags: Callable[[], frozenset[bytes]],
        shared_tag: Callable[[], bytes],
        is_relay: bool,
        deliver: Callable[[bytes, bytes, bytes, float], None],
    ) -> None:
        self._neighbours = neighbours
        self._entropy = entropy
        self._counters = counters
        self._own_handle = own_handle
        self._own_tags = own_tags
        self._shared_tag = shared_tag
        self._is_relay = is_relay
        self._deliver = deliver
        self._seen = SeenNonces(keep_s=FLOOD_KEEP_S, limit=MAX_FLOODS)
        self._rate = RateLimit(per_s=FLOODS_PER_S, burst=FLOODS_BURST)
        self.passed_on = 0
        """How many floods, our own included, went on to others."""
        self._ways: OrderedDict[bytes, dict[Neighbour, float]] = OrderedDict()

    def send(self, tag: bytes, message: bytes, *, now: float) -> None:
        """Flood a message of our own to *tag*."""
        if len(message) > MAX_FLOOD_BYTES:
            self._counters["flood_too_large"] += 1
            return
        flood_id = self._entropy(FLOOD_ID_BYTES)
        self._seen.fresh(flood_id, by=self._own_handle(), now=now)
        relays = ANY_RELAY_RELAYS if tag == self._shared_tag() else FLOOD_RELAYS
        self._pass_on(Flood(flood_id, relays, tag, self._own_handle(), message), None, now)

    def knows_way(self, tag: bytes, *, now: float) -> bool:
        """Tell whether a flooded message came from *tag* lately: its answer goes back that way."""
        return 0 < len(self._claims(tag, now)) <= MAX_CLAIMS

    def received(self, neighbour: Neighbour, flood: Flood, now: float) -> None:
        """Take in a flooded message: it is for us, or goes on, once and within its limits."""
        if not self._rate.allows(neighbour.node_id, now=now):
            self._counters["flood_over_rate"] += 1
            return
        if flood.sender == self._own_handle():
            return
        if not self._seen.fresh(flood.flood_id, by=neighbour.node_id, now=now):
            return
        self._remember(flood.sender, neighbour, now)
        for_relays = self._is_relay and flood.tag == self._shared_tag()
        if for_relays or flood.tag in self._own_tags():
            # Who it claims to be from is not proved yet: limits go by who brought it.
            self._deliver(flood.tag, neighbour.node_id, flood.message, now)
        # What is for an address of ours goes on all the same: whoever listens at both of our sides
        # would otherwise learn which addresses live here.
        if flood.relays_left > 0 and flood.tag != self._own_handle():
            onward = Flood(
                flood.flood_id, flood.relays_left - 1, flood.tag, flood.sender, flood.message
            )
            self._pass_on(onward, neighbour, now)

    def drop_idle(self, now: float) -> None:
        """Forget ways that are not to be used any more, and what else counts no more."""
        for tag, heard in list(self._ways.items()):
            claims = self._claims(tag, now)
            self._ways[tag] = {neighbour: heard[neighbour] for neighbour in claims}
            if not claims:
                del self._ways[tag]
        self._seen.drop_idle(now)
        self._rate.drop_idle(now)

    def _pass_on(self, flood: Flood, came_from: Neighbour | None, now: float) -> None:
        onward = [n for n in self._onward(flood.tag, now) if n is not came_from]
        self.passed_on += bool(onward)
        for neighbour in onward:
            neighbour.send_inband(flood)

    def _onward(self, tag: bytes, now: float) -> Iterable[Neighbour]:
        """The neighbours that *tag* was heard from lately, else all."""
        claims = self._claims(tag, now)
        return claims if 0 < len(claims) <= MAX_CLAIMS else self._neighbours.all()

    def _claims(self, tag: bytes, now: float) -> list[Neighbour]:
        heard = self._ways.get(tag, {})
        return [
            neighbour for neighbour, when in heard.items() if neighbour.up and now - when < WAY_S
        ]

    def _remember(self, sender: bytes, neighbour: Neighbour, now: float) -> None:
        heard = self._ways.setdefault(sender, {})
        heard.pop(neighbour, None)
        heard[neighbour] = now
        if len(heard) > MAX_CLAIMS + 1:
            del heard[next(iter(heard))]
        self._ways.move_to_end(sender)
        if len(self._ways) > MAX_WAYS:
            self._ways.popitem(last=False)
