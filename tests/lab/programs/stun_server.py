"""A STUN server with an alternate address and port (RFC 8489, RFC 5780), over UDP and IPv4.

    stun_server.py ADDRESS PORT [OTHER_ADDRESS OTHER_PORT]

Written from the RFCs alone, so that netcheck's codec is held to another one.
"""

from __future__ import annotations

import select
import socket
import struct
import sys

COOKIE = 0x2112A442


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("!HH", kind, len(value)) + value + bytes(-len(value) % 4)


def xored(host: str, port: int) -> bytes:
    (number,) = struct.unpack("!I", socket.inet_aton(host))
    return struct.pack("!BBHI", 0, 1, port ^ COOKIE >> 16, number ^ COOKIE)


def plain(host: str, port: int) -> bytes:
    return struct.pack("!BBH", 0, 1, port) + socket.inet_aton(host)


def change_request(request: bytes) -> int:
    at = 20
    while at < len(request):
        kind, size = struct.unpack_from("!HH", request, at)
        if kind == 0x0003:
            return int.from_bytes(request[at + 4 : at + 8], "big")
        at += 4 + size + -size % 4
    return 0


def main() -> None:
    address, port = sys.argv[1], int(sys.argv[2])
    hosts, ports = [address, *sys.argv[3:4]], [port, *map(int, sys.argv[4:5])]
    ends = {}
    for host in hosts:
        for number in ports:
            ends[host, number] = sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind((host, number))
    print("ready", flush=True)
    while True:
        readable, _, _ = select.select(list(ends.values()), [], [])
        for sock in readable:
            request, source = sock.recvfrom(2_000)
            kind, _, cookie = struct.unpack_from("!HHI", request)
            if kind != 0x0001 or cookie != COOKIE:
                continue
            host, number = sock.getsockname()
            other = (hosts[hosts[0] == host], ports[ports[0] == number]) if len(hosts) > 1 else None
            wanted = change_request(request)
            body = attribute(0x8022, b"lab") + attribute(0x0020, xored(*source))
            if other is not None:
                body += attribute(0x802C, plain(*other))
                host = other[0] if wanted & 4 else host
                number = other[1] if wanted & 2 else number
            head = struct.pack("!HHI", 0x0101, len(body), COOKIE) + request[8:20]
            ends[host, number].sendto(head + body, source)


if __name__ == "__main__":
    main()
