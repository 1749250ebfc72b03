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
        mtu_bytes, kept_from = session.mtu_bytes, 1
        made = _Made(superframe[:1])
        for record, start, end in records(superframe):
            packet = superframe[start:end]
            if end - start > mtu_bytes:
                fitting = self._shorten(packet, session, now)
            elif (lowered := clamped(packet, mtu_bytes)) is not None:
                fitting = (lowered,)
            else:
                continue
            made.add(superframe[kept_from:record])
            for part in fitting:
                made.add(SIZE.pack(len(part)) + part)
            kept_from = end
        if kept_from == 1:
            return (superframe,)
        made.add(superframe[kept_from:])
        return made.superframes()

    def _shorten(self, packet: memoryview, session: Session, now: float) -> Sequence[bytes]:
        if may_be_cut(packet):
            try:
                return fragments(packet, session.mtu_bytes)
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


class _Made:
    """Superframes in the making, begun with *layout*: whole records are added in order."""

    def __init__(self, layout: Buffer) -> None:
        self._layout = layout
        self._made = [bytearray(layout)]

    def add(self, records_: Buffer) -> None:
        """Add what is no longer than a superframe."""
        if len(self._made[-1]) + len(records_) > MAX_SUPERFRAME_BYTES:
            self._made.append(bytearray(self._layout))
        self._made[-1] += records_

    def superframes(self) -> list[memoryview]:
        return [memoryview(made) for made in self._made if len(made) > len(self._layout)]
