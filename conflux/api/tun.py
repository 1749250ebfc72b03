"""Contract of TUN drivers: layer-3 interfaces that give and take bursts of IP packets.

A *burst* is a run of records in one buffer, in the same layout as a superframe
(docs/protocol/frame.md §3), so that a burst for one destination is sealed where it stands:

    record := size (2 bytes, big-endian) ‖ body (size bytes)
    body   := packet                                  layout BARE
            | virtio_net_hdr (10 bytes) ‖ packet      layout VIRTIO

`virtio_net_hdr` is the little-endian struct of Virtio 1.2 §5.1.6 without num_buffers: with it one
record can hold up to 64 kB of one flow, to be cut into packets only where it must be.
"""

from __future__ import annotations

import abc
import enum
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network

from conflux.api.types import Settings

MAX_RECORD_BYTES = 65_494
"""The largest record that fits one frame, size field included. No larger one is carried."""

MAX_GSO_BYTES = 62_400
"""How long a packet that stands for several should be at most. Alone in a superframe it leaves as
one batch of datagrams over any link of 1,280 to 9,000 bytes: 44 pieces of 1,456 bytes have room for
a packet of 63,995, 7 of 8,936 for 62,483 (docs/protocol/udp-tether.md §2, §8). What is longer than
that becomes two frames, the second almost empty."""


class Layout(enum.IntEnum):
    """What a record's body is. The value is a superframe's first byte."""

    BARE = 0
    VIRTIO = 1


class Gso(enum.IntEnum):
    """What a record of layout VIRTIO is cut into: its gso_type without the ECN bit (Virtio 1.2
    §5.1.6). Each but NONE stands for packets of gso_size bytes of payload behind one header."""

    NONE = 0
    TCPV4 = 1
    TCPV6 = 4
    UDP_L4 = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class TunConfig:
    """What an interface shall be called and carry.

    Each of `addresses` comes with the prefix length that is on-link (its plane); `routes` are
    further networks to send into the interface. `plane` tells the plane from all others, whatever
    their names and ranges: several nodes of one plane may be on one machine, and no others may
    share a network. Empty means that none may.
    """

    name: str
    addresses: Sequence[IPv4Interface | IPv6Interface]
    routes: Sequence[IPv4Network | IPv6Network] = ()
    plane: str = ""
    mtu_bytes: int = 1500


class TunDevice(abc.ABC):
    """An open interface. All calls come from the event loop's thread; none but `close` waits."""

    __slots__ = ()

    name: str
    """The interface's real name, which the system may have chosen."""
    mtu_bytes: int
    layout: Layout
    """How this device lays out every record that it gives. It takes this layout and BARE.

    In layout VIRTIO a checksum may be left to be done (NEEDS_CSUM), in what it gives and takes.
    """
    gso: Collection[Gso] = frozenset()
    """What it takes in layout VIRTIO, NONE included; empty if it takes BARE alone."""
    record_bytes: int
    """The largest record that `receive` can give, its size field included."""

    @abc.abstractmethod
    def attach(self, on_readable: Callable[[], None]) -> None:
        """Call *on_readable* from the event loop whenever `receive` has something to give.

        Called once. The callback must drain: it calls `receive` until that returns 0, or leaves
        the rest for the next callback, which then comes by itself.
        """

    @abc.abstractmethod
    def receive(self, burst: memoryview) -> int:
        """Fill *burst* with whole records, oldest first; return the bytes filled, 0 if none wait.

        *burst* belongs to the caller and must hold at least `record_bytes`, else ValueError.
        Nothing is kept of it after the return. Raises Closed once the device is closed or gone.
        """

    @abc.abstractmethod
    def send(self, burst: memoryview, layout: Layout) -> int:
        """Hand the records of *burst* to the system; return the bytes taken, whole records only.

        Less than all means that the system's queue is full: the rest is the caller's to drop or
        to try later. A packet that the system calls invalid counts as taken. Nothing is kept of
        *burst* after the return. Raises Closed once the device is closed or gone, and ValueError
        for a layout that the device does not take.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Remove the interface with its addresses and routes. Closing twice is fine."""


class TunDriver(abc.ABC):
    """Opens interfaces. Capability "offload": its devices give layout VIRTIO."""

    @abc.abstractmethod
    def __init__(self, settings: Settings) -> None: ...

    @abc.abstractmethod
    async def open(self, config: TunConfig) -> TunDevice:
        """Make the interface, set addresses, MTU and routes, bring it up.

        Raises Unavailable with one line on what to do: no right to do so, no TUN on this machine,
        the name taken, an address or route that collides. Then nothing is left behind.
        """
