"""The interface as the kernel's network stack sees it: its name, addresses, routes and MTU."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import socket
import struct
from collections.abc import Iterable
from ipaddress import (
    IPv4Address,
    IPv6Address,
    ip_address,
    ip_network,
)
from typing import Any

from pyroute2.iproute.linux import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from conflux.api import TunConfig, Unavailable
from conflux_tun_linux.companions import (
    Network,
    RuleKeeper,
    alias_of,
    companions,
    keep_apart,
    remove_orphaned_rules,
)
from conflux_tun_linux.plugin import NO_NET_ADMIN

Address = IPv4Address | IPv6Address


def check_config(config: TunConfig) -> None:
    """Raise Unavailable for what no kernel would take, before anything is made."""
    name = config.name
    octets = len(name.encode(errors="replace"))
    valid = (
        0 < octets < IFNAMSIZ
        and name.isprintable()
        and name not in {".", ".."}
        and not any(sign in "/:%" or sign.isspace() for sign in name.replace("%d", "", 1))
    )
    if not valid:
        raise Unavailable(
            f"{name!r} is no interface name: choose 1 to {IFNAMSIZ - 1} bytes without blanks, "
            "'/', ':' or '%' with --tun-name"
        )
    if not MIN_MTU_BYTES <= config.mtu_bytes <= MAX_MTU_BYTES:
        raise Unavailable(
            f"an MTU of {config.mtu_bytes} bytes is out of range: choose {MIN_MTU_BYTES} "
            f"to {MAX_MTU_BYTES}"
        )
    wants_ipv6 = any(wanted.version == 6 for wanted in [*config.addresses, *config.routes])
    if wants_ipv6 and config.mtu_bytes < IPV6_MIN_MTU_BYTES:
        raise Unavailable(
            f"an MTU of {config.mtu_bytes} bytes is too small for IPv6: "
            f"choose at least {IPV6_MIN_MTU_BYTES}"
        )


MIN_MTU_BYTES = 68  # RFC 791
IPV6_MIN_MTU_BYTES = 1280  # RFC 8200 §5
MAX_MTU_BYTES = 65_535


def make_interface(descriptor: int, name: str, *, flags: int = 0) -> str:
    """Turn an open TUN descriptor into the interface *name*; return its real name.

    *flags* come on top of those of every interface (linux/if_tun.h).

    "%d" within *name* is a number that the kernel chooses. Raises Unavailable if the name is
    taken, were it by an idle persistent device: that one is somebody's, with settings of its own.
    """
    request = IFREQ.pack(name.encode(), IFF_TUN | IFF_NO_PI | IFF_TUN_EXCL | flags)
    try:
        answer = fcntl.ioctl(descriptor, TUNSETIFF, request)
    except PermissionError:
        raise Unavailable(NO_NET_ADMIN) from None
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise Unavailable(
                f"interface {name} is in use: choose another name with --tun-name, or stop what "
                f"uses it (`ip -details link show {name}`)"
            ) from None
        raise Unavailable(
            f"the kernel refuses an interface named {name}: {error.strerror}; "
            "choose another name with --tun-name"
        ) from None
    raw_name, _ = IFREQ.unpack(answer)
    return bytes(raw_name).rstrip(b"\0").decode()


# linux/if.h and linux/if_tun.h
IFNAMSIZ = 16
IFREQ = struct.Struct("16sH22x")
TUNSETIFF = 0x400454CA
IFF_TUN = 0x0001
IFF_NO_PI = 0x1000
IFF_TUN_EXCL = 0x8000


async def configure(name: str, config: TunConfig) -> RuleKeeper | None:
    """Give interface *name* what *config* says and bring it up. Raises Unavailable.

    What was set before an error stays set: the caller removes the interface. Beside another node
    of the same plane there are rules, too: wait for their keeper once the interface is removed.
    """
    index = socket.if_nametoindex(name)
    networks = _networks_of(config)
    try:
        async with AsyncIPRoute() as netlink:
            await remove_orphaned_rules(netlink)
            metric = await _free_metric(netlink, index, config, networks)
            await netlink.link(
                "set",
                index=index,
                mtu=config.mtu_bytes,
                txqlen=QUEUE_PACKETS,
                ifalias=alias_of(config.plane),
            )
            await _silence_ipv6(netlink, index)
            await _set_addresses(netlink, index, config, networks, metric)
            # Again: two nodes that start at once see each other here at the latest.
            if await companions(netlink, index, config.plane):
                return await keep_apart(netlink, index, config, networks)
            return None
    except NetlinkError as error:
        raise Unavailable(_explain(name, error)) from None
    except TimeoutError:
        raise Unavailable(
            f"the system did not put the addresses of {name} to use within {USABLE_WITHIN_S} s; "
            "see `ip address`"
        ) from None


async def _set_addresses(
    netlink: AsyncIPRoute, index: int, config: TunConfig, networks: set[Network], metric: int | None
) -> None:
    """Set addresses and routes, with *metric* if given, and bring the interface up."""
    of_address = {} if metric is None else {"rt_priority": metric}
    of_route = {} if metric is None else {"priority": metric}
    for interface in config.addresses:
        await netlink.addr(
            "add",
            index=index,
            address=str(interface.ip),
            prefixlen=interface.network.prefixlen,
            # Guardian allots addresses, so none is doubled; detection would only hold
            # the address back for a second and send packets.
            flags=IFA_F_NODAD if interface.version == 6 else 0,
            **of_address,
        )
    await netlink.link("set", index=index, state="up")
    for network in networks - _on_link(config):
        # Behind that of a node of this plane which starts this moment, as the system itself does
        # with the routes that addresses bring.
        await netlink.route("append", dst=str(network), oif=index, **of_route)
    async with asyncio.timeout(USABLE_WITHIN_S):
        for interface in config.addresses:
            await _until_usable(netlink, interface.ip)


QUEUE_PACKETS = (
    1000  # as Ethernet has: 500, the default of a TUN, overflows within 6 ms at 1 Gbit/s
)
IFA_F_NODAD = 0x02  # linux/if_addr.h


USABLE_WITHIN_S = 5.0


async def _until_usable(netlink: AsyncIPRoute, address: Address) -> None:
    """Wait until packets to *address* are taken as our own.

    Linux finishes an IPv6 address, even without duplicate detection, in a work queue of its own;
    packets that arrive before are lost.
    """
    while True:
        with contextlib.suppress(NetlinkError):  # unreachable, as long as no route covers it
            async for route in await netlink.get_routes(dst=str(address)):
                if route["type"] == RTN_LOCAL:
                    return
        await asyncio.sleep(0.001)


RTN_LOCAL = 2  # linux/rtnetlink.h


def _explain(name: str, error: NetlinkError) -> str:
    if error.code == errno.EPERM:
        return NO_NET_ADMIN
    if error.code in {errno.EACCES, errno.EAFNOSUPPORT, errno.EOPNOTSUPP}:
        return (
            f"the system refuses to set up {name}: {error}; is IPv6 disabled here "
            "(`sysctl net.ipv6.conf.default.disable_ipv6`)?"
        )
    return f"the system refuses to set up {name}: {error}; see `ip address` and `ip route`"


async def _silence_ipv6(netlink: AsyncIPRoute, index: int) -> None:
    """Let the kernel make no link-local address (RFC 4862): no router solicitation goes out."""
    family = {"attrs": [["AF_INET6", {"attrs": [["IFLA_INET6_ADDR_GEN_MODE", MODE_NONE]]}]]}
    try:
        await netlink.link("set", index=index, IFLA_AF_SPEC=family)
    except NetlinkError as error:
        # A kernel without IPv6 has nothing to silence; an IPv6 address fails by itself then.
        if error.code not in {errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EINVAL}:
            raise


MODE_NONE = 1  # IN6_ADDR_GEN_MODE_NONE of linux/if_link.h


def _on_link(config: TunConfig) -> set[Network]:
    """The networks for which the kernel makes a route by itself, from an address's prefix."""
    return {
        interface.network
        for interface in config.addresses
        if interface.network.prefixlen < interface.max_prefixlen
    }


def _networks_of(config: TunConfig) -> set[Network]:
    return _on_link(config) | set(config.routes)


async def _free_metric(
    netlink: AsyncIPRoute, index: int, config: TunConfig, networks: set[Network]
) -> int | None:
    """Return a metric behind those of the other nodes of the plane here, None if there is none.

    Raises Unavailable if another interface has one of our addresses, or anything but such a node
    has one of our very networks. Linux itself accepts both, and then one of the two falls silent.
    A network that only overlaps is fine: the longest prefix decides (RFC 1812 §5.2.4.3).
    """
    ours = {interface.ip for interface in config.addresses}
    async for message in await netlink.addr("dump"):
        holder = message["index"]
        if holder != index and (taken := _address_in(message)) in ours:
            raise Unavailable(
                f"address {taken} is in use on {_interface_name(holder)}: remove it there "
                f"(`ip address del {taken} dev {_interface_name(holder)}`) or choose another "
                "with --cidr"
            )
    others = await companions(netlink, index, config.plane)
    metrics = []
    # The new interface is still down and has no route of its own.
    for family in {_FAMILY[network.version] for network in networks}:
        async for message in await netlink.get_routes(family=family, table=MAIN_TABLE):
            route, interfaces = _network_in(message), list(_interfaces_in(message))
            if route not in networks:
                continue
            if not interfaces or not others.issuperset(interfaces):
                names = ", ".join(map(_interface_name, interfaces)) or "nowhere"
                raise Unavailable(
                    f"network {route} is routed to {names} already: remove that route "
                    f"(`ip route del {route}`) or choose another plane"
                )
            metrics.append(message.get("priority") or 0)
    return max(metrics) + 1 if metrics else None


MAIN_TABLE = 254  # RT_TABLE_MAIN of linux/rtnetlink.h
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}


def _address_in(message: Any) -> Address:
    # On a point-to-point link IFA_ADDRESS is the far end and IFA_LOCAL ours.
    return ip_address(message.get("local") or message.get("address"))


def _network_in(message: Any) -> Network:
    anywhere = "0.0.0.0" if message["family"] == socket.AF_INET else "::"
    return ip_network((message.get("dst") or anywhere, message["dst_len"]))


def _interfaces_in(message: Any) -> Iterable[int]:
    """The interfaces of a route; with several next hops each of them, with none no interface."""
    if (only := message.get("oif")) is not None:
        yield only
    for hop in message.get("multipath") or ():
        yield hop["oif"]


def _interface_name(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:  # removed since it was listed
        return f"interface {index}"
