"""What the kernel leaves to us, and does for us, on an interface with virtio headers.

Documentation/networking/tuntap.rst §3, linux/if_tun.h, Virtio 1.2 §5.1.6. With IFF_VNET_HDR each
packet comes and goes behind a `virtio_net_hdr`; TUNSETOFFLOAD tells the kernel what it may give so.
What it takes does not hang on that: any type of segmentation that it knows.
"""

from __future__ import annotations

import fcntl
import struct

from pyroute2.iproute.linux import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from conflux.api import MAX_GSO_BYTES, MAX_RECORD_BYTES, Gso

SIZE_BYTES = 2
HEADER_BYTES = 10
MAX_PACKET_BYTES = MAX_RECORD_BYTES - SIZE_BYTES - HEADER_BYTES

IFF_VNET_HDR = 0x4000


def is_supported(descriptor: int) -> bool:
    """Tell whether the TUN module behind an open descriptor knows virtio headers."""
    try:
        answer = fcntl.ioctl(descriptor, TUNGETFEATURES, bytes(4))
    except OSError:
        return False
    return bool(INT.unpack(answer)[0] & IFF_VNET_HDR)


async def limit_packets(index: int) -> bool:
    """Have the kernel make no packet longer than MAX_GSO_BYTES; False if it will not.

    One setting counts for IPv4 too: kernels that tell the two apart set both if it is no more than
    64 KiB.
    """
    try:
        async with AsyncIPRoute() as netlink:
            await netlink.link("set", index=index, IFLA_GSO_MAX_SIZE=MAX_GSO_BYTES)
            [link] = await netlink.link("get", index=index)
    except NetlinkError:
        return False
    size = link.get("IFLA_GSO_MAX_SIZE")
    return size is not None and size <= MAX_GSO_BYTES


def switch_on(descriptor: int, *, is_limited: bool) -> frozenset[Gso]:
    """Switch on what there is on an interface made with IFF_VNET_HDR; return what it takes."""
    fcntl.ioctl(descriptor, TUNSETVNETHDRSZ, INT.pack(HEADER_BYTES))
    fcntl.ioctl(descriptor, TUNSETVNETLE, INT.pack(1))
    for flags, gso in STEPS if is_limited else ():
        try:
            fcntl.ioctl(descriptor, TUNSETOFFLOAD, flags)
        except OSError:
            continue
        return gso
    return frozenset({Gso.NONE})


TUNGETFEATURES = 0x800454CF
TUNSETOFFLOAD = 0x400454D0
TUNSETVNETHDRSZ = 0x400454D8
TUNSETVNETLE = 0x400454DC
INT = struct.Struct("=i")

TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_TSO_ECN = 0x01, 0x02, 0x04, 0x08
TUN_F_USO4, TUN_F_USO6 = 0x20, 0x40
TSO = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN

STEPS = [
    (TSO | TUN_F_USO4 | TUN_F_USO6, frozenset(Gso)),
    (TSO, frozenset(Gso) - {Gso.UDP_L4}),  # Linux before 6.2, which refuses such packets, too
]
