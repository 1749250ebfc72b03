"""Vectors of layout virtio: good headers, and each of them with one thing wrong."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

from make_values import Values, case, virtio_values

from conflux.testing.packets import tcp_packet, udp_packet
from conflux.testing.virtio import virtio_body


def good() -> list[Values]:
    return [case(why, body, virtio_values(body)) for why, body in bodies().items()]


def bad() -> Iterator[tuple[str, str, bytes]]:
    """Each differs from a good header in one thing."""
    made = bodies()
    whole, one, many = (made[name] for name in (
        "one packet as it is", "one TCP packet, checksum to be made", "several TCP packets, IPv6",
    ))  # fmt: skip
    for why, body, at, byte in (
        ("flags 2", whole, 0, 2),
        ("sizes without flags", whole, 4, 1),
        ("checksum of an address", one, 6, 8),
        ("checksum elsewhere in the header", one, 8, 6),
        ("one packet with a size of many", one, 4, 40),
        ("TCP over IPv4 that is IPv6", many, 1, 1),
        ("UDP that is TCP", many, 1, 5),
        ("gso_type 3", many, 1, 3),
        ("hdr_len beyond the headers", many, 2, 61),
        ("gso_size 31", many, 4, 31),
        ("gso_size of all the payload", many, 4, 64),
        ("another payload length", many, 15, 0),
        ("TCP header of 16 bytes", many, 62, 0x40),
    ):
        yield "virtio", why, body[:at] + bytes((byte,)) + body[at + 1 :]


def bodies() -> dict[str, bytes]:
    ends4 = ip_address("10.77.0.2"), ip_address("10.77.0.3")
    ends6 = ip_address("fd77::2"), ip_address("fd77::3")
    flags = 0x80 | 0x10 | 0x08 | 0x01  # CWR, ACK, PSH, FIN
    many4 = tcp_packet(*ends4, bytes(range(100)), flags=flags, options=b"\x01\x01\x01\x00")
    many6 = tcp_packet(*ends6, bytes(range(64)), flags=flags)
    return {
        "one packet as it is": bytes(10) + udp_packet(*ends4, b"hello"),
        "one TCP packet, checksum to be made": virtio_body(tcp_packet(*ends6, b"hello")),
        "one UDP packet, checksum to be made": virtio_body(udp_packet(*ends4, b"hello")),
        "several TCP packets, IPv4, ECN": virtio_body(many4, gso_size=33, ecn=True),
        "several TCP packets, IPv6": virtio_body(many6, gso_size=32),
        "several UDP packets": virtio_body(udp_packet(*ends6, bytes(range(90))), gso_size=40),
    }
