"""What can be set: one table, from which file, variables and the reference are read.

mtu_bytes = 1500          # a key of conflux.toml, and VEILNET_MTU

[relay]
mbit = 500                # "relay.mbit", and VEILNET_RELAY_MBIT
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from conflux.api import Kind, UsageError
from conflux.wire.features import MIN_MTU_BYTES
from conflux.wire.frame import MAX_PACKET_BYTES

LOG_FORMATS = ("text", "json")
PACKET_AUTH = ("handshake", "checkpoint", "strict")

AWAKE_US = 150
MAX_AWAKE_US = 1_000

MIN_IDLE_S = 1
MAX_IDLE_S = {"stream_s": 110, "route_s": 2_400, "tether_s": 2_400}
"""A stream: less than the age at which its keys are renewed. A route: what relays accept."""

RELAY_KEYS = ("enabled", "mbit", "neighbour_mbit")
MIN_RELAY_MBIT = 1
MAX_RELAY_MBIT = 1_000_000

PIN_VARIABLE = "VEILNET_PLUGIN_"
"""And a kind: pins that kind's driver, as `[plugins]` does."""
DRIVER_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
_TUN_NAME = re.compile(r"[A-Za-z0-9_.-]{1,15}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One thing that can be set. `default` None: nothing holds unless it is set."""

    key: str
    """As in conflux.toml; with its table and a dot before it if it is in one."""
    variable: str
    default: object
    values: str
    """What it may be, for people."""
    text: str
    """What it does, one line for people."""
    check: Callable[[object, str], Any]
    """(value as TOML has it, place) -> value; raises UsageError, which names the place."""

    @property
    def table(self) -> str:
        return self.key.rpartition(".")[0]

    @property
    def name(self) -> str:
        return self.key.rpartition(".")[2]

    def from_text(self, text: str, place: str) -> Any:
        """Check what a variable says: numbers and truth values are written as in TOML."""
        return self.check(_value_of(text) if self.table else text, place)


def _value_of(text: str) -> object:
    word = text.strip()
    if word.lower() in ("true", "false"):
        return word.lower() == "true"
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return text


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _tun_name(value: object, place: str) -> str:
    if not isinstance(value, str) or not _TUN_NAME.fullmatch(value) or value in (".", ".."):
        raise UsageError(
            f"{place}: {value!r} is no interface name: use 1 to 15 letters, digits, - . or _"
        )
    return value


def _mtu_bytes(value: object, place: str) -> int:
    number = value
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value):
        number = int(value)
    if type(number) is not int or not MIN_MTU_BYTES <= number <= MAX_PACKET_BYTES:
        raise UsageError(
            f"{place}: {value!r} is no MTU: use {MIN_MTU_BYTES} to {MAX_PACKET_BYTES} bytes"
        )
    return number


def _log_format(value: object, place: str) -> str:
    if not isinstance(value, str) or value not in LOG_FORMATS:
        raise UsageError(f"{place}: {value!r} is no log format: use {' or '.join(LOG_FORMATS)}")
    return value


def _packet_auth(value: object, place: str) -> str:
    if not isinstance(value, str) or value not in PACKET_AUTH:
        raise UsageError(
            f"{place}: {value!r} is no level of packet authentication: "
            f"use {', '.join(PACKET_AUTH[:-1])} or {PACKET_AUTH[-1]}"
        )
    return value


def _awake_us(value: object, place: str) -> int:
    number = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value
    if type(number) is not int or not 0 <= number <= MAX_AWAKE_US:
        raise UsageError(f"{place}: {value!r} is no time awake: use 0 to {MAX_AWAKE_US} µs")
    return number


def _idle_s(key: str) -> Callable[[object, str], float]:
    most = MAX_IDLE_S[key]

    def check(value: object, place: str) -> float:
        if _is_number(value) and MIN_IDLE_S <= value <= most:
            return float(value)
        raise UsageError(
            f"{place}: {key} = {value!r} is no idle time: use {MIN_IDLE_S} to {most} seconds"
        )

    return check


def _enabled(value: object, place: str) -> bool:
    if isinstance(value, bool):
        return value
    raise UsageError(f"{place}: enabled = {value!r}: use true or false")


def _mbit(key: str) -> Callable[[object, str], float]:
    def check(value: object, place: str) -> float:
        if _is_number(value) and MIN_RELAY_MBIT <= value <= MAX_RELAY_MBIT:
            return float(value)
        raise UsageError(
            f"{place}: {key} = {value!r} is no rate: use {MIN_RELAY_MBIT} to {MAX_RELAY_MBIT} "
            "Mbit/s, or leave it out for no limit"
        )

    return check


def _seconds(key: str) -> str:
    return f"{MIN_IDLE_S} to {MAX_IDLE_S[key]} seconds"


_RATE = f"{MIN_RELAY_MBIT} to {MAX_RELAY_MBIT} Mbit/s"

SETTINGS: Sequence[Setting] = (
    Setting(
        key="tun_name",
        variable="VEILNET_TUN",
        default="veilnet",
        values="1 to 15 letters, digits, `-` `.` or `_`",
        text="Name of the network interface.",
        check=_tun_name,
    ),
    Setting(
        key="mtu_bytes",
        variable="VEILNET_MTU",
        default=1500,
        values=f"{MIN_MTU_BYTES} to {MAX_PACKET_BYTES}",
        text="Largest packet that the interface carries.",
        check=_mtu_bytes,
    ),
    Setting(
        key="log_format",
        variable="VEILNET_LOG_FORMAT",
        default="text",
        values=" or ".join(f"`{value}`" for value in LOG_FORMATS),
        text="Log lines for people or for machines.",
        check=_log_format,
    ),
    Setting(
        key="packet_auth",
        variable="VEILNET_PACKET_AUTH",
        default="checkpoint",
        values=", ".join(f"`{value}`" for value in PACKET_AUTH),
        text="How packets are vouched for; the stricter end decides.",
        check=_packet_auth,
    ),
    Setting(
        key="awake_us",
        variable="VEILNET_AWAKE_US",
        default=AWAKE_US,
        values=f"0 to {MAX_AWAKE_US}",
        text="Between packets in short gaps, look again for so long, µs, before sleeping; Linux.",
        check=_awake_us,
    ),
    Setting(
        key="idle.stream_s",
        variable="VEILNET_IDLE_STREAM_S",
        default=60.0,
        values=_seconds("stream_s"),
        text="A stream without a packet for so long is over.",
        check=_idle_s("stream_s"),
    ),
    Setting(
        key="idle.route_s",
        variable="VEILNET_IDLE_ROUTE_S",
        default=60.0,
        values=_seconds("route_s"),
        text="A relayed route beside another one is torn down after so long.",
        check=_idle_s("route_s"),
    ),
    Setting(
        key="idle.tether_s",
        variable="VEILNET_IDLE_TETHER_S",
        default=75.0,
        values=_seconds("tether_s"),
        text="A tether that no route leads over is closed after so long.",
        check=_idle_s("tether_s"),
    ),
    Setting(
        key="relay.enabled",
        variable="VEILNET_RELAY_ENABLED",
        default=True,
        values="`true` or `false`",
        text="Whether routes of others may lead through this node.",
        check=_enabled,
    ),
    Setting(
        key="relay.mbit",
        variable="VEILNET_RELAY_MBIT",
        default=None,
        values=_RATE,
        text="What this node relays for all neighbours together.",
        check=_mbit("mbit"),
    ),
    Setting(
        key="relay.neighbour_mbit",
        variable="VEILNET_RELAY_NEIGHBOUR_MBIT",
        default=None,
        values=_RATE,
        text="What it relays for each neighbour.",
        check=_mbit("neighbour_mbit"),
    ),
)


def driver_names(kind: Kind, value: object, place: str) -> Sequence[str]:
    """Check a pin: one name; for tethers a list of them, or names with commas between them."""
    names = value.split(",") if kind is Kind.TETHER and isinstance(value, str) else value
    if kind is Kind.TETHER and isinstance(names, list) and names:
        listed = tuple(_driver_name(name, place) for name in names)
        if len(set(listed)) == len(listed):
            return listed
        raise UsageError(f"{place}: {value!r} names a driver twice")
    return (_driver_name(value, place),)


def _driver_name(value: object, place: str) -> str:
    name = value.strip() if isinstance(value, str) else ""
    if not DRIVER_NAME.fullmatch(name):
        raise UsageError(
            f"{place}: {value!r} is no driver name: see `veilnet-conflux plugins list`"
        )
    return name
