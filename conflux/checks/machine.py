"""What `doctor` looks at: whether a node can run on this machine, and how well."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from conflux import hardening
from conflux.api import Kind, ServiceDriver, UsageError
from conflux.checks import configuration, mtu, servers
from conflux.checks.findings import Finding, fail, ok, refused, unknown, warn
from conflux.config import Config
from conflux.registry import Registry
from conflux.runtime import localapi
from conflux.runtime.drivers import NEEDED

ROOM_BYTES = 1 << 20
SLOW_DNS_S = 2.0

# linux/udp.h
_UDP_SEGMENT, _UDP_GRO = 103, 104


def check(config: Config, guardian: str, api_socket: Path) -> Iterator[Finding]:
    """Yield each finding as soon as it is there. Blocks; asks DNS and Guardian, nobody else.

    Hardens this process, to see whether that can be done.
    """
    registry = Registry()
    registry.load()
    yield from plugins(registry)
    yield from drivers(registry, config)
    yield from kernel_features()
    yield from hardened()
    yield from files(config.config_dir)
    yield from other_nodes(config, api_socket)
    yield from service(registry, config)
    yield from names(guardian)
    yield from servers.check_guardian(registry, config, guardian)
    yield from mtu.check(servers.endpoint(guardian), ())


def plugins(registry: Registry) -> Iterator[Finding]:
    """Those that are installed and cannot be used."""
    broken = [report for report in registry.reports if report.failed]
    for report in broken:
        yield fail(
            "plugins",
            f"{report.name} of {report.dist} fails at {report.stage}: {report.reason}",
            f"update or uninstall {report.dist}; see `veilnet-conflux plugins list -v`",
        )
    if not broken:
        yield ok("plugins", f"{len(registry.reports)} installed, none broken")


def drivers(registry: Registry, config: Config) -> Iterator[Finding]:
    """The driver of each kind. That of TUN probes for the device and the right to use it."""
    for kind in (*NEEDED, Kind.TETHER):
        try:
            names = config.pins.get(kind, ())
            if kind is Kind.TETHER:
                chosen = ", ".join(info.name for info in registry.select_all(kind, names))
            else:
                chosen = registry.select(kind, config.pin(kind)).name
        except UsageError as error:
            yield refused(str(kind), error)
        else:
            yield ok(str(kind), chosen)


def kernel_features() -> Iterator[Finding]:
    """What makes a node quick: UDP in batches, both ways."""
    if sys.platform != "linux":
        yield unknown("kernel", f"not looked at on {sys.platform}", "")
        return
    lacking = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for name, option, value in (
            ("UDP_SEGMENT", _UDP_SEGMENT, 1_200),
            ("UDP_GRO", _UDP_GRO, 1),
        ):
            try:
                sock.setsockopt(socket.IPPROTO_UDP, option, value)
            except OSError:
                lacking.append(name)
    release = os.uname().release
    if lacking:
        yield warn(
            "kernel",
            f"Linux {release} lacks {' and '.join(lacking)}: a node works, but slower",
            "run Linux 5.0 or newer",
        )
    else:
        yield ok("kernel", f"Linux {release}, sends and receives UDP in batches")


def hardened() -> Iterator[Finding]:
    """Whether keys stay in memory, and out of core dumps and swap."""
    found = hardening.harden()
    for line in found.missing:
        what, semicolon, do = line.rpartition("; ")
        yield warn("hardening", what if semicolon else line, do if semicolon else "see SECURITY.md")
    if not found.missing:
        yield ok("hardening", "no core dumps, memory locked")


def files(folder: Path) -> Iterator[Finding]:
    """The configuration: what is wrong with it, who can read it, whether it can be written."""
    wrong = configuration.mistakes(folder, os.environ)
    for line in wrong:
        yield refused("configuration", UsageError(line))
    if not wrong:
        yield ok("configuration", f"{folder} is in order")
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        yield fail("files", f"{there} cannot be written", "run as root, or use --config-dir")
    elif shutil.disk_usage(there).free < ROOM_BYTES:
        yield fail("files", f"the disk of {there} is full", "make room: a registration is saved")
    else:
        yield ok("files", f"{there} can be written")


def other_nodes(config: Config, api_socket: Path) -> Iterator[Finding]:
    """A node that runs already, or another interface of the same name."""
    if localapi.is_running(api_socket):
        yield ok("other nodes", f"a node runs at {api_socket}")
        return
    if any(name == config.tun_name for _, name in socket.if_nameindex()):
        yield fail(
            "other nodes",
            f"interface {config.tun_name} is in use, and not by a node at {api_socket}",
            "choose another name with --tun-name, or name that node's folder with --config-dir",
        )
        return
    yield ok("other nodes", f"none at {api_socket}, and {config.tun_name} is free")


def service(registry: Registry, config: Config) -> Iterator[Finding]:
    """The system service, where something can install one."""
    if not any(not found.objection for found in registry.candidates(Kind.SERVICE)):
        do = "run nodes with --foreground"
        yield unknown("service", "no plugin here can install a system service", do)
        return
    try:
        driver: ServiceDriver
        info, driver = registry.create(
            Kind.SERVICE,
            lambda info: config.settings(Kind.SERVICE, info.name),
            config.pin(Kind.SERVICE),
        )
        yield ok("service", f"{info.name}: {driver.state()}")
    except UsageError as error:
        yield refused("service", error)


def names(guardian: str) -> Iterator[Finding]:
    """Whether Guardian's name has an address."""
    where = servers.endpoint(guardian)
    if where is None:
        yield fail("dns", f"{guardian!r} names no host", "give Guardian as https://HOST[:PORT]")
        return
    began = time.monotonic()
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(*where, type=socket.SOCK_STREAM)}
    except OSError as error:
        yield fail(
            "dns",
            f"{where[0]} has no address ({error.strerror})",
            "check Guardian's name, and the name servers of this machine",
        )
        return
    took_s = time.monotonic() - began
    if took_s > SLOW_DNS_S:
        yield warn("dns", f"{where[0]} took {took_s:.1f} s to look up", "check the name servers")
    else:
        yield ok("dns", f"{where[0]} is {', '.join(sorted(found))}")
