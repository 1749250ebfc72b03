"""What the kernel needs to know of the Linux TUN driver before it imports it."""

from __future__ import annotations

import os
from pathlib import Path

from conflux.api import API_VERSION, DriverInfo, Unavailable, hookimpl

TUN_DEVICE = Path("/dev/net/tun")
CAP_NET_ADMIN = 12


@hookimpl
def conflux_tun_driver() -> DriverInfo:
    """TUN through /dev/net/tun and netlink: every Linux that has the tun module."""
    return DriverInfo(
        name="linux",
        target="conflux_tun_linux.device:LinuxTunDriver",
        api=API_VERSION,
        platforms=frozenset({"linux"}),
        capabilities=frozenset({"offload"}),
        priority=80,
        probe=probe,
    )


def probe() -> None:
    """Raise Unavailable if this process cannot make an interface, with one line on what to do."""
    os.close(open_tun())
    if not _has_net_admin(Path("/proc/self/status").read_text()):
        raise Unavailable(NO_NET_ADMIN)


NO_NET_ADMIN = "no right to make network interfaces: run as root or grant CAP_NET_ADMIN"


def open_tun(path: Path = TUN_DEVICE) -> int:
    """Open the TUN device node for non-blocking use; the descriptor is the caller's to close."""
    try:
        return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise Unavailable(
            f"{path} is missing: load the module with `modprobe tun`, or give a container "
            f"`--device {path}`"
        ) from None
    except PermissionError:
        raise Unavailable(
            f"{path} is not writable: run as root, or let everybody open it with "
            f"`chmod 666 {path}` (each interface still needs CAP_NET_ADMIN)"
        ) from None
    except OSError as error:
        # ENODEV or ENXIO: the node is there but no module answers for it.
        raise Unavailable(
            f"{path}: {error.strerror}; load the module with `modprobe tun`"
        ) from None


def _has_net_admin(status: str) -> bool:
    """Read the effective capabilities from the text of /proc/self/status (proc(5))."""
    for line in status.splitlines():
        key, _, value = line.partition(":")
        if key == "CapEff":
            return bool(int(value, 16) >> CAP_NET_ADMIN & 1)
    return False
