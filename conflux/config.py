"""Configuration: flags win over variables, variables over `conflux.toml`, that over defaults.

    tun_name = "veilnet"            # VEILNET_TUN
    mtu_bytes = 1500                # VEILNET_MTU, 1280 to 65492
    log_format = "text"             # VEILNET_LOG_FORMAT, "text" or "json"
    packet_auth = "checkpoint"      # VEILNET_PACKET_AUTH, "handshake", "checkpoint" or "strict"

    [idle]                          # seconds, 1 or more
    stream_s = 60                   # a stream without a packet is over; at most 110
    route_s = 60                    # a relayed route beside another one is torn down
    tether_s = 75                   # a tether that no route leads over is closed

    [relay]                         # what this node does for others
    enabled = true                  # false: no route of others leads through it
    mbit = 500                      # Mbit/s of all neighbours together; no limit unless set
    neighbour_mbit = 100            # of each neighbour; no limit unless set

    [plugins]                       # pins: kind = driver name
    router = "static"               # VEILNET_PLUGIN_ROUTER
    tether = ["udp", "webrtc"]      # VEILNET_PLUGIN_TETHER, "udp,webrtc": these only, best first

    [plugin.router.static]          # one driver's own settings
    tolerance_s = 0.01

A misspelt key is an error with the place and the nearest known key: a setting that is silently
ignored is worse than one that is refused.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from conflux.api import Kind, Settings, UsageError
from conflux.wire.features import MIN_MTU_BYTES
from conflux.wire.frame import MAX_PACKET_BYTES

FILE_NAME = "conflux.toml"
LOG_FORMATS = ("text", "json")
PACKET_AUTH = ("handshake", "checkpoint", "strict")

MIN_IDLE_S = 1
MAX_IDLE_S = {"stream_s": 110, "route_s": 2_400, "tether_s": 2_400}
"""A stream: less than the age at which its keys are renewed. A route: what relays accept."""

RELAY_KEYS = ("enabled", "mbit", "neighbour_mbit")
MIN_RELAY_MBIT = 1
MAX_RELAY_MBIT = 1_000_000

_NOTHING: Settings = MappingProxyType({})
_TUN_NAME = re.compile(r"[A-Za-z0-9_.-]{1,15}")
_DRIVER_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
_PIN_VARIABLE = "VEILNET_PLUGIN_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything that a node can be told beside its tokens. `config_dir` need not exist."""

    config_dir: Path
    tun_name: str = "veilnet"
    mtu_bytes: int = 1500
    log_format: str = "text"
    packet_auth: str = "checkpoint"
    idle: Mapping[str, float] = field(default_factory=dict)
    """The idle times that were set, as `anchor.idle.IdleTimes` names them."""
    relay: Mapping[str, Any] = field(default_factory=dict)
    """What was set of `anchor.quota.Relaying`, as that names it."""
    pins: Mapping[Kind, Sequence[str]] = field(default_factory=dict)
    """The driver to use of each kind that is not left to priority; of tethers several, best first.
    """
    tables: Mapping[Kind, Mapping[str, Settings]] = field(default_factory=dict, repr=False)
    """Every `[plugin.<kind>.<name>]`; not shown in logs, since a plugin may keep a secret there."""

    def pin(self, kind: Kind) -> str | None:
        """Return the driver to use of *kind*; None if that is left to priority."""
        names = self.pins.get(kind)
        return names[0] if names else None

    def settings(self, kind: Kind, name: str) -> Settings:
        """Return the settings of one driver; empty if there are none."""
        return self.tables.get(kind, {}).get(name, _NOTHING)


def load_config(
    config_dir: Path | None,
    environ: Mapping[str, str],
    flags: Mapping[str, object] = _NOTHING,
) -> Config:
    """Read the configuration.

    *config_dir* is the flag's value; None leaves it to VEILNET_CONFIG_DIR and the system's usual
    place. *flags* holds "tun_name", "mtu_bytes", "log_format", "packet_auth" and "pins" as far as
    the command line named them; None counts as not named. Raises UsageError for anything that is
    not right.
    """
    if unknown := flags.keys() - {*_OPTIONS, "pins"}:
        raise TypeError(f"no such flags: {', '.join(sorted(unknown))}")
    folder = config_dir or _from_environment(environ) or default_config_dir(environ=environ)
    source = _File(folder / FILE_NAME)
    values = {
        **source.options(),
        **_variables(environ),
        **_named(flags),
    }
    pins = {**source.pins(), **_pins_of(environ), **_pins_of_flags(flags)}
    return Config(
        config_dir=folder,
        idle=source.idle(),
        relay=source.relay(),
        pins=pins,
        tables=source.tables(),
        **values,
    )


def default_config_dir(
    platform: str = sys.platform, environ: Mapping[str, str] = os.environ
) -> Path:
    """Return the running user's configuration folder, as the operating system has it.

    For root: /root/.config/conflux, /var/root/Library/Application Support/conflux; for Windows'
    system account: C:\\Windows\\System32\\config\\systemprofile\\AppData\\Roaming\\conflux.
    """
    home = Path(environ["HOME"]) if environ.get("HOME") else Path.home()
    if platform == "win32":
        base = environ.get("APPDATA")
        return (Path(base) if base else home / "AppData" / "Roaming") / "conflux"
    if platform == "darwin":
        return home / "Library" / "Application Support" / "conflux"
    base = environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else home / ".config") / "conflux"


class _File:
    """One `conflux.toml`; a missing one says nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._text = _read(path)
        try:
            self._data = tomllib.loads(self._text)
        except tomllib.TOMLDecodeError as error:
            # The message ends with "(at line L, column C)".
            raise UsageError(f"{path}: {error}") from None
        except RecursionError:
            raise UsageError(f"{path}: nested too deeply") from None
        self._check_keys("", self._data, [*_OPTIONS, "idle", "relay", "plugins", "plugin"])

    def options(self) -> dict[str, Any]:
        return {
            name: _option(name, self._data[name], self._place("", name))
            for name in _OPTIONS
            if name in self._data
        }

    def idle(self) -> dict[str, float]:
        table = self._table("idle", self._data.get("idle", {}))
        self._check_keys("idle", table, MAX_IDLE_S)
        return {key: _idle_s(key, value, self._place("idle", key)) for key, value in table.items()}

    def relay(self) -> dict[str, Any]:
        table = self._table("relay", self._data.get("relay", {}))
        self._check_keys("relay", table, RELAY_KEYS)
        return {key: _relay(key, value, self._place("relay", key)) for key, value in table.items()}

    def pins(self) -> dict[Kind, Sequence[str]]:
        table = self._table("plugins", self._data.get("plugins", {}))
        self._check_keys("plugins", table, list(Kind))
        return {
            Kind(kind): _driver_names(Kind(kind), names, self._place("plugins", kind))
            for kind, names in table.items()
        }

    def tables(self) -> dict[Kind, dict[str, Settings]]:
        kinds = self._table("plugin", self._data.get("plugin", {}))
        self._check_keys("plugin", kinds, list(Kind))
        return {
            Kind(kind): {
                name: MappingProxyType(self._table(f"plugin.{kind}.{name}", settings))
                for name, settings in self._table(f"plugin.{kind}", drivers).items()
            }
            for kind, drivers in kinds.items()
        }

    def _table(self, name: str, value: object) -> dict[str, Any]:
        if not isinstance(value, dict):
            parent, _, key = name.rpartition(".")
            raise UsageError(f"{self._place(parent, key)}: {name} must be a table, [{name}]")
        return value

    def _check_keys(self, table: str, found: Iterable[str], known: Iterable[str]) -> None:
        known = [str(key) for key in known]
        for key in found:
            if key not in known:
                what = f"key {key} in [{table}]" if table else f"key {key}"
                raise UsageError(
                    f"{self._place(table, key)}: unknown {what}{_did_you_mean(key, known)}"
                )

    def _place(self, table: str, key: str) -> str:
        """Return "file:line:column" of *key* in [*table*], the file alone if it is not plain.

        tomllib keeps no positions, and one parser is enough: this finds the usual spellings.
        """
        here = ""
        for number, line in enumerate(self._text.splitlines(), 1):
            header = re.match(r"\s*\[\s*([^\[\]]+?)\s*\]", line)
            if header:
                here = header[1]
                if here == key or here == f"{table}.{key}" or here.startswith(f"{table}.{key}."):
                    return f"{self._path}:{number}:{header.start(1) + 1}"
            entry = re.match(rf"\s*({re.escape(key)})\s*[=.]", line)
            if entry and here == table:
                return f"{self._path}:{number}:{entry.start(1) + 1}"
        return str(self._path)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 at byte {error.start}: save it as UTF-8") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None


def _from_environment(environ: Mapping[str, str]) -> Path | None:
    value = environ.get("VEILNET_CONFIG_DIR")
    return Path(value) if value else None


def _variables(environ: Mapping[str, str]) -> dict[str, Any]:
    """An empty variable counts as not set: that is what container tools make of a blank line."""
    return {
        name: _option(name, environ[variable], variable)
        for name, (variable, _) in _OPTIONS.items()
        if environ.get(variable)
    }


def _pins_of(environ: Mapping[str, str]) -> dict[Kind, Sequence[str]]:
    pins = {}
    for variable, name in environ.items():
        if variable.startswith(_PIN_VARIABLE) and name:
            kind = variable.removeprefix(_PIN_VARIABLE).lower()
            if kind not in list(Kind):
                known = [_PIN_VARIABLE + known.upper() for known in Kind]
                raise UsageError(f"unknown variable {variable}{_did_you_mean(variable, known)}")
            pins[Kind(kind)] = _driver_names(Kind(kind), name, variable)
    return pins


def _pins_of_flags(flags: Mapping[str, object]) -> dict[Kind, Sequence[str]]:
    pins = flags.get("pins") or {}
    if not isinstance(pins, Mapping):
        raise TypeError("the pins of the command line are a mapping")
    return {Kind(kind): _driver_names(Kind(kind), name, f"--{kind}") for kind, name in pins.items()}


def _named(flags: Mapping[str, object]) -> dict[str, Any]:
    return {
        name: _option(name, flags[name], f"--{name.replace('_', '-')}")
        for name in _OPTIONS
        if flags.get(name) is not None
    }


def _option(name: str, value: object, place: str) -> Any:
    return _OPTIONS[name][1](value, place)


def _tun_name(value: object, place: str) -> str:
    if not isinstance(value, str) or not _TUN_NAME.fullmatch(value) or value in (".", ".."):
        raise UsageError(
            f"{place}: {value!r} is no interface name: use 1 to 15 letters, digits, - . or _"
        )
    return value


def _mtu_bytes(value: object, place: str) -> int:
    number = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value
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


def _idle_s(key: str, value: object, place: str) -> float:
    most = MAX_IDLE_S[key]
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
        if MIN_IDLE_S <= seconds <= most:
            return seconds
    raise UsageError(
        f"{place}: {key} = {value!r} is no idle time: use {MIN_IDLE_S} to {most} seconds"
    )


def _relay(key: str, value: object, place: str) -> bool | float:
    if key == "enabled":
        if isinstance(value, bool):
            return value
        raise UsageError(f"{place}: {key} = {value!r}: use true or false")
    if isinstance(value, int | float) and not isinstance(value, bool):
        mbit = float(value)
        if MIN_RELAY_MBIT <= mbit <= MAX_RELAY_MBIT:
            return mbit
    raise UsageError(
        f"{place}: {key} = {value!r} is no rate: use {MIN_RELAY_MBIT} to {MAX_RELAY_MBIT} Mbit/s, "
        "or leave it out for no limit"
    )


def _driver_names(kind: Kind, value: object, place: str) -> Sequence[str]:
    """One name; for tethers a list of them, or names with commas between them."""
    names = value.split(",") if kind is Kind.TETHER and isinstance(value, str) else value
    if kind is Kind.TETHER and isinstance(names, list) and names:
        listed = tuple(_driver_name(name, place) for name in names)
        if len(set(listed)) == len(listed):
            return listed
        raise UsageError(f"{place}: {value!r} names a driver twice")
    return (_driver_name(value, place),)


def _driver_name(value: object, place: str) -> str:
    name = value.strip() if isinstance(value, str) else ""
    if not _DRIVER_NAME.fullmatch(name):
        raise UsageError(
            f"{place}: {value!r} is no driver name: see `veilnet-conflux plugins list`"
        )
    return name


_OPTIONS: Mapping[str, tuple[str, Callable[[object, str], Any]]] = {
    "tun_name": ("VEILNET_TUN", _tun_name),
    "mtu_bytes": ("VEILNET_MTU", _mtu_bytes),
    "log_format": ("VEILNET_LOG_FORMAT", _log_format),
    "packet_auth": ("VEILNET_PACKET_AUTH", _packet_auth),
}


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f": did you mean {near[0]}?" if near else f" (known: {', '.join(known)})"
