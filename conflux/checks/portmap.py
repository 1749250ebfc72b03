"""Whether the router can open a port: PCP (RFC 6887), NAT-PMP (RFC 6886), UPnP IGD (SSDP).

Nothing is mapped: each is asked only whether it is there.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from conflux.checks.findings import Finding, ok, unknown, warn

PCP_PORT = 5_351  # NAT-PMP's, too
SSDP = ("239.255.255.250", 1_900)
WAIT_S = 1.0
_IGD = "urn:schemas-upnp-org:device:InternetGatewayDevice:1"


def check() -> Iterator[Finding]:
    """Ask the default gateway. Blocks for WAIT_S for each way at most."""
    gateway = default_gateway()
    if gateway is None:
        yield unknown("port mapping", "this machine has no default gateway to ask", "")
        return
    found = [name for name, speaks in _WAYS.items() if speaks(gateway)]
    if found:
        yield ok("port mapping", f"the router {gateway} speaks {', '.join(found)}")
    else:
        yield warn(
            "port mapping",
            f"the router {gateway} speaks neither PCP nor NAT-PMP nor UPnP",
            "nothing needs it; a UDP port that is forwarded by hand "
            "(`port` of [plugin.tether.udp]) does the same",
        )


def default_gateway(table: Path = Path("/proc/net/route")) -> str | None:
    """Return the IPv4 gateway of the default route, from Linux's table; None elsewhere."""
    if sys.platform != "linux":
        return None
    try:
        lines = table.read_text().splitlines()[1:]
    except OSError:
        return None
    for line in lines:
        fields = line.split()
        if len(fields) > 7 and fields[1] == fields[7] == "00000000" and int(fields[2], 16):
            return str(ipaddress.IPv4Address(struct.pack("=I", int(fields[2], 16))))
    return None


def speaks_pcp(gateway: str) -> bool:
    """ANNOUNCE (RFC 6887 §14.1): version 2, opcode 0, our address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((gateway, PCP_PORT))
        ours = socket.inet_aton(sock.getsockname()[0])
        request = struct.pack("!BBHI10x2s4s", 2, 0, 0, 0, b"\xff\xff", ours)
        # Any result code is an answer: unsupported opcodes, too.
        return _asked(sock, request, lambda got: len(got) >= 24 and got[:2] == b"\x02\x80")


def speaks_nat_pmp(gateway: str) -> bool:
    """External address request (RFC 6886 §3.2)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((gateway, PCP_PORT))
        return _asked(sock, b"\0\0", lambda got: len(got) == 12 and got[:4] == b"\0\x80\0\0")


def speaks_upnp(gateway: str) -> bool:
    """M-SEARCH (UPnP Device Architecture 1.1 §1.3.2), answered by the gateway itself."""
    request = (
        f"M-SEARCH * HTTP/1.1\r\nHOST: {SSDP[0]}:{SSDP[1]}\r\n"
        f'MAN: "ssdp:discover"\r\nMX: 1\r\nST: {_IGD}\r\n\r\n'
    ).encode()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 2)
        return _asked(sock, request, lambda got: got.startswith(b"HTTP/1.1 200"), SSDP, gateway)


def _asked(
    sock: socket.socket,
    request: bytes,
    is_answer: Callable[[bytes], bool],
    to: tuple[str, int] | None = None,
    whom: str = "",
) -> bool:
    """Send *request* and wait for an answer, from *whom* if that is not the socket's own peer."""
    ends = time.monotonic() + WAIT_S
    try:
        sock.sendto(request, to) if to else sock.send(request)
        while (left_s := ends - time.monotonic()) > 0:
            sock.settimeout(left_s)
            got, source = sock.recvfrom(2_048)
            if is_answer(got) and whom in ("", source[0]):
                return True
    except OSError:  # a timeout, or nobody listens there
        pass
    return False


_WAYS: dict[str, Callable[[str], bool]] = {
    "PCP": speaks_pcp,
    "NAT-PMP": speaks_nat_pmp,
    "UPnP": speaks_upnp,
}
