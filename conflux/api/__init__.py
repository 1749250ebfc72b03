"""All that a plugin may import. Versioned by API_VERSION: additions raise the minor number."""

from conflux.api.auth import AuthDriver, LoginAnswer, Registration, RegistrationRequest
from conflux.api.control import (
    MAX_CONTROL_BYTES,
    TAG_BYTES,
    ControlChannel,
    ControlCredentials,
    ControlDriver,
)
from conflux.api.crypto import (
    KEM_CIPHERTEXT_BYTES,
    KEM_PUBLIC_BYTES,
    KEM_SHARED_BYTES,
    MAX_CONTEXT_BYTES,
    SIGN_PUBLIC_BYTES,
    SIGNATURE_BYTES,
    CryptoDriver,
    KemPrivateKey,
    Signer,
)
from conflux.api.drivers import API_VERSION, DriverInfo, Kind
from conflux.api.errors import (
    Closed,
    ConfluxError,
    Refused,
    TetherError,
    Unavailable,
    Unreachable,
    UsageError,
    WireError,
)
from conflux.api.hookspecs import hookimpl
from conflux.api.router import LinkSample, PathSample, Router
from conflux.api.service import ServiceDriver, ServiceState, ServiceUnit
from conflux.api.tether import (
    MAX_DESCRIPTION_BYTES,
    MAX_MESSAGE_BYTES,
    IceServer,
    Tether,
    TetherConfig,
    TetherDriver,
    TetherStats,
)
from conflux.api.tun import Layout, TunConfig, TunDevice, TunDriver
from conflux.api.types import Buffer, Link, NodeId, Path, Settings

__all__ = [
    "API_VERSION",
    "AuthDriver",
    "Buffer",
    "Closed",
    "ConfluxError",
    "ControlChannel",
    "ControlCredentials",
    "ControlDriver",
    "CryptoDriver",
    "DriverInfo",
    "IceServer",
    "KEM_CIPHERTEXT_BYTES",
    "KEM_PUBLIC_BYTES",
    "KEM_SHARED_BYTES",
    "KemPrivateKey",
    "Kind",
    "Layout",
    "Link",
    "LinkSample",
    "LoginAnswer",
    "MAX_CONTEXT_BYTES",
    "MAX_CONTROL_BYTES",
    "MAX_DESCRIPTION_BYTES",
    "MAX_MESSAGE_BYTES",
    "NodeId",
    "Path",
    "PathSample",
    "Refused",
    "Registration",
    "RegistrationRequest",
    "Router",
    "SIGNATURE_BYTES",
    "SIGN_PUBLIC_BYTES",
    "ServiceDriver",
    "ServiceState",
    "ServiceUnit",
    "Settings",
    "Signer",
    "TAG_BYTES",
    "Tether",
    "TetherConfig",
    "TetherDriver",
    "TetherError",
    "TetherStats",
    "TunConfig",
    "TunDevice",
    "TunDriver",
    "Unavailable",
    "Unreachable",
    "UsageError",
    "WireError",
    "hookimpl",
]
