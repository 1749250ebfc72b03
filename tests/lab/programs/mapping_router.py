"""What a home router says to PCP, NAT-PMP and UPnP: mapping_router.py ADDRESS WAY..."""

from __future__ import annotations

import select
import socket
import struct
import sys

REPLY = (
    b"HTTP/1.1 200 OK\r\nST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n"
    b"LOCATION: http://192.168.7.1:5000/rootDesc.xml\r\nEXT:\r\n\r\n"
)


def answer(request: bytes, ways: list[str]) -> bytes:
    if request == b"\0\0":  # RFC 6886 §3.2
        return struct.pack("!BBHI4s", 0, 128, 0, 7, bytes((192, 0, 2, 1))) if "pmp" in ways else b""
    if len(request) == 24 and request[:2] == b"\2\0" and "pcp" in ways:  # RFC 6887 §14.1
        return struct.pack("!BBBBII12x", 2, 128, 0, 0, 0, 7)
    return b""


def main() -> None:
    address, *ways = sys.argv[1:]
    mapping = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    mapping.bind((address, 5351))
    ssdp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    ssdp.bind(("239.255.255.250", 1900))
    group = socket.inet_aton("239.255.255.250") + socket.inet_aton(address)
    ssdp.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
    reply = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    reply.bind((address, 0))
    print("ready", flush=True)
    while True:
        for sock in select.select([mapping, ssdp], [], [])[0]:
            request, source = sock.recvfrom(2_000)
            if sock is mapping and (said := answer(request, ways)):
                mapping.sendto(said, source)
            if sock is ssdp and request.startswith(b"M-SEARCH") and "upnp" in ways:
                reply.sendto(REPLY, source)


if __name__ == "__main__":
    main()
