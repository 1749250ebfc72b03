"""Finds and imports the plugins of the entry-point group `conflux.plugins`, with stevedore.

stevedore has three habits that this module works around:

* it keeps a cache of entry points below the user's cache folder and reads it even when told not
  to write it: root, started with a user's HOME, would import what that user's file says. Hence
  the entry points come straight from the installed distributions, and no cache is touched;
* entry points from that cache have lost their distribution, which a report must name;
* it lets AssertionError and SystemExit of a plugin's import through.
"""

from __future__ import annotations

import importlib.metadata
import re
from dataclasses import dataclass
from typing import Any

from stevedore.extension import ExtensionManager

from conflux.registry.report import PluginFault, Report, Stage, shielded

GROUP = "conflux.plugins"


@dataclass(frozen=True, slots=True)
class Found:
    """An imported plugin that nobody has looked at yet."""

    plugin: object
    name: str
    dist: str


def discover() -> tuple[list[Found], list[Report]]:
    """Import every installed plugin; return those that could be, and why the rest could not.

    Ordered by distribution and name, so that the same machine gives the same answer. A plugin
    that never returns from its import cannot be stopped: importing is running its code.
    """
    entries, reports = _entries()
    extensions: ExtensionManager[Any] = _Extensions(entries, reports)
    found = [
        Found(extension.plugin, extension.name, _dist_of(extension.entry_point))
        for extension in extensions
    ]
    return found, reports


class _Entry(importlib.metadata.EntryPoint):
    """An entry point that remembers its distribution and whose failures are all ordinary ones."""

    dist_label: str

    def __init__(self, found: importlib.metadata.EntryPoint, dist_label: str) -> None:
        super().__init__(found.name, found.value, found.group)
        # Entry points are immutable; this is how the standard library itself adds to them.
        vars(self).update(dist_label=dist_label)

    def load(self) -> Any:
        if self.pattern.match(self.value) is None:
            raise PluginFault(f"entry point {self.value!r} is not 'module' or 'module:object'")
        return shielded(super().load)


class _Extensions(ExtensionManager[Any]):
    """stevedore's manager over entries that were found without its cache."""

    def __init__(self, entries: list[_Entry], reports: list[Report]) -> None:
        self._entries = entries
        self._reports = reports
        super().__init__(GROUP, on_load_failure_callback=self._on_failure)

    def list_entry_points(self) -> list[importlib.metadata.EntryPoint]:
        return list(self._entries)

    def _on_failure(
        self, _: ExtensionManager[Any], entry: importlib.metadata.EntryPoint, error: BaseException
    ) -> None:
        details = error.details if isinstance(error, PluginFault) else ""
        self._reports.append(Report(entry.name, _dist_of(entry), Stage.IMPORT, str(error), details))


def _dist_of(entry: importlib.metadata.EntryPoint) -> str:
    return entry.dist_label if isinstance(entry, _Entry) else "?"


def _entries() -> tuple[list[_Entry], list[Report]]:
    """Read the group from every distribution; one with broken metadata hides no other."""
    entries: list[_Entry] = []
    reports: list[Report] = []
    seen: set[str] = set()
    for dist in importlib.metadata.distributions():
        try:
            found = shielded(lambda: list(dist.entry_points.select(group=GROUP)))  # noqa: B023 (called at once)
        except PluginFault as fault:
            label = _label(dist)
            reports.append(Report(label, label, Stage.DISCOVER, str(fault), fault.details))
            continue
        if not found:
            # Before its name is asked for: parsing everybody's metadata takes most of the time.
            continue
        label = _label(dist)
        name = re.sub(r"[-_.]+", "-", label.partition(" ")[0]).lower()
        if name not in seen:
            # Of two distributions with one name the first on the path is the one imported.
            seen.add(name)
            entries += [_Entry(entry, label) for entry in found]
    return sorted(entries, key=lambda entry: (entry.dist_label, entry.name)), reports


def _label(dist: importlib.metadata.Distribution) -> str:
    """Return "name version", or the folder's name where the metadata does not say."""
    try:
        name, version = shielded(lambda: (dist.metadata["Name"], dist.metadata["Version"]))
    except PluginFault:
        name, version = "", ""
    if name:
        return f"{name} {version or '?'}"
    return str(getattr(dist, "_path", "a distribution without a name"))
