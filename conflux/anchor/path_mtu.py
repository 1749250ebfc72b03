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
from conflux.api import Buffer, WireError
from conflux.wire.fragment import fragments, may_be_cut
from conflux.wire.frame import MAX_SUPERFRAME_BYTES, SIZE, records
from conflux.wire.mss import clamped


class PathMtu:
    """Fits superframes of bare packets to sessions. *mtu_bytes* is this node's own MTU."""

    def __init__(self, mtu_bytes: int, icmp: IcmpErrors, counters: Counter[str]) -> None:
        self._mtu_bytes = mtu_bytes
        self._icmp = icmp
        self._counters = counters

    def is_narrow(self, session: Session) -> bool:
        """Tell whether packets of this node's system may be too long for *session*'s peer."""
        return session.mtu_bytes < self._mtu_bytes

    def fit(self, superframe: memoryview, session: Session, *, now: float) -> Sequence[memoryview]:
        """Return superframes whose packets all fit, in order; none if nothing is left."""
        fitted = [bytearray(superframe[:1])]
        for _, start, end in records(superframe):
            for packet in self._fit(superframe[start:end], session, now):
                if len(fitted[-1]) + SIZE.size + len(packet) > MAX_SUPERFRAME_BYTES:
                    fitted.append(bytearray(superframe[:1]))
                fitted[-1] += SIZE.pack(len(packet))
                fitted[-1] += packet
        return [memoryview(part) for part in fitted if len(part) > 1]

    def _fit(self, packet: memoryview, session: Session, now: float) -> Sequence[Buffer]:
        mtu_bytes = session.mtu_bytes
        if len(packet) <= mtu_bytes:
            return (clamped(packet, mtu_bytes) or packet,)
        if may_be_cut(packet):
            try:
                return fragments(packet, mtu_bytes)
            except WireError:
                self._counters["tun_malformed"] += 1
                return ()
        self._counters["packet_too_big"] += 1
        self._icmp.too_big(packet, session, now=now)
        return ()

    def clamp(self, superframe: memoryview, session: Session) -> memoryview:
        """Return *superframe*, or a copy of it in which SYNs announce what fits."""
        lowered = superframe
        for _, start, end in records(superframe):
            packet = clamped(superframe[start:end], session.mtu_bytes)
            if packet is not None:
                if lowered is superframe:
                    lowered = memoryview(bytearray(superframe))
                lowered[start:end] = packet
        return lowered
