"""Which addresses of this machine are told to others, and which of theirs are talked to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address

from conflux_tether_udp.adapters import get_adapters
from conflux_tether_udp.description import IpAddress, is_unicast

MAX_HOST_CANDIDATES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """Which addresses may be part of an underlay."""

    is_overlay: Callable[[IpAddress], bool]
    allow_loopback: bool = False

    def permits(self, address: IpAddress) -> bool:
        """Whether *address*, of this machine or of a neighbour, may be used.

        Never one of the overlay, which would carry itself.
        """
        if not is_unicast(address) or self.is_overlay(address):
            return False
        return self.allow_loopback or not address.is_loopback


def host_addresses(reach: Reach) -> list[IpAddress]:
    """This machine's addresses that *reach* permits, at most MAX_HOST_CANDIDATES, best first.

    Link-local IPv4 and the bridges of containers stay: a neighbour may be there. Loopback comes
    last.
    """
    found: list[IpAddress] = []
    for adapter in get_adapters():
        for ip in adapter.ips:
            # A scope means link-local IPv6; without it the address would mean nothing elsewhere.
            if isinstance(ip.ip, tuple) and ip.ip[2]:
                continue
            address = ip_address(ip.ip if isinstance(ip.ip, str) else ip.ip[0])
            if reach.permits(address) and address not in found:
                found.append(address)
    found.sort(key=lambda address: (address.is_loopback, address.is_link_local))
    return found[:MAX_HOST_CANDIDATES]


def socket_address(address: IpAddress, port: int) -> tuple[str, int] | tuple[str, int, int, int]:
    """As sockets write it when something comes from there."""
    if isinstance(address, IPv4Address):
        return str(address), port
    return str(address), port, 0, 0
