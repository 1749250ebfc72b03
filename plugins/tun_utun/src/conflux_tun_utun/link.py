"""The interface as the kernel's network stack sees it: its name, addresses, routes and MTU.

Addresses, MTU and flags go through ioctl(2), routes through a routing socket (route(4)); no other
program is started.
"""

from __future__ import annotations

import abc
import errno
import os
import re
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network, ip_address

from conflux.api import TunConfig, Unavailable
from conflux_tun_utun import darwin
from conflux_tun_utun.darwin import (
    IfAliasReq,
    IfReq,
    In6AddrLifetime,
    In6AliasReq,
    RtMsghdr,
    SockaddrDl,
    SockaddrIn,
    SockaddrIn6,
    sockaddr,
)
from conflux_tun_utun.plugin import NO_ROOT

Network = IPv4Network | IPv6Network
Interface = IPv4Interface | IPv6Interface


class System(abc.ABC):
    """What of macOS is called to set up an interface. All raise OSError."""

    @abc.abstractmethod
    def ioctl(self, version: int, request: int, argument: bytes) -> bytes:
        """Call ioctl(2) on a socket of IPv4 or IPv6; return *argument* as the kernel left it."""

    @abc.abstractmethod
    def route(self, message: bytes) -> bytes:
        """Send a message of route(4); return the kernel's answer to it."""

    @abc.abstractmethod
    def is_ours(self, address: darwin.Address) -> bool:
        """Tell whether an interface of this machine has *address*."""

    @abc.abstractmethod
    def index_of(self, name: str) -> int:
        """Return an interface's index."""

    @abc.abstractmethod
    def name_of(self, index: int) -> str:
        """Return an interface's name."""


def check_config(config: TunConfig) -> None:
    """Raise Unavailable for what macOS would not take, before anything is made."""
    wants_ipv6 = any(wanted.version == 6 for wanted in [*config.addresses, *config.routes])
    least = IPV6_MIN_MTU_BYTES if wants_ipv6 else MIN_MTU_BYTES
    if not least <= config.mtu_bytes <= MAX_MTU_BYTES:
        raise Unavailable(
            f"an MTU of {config.mtu_bytes} bytes is out of range: choose {least} to {MAX_MTU_BYTES}"
        )


MIN_MTU_BYTES = 576  # RFC 791: what every host takes
IPV6_MIN_MTU_BYTES = 1280  # RFC 8200 §5
MAX_MTU_BYTES = 65_535


def unit_of(name: str) -> int:
    """Return the control unit of an interface's name, one more than its number; 0: any is fine.

    macOS names these interfaces itself: only utun0, utun1... can be asked for.
    """
    found = re.fullmatch(r"utun(0|[1-9][0-9]{0,5})", name)
    return int(found[1]) + 1 if found else 0


def check_free(system: System, config: TunConfig) -> None:
    """Raise Unavailable if an address or one of the very networks is in use here.

    macOS would take both, and then one of the two falls silent. A network that only overlaps is
    fine: the longest prefix decides (RFC 1812 §5.2.4.3).
    """
    for interface in config.addresses:
        if system.is_ours(interface.ip):
            raise Unavailable(
                f"address {interface.ip} is in use on this machine: remove it there "
                "(`ifconfig` says where) or choose another with --cidr"
            )
    for network in sorted(networks_of(config), key=str):
        if (index := _interface_of(system, network)) is not None:
            raise Unavailable(
                f"network {network} is routed to {_name(system, index)} already: remove that "
                f"route (`route delete {_family(network)} {network}`) or choose another plane"
            )


def networks_of(config: TunConfig) -> set[Network]:
    """All that is to be routed into the interface: macOS makes no route from an address here."""
    on_link = {
        interface.network
        for interface in config.addresses
        if interface.network.prefixlen < interface.max_prefixlen
    }
    return on_link | set(config.routes)


def configure(system: System, name: str, config: TunConfig) -> None:
    """Give interface *name* what *config* says and bring it up. Raises Unavailable.

    What was set before an error stays set: the caller removes the interface.
    """
    try:
        _set_mtu(system, name, config.mtu_bytes)
        for interface in config.addresses:
            _add_address(system, name, interface)
        _bring_up(system, name)
        index = system.index_of(name)
        for network in sorted(networks_of(config), key=str):
            _add_route(system, index, network)
    except OSError as error:
        if error.errno in {errno.EPERM, errno.EACCES}:
            raise Unavailable(NO_ROOT) from None
        raise Unavailable(
            f"macOS refuses to set up {name}: {error.strerror}; see `ifconfig` and `netstat -rn`"
        ) from None


def _set_mtu(system: System, name: str, mtu_bytes: int) -> None:
    system.ioctl(4, darwin.SIOCSIFMTU, bytes(IfReq(name.encode(), mtu_bytes)))


def _bring_up(system: System, name: str) -> None:
    answer = system.ioctl(4, darwin.SIOCGIFFLAGS, bytes(IfReq(name.encode())))
    # The flags are 16 bits, and the rest of the union is not theirs.
    flags = IfReq.from_buffer_copy(answer).value & 0xFFFF
    system.ioctl(4, darwin.SIOCSIFFLAGS, bytes(IfReq(name.encode(), flags | darwin.IFF_UP)))


def _add_address(system: System, name: str, interface: Interface) -> None:
    mask = ip_address(interface.netmask)
    if interface.version == 4:
        request = IfAliasReq(name.encode())
        request.ifra_addr = sockaddr(interface.ip)
        request.ifra_broadaddr = sockaddr(interface.ip)  # the far end: macOS wants to have one
        request.ifra_mask = sockaddr(mask)
        system.ioctl(4, darwin.SIOCAIFADDR, bytes(request))
        return
    request6 = In6AliasReq(name.encode())
    request6.ifra_addr = sockaddr(interface.ip)
    request6.ifra_prefixmask = sockaddr(mask)
    request6.ifra_flags = darwin.IN6_IFF_NODAD  # Guardian allots addresses, so none is doubled
    forever = darwin.ND6_INFINITE_LIFETIME
    request6.ifra_lifetime = In6AddrLifetime(0, 0, forever, forever)
    system.ioctl(6, darwin.SIOCAIFADDR_IN6, bytes(request6))


def _add_route(system: System, index: int, network: Network) -> None:
    """Route *network* to the interface. One that the address brought may be there already."""
    gateway = SockaddrDl(20, darwin.AF_LINK, index)
    try:
        system.route(_message(darwin.RTM_ADD, network, gateway))
    except FileExistsError:
        if _interface_of(system, network) != index:
            raise


def _interface_of(system: System, network: Network) -> int | None:
    """Return the index of the interface to which this very network is routed, if any."""
    try:
        answer = system.route(_message(darwin.RTM_GET, network, None))
    except ProcessLookupError:  # ESRCH
        return None
    return int(RtMsghdr.from_buffer_copy(answer).rtm_index)


def _message(kind: int, network: Network, gateway: SockaddrDl | None) -> bytes:
    """A message of route(4): header, destination, gateway if any, netmask.

    With a netmask the kernel looks for that very network, without one for the best match; so that
    even a single address has one, and RTF_HOST is never set.
    """
    parts: list[SockaddrIn | SockaddrIn6 | SockaddrDl] = [sockaddr(network.network_address)]
    addresses = darwin.RTA_DST | darwin.RTA_NETMASK
    flags = darwin.RTF_UP | darwin.RTF_STATIC
    if gateway is not None:
        parts.append(gateway)
        addresses |= darwin.RTA_GATEWAY
    parts.append(sockaddr(network.netmask))
    body = b"".join(map(bytes, parts))  # each is a multiple of 4 bytes, as the kernel wants it
    header = RtMsghdr(
        rtm_msglen=HEADER_BYTES + len(body),
        rtm_version=darwin.RTM_VERSION,
        rtm_type=kind,
        rtm_flags=flags,
        rtm_addrs=addresses,
        rtm_pid=os.getpid(),
        rtm_seq=1,
    )
    return bytes(header) + body


HEADER_BYTES = len(bytes(RtMsghdr()))


def _family(network: Network) -> str:
    return "-inet" if network.version == 4 else "-inet6"


def _name(system: System, index: int) -> str:
    try:
        return system.name_of(index)
    except OSError:  # removed since
        return f"interface {index}"
