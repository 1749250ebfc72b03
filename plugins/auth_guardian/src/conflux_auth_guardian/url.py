"""Which base URLs a token may be sent to."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from conflux.api import UsageError
from conflux_auth_guardian.client import httpx
from conflux_auth_guardian.text import one_line

_HOST_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9.])?")
_MAX_PORT = 65_535
_NEAR = tuple(
    ip_network(block)
    for block in (
        *("127.0.0.0/8", "::1/128"),  # loopback
        *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),  # RFC 1918
        *("169.254.0.0/16", "fe80::/10"),  # link-local: RFC 3927, RFC 4291 §2.5.6
        "100.64.0.0/10",  # shared, carrier-grade NAT: RFC 6598
        "fc00::/7",  # unique local: RFC 4193
    )
)


def base_url(server: str) -> str:
    """Return a Guardian's base URL as it is to be used and shown, without a slash at its end.

    https is good anywhere, http only for loopback and private addresses. Raises UsageError. The
    parser is that of the client which will connect, so that both mean the same host.
    """
    try:
        url = httpx.URL(server.strip())
        host = url.raw_host.decode("ascii")  # httpx leaves the zone of an IPv6 address as it is
    except (httpx.InvalidURL, TypeError, ValueError):
        raise _no_url(server) from None
    if url.scheme not in ("http", "https") or not _is_host(host):
        raise _no_url(server)
    if url.port is not None and not 0 < url.port <= _MAX_PORT:
        raise _no_url(server)
    if url.userinfo or url.query or url.fragment:
        raise UsageError(
            f"the address of Guardian at {host} must not carry a password, query or fragment: "
            "give only https://HOST[:PORT]"
        )
    if url.scheme == "http" and not _is_near(host):
        raise UsageError(
            f"http://{host} would show the token to everybody on the way: use https://{host}"
        )
    return str(url).rstrip("/")


def _no_url(server: str) -> UsageError:
    return UsageError(f"{one_line(server)!r} is no address of a Guardian: give https://HOST[:PORT]")


def _is_host(host: str) -> bool:
    return _literal(host) is not None or _HOST_NAME.fullmatch(host) is not None


def _is_near(host: str) -> bool:
    address = _literal(host)
    if address is None:
        return host.lower() == "localhost"
    return any(address in block for block in _NEAR if block.version == address.version)


def _literal(host: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(host)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:  # httpx cannot connect to a zone
            return None
        return address.ipv4_mapped or address
    return address
