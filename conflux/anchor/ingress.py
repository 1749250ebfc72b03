"""Ingress: open a frame, check that its packets may come in, hand them to the TUN device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable

from conflux.anchor.path_mtu import PathMtu
from conflux.anchor.stream import InStream, Session
from conflux.anchor.world import World
from conflux.api import MAX_MESSAGE_BYTES, Gso, Layout, WireError
from conflux.wire import icmp, ip, segment
from conflux.wire.frame import (
    HEADER_BYTES,
    IN_STREAM,
    INNER,
    OUTER,
    SIZE,
    bare,
    read_layout,
    records,
)

_Covers = Callable[[bytes], bool]


class Ingress:
    """All inbound streams of a node, by stream id: an Ingresser each."""

    def __init__(
        self,
        world: World,
        counters: Counter[str],
        *,
        on_message: Callable[[Session, bytes, float], None],
        on_owed: Callable[[InStream, float], None],
        path_mtu: PathMtu,
    ) -> None:
        self._world = world
        self._counters = counters
        self._on_message = on_message
        self._on_owed = on_owed
        self._path_mtu = path_mtu
        self._streams: dict[int, InStream] = {}
        self._own: frozenset[bytes] = frozenset()
        self._gso: frozenset[int] = frozenset()
        self._plain = memoryview(bytearray(MAX_MESSAGE_BYTES))

    def accept_for(self, addresses: Iterable[bytes]) -> None:
        """Set this node's own addresses: what is for others is not delivered."""
        self._own = frozenset(addresses)

    def device_takes(self, gso: Iterable[Gso]) -> None:
        """Set what the TUN device takes in layout VIRTIO; at first nothing: all is cut up here."""
        self._gso = frozenset(gso)

    @property
    def streams(self) -> Collection[InStream]:
        """The inbound streams that are open, replaced ones included while they still count."""
        return self._streams.values()

    def add(self, stream: InStream) -> None:
        self._streams[stream.stream_id] = stream

    def remove(self, stream: InStream) -> None:
        self._streams.pop(stream.stream_id, None)

    def knows(self, frame: memoryview) -> bool:
        """Tell whether *frame* claims to be of a stream that this node has."""
        if len(frame) < HEADER_BYTES:
            return True
        return INNER.unpack_from(frame, OUTER.size)[0] in self._streams

    def take(self, frame: memoryview, *, now: float, came_by: bytes = b"") -> Session | None:
        """Deliver a frame; return its session if it proved genuine. Never raises.

        *came_by* is the id of the route that led it here, empty for a direct one.
        """
        if len(frame) < HEADER_BYTES:
            self._counters["frame_malformed"] += 1
            return None
        stream_id, counter = INNER.unpack_from(frame, OUTER.size)
        stream = self._streams.get(stream_id)
        if stream is None:
            self._counters["frame_of_unknown_stream"] += 1
            return None
        if now > stream.until:
            self._counters["frame_after_its_keys_ended"] += 1
            return None
        try:
            superframe = stream.open(frame, counter, self._plain)
        except WireError as error:
            self._counters[f"frame_{error}".replace(" ", "_")] += 1
            return None
        if superframe[0] == IN_STREAM:
            self._on_message(stream.session, bytes(superframe[1:]), now)
            return stream.session
        stream.session.last_received = now
        if stream.tally.note(counter, came_by, now):
            self._on_owed(stream, now)
        guard = stream.guard
        if guard is None or guard.opened(frame, counter, superframe, now):
            self.deliver(superframe, stream.session)
        return stream.session

    def deliver(self, superframe: memoryview, session: Session) -> None:
        """Check and hand over what a genuine frame of *session* held. Never raises."""
        try:
            self._deliver(superframe, session)
        except WireError:
            self._counters["superframe_malformed"] += 1

    def _deliver(self, superframe: memoryview, session: Session) -> None:
        # Runs of good records are handed over whole; a bad one, or one that the device does not
        # take as it is, only interrupts.
        layout, covers = read_layout(superframe), session.peer.covers
        if self._path_mtu.is_narrow(session):
            superframe = self._path_mtu.clamp(superframe, session)
        start = end = 1
        cut_up: list[bytes] = []
        for record, packet, after in records(superframe):
            if self._may_come_in(superframe[packet:after], covers) and (
                layout is Layout.BARE or self._is_taken(superframe[record:after], cut_up)
            ):
                if cut_up:
                    self._deliver_bare(cut_up)
                end = after
                continue
            if start < record:
                self._world.deliver(superframe[start:record], layout)
            start = end = after
        if cut_up:
            self._deliver_bare(cut_up)
        if start < end:
            self._world.deliver(superframe[start:end], layout)

    def _is_taken(self, record: memoryview, cut_up: list[bytes]) -> bool:
        """Tell whether the device takes *record*, of layout VIRTIO, as it is.

        If not, its packets are added to *cut_up*, or none of a malformed one.
        """
        body = record[SIZE.size :]
        try:
            if segment.check(body) in self._gso:
                return True
            cut_up += segment.segments(body)
        except WireError:
            self._counters["virtio_header_malformed"] += 1
        return False

    def _deliver_bare(self, packets: list[bytes]) -> None:
        self._world.deliver(memoryview(bare(packets))[1:], Layout.BARE)
        packets.clear()

    def _may_come_in(self, packet: memoryview, covers: _Covers) -> bool:
        try:
            source, destination = ip.addresses(packet)
        except WireError:
            self._counters["packet_malformed"] += 1
            return False
        if not covers(source):
            self._counters["packet_source_not_in_certificate"] += 1
            return False
        if destination not in self._own:
            self._counters["packet_destination_not_ours"] += 1
            return False
        protocol = packet[9] if len(source) == 4 else packet[6]
        return protocol in _NEVER_ICMP or self._is_about_the_two(packet, destination, covers)

    def _is_about_the_two(self, packet: memoryview, destination: bytes, covers: _Covers) -> bool:
        """Tell whether *packet*, if it is an ICMP error, is about one that went to the peer.

        Else a peer could break our flows with others (RFC 5927 §2).
        """
        try:
            ends = icmp.quoted_ends(packet)
        except WireError:
            self._counters["packet_malformed"] += 1
            return False
        if ends is None or (ends[0] == destination and covers(ends[1])):
            return True
        self._counters["packet_icmp_about_others"] += 1
        return False


_NEVER_ICMP = frozenset({ip.TCP, ip.UDP})
