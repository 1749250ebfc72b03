"""Egress: sort a burst from the TUN device by destination, seal, send.

One Egresser for each destination address in use:

    IDLE ──packet──► ASKING ──session──► BOUND (waits for a route, then sends) ──closed──► IDLE
                        └──no answer──► back-off, 1 to 30 s, packets dropped ──► IDLE

Packets that come before there is a way wait: 64 kB a destination, 16 MB in all, 5 s. The system
hears of those that nobody answered for (icmp_errors.py), and what is too long for the far end is
made to fit, or the system hears of that (path_mtu.py).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address

from conflux.anchor.icmp_errors import IcmpErrors
from conflux.anchor.identity import Peer
from conflux.anchor.path_mtu import PathMtu
from conflux.anchor.reach import Reach, Route
from conflux.anchor.stream import Session, Spent
from conflux.anchor.timers import Timer, Timers
from conflux.api import Buffer, Layout, WireError
from conflux.wire import ip, segment
from conflux.wire.credentials import Network
from conflux.wire.cut import Run, add, superframes
from conflux.wire.frame import IN_STREAM, MAX_SUPERFRAME_BYTES, SIZE, bare, records
from conflux.wire.join import join

WAITING_BYTES = 65_536
WAITING_TOTAL_BYTES = 16 * 2**20
WAITING_S = 5.0
BACKOFF_S = 1.0
BACKOFF_MAX_S = 30.0
MAX_EGRESSERS = 4_096
PEER_GONE_S = 1.0
ASK_ANEW_S = 5.0
_EMPTY = memoryview(bytes((Layout.BARE,)))
_VIRTIO = bytes((Layout.VIRTIO,))


@dataclass(slots=True, eq=False)
class Egresser:
    """What is known about one destination address."""

    address: bytes
    session: Session | None = None
    reach: Reach | None = None
    asking: bool = False
    retry_at: float = 0.0
    ask_anew_at: float = 0.0
    backoff_s: float = BACKOFF_S
    waiting: deque[tuple[float, bytes]] = field(default_factory=deque)
    waiting_bytes: int = 0
    expiry: Timer | None = None


class Egress:
    """All Egressers of a node, by address."""

    def __init__(
        self,
        timers: Timers,
        counters: Counter[str],
        *,
        ask: Callable[[Egresser, float], bool],
        want: Callable[[Session, float], Reach],
        on_spent: Callable[[Session, float], None],
        on_sent: Callable[[Session, Route, bytearray, float], None],
        path_mtu: PathMtu,
        icmp: IcmpErrors,
    ) -> None:
        self._timers = timers
        self._counters = counters
        self._ask = ask
        self._want = want
        self._on_spent = on_spent
        self._on_sent = on_sent
        self._path_mtu = path_mtu
        self._icmp = icmp
        self._egressers: dict[bytes, Egresser] = {}
        self._sessions: dict[bytes, Session] = {}
        self._networks: Sequence[Network] = ()
        self._own: frozenset[bytes] = frozenset()
        self._unreachable: frozenset[bytes] = frozenset()
        self._waiting_bytes = 0

    def serve(self, networks: Sequence[Network], own: Sequence[bytes]) -> None:
        """Set which networks lie behind the overlay and which addresses are our own."""
        self._networks = networks
        edges = {n.network_address.packed for n in networks if n.num_addresses > 2}
        edges |= {
            n.broadcast_address.packed for n in networks if n.num_addresses > 2 and n.version == 4
        }
        self._own = frozenset(own)
        self._unreachable = self._own | edges

    # The packet path

    def take(self, burst: memoryview, *, now: float) -> None:
        """Send every packet of *burst*: a layout byte, then records as the device gave them.

        *burst* is writable and is altered.
        """
        groups: dict[tuple[Egresser, int], list[Run]] = {}
        is_virtio = burst[:1] == _VIRTIO
        if is_virtio:
            burst = join(burst)
        try:
            for record, packet, end in records(burst):
                key = self._classify(burst[packet:end])
                if key is None:
                    continue
                if is_virtio and not self._is_tidy(burst[record + SIZE.size : end], now):
                    continue
                add(groups.setdefault(key, []), record, end)
        except WireError:
            self._counters["tun_malformed"] += 1
        for (egresser, flow), runs in groups.items():
            self._send(egresser, flow, burst, runs, now)

    def _is_tidy(self, body: memoryview, now: float) -> bool:
        """Make the virtio header one that may be sent. What cannot be sent as it is goes ahead."""
        try:
            if segment.tidy(body):
                return True
            packets = segment.segments(body)
        except WireError:
            self._counters["tun_malformed"] += 1
            return False
        self.take(memoryview(bare(packets)), now=now)
        return False

    def _classify(self, packet: memoryview) -> tuple[Egresser, int] | None:
        """Return (egresser, flow): packets of one group share a stream and a route."""
        try:
            source, destination = ip.addresses(packet)
        except WireError:
            self._counters["tun_malformed"] += 1
            return None
        if source not in self._own:
            # The far end would drop it: its source must be in our certificate.
            self._counters["packet_source_not_ours"] += 1
            return None
        egresser = self._egressers.get(destination) or self._new(destination)
        if egresser is None:
            self._counters["packet_to_nowhere"] += 1
            return None
        spread = egresser.reach is not None and len(egresser.reach.routes) > 1
        return egresser, ip.flow_hash(packet) if spread else 0

    def _send(
        self, egresser: Egresser, flow: int, burst: memoryview, runs: Sequence[Run], now: float
    ) -> None:
        if egresser.session is None and egresser.address in self._sessions:
            self._bind(egresser, self._sessions[egresser.address], now)
        session, reach = egresser.session, egresser.reach
        route = reach.choose(flow) if reach is not None else None
        if session is None or reach is None or route is None:
            for superframe in superframes(burst, runs, MAX_SUPERFRAME_BYTES):
                self._wait(egresser, superframe, now)
            if session is None or reach is None:
                self._find(egresser, now)
            else:
                self._find_anew(egresser, session, reach, now)
            return
        if burst[0] == Layout.VIRTIO and not session.takes_virtio:
            burst = _cut_up(burst, runs)
            runs = [[1, len(burst)]]
        if self._path_mtu.is_narrow(session):
            burst, runs = self._path_mtu.fit(burst, runs, session, now=now)
        for superframe in superframes(burst, runs, route.superframe_bytes):
            if len(superframe) > MAX_SUPERFRAME_BYTES:
                self._counters["packet_too_large"] += 1
                continue
            try:
                self._seal_and_send(session, route, superframe, now)
            except Spent:
                self._wait(egresser, superframe, now)
                self._on_spent(session, now)

    def greet(self, session: Session, reach: Reach, *, now: float) -> bool:
        """Send an empty superframe, which proves that we hold the keys; False without a route."""
        route = reach.choose(0)
        if route is None:
            return False
        try:
            self._seal_and_send(session, route, _EMPTY, now)
        except Spent:
            self._on_spent(session, now)
        return True

    def tell(
        self,
        session: Session,
        reach: Reach,
        message: bytes,
        *,
        now: float,
        route: Route | None = None,
    ) -> bool:
        """Send a control message inside the stream; False without a route or a fresh key."""
        route = route or reach.choose(0)
        if route is None:
            return False
        try:
            frame = session.out.seal(memoryview(bytes((IN_STREAM,)) + message), now=now)
        except Spent:
            return False
        return route.send(frame, now=now)

    def _seal_and_send(
        self, session: Session, route: Route, superframe: memoryview, now: float
    ) -> None:
        frame = session.out.seal(superframe, now=now)
        session.last_sent = now
        if route.send(frame, now=now):
            self._on_sent(session, route, frame, now)
        else:
            self._counters["egress_full"] += 1

    # Destinations

    def bind(self, session: Session, *, now: float) -> None:
        """From now on packets to the peer's addresses take *session*."""
        for address in [interface.packed for interface in session.peer.certificate.addresses]:
            self._sessions[address] = session
        for egresser in self._covered_by(session.peer):
            egresser.asking = False
            egresser.backoff_s = BACKOFF_S
            self._bind(egresser, session, now)

    def unbind(self, session: Session, *, now: float) -> None:
        """*session* sends no more; what waits is asked for anew."""
        for address in [interface.packed for interface in session.peer.certificate.addresses]:
            if self._sessions.get(address) is session:
                del self._sessions[address]
        for egresser in self._covered_by(session.peer):
            if egresser.session is session:
                egresser.session = egresser.reach = None
                if egresser.waiting:
                    self._find(egresser, now)

    def _covered_by(self, peer: Peer) -> list[Egresser]:
        """Those of *peer*'s addresses. Only networks make it necessary to look at all of them."""
        if peer.certificate.networks:
            return [e for e in self._egressers.values() if peer.covers(e.address)]
        own = [interface.packed for interface in peer.certificate.addresses]
        return [self._egressers[address] for address in own if address in self._egressers]

    def flush(self, reach: Reach, now: float) -> None:
        """There is a route: send what waits for it, oldest first."""
        for egresser in list(self._egressers.values()):
            if egresser.reach is reach and egresser.waiting:
                for drained in self._drain(egresser):
                    superframe = memoryview(drained)
                    self._send(egresser, 0, superframe, [[1, len(superframe)]], now)

    def answered(self, covers: Callable[[bytes], bool]) -> None:
        """The peer lives and has the keys that it had: nobody waits for another answer."""
        for egresser in self._egressers.values():
            if covers(egresser.address):
                egresser.asking = False

    def start_over(self, now: float) -> None:
        """Every Ask under way was forgotten: whoever waits for one asks anew, at once."""
        self.retry()
        for egresser in self._egressers.values():
            egresser.asking = False
            if egresser.waiting:
                self._find(egresser, now)

    def ask_again(self, covers: Callable[[bytes], bool], now: float) -> None:
        """A handshake was overtaken by a new grant: whoever waits for it asks anew, at once."""
        for egresser in self._egressers.values():
            if egresser.asking and covers(egresser.address):
                egresser.asking = False
                if egresser.waiting:
                    self._find(egresser, now)

    def refused(self, covers: Callable[[bytes], bool], now: float) -> None:
        """A handshake ended without streams: whoever asked for it has failed."""
        for egresser in list(self._egressers.values()):
            if covers(egresser.address):
                self.ask_failed(egresser, now)

    def retry(self) -> None:
        """Something changed for the better: nobody waits out his back-off."""
        for egresser in self._egressers.values():
            egresser.retry_at, egresser.backoff_s = 0.0, BACKOFF_S

    def forget(self) -> None:
        """Drop everything that waits; ask for nothing any more."""
        for egresser in self._egressers.values():
            self._drain(egresser)
        self._egressers.clear()
        self._sessions.clear()

    def ask_failed(self, egresser: Egresser, now: float) -> None:
        """Nobody answered: drop what waits, ask again later and later."""
        if not egresser.asking:
            return
        egresser.asking = False
        egresser.retry_at = now + egresser.backoff_s
        egresser.backoff_s = min(2 * egresser.backoff_s, BACKOFF_MAX_S)
        self._drop_unanswered(egresser, now)

    def drop_idle(self, now: float) -> None:
        for egresser in list(self._egressers.values()):
            idle = not (egresser.waiting or egresser.asking or egresser.session)
            if idle and now > egresser.retry_at + BACKOFF_MAX_S:
                del self._egressers[egresser.address]

    def _new(self, address: bytes) -> Egresser | None:
        if address in self._unreachable or not ip.is_unicast(address):
            return None
        if not any(ip_address(address) in network for network in self._networks):
            return None
        if len(self._egressers) >= MAX_EGRESSERS:
            self._counters["egressers_over_limit"] += 1
            return None
        egresser = self._egressers[address] = Egresser(address)
        return egresser

    def _find(self, egresser: Egresser, now: float) -> None:
        known = self._sessions.get(egresser.address)
        if known is not None:
            self._bind(egresser, known, now)
        elif not egresser.asking and now >= egresser.retry_at:
            egresser.asking = self._ask(egresser, now)
        elif not egresser.asking:
            self._drop_unanswered(egresser, now)

    def _find_anew(self, egresser: Egresser, session: Session, reach: Reach, now: float) -> None:
        """No way to a peer that there was: it may have started anew, with other keys. Ask."""
        since = reach.without_route_since
        gone = session.confirmed and since is not None and now - since > PEER_GONE_S
        if gone and not egresser.asking and now >= egresser.ask_anew_at:
            egresser.ask_anew_at = now + ASK_ANEW_S
            egresser.asking = self._ask(egresser, now)

    def _bind(self, egresser: Egresser, session: Session, now: float) -> None:
        egresser.session = session
        egresser.reach = self._want(session, now)
        if egresser.reach.usable:
            self.flush(egresser.reach, now)

    # Waiting

    def _wait(self, egresser: Egresser, superframe: memoryview, now: float) -> None:
        size = len(superframe)
        full = egresser.waiting_bytes + size > WAITING_BYTES
        if full or self._waiting_bytes + size > WAITING_TOTAL_BYTES:
            self._counters["packet_waited_in_vain"] += 1
            return
        if egresser.expiry is None:
            self._expire_after(egresser, now + WAITING_S)
        egresser.waiting.append((now, bytes(superframe)))
        egresser.waiting_bytes += size
        self._waiting_bytes += size

    def _expire_after(self, egresser: Egresser, when: float) -> None:
        egresser.expiry = self._timers.at(when, lambda now: self._expire(egresser, now))

    def _expire(self, egresser: Egresser, now: float) -> None:
        egresser.expiry = None
        while egresser.waiting and now >= egresser.waiting[0][0] + WAITING_S:
            self._counters["packet_waited_in_vain"] += 1
            self._tell_unreachable(self._take_first(egresser), now)
        if egresser.waiting:
            self._expire_after(egresser, egresser.waiting[0][0] + WAITING_S)

    def _drop_unanswered(self, egresser: Egresser, now: float) -> None:
        for superframe in self._drain(egresser):
            self._counters["packet_unanswered"] += 1
            self._tell_unreachable(superframe, now)

    def _tell_unreachable(self, superframe: Buffer, now: float) -> None:
        """Nobody answered for what is in *superframe*: its senders need not wait any longer."""
        whole = memoryview(superframe)
        for _, start, end in records(whole):
            self._icmp.host_unreachable(whole[start:end], now=now)

    def _drain(self, egresser: Egresser) -> list[bytearray]:
        drained = []
        while egresser.waiting:
            drained.append(self._take_first(egresser))
        return _join(drained)

    def _take_first(self, egresser: Egresser) -> bytes:
        _, superframe = egresser.waiting.popleft()
        egresser.waiting_bytes -= len(superframe)
        self._waiting_bytes -= len(superframe)
        return superframe


def _join(superframes: list[bytes]) -> list[bytearray]:
    """Join neighbours of one layout as far as they fit: fewer frames, same order."""
    joined: list[bytearray] = []
    for superframe in superframes:
        last = joined[-1] if joined else None
        fits = last is not None and len(last) + len(superframe) <= MAX_SUPERFRAME_BYTES
        if last is not None and fits and last[0] == superframe[0]:
            last += superframe[1:]
        else:
            joined.append(bytearray(superframe))
    return joined


def _cut_up(burst: memoryview, runs: Sequence[Run]) -> memoryview:
    """The records of layout VIRTIO in *runs* as bare packets, for a peer that takes no other."""
    packets: list[bytes] = []
    for start, end in runs:
        for record, _, after in records(burst, start, end):
            packets += segment.segments(burst[record + SIZE.size : after])
    return memoryview(bare(packets))
