"""A STUN server (RFC 8489, Binding over UDP and IPv4): stun_server.py ADDRESS PORT."""

from __future__ import annotations

import socket
import struct
import sys

MAGIC = b"\x21\x12\xa4\x42"


def main() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((sys.argv[1], int(sys.argv[2])))
        print("ready", flush=True)
        while True:
            request, source = sock.recvfrom(2_000)
            if request[:8] != b"\0\x01\0\0" + MAGIC:
                continue
            packed = bytes(a ^ b for a, b in zip(socket.inet_aton(source[0]), MAGIC, strict=True))
            value = struct.pack("!BBH", 0, 1, source[1] ^ 0x2112) + packed
            body = struct.pack("!HH", 0x0020, len(value)) + value
            head = struct.pack("!HH", 0x0101, len(body)) + MAGIC + request[8:20]
            sock.sendto(head + body, source)


if __name__ == "__main__":
    main()
