"""Packets that fit the far end, where its interface carries less than ours.

    egress    longer, IPv4 without DF ─► fragments
              longer, any other       ─► dropped; who sent it is told the far end's MTU
              TCP SYN                 ─► announces no longer segments than fit
    ingress   TCP SYN                 ─► the same

The end whose interface carries more does it for both directions. Where both carry alike, all that
a superframe costs is the comparison. docs/protocol/inside.md
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from conflux.anchor.icmp_errors import IcmpErrors
from conflux.anchor.stream import Session
from conflux.api import WireError
from conflux.wire import segment
from conflux.wire.cut import Run
from conflux.wire.fragment import fragments, may_be_cut
from conflux.wire.frame import SIZE, records
from conflux.wire.mss import clamped


class PathMtu:
    """Fits packets to sessions. *mtu_bytes* is this node's own MTU.

    Of a record that stands for several packets the longest of these counts.
    """

    def __init__(self, mtu_bytes: int, icmp: IcmpErrors, counters: Counter[str]) -> None:
        self._mtu_bytes = mtu_bytes
        self._icmp = icmp
        self._counters = counters

    def is_narrow(self, session: Session) -> bool:
        """Tell whether packets of this node's system may be too long for *session*'s peer."""
        return session.mtu_bytes < self._mtu_bytes

    def fit(
        self, burst: memoryview, runs: Sequence[Run], session: Session, *, now: float
    ) -> tuple[memoryview, Sequence[Run]]:
        """Return a burst, and runs of records in it, whose packets all fit, in order.

        The same ones if they fit already.
        """
        changed: dict[int, Sequence[bytes]] = {}
        for start, end in runs:
            for record, packet, after in records(burst, start, end):
                body = burst[record + SIZE.size : after]
                fitting = self._fit(body, packet - record - SIZE.size, session, now)
                if fitting is not None:
                    changed[record] = fitting
        if not changed:
            return burst, runs
        made = bytearray(burst[:1])
        for start, end in runs:
            for record, _, after in records(burst, start, end):
                if record not in changed:
                    made += burst[record:after]
                for fitted in changed.get(record, ()):
                    made += SIZE.pack(len(fitted)) + fitted
        return memoryview(made), [[1, len(made)]] if len(made) > 1 else []

    def _fit(
        self, body: memoryview, header_bytes: int, session: Session, now: float
    ) -> Sequence[bytes] | None:
        """Return bodies to send instead of *body*, which may be none at all; None if it fits."""
        mtu_bytes = session.mtu_bytes
        packet = body[header_bytes:] if header_bytes else body
        length = len(packet)
        if header_bytes and length > mtu_bytes:
            length = segment.segment_bytes(body)
        if length > mtu_bytes:
            head = bytes(header_bytes)
            return [head + part for part in self._shorten(body, packet, session, now)]
        is_summed = not header_bytes or not body[0] & segment.NEEDS_CSUM
        lowered = clamped(packet, mtu_bytes, is_summed=is_summed)
        return None if lowered is None else (bytes(body[:header_bytes]) + lowered,)

    def _shorten(
        self, body: memoryview, packet: memoryview, session: Session, now: float
    ) -> Sequence[bytes]:
        if not may_be_cut(packet):
            self._counters["packet_too_big"] += 1
            self._icmp.too_big(packet, session, now=now)
            return ()
        try:
            wholes = [bytes(packet)] if body is packet else segment.segments(body)
            cut = [fragments(memoryview(whole), session.mtu_bytes) for whole in wholes]
        except WireError:
            self._counters["tun_malformed"] += 1
            return ()
        return [part for parts in cut for part in parts]

    def clamp(self, superframe: memoryview, session: Session) -> memoryview:
        """Return *superframe*, or a copy of it in which SYNs announce what fits."""
        lowered = superframe
        for record, start, end in records(superframe):
            body = record + SIZE.size
            is_summed = start == body or not superframe[body] & segment.NEEDS_CSUM
            packet = clamped(superframe[start:end], session.mtu_bytes, is_summed=is_summed)
            if packet is not None:
                if lowered is superframe:
                    lowered = memoryview(bytearray(superframe))
                lowered[start:end] = packet
        return lowered
