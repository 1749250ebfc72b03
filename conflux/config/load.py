"""Everything that says something, laid over each other: a Config that knows who said what.

A misspelt key is an error with the place and the nearest known key: a setting that is silently
ignored is worse than one that is refused.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from conflux.api import Kind, Settings, UsageError
from conflux.config.settings import AWAKE_US, PIN_VARIABLE, SETTINGS, Setting, driver_names
from conflux.config.toml import FILE_NAME, TomlFile

T = TypeVar("T")
_NOTHING: Settings = MappingProxyType({})
_TABLES = ("idle", "relay", "plugins", "plugin")
_FLAGS = tuple(setting.name for setting in SETTINGS if not setting.table)


@dataclass(frozen=True, slots=True)
class Origin:
    """Who said what a setting is: "flag", "variable", "file" or "default", and where."""

    source: str
    place: str = ""
    """The flag, the variable, or "file:line:column"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything that a node can be told beside its tokens. `config_dir` need not exist."""

    config_dir: Path
    tun_name: str = "veilnet"
    mtu_bytes: int = 1500
    log_format: str = "text"
    packet_auth: str = "checkpoint"
    awake_us: int = AWAKE_US
    idle: Mapping[str, float] = field(default_factory=dict)
    """The idle times that were set, as `anchor.idle.IdleTimes` names them."""
    relay: Mapping[str, Any] = field(default_factory=dict)
    """What was set of `anchor.quota.Relaying`, as that names it."""
    pins: Mapping[Kind, Sequence[str]] = field(default_factory=dict)
    """The driver to use of each kind that is not left to priority; of tethers several, best first.
    """
    tables: Mapping[Kind, Mapping[str, Settings]] = field(default_factory=dict, repr=False)
    """Every `[plugin.<kind>.<name>]`; not shown in logs, since a plugin may keep a secret there."""
    origins: Mapping[str, Origin] = field(default_factory=dict, compare=False, repr=False)
    """By key ("config_dir", "idle.stream_s", "plugins.router", "plugin.router.static.x"); what is
    not there is a default."""

    def pin(self, kind: Kind) -> str | None:
        """Return the driver to use of *kind*; None if that is left to priority."""
        names = self.pins.get(kind)
        return names[0] if names else None

    def settings(self, kind: Kind, name: str) -> Settings:
        """Return the settings of one driver; empty if there are none."""
        return self.tables.get(kind, {}).get(name, _NOTHING)

    def value(self, setting: Setting) -> object:
        """Return what holds for *setting*; None if nothing does."""
        if not setting.table:
            return getattr(self, setting.name)
        table: Mapping[str, object] = getattr(self, setting.table)
        return table.get(setting.name, setting.default)


class Faults:
    """Mistakes, collected: one does not hide the next."""

    def __init__(self) -> None:
        self.found: list[UsageError] = []

    def gather(self, read: Callable[[], T], otherwise: T) -> T:
        """Return what *read* returns; *otherwise* if it raises UsageError, which is kept."""
        try:
            return read()
        except UsageError as error:
            self.found.append(error)
            return otherwise


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
    config, faults = survey(config_dir, environ, flags)
    if faults:
        raise faults[0]
    return config


def survey(
    config_dir: Path | None,
    environ: Mapping[str, str],
    flags: Mapping[str, object] = _NOTHING,
) -> tuple[Config, Sequence[UsageError]]:
    """As `load_config`, but return all mistakes beside what is right."""
    if unknown := flags.keys() - {*_FLAGS, "pins"}:
        raise TypeError(f"no such flags: {', '.join(sorted(unknown))}")
    folder, origin = _folder(config_dir, environ)
    sayings = _Sayings(Faults())
    sayings.of_file(folder / FILE_NAME)
    sayings.of_variables(environ)
    sayings.of_flags(flags)
    return sayings.config(folder, origin), sayings.faults.found


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


def _folder(config_dir: Path | None, environ: Mapping[str, str]) -> tuple[Path, Origin]:
    if config_dir is not None:
        return config_dir, Origin("flag", "--config-dir")
    if named := environ.get("VEILNET_CONFIG_DIR"):
        return Path(named), Origin("variable", "VEILNET_CONFIG_DIR")
    return default_config_dir(environ=environ), Origin("default")


class _Sayings:
    """What was said, by key; who speaks later has the last word."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self._values: dict[str, Any] = {}
        self._origins: dict[str, Origin] = {}
        self._tables: dict[Kind, dict[str, Settings]] = {}

    def of_file(self, path: Path) -> None:
        """A missing file says nothing."""
        file = self.faults.gather(lambda: TomlFile(path), None)
        if file is None:
            return
        known = [*_FLAGS, *_TABLES]
        self._check_keys(file, (), file.data, known)
        tables = {name: self._table(file, (name,), file.data.get(name, {})) for name in _TABLES}
        for name in ("idle", "relay"):
            names = [setting.name for setting in SETTINGS if setting.table == name]
            self._check_keys(file, (name,), tables[name], names)
        for setting in SETTINGS:
            table = tables[setting.table] if setting.table else file.data
            if setting.name in table:
                place = file.place(*setting.key.split("."))
                value = table[setting.name]
                self._say(setting.key, Origin("file", place), setting.check, value)
        self._pins_of_file(file, tables["plugins"])
        self._tables_of_file(file, tables["plugin"])

    def of_variables(self, environ: Mapping[str, str]) -> None:
        """An empty one counts as not set: that is what container tools make of a blank line."""
        for setting in SETTINGS:
            if text := environ.get(setting.variable):
                origin = Origin("variable", setting.variable)
                self._say(setting.key, origin, setting.from_text, text)
        for variable, name in environ.items():
            if variable.startswith(PIN_VARIABLE) and name:
                self.faults.gather(lambda: self._pin_of_variable(variable, name), None)  # noqa: B023 (called at once)

    def of_flags(self, flags: Mapping[str, object]) -> None:
        for setting in SETTINGS:
            value = flags.get(setting.key)
            if value is not None:
                origin = Origin("flag", f"--{setting.key.replace('_', '-')}")
                self._say(setting.key, origin, setting.check, value)
        pins = flags.get("pins") or {}
        if not isinstance(pins, Mapping):
            raise TypeError("the pins of the command line are a mapping")
        for kind, name in pins.items():
            self._pin(Kind(kind), name, Origin("flag", f"--{kind}"))

    def config(self, folder: Path, origin: Origin) -> Config:
        """All of it."""
        tables: dict[str, dict[str, Any]] = {"": {}, "idle": {}, "relay": {}}
        for setting in SETTINGS:
            if setting.key in self._values:
                tables[setting.table][setting.name] = self._values[setting.key]
        said = self._values
        pins = {kind: said[f"plugins.{kind}"] for kind in Kind if f"plugins.{kind}" in said}
        return Config(
            config_dir=folder,
            idle=tables["idle"],
            relay=tables["relay"],
            pins=pins,
            tables=self._tables,
            origins={**self._origins, "config_dir": origin},
            **tables[""],
        )

    def _say(self, key: str, origin: Origin, check: Callable[[Any, str], Any], value: Any) -> None:
        def read() -> None:
            self._values[key] = check(value, origin.place)
            self._origins[key] = origin

        self.faults.gather(read, None)

    def _pin(self, kind: Kind, names: object, origin: Origin) -> None:
        self._say(f"plugins.{kind}", origin, lambda value, at: driver_names(kind, value, at), names)

    def _pin_of_variable(self, variable: str, name: str) -> None:
        kind = variable.removeprefix(PIN_VARIABLE).lower()
        if kind not in list(Kind):
            known = [PIN_VARIABLE + known.upper() for known in Kind]
            raise UsageError(f"unknown variable {variable}{did_you_mean(variable, known)}")
        self._pin(Kind(kind), name, Origin("variable", variable))

    def _pins_of_file(self, file: TomlFile, table: Mapping[str, Any]) -> None:
        self._check_keys(file, ("plugins",), table, list(Kind))
        for kind in [kind for kind in Kind if kind in table]:
            self._pin(Kind(kind), table[kind], Origin("file", file.place("plugins", kind)))

    def _tables_of_file(self, file: TomlFile, kinds: Mapping[str, Any]) -> None:
        self._check_keys(file, ("plugin",), kinds, list(Kind))
        for kind in [kind for kind in Kind if kind in kinds]:
            drivers = self._table(file, ("plugin", kind), kinds[kind])
            self._tables[kind] = {
                name: MappingProxyType(self._table(file, ("plugin", kind, name), settings))
                for name, settings in drivers.items()
            }
            for name, settings in self._tables[kind].items():
                for key in settings:
                    place = file.place("plugin", kind, name, key)
                    self._origins[f"plugin.{kind}.{name}.{key}"] = Origin("file", place)

    def _table(self, file: TomlFile, path: tuple[str, ...], value: object) -> dict[str, Any]:
        if isinstance(value, dict):
            return value
        name = ".".join(path)
        self.faults.found.append(
            UsageError(f"{file.place(*path)}: {name} must be a table, [{name}]")
        )
        return {}

    def _check_keys(
        self, file: TomlFile, table: tuple[str, ...], found: Iterable[str], known: Iterable[str]
    ) -> None:
        known = [str(key) for key in known]
        for key in found:
            if key not in known:
                shown = key if key.isprintable() else repr(key)
                what = f"key {shown} in [{'.'.join(table)}]" if table else f"key {shown}"
                place = file.place(*table, key)
                self.faults.found.append(
                    UsageError(f"{place}: unknown {what}{did_you_mean(key, known)}")
                )


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of a line about *word*: what may have been meant."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f": did you mean {near[0]}?" if near else f" (known: {', '.join(known)})"
