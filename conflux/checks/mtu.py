"""What the underlay carries: the MTU that the system knows of, and what really gets through."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence

from conflux.api import WireError
from conflux.checks.findings import Finding, fail, ok, unknown, warn
from conflux.checks.nat import Endpoint
from conflux.wire import stun

MIN_BYTES = 1_280
USUAL_BYTES = 1_500
HEADER_BYTES = 28
"""Of IPv4 and UDP."""
WAIT_S = 0.4
TRIES = 2
_MTUS = (1_280, 1_360, 1_380, 1_400, 1_420, 1_440, 1_460, 1_480, 1_492, 1_500)
"""What links and tunnels have."""

# linux/in.h
_IP_MTU_DISCOVER, _IP_PMTUDISC_DO, _IP_MTU = 10, 2, 14


def check(towards: Endpoint | None, servers: Sequence[Endpoint]) -> Iterator[Finding]:
    """*towards*: a host of the underlay; *servers*: STUN servers, which echo what gets through."""
    if sys.platform != "linux":
        yield unknown("mtu", f"not looked at on {sys.platform}", "")
        return
    route = route_mtu(towards) if towards is not None else None
    measured = [(size, server) for server in servers if (size := largest(server)) is not None]
    if measured:
        through, server = measured[0]
        # What ICMP told the system meanwhile is known by now.
        yield _measured(through, route_mtu(server) or USUAL_BYTES)
    elif route is None:
        yield unknown("mtu", "no host of the underlay is known or can be reached", "")
    elif route < MIN_BYTES:
        yield fail("mtu", f"{route} bytes on the route", TOO_SMALL)
    else:
        yield ok("mtu", f"{route} bytes on the route")


TOO_SMALL = f"raise the MTU of the link to {MIN_BYTES} or more"


def _measured(through: int, known: int) -> Finding:
    what = f"{through} bytes get through"
    if through < min(known, USUAL_BYTES):
        return warn(
            "mtu",
            f"{what}, larger ones vanish without a word: a black hole",
            "let ICMP through the firewalls on the way; tethers measure it by themselves",
        )
    return ok("mtu", what)


def route_mtu(towards: Endpoint) -> int | None:
    """Return what the system takes to be the path MTU; None if there is no way."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(*towards, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as way:
            way.connect(address)
            if family == socket.AF_INET:
                return way.getsockopt(socket.IPPROTO_IP, _IP_MTU)
            return way.getsockopt(socket.IPPROTO_IPV6, 24)  # IPV6_MTU
    except OSError:
        return None


def largest(server: Endpoint) -> int | None:
    """Return the largest of the usual MTUs whose packets get to *server*; None if none does.

    Whole packets only: fragmentation is forbidden.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DO)
        try:
            sock.connect(server)
        except OSError:
            return None
        for size in reversed(_MTUS):
            if any(_gets_through(sock, size - HEADER_BYTES) for _ in range(TRIES)):
                return size
    return None


def _gets_through(sock: socket.socket, payload: int) -> bool:
    transaction = os.urandom(stun.TRANSACTION_BYTES)
    try:
        sock.send(stun.request(transaction, size=payload))
        ends = time.monotonic() + WAIT_S
        while (left_s := ends - time.monotonic()) > 0:
            sock.settimeout(left_s)
            try:
                if stun.answer(sock.recv(2_048), transaction) is not None:
                    return True
            except WireError:
                return True  # mangled, but there
    except OSError:  # EMSGSIZE: the system knows better; a timeout
        pass
    return False
