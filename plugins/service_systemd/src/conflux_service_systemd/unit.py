"""The text of the unit `veilnet`, systemd.unit(5), systemd.service(5), systemd.exec(5)."""

from __future__ import annotations

import re

from conflux.api import ServiceUnit, UsageError

STEPS_SINCE = 254
"""The version of systemd that has RestartSteps=."""

_TEMPLATE = """\
# Written by `veilnet-conflux`; changes belong into veilnet.service.d/*.conf.
[Unit]
Description={description}
Wants=network-online.target
After=network-online.target nss-lookup.target
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={command}
{environment}
WatchdogSec=30
TimeoutStartSec=90
TimeoutStopSec=20
KillMode=mixed
{restart}
StandardOutput=journal
StandardError=journal
SyslogIdentifier=veilnet

RuntimeDirectory=veilnet
RuntimeDirectoryMode=0750
StateDirectory=veilnet
StateDirectoryMode=0700
CacheDirectory=veilnet
CacheDirectoryMode=0700
UMask=0077
LimitMEMLOCK=infinity
LimitCORE=0
{groups}
CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_RAW
AmbientCapabilities=
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=yes
DevicePolicy=closed
DeviceAllow=/dev/net/tun rw
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectProc=invisible
LockPersonality=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RemoveIPC=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
{writable}
[Install]
WantedBy=multi-user.target
"""


def render(unit: ServiceUnit, *, version: int, group: str | None, writable: str | None) -> str:
    """Return the unit's text for systemd *version*.

    *group* is one whose members may speak to the service; *writable* a folder of its own beside
    those that systemd makes. Raises UsageError for what no unit can hold.
    """
    environment = {
        "NO_COLOR": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "XDG_CACHE_HOME": "/var/cache/veilnet",
        **unit.environment,
    }
    text = _TEMPLATE.format(
        description=_line(unit.description).replace("%", "%%"),
        command=" ".join([_quoted(word, dollar="$$") for word in unit.command]),
        environment="\n".join(
            f"Environment={_quoted(f'{name}={value}')}" for name, value in environment.items()
        ),
        restart=_restart(version),
        groups=f"SupplementaryGroups={group}" if group else "",
        # A folder that is missing is for the program to name.
        writable=f"ReadWritePaths=-{_path(writable)}\n" if writable else "",
    )
    return re.sub(r"\n{3,}", "\n\n", text)


def _restart(version: int) -> str:
    if version >= STEPS_SINCE:
        return "Restart=on-failure\nRestartSec=2\nRestartSteps=8\nRestartMaxDelaySec=300"
    return "Restart=on-failure\nRestartSec=5"


def _quoted(word: str, *, dollar: str = "$") -> str:
    """One word, as systemd.syntax(7) quotes it; specifiers and variables stand for themselves."""
    text = _line(word).replace("\\", "\\\\").replace('"', '\\"')
    return '"' + text.replace("%", "%%").replace("$", dollar) + '"'


def _path(path: str) -> str:
    return _line(path).replace("\\", "\\\\").replace("%", "%%").replace(" ", "\\x20")


def _line(text: str) -> str:
    if any(not character.isprintable() for character in text):
        raise UsageError(f"{text!r} cannot stand in a unit: use a path without control characters")
    return text
