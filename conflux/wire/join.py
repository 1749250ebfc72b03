"""Joining: UDP packets that the system gave one by one, as the records that stand for several.

A program that sends small datagrams makes a record of each; what the whole way costs is paid for
each, too. Side by side in a burst and alike in all but payload, they are one record of layout
VIRTIO (docs/protocol/frame.md §3.1), which is cut up into the same packets, byte for byte (§3.2).

Only packets whose checksum is still to be made: nobody has summed them, so none can be wrong.
"""

from __future__ import annotations

import struct
from functools import lru_cache

from conflux.api import MAX_GSO_BYTES, Buffer, Gso
from conflux.wire import ip
from conflux.wire.checksum import checksum, pseudo_header_sum
from conflux.wire.frame import SIZE
from conflux.wire.segment import HEADER, MIN_GSO_SIZE, NEEDS_CSUM

MAX_JOINED = 64
"""Packets in one record. Linux drops UDP that stands for more than UDP_MAX_SEGMENTS (linux/udp.h),
64 of old and 128 now."""


def join(burst: memoryview) -> memoryview:
    """Return *burst*, a layout byte and whole records of layout VIRTIO, with fewer records.

    The very same if there is nothing to join; else a new one, as writable. What is no whole record
    ends the search.
    """
    parts: list[Buffer] = []
    taken, at, end = 0, 1, len(burst)
    while at + _LEAST_RECORD <= end:
        head = bytes(burst[at : at + _ALIKE])
        stride = SIZE.size + (head[0] << 8 | head[1])
        follows = at + stride
        udp_at = _UDP_AT.get(head[SIZE.size :])
        if udp_at is not None and burst[follows : follows + _ALIKE] == head:
            run = _run(burst[at : at + (end - at) // stride * stride], stride, udp_at)
            if run is not None:
                count, record = run
                parts += (burst[taken:at], record)
                taken = follows = at + count * stride
        at = follows
    if not parts:
        return burst
    return memoryview(bytearray().join((*parts, burst[taken:])))


_ALIKE = SIZE.size + HEADER.size
_UDP_BYTES, _CHECKSUM_AT = 8, 6
_LEAST_RECORD = _ALIKE + 20 + _UDP_BYTES + MIN_GSO_SIZE
_IPV4, _IPV6 = 20, 40
_UDP_AT = {HEADER.pack(NEEDS_CSUM, Gso.NONE, 0, 0, at, _CHECKSUM_AT): at for at in (_IPV4, _IPV6)}
"""Where the UDP header begins, by virtio header: no options, no extension headers."""
_WORD = struct.Struct(">H")


def _run(records: memoryview, stride: int, at: int) -> tuple[int, bytes] | None:
    """Return how many of *records*, all of *stride* bytes, are alike from the first on, and what
    stands for them: at least two."""
    if not _is_joinable(records[_ALIKE:stride], at):
        return None
    size = stride - _ALIKE - at - _UDP_BYTES
    most = min((MAX_GSO_BYTES - at - _UDP_BYTES) // size, MAX_JOINED)
    payloads = (_alike4 if at == _IPV4 else _alike6)(records[: most * stride], size)
    if len(payloads) < 2:
        return None
    return len(payloads), _record(bytes(records[_ALIKE : stride - size]), payloads, size)


def _is_joinable(packet: memoryview, at: int) -> bool:
    """Tell whether *packet* is UDP, whole, sound, and long enough, with its UDP header at *at*."""
    size = len(packet)
    if size < at + _UDP_BYTES + MIN_GSO_SIZE or size - at != _WORD.unpack_from(packet, at + 4)[0]:
        return False
    if at == _IPV6:
        return (
            packet[0] >> 4 == 6
            and packet[6] == ip.UDP
            and _WORD.unpack_from(packet, 4)[0] == size - _IPV6
        )
    return (
        packet[0] == 0x45
        and packet[9] == ip.UDP
        and not (packet[6] & 0x3F or packet[7])  # no fragment
        and _WORD.unpack_from(packet, 2)[0] == size
        and checksum(packet[:_IPV4]) == 0
    )


def _alike4(records: memoryview, size: int) -> list[bytes]:
    """Return the payloads of the records that continue the first, as Linux counts and sums."""
    rows = _rows(">16sH4sH16s", size).iter_unpack(records)
    head, number, middle, sum_, tail, payload = next(rows)
    payloads = [payload]
    add = payloads.append
    whole = (number + sum_) % 0xFFFF
    for other, other_number, other_middle, other_sum, other_tail, payload in rows:
        number += 1
        if (
            other_number != number
            or other_tail != tail
            or other != head
            or other_middle != middle
            or (number + other_sum) % 0xFFFF != whole
        ):
            break
        add(payload)
    return payloads


def _alike6(records: memoryview, size: int) -> list[bytes]:
    rows = _rows(">60s", size).iter_unpack(records)
    head, payload = next(rows)
    payloads = [payload]
    for other, payload in rows:
        if other != head:
            break
        payloads.append(payload)
    return payloads


@lru_cache(128)
def _rows(head: str, size: int) -> struct.Struct:
    """A record whose payload has *size* bytes, taken apart into what stays and what varies."""
    return struct.Struct(f"{head}{size}s")


def _record(headers: bytes, payloads: list[bytes], size: int) -> bytes:
    """Make the record of *payloads*, each of *size* bytes, behind the first one's *headers*."""
    at = len(headers) - _UDP_BYTES
    length = len(headers) + len(payloads) * size
    head = bytearray(headers)
    if at == _IPV4:
        _WORD.pack_into(head, 2, length)
        _WORD.pack_into(head, 10, 0)
        _WORD.pack_into(head, 10, checksum(head[:_IPV4]))
    else:
        _WORD.pack_into(head, 4, length - _IPV6)
    seed = pseudo_header_sum(*ip.addresses(memoryview(head)), ip.UDP, length - at)
    _WORD.pack_into(head, at + 4, length - at)
    _WORD.pack_into(head, at + _CHECKSUM_AT, seed % 0xFFFF)
    body = HEADER.pack(NEEDS_CSUM, Gso.UDP_L4, len(headers), size, at, _CHECKSUM_AT)
    return b"".join((SIZE.pack(len(body) + length), body, head, *payloads))
