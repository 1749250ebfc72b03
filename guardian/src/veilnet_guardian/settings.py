"""What `veilnet-guardian serve` was told, parsed once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from veilnet_guardian.errors import Invalid

DEFAULT_PORT = 8_000
DEFAULT_MASTER_PORT = 4_222
EMBEDDED = "embedded"

MAX_CONFLUX = 256
"""How many conflux a user may have: one registration token that leaked fills no plane."""

CERTIFICATE_S = 86_400
"""How long a certificate lives; nodes renew at half."""
MIN_CERTIFICATE_S, MAX_CERTIFICATE_S = 20, 30 * 86_400
"""Below, nodes could not show each other a new one before the old one ends."""

_HOST_HEADER = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]{1,253})(?::[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class HostPort:
    """Where to listen. `host` has no brackets; port 0 lets the system choose."""

    host: str
    port: int

    @classmethod
    def parse(cls, value: str, *, option: str, port: int) -> HostPort:
        """Read "HOST:PORT", "[V6]:PORT" or "HOST" (then *port*). Raises Invalid."""
        try:
            parts = urlsplit(f"//{value}")
            chosen = port if parts.port is None else parts.port
        except ValueError:
            parts, chosen = urlsplit("//"), 0
        if not parts.hostname or parts.path or parts.query or parts.username is not None:
            raise Invalid(
                f"{option} {value!r} is not HOST:PORT, such as 127.0.0.1:{port} or [::1]:{port}"
            )
        return cls(parts.hostname, chosen)

    @property
    def is_wildcard(self) -> bool:
        return self.host in ("0.0.0.0", "::")

    @property
    def is_sheltered(self) -> bool:
        """Only this machine or a private network can reach it, as far as the address tells."""
        if self.host == "localhost":
            return True
        try:
            address = ip_address(self.host)
        except ValueError:
            return False
        return not address.is_unspecified and (address.is_loopback or address.is_private)

    @property
    def reachable(self) -> HostPort:
        """How this machine itself reaches it."""
        if not self.is_wildcard:
            return self
        return HostPort("127.0.0.1" if self.host == "0.0.0.0" else "::1", self.port)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """`master` is EMBEDDED or the URL of NATS servers, several parted by commas."""

    data_dir: Path
    listen: HostPort
    tls_cert: Path | None = None
    tls_key: Path | None = None
    master: str = EMBEDDED
    master_listen: HostPort
    public_master_url: str = ""
    database_url: str = ""
    certificate_s: int = CERTIFICATE_S
    max_conflux: int = MAX_CONFLUX


def check_master_url(value: str, *, option: str) -> str:
    """Return *value* if it is a NATS URL. Raises Invalid."""
    for url in value.split(","):
        try:
            parts = urlsplit(url)
            good = parts.scheme in ("nats", "tls") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            good = False
        if not good or len(value) > 300:
            raise Invalid(f"{option} {url!r} is not a NATS URL, such as nats://192.0.2.1:4222")
    return value


def master_url_for(host_header: str, listen: HostPort) -> str:
    """Where a node finds an embedded Master that listens on *listen*.

    On a wildcard address it is where the node found Guardian: *host_header* of its request.
    """
    if not listen.is_wildcard:
        return f"nats://{listen}"
    match = _HOST_HEADER.fullmatch(host_header)
    host = match[1] if match else str(listen.reachable).rsplit(":", 1)[0]
    return f"nats://{host}:{listen.port}"
