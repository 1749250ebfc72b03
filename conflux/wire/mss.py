"""The maximum segment size that a TCP SYN announces (RFC 9293 §3.7.1), lowered on its way."""

from __future__ import annotations

import struct

from conflux.api import WireError
from conflux.wire import ip

_HEADER_BYTES = 20
_SYN = 0x02
_END, _NO_OPERATION, _MSS, _MSS_BYTES = 0, 1, 2, 4
_WORD = struct.Struct(">H")


def clamped(packet: memoryview, mtu_bytes: int, *, is_summed: bool = True) -> bytes | None:
    """Return *packet* with its MSS lowered to what fits *mtu_bytes*; None if it may stay as it is.

    *packet* is one that `ip.addresses` took for IP; unless *is_summed* its checksum is still to be
    made. What is no SYN, has no such option, or is malformed in any way stays as it is: it is the
    receiver's to judge.
    """
    is_four = packet[0] >> 4 == 4
    protocol = packet[9] if is_four else packet[6]
    if protocol != ip.TCP and (is_four or protocol == ip.UDP):
        return None  # most of what is no TCP; of IPv6, what stands behind extension headers may be
    at = _mss_at(packet)
    if at is None:
        return None
    start, value_at = at
    most = mtu_bytes - (20 if is_four else 40) - _HEADER_BYTES  # RFC 6691 §2
    (announced,) = _WORD.unpack_from(packet, value_at)
    if announced <= most:
        return None
    lowered = bytearray(packet)
    _WORD.pack_into(lowered, value_at, most)
    if is_summed:
        _update(lowered, start, (value_at - start) % 2, announced, most)
    return bytes(lowered)


def _mss_at(packet: memoryview) -> tuple[int, int] | None:
    """Return where the TCP header begins and where its MSS stands."""
    try:
        found = ip.transport(packet)
    except WireError:
        return None
    if found is None or found[0] != ip.TCP:
        return None
    start = found[1]
    if start + _HEADER_BYTES > len(packet) or not packet[start + 13] & _SYN:
        return None
    at, end = start + _HEADER_BYTES, start + (packet[start + 12] >> 4) * 4
    if end > len(packet):
        return None
    while at < end and packet[at] != _END:
        if packet[at] == _NO_OPERATION:
            at += 1
            continue
        size = packet[at + 1] if at + 1 < end else 0
        if size < 2 or at + size > end:
            return None
        if packet[at] == _MSS:
            return (start, at + 2) if size == _MSS_BYTES else None
        at += size
    return None


def _update(packet: bytearray, start: int, is_odd: int, old: int, new: int) -> None:
    """RFC 1624 §3, equation 3: HC' = ~(~HC + ~m + m').

    Behind an odd number of bytes the value lies across two words: each of its bytes counts as the
    other half of a word (RFC 1071 §2, byte order independence).
    """
    if is_odd:
        old, new = _swapped(old), _swapped(new)
    (sum_,) = _WORD.unpack_from(packet, start + 16)
    total = (~sum_ & 0xFFFF) + (~old & 0xFFFF) + new
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    _WORD.pack_into(packet, start + 16, ~total & 0xFFFF)


def _swapped(word: int) -> int:
    return (word & 0xFF) << 8 | word >> 8
