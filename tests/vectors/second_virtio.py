"""Records that stand for several packets, read a second time: frame.md §3.1 and §3.2.

As `second_decoder.py`: from the documents, with the standard library alone.
"""

from __future__ import annotations

from second_decoder import Values, require


def virtio(body: bytes) -> Values:
    """A record of layout 1, without its size, and the packets that it stands for."""
    require(len(body) > 10, "no header and packet")
    header, packet = body[:10], body[10:]
    flags, gso_type = header[0], header[1]
    sizes = [int.from_bytes(header[at : at + 2], "little") for at in (2, 4, 6, 8)]
    values = dict(
        zip(("hdr_len", "gso_size", "csum_start", "csum_offset"), sizes, strict=True),
        flags=flags,
        gso_type=gso_type,
    )
    if not any(header):
        return values | {"cut_up": [packet.hex()]}
    require(flags == 1, "another header")
    version = packet[0] >> 4
    protocol, begin = tcp_or_udp(packet, version)
    require(sizes[2:] == [begin, 16 if protocol == 6 else 6], "a checksum elsewhere")
    require(len(packet) >= begin + (20 if protocol == 6 else 8), "half a header")
    if gso_type == 0:
        require(sizes[:2] == [0, 0], "sizes of several")
        pieces, is_alone = [packet], True
    else:
        pieces = several(packet, version, protocol, begin, gso_type, *sizes[:2])
        is_alone = False
    at = begin + sizes[3]
    for number, piece in enumerate(pieces):
        made = 0xFFFF - ones_sum(piece[begin:])
        if made == 0 and (is_alone or protocol == 17):
            made = 0xFFFF
        pieces[number] = piece[:at] + made.to_bytes(2, "big") + piece[at + 2 :]
    return values | {"cut_up": [piece.hex() for piece in pieces]}


def tcp_or_udp(packet: bytes, version: int) -> tuple[int, int]:
    """Where the header begins, and which it is."""
    if version == 4:
        require(len(packet) >= 20 and packet[0] & 15 >= 5, "no IPv4 header")
        require(int.from_bytes(packet[6:8], "big") & 0x3FFF == 0, "a fragment")
        protocol, begin = packet[9], 4 * (packet[0] & 15)
    else:
        require(version == 6 and len(packet) >= 40, "no IP packet")
        protocol, begin = packet[6], 40
        while protocol in (0, 43, 44, 60):
            require(len(packet) >= begin + 8, "half an extension header")
            if protocol == 44:
                require(
                    int.from_bytes(packet[begin + 2 : begin + 4], "big") < 8, "a later fragment"
                )
            length = 8 if protocol == 44 else 8 + 8 * packet[begin + 1]
            protocol, begin = packet[begin], begin + length
    require(protocol in (6, 17), "neither TCP nor UDP")
    return protocol, begin


def several(
    packet: bytes, version: int, protocol: int, begin: int, gso_type: int, hdr_len: int, gso: int
) -> list[bytes]:
    """The packets of a record that stands for several, their checksums still to be made."""
    kinds = {(4, 6): (1, 0x81), (6, 6): (4, 0x84), (4, 17): (5,), (6, 17): (5,)}
    require(gso_type in kinds[version, protocol], "another kind of packet")
    header = begin + (4 * (packet[begin + 12] >> 4) if protocol == 6 else 8)
    require(header >= begin + (20 if protocol == 6 else 8), "half a header")
    require(hdr_len == header, "another header length")
    require(32 <= gso < len(packet) - header, "another size")
    said = int.from_bytes(packet[2:4] if version == 4 else packet[4:6], "big")
    require(said == len(packet) - (0 if version == 4 else 40), "another length")
    payloads = [packet[at : at + gso] for at in range(header, len(packet), gso)]
    made = []
    for k, payload in enumerate(payloads):
        p = bytearray(packet[:header] + payload)
        if version == 4:
            p[2:4] = len(p).to_bytes(2, "big")
            p[4:6] = ((int.from_bytes(p[4:6], "big") + k) % 2**16).to_bytes(2, "big")
            p[10:12] = bytes(2)
            p[10:12] = (0xFFFF - ones_sum(p[: 4 * (p[0] & 15)])).to_bytes(2, "big")
        else:
            p[4:6] = (len(p) - 40).to_bytes(2, "big")
        if protocol == 6:
            sequence = int.from_bytes(p[begin + 4 : begin + 8], "big") + k * gso
            p[begin + 4 : begin + 8] = (sequence % 2**32).to_bytes(4, "big")
            p[begin + 13] &= 0xFF if k == len(payloads) - 1 else 0xF6
            p[begin + 13] &= 0xFF if k == 0 else 0x7F
        else:
            p[begin + 4 : begin + 6] = (len(p) - begin).to_bytes(2, "big")
        field = slice(begin + (16 if protocol == 6 else 6), begin + (18 if protocol == 6 else 8))
        left_out = len(packet) - len(p)
        seed = (int.from_bytes(p[field], "big") - left_out) % 0xFFFF
        p[field] = seed.to_bytes(2, "big")
        made.append(bytes(p))
    return made


def ones_sum(data: bytes) -> int:
    """RFC 1071: the one's complement sum of 16-bit words."""
    total = 0
    for at in range(0, len(data), 2):
        total += int.from_bytes((data[at : at + 2] + b"\0")[:2], "big")
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total
