"""Registers plugins, checks what they say, chooses drivers.

    discover ─► import ─► register ─► describe ─► ok ─┬─► chosen ─► create ─► driver
        └───────────┴─────────┴───────────┴─ report ◄─┘     (observers: report, then go on)

A plugin comes in whole or not at all: what fails at any stage is unregistered again and reported.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import itertools
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pluggy

from conflux.api import (
    API_VERSION,
    AuthDriver,
    ControlDriver,
    CryptoDriver,
    DriverInfo,
    Kind,
    Router,
    ServiceDriver,
    Settings,
    TetherDriver,
    TunDriver,
    Unavailable,
    UsageError,
    hookspecs,
)
from conflux.registry.discover import discover
from conflux.registry.report import PluginFault, Report, Stage, shielded

ABCS: Mapping[Kind, type] = {
    Kind.TUN: TunDriver,
    Kind.TETHER: TetherDriver,
    Kind.CRYPTO: CryptoDriver,
    Kind.ROUTER: Router,
    Kind.AUTH: AuthDriver,
    Kind.CONTROL: ControlDriver,
    Kind.SERVICE: ServiceDriver,
}
"""What a driver of each kind is a subclass of."""

PROBE_DEADLINE_S = 2.0
"""A probe is to be quick; one that is not back by then counts as failed."""

HOOKS = tuple(name for name in vars(hookspecs) if name.startswith("conflux_"))

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A driver beside what speaks against it: an empty `objection` means that it can be used."""

    kind: Kind
    info: DriverInfo
    plugin: str
    objection: str


class Registry:
    """The plugins of one process. Not thread safe."""

    def __init__(self, *, platform: str = sys.platform) -> None:
        self._platform = platform
        self._plugins = pluggy.PluginManager("conflux")
        self._plugins.add_hookspecs(hookspecs)
        self._owners: dict[tuple[Kind, str], str] = {}
        self._dists: dict[str, str] = {}
        self._probed: dict[tuple[Kind, str], str] = {}
        self.reports: list[Report] = []
        """One for each plugin, and one more for whatever an accepted plugin does wrong later."""
        self.drivers: dict[Kind, list[DriverInfo]] = {kind: [] for kind in Kind}
        self.observer_failures: Counter[str] = Counter()
        """How often each plugin's observer hooks raised."""

    def load(self) -> None:
        """Find, import and add every installed plugin. Called once."""
        found, failures = discover()
        self.reports += failures
        for plugin in found:
            self.add(plugin.plugin, name=plugin.name, dist=plugin.dist)

    def add(self, plugin: object, *, name: str, dist: str = "(local)") -> None:
        """Register one plugin. Its faults become a Report, never an exception."""
        stage = Stage.REGISTER
        try:
            shielded(lambda: self._register(plugin, name))
            stage = Stage.DESCRIBE
            described = shielded(lambda: self._describe(plugin))
        except PluginFault as fault:
            if name not in self._dists:
                self._unregister(plugin, name)
            self._report(name, dist, stage, fault)
            return
        self._dists[name] = dist
        for kind, info in described:
            self.drivers[kind].append(info)
            self._owners[kind, info.name] = name
        self.reports.append(Report(name, dist, Stage.OK))

    def owner(self, kind: Kind, driver: str) -> str:
        """Return the name of the plugin that gave a driver."""
        return self._owners[kind, driver]

    def drivers_of(self, plugin: str) -> list[tuple[Kind, DriverInfo]]:
        """Return every driver that the plugin of this name gave."""
        return [
            (kind, info)
            for kind in Kind
            for info in self.drivers[kind]
            if self._owners[kind, info.name] == plugin
        ]

    # Choice

    def candidates(self, kind: Kind, *, needs: Iterable[str] = ()) -> list[Candidate]:
        """Return every driver of *kind*, best first, with what speaks against each."""
        wanted = frozenset(needs)
        found = [
            Candidate(kind, info, self.owner(kind, info.name), self._objection(kind, info, wanted))
            for info in self.drivers[kind]
        ]
        return sorted(found, key=lambda c: (bool(c.objection), -c.info.priority, c.info.name))

    def select(
        self, kind: Kind, pinned: str | None = None, *, needs: Iterable[str] = ()
    ) -> DriverInfo:
        """Return the pinned driver, else the usable one of the highest priority.

        Raises Unavailable if nothing is usable, with each candidate's reason, and UsageError if
        two are equally good.
        """
        if pinned is not None:
            return self._select_pinned(kind, pinned, frozenset(needs))
        wanted = frozenset(needs)
        best_first = sorted(self.drivers[kind], key=lambda info: (-info.priority, info.name))
        # A probe may import a library: none is made of who stands behind a usable driver.
        for _, equals in itertools.groupby(best_first, key=lambda info: info.priority):
            usable = [info for info in equals if not self._objection(kind, info, wanted)]
            if len(usable) > 1:
                names = " and ".join(info.name for info in usable)
                raise UsageError(
                    f"the {kind} drivers {names} have the same priority: "
                    f"choose one with {_how_to_pin(kind, usable[0].name)}"
                )
            if usable:
                return usable[0]
        raise Unavailable(_nothing_usable(kind, self.candidates(kind, needs=needs)))

    def select_all(self, kind: Kind, pinned: Sequence[str] = ()) -> list[DriverInfo]:
        """Return the pinned drivers in their order, else every usable one, best first.

        Raises as `select` does; drivers behind the best one may be equally good.
        """
        if pinned:
            return [self._select_pinned(kind, name, frozenset()) for name in pinned]
        self.select(kind)
        return [found.info for found in self.candidates(kind) if not found.objection]

    def create(
        self,
        kind: Kind,
        settings: Settings | Callable[[DriverInfo], Settings],
        pinned: str | None = None,
        *,
        needs: Iterable[str] = (),
    ) -> tuple[DriverInfo, Any]:
        """Select, import and make a driver; return its description and it.

        *settings* may be a function of the chosen driver's description. Raises UsageError as
        `select` does, for whatever the plugin does wrong, and those of the driver itself.
        """
        info = self.select(kind, pinned, needs=needs)
        table = settings(info) if callable(settings) else settings
        try:
            driver_type = self.load_target(kind, info)
            return info, shielded(lambda: _make(driver_type, table))
        except PluginFault as fault:
            if isinstance(fault.__cause__, UsageError):
                raise fault.__cause__ from None
            plugin = self.owner(kind, info.name)
            self._report(plugin, self._dists[plugin], Stage.CREATE, fault)
            raise UsageError(
                f"the {kind} driver {info.name} of {self._dists[plugin]} is broken: {fault}; "
                f"update or uninstall it, or choose another driver with "
                f"{_how_to_pin(kind, 'NAME')}"
            ) from fault

    def load_target(self, kind: Kind, info: DriverInfo) -> type:
        """Import a driver's class. Raises PluginFault if that cannot be done or it is no such."""
        module_name, _, class_name = info.target.partition(":")
        module = shielded(lambda: importlib.import_module(module_name))
        target = shielded(lambda: getattr(module, class_name))
        base = ABCS[kind]
        if not (isinstance(target, type) and issubclass(target, base)):
            raise PluginFault(f"{info.target} is not a subclass of {base.__name__}")
        if missing := getattr(target, "__abstractmethods__", None):
            raise PluginFault(f"{info.target} does not implement {', '.join(sorted(missing))}")
        return target

    # Observers

    def notify(self, hook: str, **arguments: object) -> None:
        """Tell every plugin that has *hook*; one that raises is counted and stops nothing.

        Its first failure is also reported. Never to be called per packet.
        """
        for implementation in getattr(self._plugins.hook, hook).get_hookimpls():
            wanted = {name: arguments[name] for name in implementation.argnames}
            try:
                shielded(lambda: implementation.function(**wanted))  # noqa: B023 (called at once)
            except PluginFault as fault:
                name = implementation.plugin_name
                self.observer_failures[name] += 1
                if self.observer_failures[name] == 1:
                    fault = PluginFault(f"{hook}: {fault}", fault.details)
                    self._report(name, self._dists[name], Stage.OBSERVE, fault)

    # Checks

    def _register(self, plugin: object, name: str) -> None:
        if name in self._dists:
            raise PluginFault(f"{self._dists[name]} has a plugin called {name} already")
        try:
            registered = self._plugins.register(plugin, name=name)
        except pluggy.PluginValidationError as error:
            # The last of its lines says what is wrong, those before only where.
            raise PluginFault("; ".join(str(error).splitlines())) from error
        if registered is None:
            raise PluginFault("the entry point leads to None")
        callers = self._plugins.get_hookcallers(plugin) or []
        if not callers:
            raise PluginFault("it implements no hook: is @hookimpl missing?")
        for caller in callers:
            for implementation in caller.get_hookimpls():
                if implementation.plugin is plugin:
                    _check_implementation(caller, implementation)
        self._plugins.check_pending()

    def _unregister(self, plugin: object, name: str) -> None:
        if self._plugins.get_plugin(name) is plugin and plugin is not None:
            self._plugins.unregister(name=name)

    def _describe(self, plugin: object) -> list[tuple[Kind, DriverInfo]]:
        """Ask *plugin* alone for its drivers. Raises PluginFault for any that is not as it must."""
        described: list[tuple[Kind, DriverInfo]] = []
        for kind in Kind:
            for implementation in getattr(self._plugins.hook, _hook_of(kind)).get_hookimpls():
                if implementation.plugin is plugin:
                    answer = implementation.function()
                    infos = answer if isinstance(answer, list) else [answer]
                    described += [(kind, _checked(kind, info)) for info in infos]
        self._check_names(described)
        return described

    def _check_names(self, described: Iterable[tuple[Kind, DriverInfo]]) -> None:
        seen: set[tuple[Kind, str]] = set()
        for kind, info in described:
            key = kind, info.name
            if key in self._owners:
                other = self._owners[key]
                raise PluginFault(
                    f"a {kind} driver called {info.name} is there already, "
                    f"from {other} ({self._dists[other]})"
                )
            if key in seen:
                raise PluginFault(f"it describes two {kind} drivers called {info.name}")
            seen.add(key)

    def _select_pinned(self, kind: Kind, name: str, needs: frozenset[str]) -> DriverInfo:
        """Look at this one alone: what is wrong with the others is of no interest."""
        for info in self.drivers[kind]:
            if info.name == name:
                if objection := self._objection(kind, info, needs):
                    raise Unavailable(f"the {kind} driver {name} cannot be used here: {objection}")
                return info
        names = sorted(info.name for info in self.drivers[kind])
        raise UsageError(
            f"there is no {kind} driver {name}{_did_you_mean(name, names)} "
            f"(installed: {', '.join(names) or 'none'})"
        )

    def _objection(self, kind: Kind, info: DriverInfo, needs: frozenset[str]) -> str:
        """Say why *info* cannot be used here, or return an empty string."""
        if info.api[0] != API_VERSION[0] or info.api > API_VERSION:
            spoken, known = ("{}.{}".format(*v) for v in (info.api, API_VERSION))
            return f"written for plugin API {spoken}, this kernel has {known}"
        if info.platforms and self._platform not in info.platforms:
            return f"runs on {', '.join(sorted(info.platforms))} only, this is {self._platform}"
        if missing := needs - info.capabilities:
            return f"cannot do {', '.join(sorted(missing))}"
        key = kind, info.name
        if key not in self._probed:
            self._probed[key] = _probe(info)
        return self._probed[key]

    def _report(self, name: str, dist: str, stage: Stage, fault: PluginFault) -> None:
        self.reports.append(Report(name, dist, stage, str(fault), fault.details))


def _check_implementation(caller: pluggy.HookCaller, implementation: pluggy.HookImpl) -> None:
    name = caller.name
    # An optional hook may be one of a newer kernel: on this one nobody calls it.
    if not caller.has_spec() and not implementation.optionalhook:
        raise PluginFault(f"there is no hook {name}{_did_you_mean(name, HOOKS)}")
    if implementation.wrapper or implementation.hookwrapper:
        raise PluginFault(f"{name} wraps other plugins: drivers are their own")
    if inspect.iscoroutinefunction(implementation.function):
        raise PluginFault(f"{name} is async: hooks are plain functions")


def _hook_of(kind: Kind) -> str:
    return f"conflux_{kind}_driver"


def _make(driver_type: type, settings: Settings) -> Any:
    return driver_type(settings)


def _checked(kind: Kind, info: object) -> DriverInfo:
    """Return *info* if it can be trusted from here on; dataclasses check no types."""
    if inspect.iscoroutine(info):
        info.close()
    if not isinstance(info, DriverInfo):
        raise PluginFault(f"{_hook_of(kind)} returned {type(info).__name__}, not DriverInfo")
    for field, is_right, rule in (
        ("name", _is_text(info.name, _NAME), "lower-case letters, digits, - and _"),
        ("target", _is_text(info.target, _TARGET), "'package.module:Class'"),
        ("api", _is_version(info.api), "(major, minor)"),
        ("platforms", _is_set_of_text(info.platforms), "a frozenset of sys.platform values"),
        ("capabilities", _is_set_of_text(info.capabilities), "a frozenset of strings"),
        ("priority", type(info.priority) is int and 0 <= info.priority <= 99, "0 to 99"),
        ("probe", info.probe is None or callable(info.probe), "a function or None"),
    ):
        if not is_right:
            value = getattr(info, field)
            raise PluginFault(f"{_hook_of(kind)}: {field} must be {rule}, not {value!r:.80}")
    return info


def _is_text(value: object, pattern: re.Pattern[str]) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _is_version(value: object) -> bool:
    return isinstance(value, tuple) and [type(part) for part in value] == [int, int]


def _is_set_of_text(value: object) -> bool:
    return isinstance(value, frozenset) and all(isinstance(member, str) for member in value)


def _probe(info: DriverInfo) -> str:
    """Return why the driver cannot run here, or an empty string.

    On a thread of its own: a probe that hangs would hang the node. Nothing can end that thread,
    so it is a daemon, which does not keep the process alive.
    """
    if info.probe is None:
        return ""
    answers: list[str] = []
    thread = threading.Thread(
        target=lambda: answers.append(_run_probe(info)), name=f"probe {info.name}", daemon=True
    )
    thread.start()
    thread.join(PROBE_DEADLINE_S)
    return answers[0] if answers else f"its probe did not return within {PROBE_DEADLINE_S:g} s"


def _run_probe(info: DriverInfo) -> str:
    if info.probe is None:
        return ""
    try:
        shielded(info.probe)
    except PluginFault as fault:
        if isinstance(fault.__cause__, UsageError):
            return str(fault.__cause__) or "it is unavailable and does not say why"
        return f"its probe failed: {fault}"
    except KeyboardInterrupt:
        # Off the main thread nobody pressed Ctrl-C: the probe raised it by itself.
        return "its probe failed: KeyboardInterrupt"
    return ""


def _nothing_usable(kind: Kind, candidates: list[Candidate]) -> str:
    if not candidates:
        return f"no {kind} driver is installed: install a plugin conflux-plugin-{kind}-..."
    reasons = "; ".join(f"{c.info.name}: {c.objection}" for c in candidates)
    return f"no {kind} driver can be used here ({reasons})"


def _how_to_pin(kind: Kind, name: str) -> str:
    return f"VEILNET_PLUGIN_{kind.upper()}={name}"


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f": did you mean {near[0]}?" if near else ""
