"""Structures, functions and values of iphlpapi.dll, which hold for every Windows since Vista.

Facts of netioapi.h, nldef.h, ws2ipdef.h, ifdef.h; fields have their names there. Widths are written
out, so that the layout is the same wherever this is read: a test compiles it against the headers.
"""

from __future__ import annotations

from ctypes import (
    POINTER,
    Structure,
    c_int32,
    c_int64,
    c_size_t,
    c_uint8,
    c_uint16,
    c_uint32,
    c_uint64,
    c_void_p,
    c_wchar_p,
)
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

AF_UNSPEC, AF_INET, AF_INET6 = 0, 2, 23  # winsock2.h
FAMILY = {4: AF_INET, 6: AF_INET6}


class SockaddrInet(Structure):
    """SOCKADDR_INET: SOCKADDR_IN and SOCKADDR_IN6 in one, `ipv4` lies over the flow information."""

    _fields_ = (
        ("si_family", c_uint16),
        ("port", c_uint16),
        ("ipv4", c_uint8 * 4),
        ("ipv6", c_uint8 * 16),
        ("scope_id", c_uint32),
    )

    @classmethod
    def of(cls, address: Address) -> SockaddrInet:
        socket_address = cls(si_family=FAMILY[address.version])
        field = socket_address.ipv4 if address.version == 4 else socket_address.ipv6
        field[:] = address.packed
        return socket_address

    @property
    def address(self) -> Address:
        return ip_address(bytes(self.ipv4 if self.si_family == AF_INET else self.ipv6))


class IpAddressPrefix(Structure):
    """IP_ADDRESS_PREFIX."""

    _fields_ = (("Prefix", SockaddrInet), ("PrefixLength", c_uint8))

    @classmethod
    def of(cls, network: Network) -> IpAddressPrefix:
        return cls(SockaddrInet.of(network.network_address), network.prefixlen)

    @property
    def network(self) -> Network:
        return ip_network((self.Prefix.address, self.PrefixLength), strict=False)


class UnicastIpAddressRow(Structure):
    """MIB_UNICASTIPADDRESS_ROW."""

    _fields_ = (
        ("Address", SockaddrInet),
        ("InterfaceLuid", c_uint64),
        ("InterfaceIndex", c_uint32),
        ("PrefixOrigin", c_int32),
        ("SuffixOrigin", c_int32),
        ("ValidLifetime", c_uint32),
        ("PreferredLifetime", c_uint32),
        ("OnLinkPrefixLength", c_uint8),
        ("SkipAsSource", c_uint8),
        ("DadState", c_int32),
        ("ScopeId", c_uint32),
        ("CreationTimeStamp", c_int64),
    )


class IpForwardRow2(Structure):
    """MIB_IPFORWARD_ROW2."""

    _fields_ = (
        ("InterfaceLuid", c_uint64),
        ("InterfaceIndex", c_uint32),
        ("DestinationPrefix", IpAddressPrefix),
        ("NextHop", SockaddrInet),
        ("SitePrefixLength", c_uint8),
        ("ValidLifetime", c_uint32),
        ("PreferredLifetime", c_uint32),
        ("Metric", c_uint32),
        ("Protocol", c_int32),
        ("Loopback", c_uint8),
        ("AutoconfigureAddress", c_uint8),
        ("Publish", c_uint8),
        ("Immortal", c_uint8),
        ("Age", c_uint32),
        ("Origin", c_int32),
    )


class IpInterfaceRow(Structure):
    """MIB_IPINTERFACE_ROW."""

    _fields_ = (
        ("Family", c_uint16),
        ("InterfaceLuid", c_uint64),
        ("InterfaceIndex", c_uint32),
        ("MaxReassemblySize", c_uint32),
        ("InterfaceIdentifier", c_uint64),
        ("MinRouterAdvertisementInterval", c_uint32),
        ("MaxRouterAdvertisementInterval", c_uint32),
        ("AdvertisingEnabled", c_uint8),
        ("ForwardingEnabled", c_uint8),
        ("WeakHostSend", c_uint8),
        ("WeakHostReceive", c_uint8),
        ("UseAutomaticMetric", c_uint8),
        ("UseNeighborUnreachabilityDetection", c_uint8),
        ("ManagedAddressConfigurationSupported", c_uint8),
        ("OtherStatefulConfigurationSupported", c_uint8),
        ("AdvertiseDefaultRoute", c_uint8),
        ("RouterDiscoveryBehavior", c_int32),
        ("DadTransmits", c_uint32),
        ("BaseReachableTime", c_uint32),
        ("RetransmitTime", c_uint32),
        ("PathMtuDiscoveryTimeout", c_uint32),
        ("LinkLocalAddressBehavior", c_int32),
        ("LinkLocalAddressTimeout", c_uint32),
        ("ZoneIndices", c_uint32 * 16),
        ("SitePrefixLength", c_uint32),
        ("Metric", c_uint32),
        ("NlMtu", c_uint32),
        ("Connected", c_uint8),
        ("SupportsWakeUpPatterns", c_uint8),
        ("SupportsNeighborDiscovery", c_uint8),
        ("SupportsRouterDiscovery", c_uint8),
        ("ReachableTime", c_uint32),
        ("TransmitOffload", c_uint8),
        ("ReceiveOffload", c_uint8),
        ("DisableDefaultRoutes", c_uint8),
    )


class UnicastIpAddressTable(Structure):
    """MIB_UNICASTIPADDRESS_TABLE: `NumEntries` rows from `Table` on."""

    _fields_ = (("NumEntries", c_uint32), ("Table", UnicastIpAddressRow * 1))


class IpForwardTable2(Structure):
    """MIB_IPFORWARD_TABLE2: `NumEntries` rows from `Table` on."""

    _fields_ = (("NumEntries", c_uint32), ("Table", IpForwardRow2 * 1))


IP_DAD_STATE_TENTATIVE, IP_DAD_STATE_DUPLICATE = 1, 2
IP_DAD_STATE_PREFERRED = 4
ROUTER_DISCOVERY_DISABLED = 0

# winerror.h
NO_ERROR = 0
ERROR_NOT_FOUND = 1168
ERROR_OBJECT_ALREADY_EXISTS = 5010

NDIS_IF_MAX_STRING_SIZE = 256

_STATUS = c_uint32
_LUID = POINTER(c_uint64)
PROTOTYPES: dict[str, tuple[Any, list[Any]]] = {
    "ConvertInterfaceAliasToLuid": (_STATUS, [c_wchar_p, _LUID]),
    "ConvertInterfaceLuidToAlias": (_STATUS, [_LUID, c_wchar_p, c_size_t]),
    "GetUnicastIpAddressTable": (_STATUS, [c_uint16, POINTER(POINTER(UnicastIpAddressTable))]),
    "GetIpForwardTable2": (_STATUS, [c_uint16, POINTER(POINTER(IpForwardTable2))]),
    "FreeMibTable": (None, [c_void_p]),
    "GetIpInterfaceEntry": (_STATUS, [POINTER(IpInterfaceRow)]),
    "SetIpInterfaceEntry": (_STATUS, [POINTER(IpInterfaceRow)]),
    "InitializeUnicastIpAddressEntry": (None, [POINTER(UnicastIpAddressRow)]),
    "CreateUnicastIpAddressEntry": (_STATUS, [POINTER(UnicastIpAddressRow)]),
    "GetUnicastIpAddressEntry": (_STATUS, [POINTER(UnicastIpAddressRow)]),
    "InitializeIpForwardEntry": (None, [POINTER(IpForwardRow2)]),
    "CreateIpForwardEntry2": (_STATUS, [POINTER(IpForwardRow2)]),
}
