"""Records of layout VIRTIO as a system with offload gives them."""

from __future__ import annotations

import struct

from conflux.api import Gso
from conflux.wire import ip
from conflux.wire.checksum import pseudo_header_sum
from conflux.wire.segment import ECN, HEADER, NEEDS_CSUM

_CHECKSUM_AT = {ip.TCP: 16, ip.UDP: 6}


def virtio_body(packet: bytes, *, gso_size: int = 0, ecn: bool = False) -> bytes:
    """Return a record, without its size, for *packet*: TCP or UDP, whole and no fragment.

    Its checksum is left to be made. With *gso_size* it stands for as many packets as that takes,
    *ecn* says that of TCP packets the first alone carries CWR.
    """
    view = memoryview(packet)
    found = ip.transport(view)
    if found is None or found[0] not in _CHECKSUM_AT:
        raise ValueError("neither TCP nor UDP")
    protocol, at = found
    seed = pseudo_header_sum(*ip.addresses(view), protocol, len(packet) - at) % 0xFFFF
    partial = bytearray(packet)
    struct.pack_into(">H", partial, at + _CHECKSUM_AT[protocol], seed)
    header_bytes = at + (8 if protocol == ip.UDP else (packet[at + 12] >> 4) * 4)
    kind, sizes = Gso.NONE, (0, 0)
    if 0 < gso_size < len(packet) - header_bytes:
        tcp = Gso.TCPV4 if packet[0] >> 4 == 4 else Gso.TCPV6
        kind = tcp if protocol == ip.TCP else Gso.UDP_L4
        sizes = header_bytes, gso_size
    gso_type = kind | (ECN if ecn and kind in (Gso.TCPV4, Gso.TCPV6) else 0)
    return HEADER.pack(NEEDS_CSUM, gso_type, *sizes, at, _CHECKSUM_AT[protocol]) + partial
