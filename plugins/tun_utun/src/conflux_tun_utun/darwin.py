"""Structures and values of macOS that Python has not, or has on macOS only.

Facts of Apple's headers (net/if.h, net/if_utun.h, net/route.h, net/if_dl.h, sys/kern_control.h,
sys/sockio.h) and, for IPv6 addresses, of XNU's bsd/netinet6/in6_var.h, which is not among the
headers of the SDK; the same on x86-64 and ARM64. Fields have their names there. A test compiles
all of it against those headers.
"""

from __future__ import annotations

from ctypes import Structure, c_char, c_int32, c_int64, c_uint8, c_uint16, c_uint32
from ipaddress import IPv4Address, IPv6Address

Address = IPv4Address | IPv6Address

AF_INET, AF_LINK, AF_INET6 = 2, 18, 30
AF_SYSTEM = PF_SYSTEM = 32
PF_ROUTE = 17
SYSPROTO_CONTROL = 2
UTUN_CONTROL_NAME = "com.apple.net.utun_control"
UTUN_OPT_IFNAME = 2
UTUN_OPT_MAX_PENDING_PACKETS = 16
IFNAMSIZ = 16

CTLIOCGINFO = 0xC0644E03
SIOCSIFFLAGS = 0x80206910
SIOCGIFFLAGS = 0xC0206911
SIOCSIFMTU = 0x80206934
SIOCAIFADDR = 0x8040691A
SIOCAIFADDR_IN6 = 0x8080691A

IFF_UP = 0x1
IN6_IFF_NODAD = 0x20
ND6_INFINITE_LIFETIME = 0xFFFFFFFF

RTM_VERSION = 5
RTM_ADD, RTM_GET = 1, 4
RTF_UP, RTF_GATEWAY, RTF_HOST, RTF_STATIC = 0x1, 0x2, 0x4, 0x800
RTA_DST, RTA_GATEWAY, RTA_NETMASK = 0x1, 0x2, 0x4


class CtlInfo(Structure):
    _fields_ = (("ctl_id", c_uint32), ("ctl_name", c_char * 96))


class IfReq(Structure):
    """struct ifreq, as far as MTU and flags go: both lie at the start of the union ifr_ifru."""

    _fields_ = (("ifr_name", c_char * IFNAMSIZ), ("value", c_int32), ("rest", c_uint8 * 12))


class SockaddrIn(Structure):
    _fields_ = (
        ("sin_len", c_uint8),
        ("sin_family", c_uint8),
        ("sin_port", c_uint16),
        ("sin_addr", c_uint8 * 4),
        ("sin_zero", c_uint8 * 8),
    )


class SockaddrIn6(Structure):
    _fields_ = (
        ("sin6_len", c_uint8),
        ("sin6_family", c_uint8),
        ("sin6_port", c_uint16),
        ("sin6_flowinfo", c_uint32),
        ("sin6_addr", c_uint8 * 16),
        ("sin6_scope_id", c_uint32),
    )


class SockaddrDl(Structure):
    """An interface as a route's gateway: its index is enough."""

    _fields_ = (
        ("sdl_len", c_uint8),
        ("sdl_family", c_uint8),
        ("sdl_index", c_uint16),
        ("sdl_type", c_uint8),
        ("sdl_nlen", c_uint8),
        ("sdl_alen", c_uint8),
        ("sdl_slen", c_uint8),
        ("sdl_data", c_char * 12),
    )


class IfAliasReq(Structure):
    _fields_ = (
        ("ifra_name", c_char * IFNAMSIZ),
        ("ifra_addr", SockaddrIn),
        ("ifra_broadaddr", SockaddrIn),  # on a point-to-point interface the far end
        ("ifra_mask", SockaddrIn),
    )


class In6AddrLifetime(Structure):
    _fields_ = (
        ("ia6t_expire", c_int64),
        ("ia6t_preferred", c_int64),
        ("ia6t_vltime", c_uint32),
        ("ia6t_pltime", c_uint32),
    )


class In6AliasReq(Structure):
    _fields_ = (
        ("ifra_name", c_char * IFNAMSIZ),
        ("ifra_addr", SockaddrIn6),
        ("ifra_dstaddr", SockaddrIn6),
        ("ifra_prefixmask", SockaddrIn6),
        ("ifra_flags", c_int32),
        ("ifra_lifetime", In6AddrLifetime),
    )


class RtMsghdr(Structure):
    """struct rt_msghdr; its metrics are of no concern."""

    _fields_ = (
        ("rtm_msglen", c_uint16),
        ("rtm_version", c_uint8),
        ("rtm_type", c_uint8),
        ("rtm_index", c_uint16),
        ("rtm_flags", c_int32),
        ("rtm_addrs", c_int32),
        ("rtm_pid", c_int32),
        ("rtm_seq", c_int32),
        ("rtm_errno", c_int32),
        ("rtm_use", c_int32),
        ("rtm_inits", c_uint32),
        ("rtm_rmx", c_uint32 * 14),
    )


def sockaddr(address: Address) -> SockaddrIn | SockaddrIn6:
    """Return *address* as a socket address of macOS, which begins with its own length."""
    if address.version == 4:
        return SockaddrIn(16, AF_INET, 0, (c_uint8 * 4)(*address.packed))
    return SockaddrIn6(28, AF_INET6, 0, 0, (c_uint8 * 16)(*address.packed))
