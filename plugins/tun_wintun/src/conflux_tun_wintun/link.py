"""The interface as Windows' network stack sees it: its name, addresses, routes and MTU.

Everything goes through iphlpapi.dll; no other program is started. What is set lives in the adapter
and goes with it: nothing is written to the registry's persistent store.
"""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable, Iterator
from ctypes import POINTER, byref, c_uint64, create_unicode_buffer
from typing import Any

from conflux.api import TunConfig, Unavailable
from conflux_tun_wintun import netio
from conflux_tun_wintun.library import ERROR_ACCESS_DENIED, NO_ADMIN, bind
from conflux_tun_wintun.netio import (
    FAMILY,
    Address,
    IpAddressPrefix,
    IpForwardRow2,
    IpForwardTable2,
    IpInterfaceRow,
    Network,
    SockaddrInet,
    UnicastIpAddressRow,
    UnicastIpAddressTable,
)


def check_config(config: TunConfig) -> None:
    """Raise Unavailable for what Windows would not take, before anything is made."""
    name = config.name
    if not 0 < len(name) <= MAX_NAME or not name.isprintable() or set(name) & set('\\/:*?"<>|'):
        raise Unavailable(
            f"{name!r} is no interface name: choose 1 to {MAX_NAME} characters without "
            '\\ / : * ? " < > | with --tun-name'
        )
    wants_ipv6 = any(wanted.version == 6 for wanted in [*config.addresses, *config.routes])
    least = IPV6_MIN_MTU_BYTES if wants_ipv6 else MIN_MTU_BYTES
    if not least <= config.mtu_bytes <= MAX_MTU_BYTES:
        raise Unavailable(
            f"an MTU of {config.mtu_bytes} bytes is out of range: choose {least} to {MAX_MTU_BYTES}"
        )


MAX_NAME = 127  # MAX_ADAPTER_NAME - 1 of Wintun
MIN_MTU_BYTES = 576  # RFC 791: what every host takes; Windows refuses less than 352
IPV6_MIN_MTU_BYTES = 1280  # RFC 8200 §5
MAX_MTU_BYTES = 65_535  # WINTUN_MAX_IP_PACKET_SIZE


def load() -> Any:
    """Return the functions of iphlpapi.dll by name."""
    return bind(ctypes.WinDLL("iphlpapi.dll"), netio.PROTOTYPES)


def check_free(api: Any, config: TunConfig) -> None:
    """Raise Unavailable if the name, an address or one of the very networks is in use here.

    Windows would take each, and then one of the two falls silent. A network that only overlaps is
    fine: the longest prefix decides (RFC 1812 §5.2.4.3).
    """
    luid = c_uint64()
    if api.ConvertInterfaceAliasToLuid(config.name, byref(luid)) == netio.NO_ERROR:
        raise Unavailable(
            f"interface {config.name} is in use: choose another name with --tun-name, or stop what "
            f'uses it (`Get-NetAdapter "{config.name}"`)'
        )
    ours = {interface.ip for interface in config.addresses}
    for row in _rows(api, api.GetUnicastIpAddressTable, UnicastIpAddressTable):
        if (taken := row.Address.address) in ours:
            raise Unavailable(
                f"address {taken} is in use on {_alias(api, row.InterfaceLuid)}: remove it there "
                f"(`Remove-NetIPAddress {taken}`) or choose another with --cidr"
            )
    networks = on_link(config) | set(config.routes)
    for row in _rows(api, api.GetIpForwardTable2, IpForwardTable2):
        if (network := row.DestinationPrefix.network) in networks:
            raise Unavailable(
                f"network {network} is routed to {_alias(api, row.InterfaceLuid)} already: remove "
                f"that route (`Remove-NetRoute {network}`) or choose another plane"
            )


def on_link(config: TunConfig) -> set[Network]:
    """The networks for which Windows makes a route by itself, from an address's prefix."""
    return {
        interface.network
        for interface in config.addresses
        if interface.network.prefixlen < interface.max_prefixlen
    }


def _rows(api: Any, get: Callable[..., int], table_type: type[ctypes.Structure]) -> Iterator[Any]:
    """All rows of both families. They are freed at the end: keep none."""
    table = POINTER(table_type)()
    check("the tables of the system", get(netio.AF_UNSPEC, byref(table)))
    try:
        first: ctypes.Array[Any] = table.contents.Table
        rows = first._type_ * table.contents.NumEntries
        yield from rows.from_address(ctypes.addressof(first))
    finally:
        api.FreeMibTable(table)


def _alias(api: Any, luid: int) -> str:
    name = create_unicode_buffer(netio.NDIS_IF_MAX_STRING_SIZE + 1)
    if api.ConvertInterfaceLuidToAlias(byref(c_uint64(luid)), name, len(name)) != netio.NO_ERROR:
        return f"interface {luid:#x}"  # removed since it was listed
    return name.value


async def configure(api: Any, luid: int, config: TunConfig) -> None:
    """Give the interface what *config* says. Raises Unavailable.

    What was set before an error stays set: the caller removes the adapter.
    """
    try:
        async with asyncio.timeout(USABLE_WITHIN_S):
            for family in sorted(_families(config)):
                await _set_interface(api, luid, family, config.mtu_bytes)
            rows = [_add_address(api, luid, interface) for interface in config.addresses]
            for network in set(config.routes) - on_link(config):
                _add_route(api, luid, network)
            for row in rows:
                await _until_usable(api, row)
    except TimeoutError:
        lacking = (
            ", and whether IPv6 is switched off" if netio.AF_INET6 in _families(config) else ""
        )
        raise Unavailable(
            f"Windows did not put the addresses of {config.name} to use within "
            f"{USABLE_WITHIN_S:g} s; see `Get-NetIPAddress`{lacking}"
        ) from None


USABLE_WITHIN_S = 10.0


def _families(config: TunConfig) -> set[int]:
    versions = {wanted.version for wanted in [*config.addresses, *config.routes]}
    return {FAMILY[version] for version in versions}


async def _set_interface(api: Any, luid: int, family: int, mtu_bytes: int) -> None:
    """Set the MTU; let Windows ask for no router, no doubled address and no DHCP server."""
    row = IpInterfaceRow(Family=family, InterfaceLuid=luid)
    # A new adapter gets its part of each family a moment after it was made.
    status = api.GetIpInterfaceEntry(byref(row))
    while status == netio.ERROR_NOT_FOUND:
        await asyncio.sleep(POLL_S)
        status = api.GetIpInterfaceEntry(byref(row))
    check("the interface", status)
    row.NlMtu = mtu_bytes
    row.DadTransmits = 0  # Guardian allots addresses, so none is doubled
    row.RouterDiscoveryBehavior = netio.ROUTER_DISCOVERY_DISABLED
    row.ManagedAddressConfigurationSupported = 0
    row.OtherStatefulConfigurationSupported = 0
    if family == netio.AF_INET:
        row.SitePrefixLength = 0  # what was read is refused
    check("the interface's MTU", api.SetIpInterfaceEntry(byref(row)))


POLL_S = 0.02


def _add_address(api: Any, luid: int, interface: Any) -> UnicastIpAddressRow:
    row = UnicastIpAddressRow()
    api.InitializeUnicastIpAddressEntry(byref(row))
    row.InterfaceLuid = luid
    row.Address = SockaddrInet.of(interface.ip)
    row.OnLinkPrefixLength = interface.network.prefixlen
    row.DadState = netio.IP_DAD_STATE_PREFERRED
    check(f"address {interface}", api.CreateUnicastIpAddressEntry(byref(row)))
    return row


def _add_route(api: Any, luid: int, network: Network) -> None:
    row = IpForwardRow2()
    api.InitializeIpForwardEntry(byref(row))
    row.InterfaceLuid = luid
    row.DestinationPrefix = IpAddressPrefix.of(network)
    row.NextHop = SockaddrInet(si_family=FAMILY[network.version])  # unspecified: on-link
    row.Metric = 0  # comes on top of the interface's own
    status = api.CreateIpForwardEntry2(byref(row))
    if status != netio.ERROR_OBJECT_ALREADY_EXISTS:
        check(f"route {network}", status)


async def _until_usable(api: Any, row: UnicastIpAddressRow) -> None:
    """Wait until packets to the address are taken as our own."""
    while True:
        check("the address", api.GetUnicastIpAddressEntry(byref(row)))
        if row.DadState == netio.IP_DAD_STATE_PREFERRED:
            return
        if row.DadState == netio.IP_DAD_STATE_DUPLICATE:
            taken: Address = row.Address.address
            raise Unavailable(f"address {taken} is in use elsewhere: choose another with --cidr")
        await asyncio.sleep(POLL_S)


def check(what: str, status: int) -> None:
    """Raise Unavailable if *status*, a code of winerror.h, is none of success."""
    if status == netio.NO_ERROR:
        return
    if status == ERROR_ACCESS_DENIED:
        raise Unavailable(NO_ADMIN)
    raise Unavailable(f"Windows refuses {what}: {describe(status)}; see `Get-NetIPInterface`")


def describe(status: int) -> str:
    """Return what Windows says of an error, and its number."""
    text = ctypes.FormatError(status).strip(" .\r\n")
    return f"{text} ({status})"
