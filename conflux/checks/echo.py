"""ICMP echo over the overlay (RFC 792, RFC 4443 §4.1), as any program of this machine would ask.

A ping socket where the system lets this user have one (Linux: net.ipv4.ping_group_range), else a
raw one, which takes root.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from ipaddress import IPv4Address, IPv6Address

from conflux.api import Unavailable, UsageError
from conflux.wire.checksum import checksum

MIN_BYTES = 16
"""Of payload: a random token in it tells our answers from everybody else's."""
MAX_BYTES = 65_000
_HEADER = struct.Struct("!BBHHH")
_ECHO, _ECHO_REPLY = 8, 0
_ECHO6, _ECHO6_REPLY = 128, 129

Address = IPv4Address | IPv6Address


class Echo:
    """Asks one host, from the address *source*, whose route leads into the overlay. Close it."""

    def __init__(self, target: Address, source: Address, size: int) -> None:
        """Raises Unavailable without the right to, UsageError without such a source address."""
        self._target = target
        self._is_v4 = target.version == 4
        self._token = os.urandom(MIN_BYTES)
        self._filler = bytes(max(0, size - MIN_BYTES))
        self._socket = _socket(self._is_v4)
        try:
            self._socket.bind((str(source), 0))
        except OSError as error:
            self._socket.close()
            raise UsageError(
                f"{source} is no address of this machine ({error.strerror}): is the node still up?"
            ) from None

    def close(self) -> None:
        self._socket.close()

    def ask(self, sequence: int, wait_s: float) -> float | str:
        """Return the round trip in seconds, or in words why there is none."""
        began = time.monotonic()
        try:
            sequence &= 0xFFFF  # what the header has room for
            self._socket.sendto(self._request(sequence), (str(self._target), 0))
            while (left_s := began + wait_s - time.monotonic()) > 0:
                self._socket.settimeout(left_s)
                if self._is_answer(self._socket.recv(65_535), sequence):
                    return time.monotonic() - began
        except TimeoutError:
            pass
        except OSError as error:
            return error.strerror or str(error)
        return f"no answer within {wait_s:g} s"

    def _request(self, sequence: int) -> bytes:
        kind = _ECHO if self._is_v4 else _ECHO6
        payload = self._token + self._filler
        head = _HEADER.pack(kind, 0, 0, os.getpid() & 0xFFFF, sequence)
        # Of ICMPv6 the kernel makes the checksum, since the addresses are part of it.
        total = checksum(head + payload) if self._is_v4 else 0
        return _HEADER.pack(kind, 0, total, os.getpid() & 0xFFFF, sequence) + payload

    def _is_answer(self, packet: bytes, sequence: int) -> bool:
        """A raw socket of IPv4 hands over the IP header, too."""
        if self._is_v4 and packet[:1] and packet[0] >> 4 == 4:
            packet = packet[(packet[0] & 15) * 4 :]
        if len(packet) < _HEADER.size:
            return False
        kind, _, _, _, found = _HEADER.unpack_from(packet)
        reply = _ECHO_REPLY if self._is_v4 else _ECHO6_REPLY
        token = packet[_HEADER.size : _HEADER.size + MIN_BYTES]
        return (kind, found, token) == (reply, sequence, self._token)


def _socket(is_v4: bool) -> socket.socket:
    family = socket.AF_INET if is_v4 else socket.AF_INET6
    protocol = socket.IPPROTO_ICMP if is_v4 else socket.IPPROTO_ICMPV6
    for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW):
        try:
            return socket.socket(family, kind, protocol)
        except OSError:
            continue
    raise Unavailable(
        "no right to send ICMP: run as root, or widen net.ipv4.ping_group_range with sysctl"
    )
