"""A simulated node: the real Anchor in a World of virtual time."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface
from typing import TYPE_CHECKING, TypeVar

from conflux.anchor.handshake import Standing
from conflux.anchor.identity import Identity
from conflux.anchor.node import Anchor
from conflux.anchor.quota import Relaying
from conflux.api import Gso, Layout, NodeId, Path, Router, Tether, WireError
from conflux.testing.packets import udp_packet, udp_payload
from conflux.testing.simnet.underlay import SimTether
from conflux.wire import ip, segment
from conflux.wire.control import AuthLevel
from conflux.wire.credentials import Grant
from conflux.wire.frame import SIZE, bare, records

if TYPE_CHECKING:
    from conflux.testing.simnet.network import SimNetwork

T = TypeVar("T")

_PING = b"ping "
_PONG = b"pong "


@dataclass(frozen=True, slots=True)
class Arrival:
    """A packet that a node's TUN device would have got, and when."""

    time: float
    packet: bytes


@dataclass(slots=True)
class Ping:
    """A packet that wants an answer. `answers` counts the answers: more than one is a fault."""

    sent_at: float
    answered_at: float | None = None
    answers: int = 0

    @property
    def rtt_s(self) -> float | None:
        return None if self.answered_at is None else self.answered_at - self.sent_at


class SimNode:
    """Made by `SimNetwork.add_node`. It implements conflux.anchor.world.World.

    A `life` is one start: what was begun in an earlier one (deferred work, connecting tethers)
    never reaches a later one.
    """

    def __init__(
        self,
        network: SimNetwork,
        name: str,
        addresses: Sequence[str],
        router: Callable[[], Router],
        packet_auth: AuthLevel,
        tether_kinds: Sequence[str],
        mtu_bytes: int,
        relaying: Relaying,
        gso: Collection[Gso],
    ) -> None:
        self.name = name
        self.packet_auth = packet_auth
        """What it offers from its next start on."""
        self.tether_kinds = tuple(tether_kinds)
        """The same, best first."""
        self.mtu_bytes = mtu_bytes
        """What its TUN device carries from its next start on."""
        self.relaying = relaying
        """What it does for others from its next start on."""
        self.addresses = [ip_interface(address).ip for address in addresses]
        self.received: list[Arrival] = []
        self.told: list[Arrival] = []
        """ICMP errors of its own about packets that it sent."""
        self.events: list[tuple[float, str]] = []
        """What the protocol told its world: streams opened and closed, routes changed, grants."""
        self.gso = gso
        """What its device takes from its next start on; an empty one has no offload."""
        self.delivered: Counter[Layout] = Counter()
        """How many records came in of each layout."""
        self.answers_pings = True
        self.keeps_received = True
        self.deferred_s = 0.001
        """Virtual time that each piece of deferred work takes."""
        self.workers: int | None = None
        """How many threads share deferred work, in its order; None for no end of them."""
        self.makes_tethers = True
        """Unset: its tether drivers fail every time."""
        self.refused_kinds: Collection[str] = ()
        """Kinds whose driver fails every time."""
        self.is_alive = False
        self._network = network
        self._router = router
        self._life = 0
        self._armed = 0
        self._busy_until: list[float] = []
        self._pings: dict[bytes, Ping] = {}
        self._numbers = itertools.count(1)
        self.start()

    # Life

    def start(self) -> None:
        """Start with fresh keys and a certificate of a higher serial."""
        if self.is_alive:
            raise ValueError(f"{self.name} runs already")
        network = self._network
        self.is_alive = True
        self._life += 1
        self.identity = Identity(network.crypto, network.entropy)
        grant = network.guardian.admit(self.name, self.identity)
        standing = Standing(
            network.crypto, network.entropy, self.identity, network.guardian.key, grant
        )
        self.anchor = Anchor(
            standing,
            self,
            self._router(),
            tether_kinds=self.tether_kinds,
            auth_level=self.packet_auth,
            relaying=self.relaying,
            now=self.now(),
            mtu_bytes=self.mtu_bytes,
            idle=network.idle,
            silence_floor_s=0.0,  # the virtual clock stalls nobody
        )
        self._listen(grant)
        self.anchor.ingress.device_takes(self.gso)
        self.anchor.timers.on_earliest = self._arm
        first = self.anchor.timers.next_deadline()
        if first is not None:
            self._arm(first)

    def crash(self) -> None:
        """Vanish: nobody is told, nothing more is sent."""
        self._end()
        for tether in self._network.underlay.tethers(self.name):
            tether.abandon()

    def stop(self) -> None:
        """Shut down in order: tethers are closed, which their far ends notice."""
        self.anchor.close(now=self.now())
        self._end()
        for tether in self._network.underlay.tethers(self.name):
            tether.close()

    def restart(self) -> None:
        self.crash()
        self.start()

    def _end(self) -> None:
        self.is_alive = False
        self._life += 1
        self._network.channel.leave(self._heard)

    def _listen(self, grant: Grant) -> None:
        control = grant.control
        self._heard = self._in_this_life(self._take_control)
        shared = control.shared_tag if self.relaying.enabled else None
        self._network.channel.listen(control.tags, shared, self._heard)

    def _in_this_life(self, call: Callable[..., None]) -> Callable[..., None]:
        life = self._life

        def guarded(*args: object) -> None:
            if life == self._life:
                call(*args)

        return guarded

    def _arm(self, when: float) -> None:
        self._armed += 1
        armed = self._armed

        def run() -> None:
            if armed != self._armed:
                return
            self.anchor.timers.run(self.now())
            following = self.anchor.timers.next_deadline()
            if following is not None:
                self._arm(following)

        self._network.clock.at(when, self._in_this_life(run))

    # Packets

    @property
    def node_id(self) -> NodeId:
        return self.identity.node_id

    @property
    def address(self) -> IPv4Address | IPv6Address:
        return self.addresses[0]

    def send_packet(self, to: SimNode | str, payload: bytes, *, port: int | None = None) -> None:
        """Send one UDP packet from this node's own address of the destination's family.

        *port* is the source port: packets of one port to one destination are one flow.
        """
        self.send_burst([self.packet(to, payload, port=port)])

    def packet(self, to: SimNode | str, payload: bytes, *, port: int | None = None) -> bytes:
        destination = to.address if isinstance(to, SimNode) else ip_address(to)
        source = next(a for a in self.addresses if a.version == destination.version)
        return udp_packet(source, destination, payload, source_port=port)

    def send_burst(self, packets: Sequence[bytes]) -> None:
        """Give the protocol one burst, as one wake-up of a TUN device would."""
        self.anchor.take_burst(memoryview(bare(packets)), now=self.now())

    def send_bodies(self, bodies: Sequence[bytes]) -> None:
        """The same of a device with offload: virtio headers with packets (wire/segment.py)."""
        burst = bytearray((Layout.VIRTIO,)) + b"".join(
            SIZE.pack(len(body)) + body for body in bodies
        )
        self.anchor.take_burst(memoryview(burst), now=self.now())

    def ping(self, to: SimNode | str, *, port: int | None = None) -> Ping:
        """Send a packet that *to* answers."""
        number = str(next(self._numbers)).encode()
        ping = self._pings[number] = Ping(self.now())
        self.send_packet(to, _PING + number, port=port)
        return ping

    def payloads(self) -> list[bytes]:
        """The UDP payloads of all packets that came in, in order."""
        return [arrival.packet[_headers(arrival.packet) :] for arrival in self.received]

    def deliver(self, records_: memoryview, layout: Layout) -> None:
        for record, start, end in records(memoryview(bytes((layout,)) + records_)):
            self.delivered[layout] += 1
            packets = [bytes(records_[start - 1 : end - 1])]
            if layout is Layout.VIRTIO:
                packets = segment.segments(records_[record - 1 + SIZE.size : end - 1])
            for packet in packets:
                if self.keeps_received:
                    self.received.append(Arrival(self.now(), packet))
                self._answer(packet)

    def tell_system(self, packet: bytes) -> None:
        self.told.append(Arrival(self.now(), packet))

    def _answer(self, packet: bytes) -> None:
        source, destination = (ip_address(raw) for raw in ip.addresses(memoryview(packet)))
        payload = udp_payload(packet, source, destination) or b""
        if payload.startswith(_PING) and self.answers_pings:
            port = int.from_bytes(packet[_headers(packet) - 8 : _headers(packet) - 6], "big")
            answer = _PONG + payload.removeprefix(_PING)
            # Later, as a host would: never from within the delivery.
            later = self._in_this_life(lambda: self.send_packet(str(source), answer, port=port))
            self._network.clock.after(0.0, later)
        elif payload.startswith(_PONG):
            ping = self._pings.get(payload.removeprefix(_PONG))
            if ping is not None:
                ping.answers += 1
                ping.answered_at = ping.answered_at or self.now()

    # World

    def now(self) -> float:
        return self._network.clock.now()

    def publish(self, tag: bytes, message: bytes) -> bool:
        handle = self.anchor.standing.grant.control.handle
        self._network.channel.publish(handle, tag, message)
        return not self._network.channel.is_down

    def defer(
        self,
        work: Callable[[], T],
        then: Callable[[T, float], None],
        failed: Callable[[WireError, float], None],
    ) -> None:
        def run() -> None:
            try:
                result = work()
            except WireError as error:
                failed(error, self.now())
            else:
                then(result, self.now())

        self._network.clock.at(self._done_at(), self._in_this_life(run))

    def _done_at(self) -> float:
        """When work that is deferred now will be done."""
        now = self.now()
        if self.workers is None:
            return now + self.deferred_s
        self._busy_until = [until for until in self._busy_until if until > now]
        # Of the last so many pieces of work the first to be done makes room.
        start = self._busy_until[-self.workers] if len(self._busy_until) >= self.workers else now
        self._busy_until.append(start + self.deferred_s)
        return start + self.deferred_s

    def offer_tether(self, kind: str, then: Callable[[Tether | None, float], None]) -> None:
        made = self._makes(kind)
        tether = self._network.underlay.offer(self.name, kind) if made else None
        self._network.clock.after(0.0, self._in_this_life(lambda: then(tether, self.now())))

    def answer_tether(
        self, kind: str, offer: bytes, then: Callable[[Tether | None, float], None]
    ) -> None:
        made = self._makes(kind)
        tether = self._network.underlay.answer(self.name, offer) if made else None
        self._network.clock.after(0.0, self._in_this_life(lambda: then(tether, self.now())))

    def _makes(self, kind: str) -> bool:
        refused = kind in self.refused_kinds
        return self.makes_tethers and kind in self.tether_kinds and not refused

    def connect_tether(
        self,
        tether: Tether,
        secret: bytes,
        remote: bytes | None,
        *,
        deadline_s: float,
        then: Callable[[bool, float], None],
    ) -> None:
        if not isinstance(tether, SimTether):
            raise TypeError("not a tether of this network")
        done = self._in_this_life(lambda up: then(up, self.now()))
        clock = self._network.clock
        tether.begin(secret, remote, deadline_s, lambda up: clock.after(0.0, lambda: done(up)))

    def granted(self, grant: Grant) -> None:
        self._note(f"granted revision {grant.revision}")

    def stream_opened(self, peer: NodeId, address: str) -> None:
        self._note(f"opened {self._network.name_of(peer)} {address}")

    def alarmed(self, peer: NodeId, event: str) -> None:
        self._note(f"alarm {self._network.name_of(peer)}: {event}")

    def stream_closed(self, peer: NodeId, reason: str) -> None:
        self._note(f"closed {self._network.name_of(peer)}: {reason}")

    def route_changed(self, peer: NodeId, paths: list[Path]) -> None:
        ways = [">".join(self._network.name_of(node) for node in path) for path in paths]
        self._note(f"routes {self._network.name_of(peer)}: {' '.join(ways) or 'none'}")

    def _note(self, event: str) -> None:
        self.events.append((self.now(), event))

    def _take_control(self, tag: bytes, sender: bytes, payload: bytes) -> None:
        self.anchor.take_control(tag, sender, payload, now=self.now())


def _headers(packet: bytes) -> int:
    return 28 if packet[0] >> 4 == 4 else 48
