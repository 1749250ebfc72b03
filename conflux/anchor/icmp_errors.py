"""What this node's own system is told about packets that go nowhere: ICMP errors, sent to it alone.

As the hosts of a link hear of a neighbour that does not answer, and of a packet too big for the
next hop. Nothing of it leaves the machine, and it says no more than this node has seen itself.
"""

from __future__ import annotations

from collections import Counter

from conflux.anchor.limits import RateLimit
from conflux.anchor.stream import Session
from conflux.anchor.world import World
from conflux.wire import icmp, ip

ERRORS_PER_S = 10.0
ERRORS_BURST = 10.0
"""About one destination (RFC 1812 §4.3.2.8, RFC 4443 §2.4 (f))."""


class IcmpErrors:
    """Makes ICMP errors and limits their rate. *packet* is one that `ip.addresses` took for IP."""

    def __init__(self, world: World, counters: Counter[str]) -> None:
        self._world = world
        self._counters = counters
        self._rate = RateLimit(per_s=ERRORS_PER_S, burst=ERRORS_BURST)

    def too_big(self, packet: memoryview, session: Session, *, now: float) -> None:
        """The far end of *session* carries no packet of this size."""
        _, destination = ip.addresses(packet)
        if self._may_tell(packet, destination, now):
            # Its interface is the one that is too narrow, be the destination itself or behind it.
            own = (i.packed for i in session.peer.certificate.addresses)
            source = next((a for a in own if len(a) == len(destination)), destination)
            mtu_bytes = session.mtu_bytes
            self._world.tell_system(icmp.too_big(packet, source=source, mtu_bytes=mtu_bytes))

    def host_unreachable(self, packet: memoryview, *, now: float) -> None:
        """Nobody answers for the destination of *packet*."""
        _, destination = ip.addresses(packet)
        if self._may_tell(packet, destination, now):
            # In the destination's name: systems take no IPv4 packet from their own address that
            # comes in from outside (Linux: accept_local), and there is no router to speak.
            self._world.tell_system(icmp.host_unreachable(packet, source=destination))

    def drop_idle(self, now: float) -> None:
        """Forget destinations that the system was told nothing of lately."""
        self._rate.drop_idle(now)

    def _may_tell(self, packet: memoryview, destination: bytes, now: float) -> bool:
        if not icmp.may_be_answered(packet):
            return False
        allowed = self._rate.allows(destination, now=now)
        if not allowed:
            self._counters["icmp_over_rate"] += 1
        return allowed
