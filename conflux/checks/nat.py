"""What stands between this machine and the Internet: NAT behaviour discovery (RFC 5780).

    mapping      does every destination see the same address of ours? (RFC 4787 §4.1)
    filtering    who may send to that address? (RFC 4787 §5)

One server tells where we appear; two, or one with an alternate address, tell the mapping; only one
with an alternate address tells the filtering.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from conflux.api import UsageError, WireError
from conflux.checks.findings import Finding, fail, ok, unknown, warn
from conflux.wire import stun

RESENDS_S = (0.25, 0.5, 1.0)
"""How long each try waits: RFC 8489 §6.2.1 with fewer tries, since a person waits."""
_SERVER = re.compile(
    r"(?:(?:stun|turn):)?(\[[0-9A-Fa-f:.]+\]|[^:?\[\]\s]+)(?::(\d{1,5}))?(?:\?transport=udp)?"
)

Endpoint = tuple[str, int]


def server(text: str) -> Endpoint:
    """Read "HOST:PORT", "HOST" or a stun: or turn: URL (RFC 7064, RFC 7065). Raises UsageError."""
    match = _SERVER.fullmatch(text)
    port = int(match[2] or stun.DEFAULT_PORT) if match else 0
    if match is None or not 0 < port < 65_536:
        raise UsageError(f"{text!r} is no STUN server: write HOST:PORT")
    return match[1].strip("[]"), port


@dataclass(frozen=True, slots=True)
class Heard:
    """One server's answer, and whom it came from."""

    source: Endpoint
    answer: stun.Answer


class Probe:
    """One UDP socket over IPv4, of which servers are asked where it appears. Close it."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("0.0.0.0", 0))

    def close(self) -> None:
        self._socket.close()

    @property
    def port(self) -> int:
        return int(self._socket.getsockname()[1])

    def ask(
        self, where: Endpoint, *, change_ip: bool = False, change_port: bool = False
    ) -> Heard | None:
        """Ask *where*; None if nothing comes back. Waits for the sum of RESENDS_S at most."""
        transaction = os.urandom(stun.TRANSACTION_BYTES)
        request = stun.request(transaction, change_ip=change_ip, change_port=change_port)
        for wait_s in RESENDS_S:
            try:
                self._socket.sendto(request, where)
            except OSError:
                return None
            if (heard := self._hear(transaction, wait_s)) is not None:
                return heard
        return None

    def _hear(self, transaction: bytes, wait_s: float) -> Heard | None:
        ends = time.monotonic() + wait_s
        while (left_s := ends - time.monotonic()) > 0:
            self._socket.settimeout(left_s)
            try:
                datagram, source = self._socket.recvfrom(2_048)
            except OSError:  # a timeout, or an ICMP error
                return None
            try:
                answer = stun.answer(datagram, transaction)
            except WireError:
                continue
            if answer is not None and answer.is_success:
                return Heard((str(source[0]), int(source[1])), answer)
        return None


def check(servers: Sequence[Endpoint]) -> Iterator[Finding]:
    """Ask *servers* in turn. Blocks for a few seconds at most for each that is silent."""
    probe = Probe()
    try:
        yield from _check(probe, servers)
    finally:
        probe.close()


def _check(probe: Probe, servers: Sequence[Endpoint]) -> Iterator[Finding]:
    if not servers:
        do = "name a STUN server with --stun HOST:PORT, or have Guardian hand one out"
        yield unknown("udp", "no STUN server is known that could say", do)
        return
    heard: dict[Endpoint, stun.Answer] = {}
    for where in dict.fromkeys(map(_resolved, servers)):
        answered = probe.ask(where) if where is not None else None
        if where is not None and answered is not None and answered.answer.mapped is not None:
            heard[where] = answered.answer
    if not heard:
        names = ", ".join(f"{host}:{port}" for host, port in servers)
        do = "allow UDP to the outside in the firewall; until then nothing but TURN over TCP helps"
        yield fail("udp", f"no answer from {names}", do)
        return
    first, answer = next(iter(heard.items()))
    yield ok("udp", f"{first[0]}:{first[1]} sees us as {_shown(answer.mapped)}")
    yield from _behaviour(probe, heard)


def _behaviour(probe: Probe, heard: dict[Endpoint, stun.Answer]) -> Iterator[Finding]:
    first, answer = next(iter(heard.items()))
    if answer.mapped == (ipaddress.ip_address(_local_address(first)), probe.port):
        yield ok("nat", "none: our own address is what others see")
        return
    mapped = [answer.mapped for answer in heard.values()]
    alternate = next((a.other for a in heard.values() if a.other is not None), None)
    if alternate is not None and len(mapped) < 2:
        again = probe.ask((str(alternate[0]), first[1]))
        mapped += [again.answer.mapped] if again is not None else []
    if len(mapped) < 2:
        do = "name a second STUN server with --stun, or one that follows RFC 5780"
        yield unknown("nat", "there is one; one server alone cannot tell of what kind", do)
    elif len(set(mapped)) == 1:
        yield ok("nat", "endpoint-independent mapping: direct tethers work with most peers")
    else:
        yield warn(
            "nat",
            "the mapping depends on the destination (a symmetric NAT)",
            "direct tethers work only with peers that have no such NAT; others go by relays. "
            "Forward a UDP port, or put a relay of the plane on a public address",
        )
    if alternate is not None:
        yield from _filtering(probe, first)


def _filtering(probe: Probe, where: Endpoint) -> Iterator[Finding]:
    """RFC 5780 §4.4: does an answer from elsewhere get in?"""
    elsewhere = probe.ask(where, change_ip=True, change_port=True)
    if elsewhere is not None and elsewhere.source[0] != where[0]:
        yield ok("filtering", "none: anybody can send to the mapped address")
        return
    other_port = probe.ask(where, change_port=True)
    if other_port is not None and other_port.source[1] != where[1]:
        yield ok("filtering", "by address: who we sent to may answer from any port")
    else:
        yield ok("filtering", "by address and port: only who we sent to may answer")


def _resolved(where: Endpoint) -> Endpoint | None:
    try:
        found = socket.getaddrinfo(*where, socket.AF_INET, socket.SOCK_DGRAM)
    except OSError:
        return None
    return str(found[0][4][0]), where[1]


def _local_address(towards: Endpoint) -> str:
    """Our address on the way there; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
        way.connect(towards)
        return str(way.getsockname()[0])


def _shown(address: stun.Address | None) -> str:
    return f"{address[0]}:{address[1]}" if address is not None else "?"
