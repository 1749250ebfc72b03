"""What is wrong with the configuration: file, variables, saved state, settings of plugins."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from conflux.api import Kind, UsageError
from conflux.config import SETTINGS, Config, TomlFile, survey
from conflux.config.load import did_you_mean
from conflux.config.settings import PIN_VARIABLE
from conflux.config.toml import FILE_NAME
from conflux.registry import Registry
from conflux.runtime import saved

VERB_VARIABLES = (
    "VEILNET_CONFIG_DIR",
    "VEILNET_CONFLUX_CIDR",
    "VEILNET_CONFLUX_TAG",
    "VEILNET_CONFLUX_TEAMS",
    "VEILNET_CONFLUX_TOKEN",
    "VEILNET_CONFLUX_TOKEN_FILE",
    "VEILNET_GUARDIAN",
    "VEILNET_PORTAL",
    "VEILNET_REGISTRATION_TOKEN",
    "VEILNET_REGISTRATION_TOKEN_FILE",
    "VEILNET_STUN",
    "VEILNET_WAIT",
)
"""Variables of verbs; those of SETTINGS and the pins of plugins come on top."""

FOLDER_MODE = 0o755
"""At most: nobody else may put files there."""
FILE_MODE = 0o600
SETTINGS_MODE = 0o644


def mistakes(config_dir: Path | None, environ: Mapping[str, str]) -> Sequence[str]:
    """Return one line for each, with what to do; none if all is in order."""
    config, faults = survey(config_dir, environ)
    found = [str(fault) for fault in faults]
    found += unknown_variables(environ)
    found += saved_state(config.config_dir)
    if not faults:
        found += plugin_settings(config)
    return found


def unknown_variables(environ: Mapping[str, str]) -> Iterator[str]:
    """Variables with our prefix that nothing reads: misspelt, as a rule."""
    known = [*VERB_VARIABLES, "VEILNET_NOTIFY", *(setting.variable for setting in SETTINGS)]
    for variable in sorted(environ):
        is_ours = variable.startswith("VEILNET_") and not variable.startswith(PIN_VARIABLE)
        if is_ours and variable not in known and not variable.startswith("VEILNET_TEST_"):
            near = did_you_mean(variable, known)
            yield f"unknown variable {variable}{near if 'mean' in near else ''}"


def saved_state(folder: Path) -> Iterator[str]:
    """Files that cannot be read, or that others can read."""
    for name in (saved.REGISTERED, saved.UP):
        try:
            saved.load(folder / name)
        except UsageError as error:
            yield str(error)
    yield from exposed(folder)


def exposed(folder: Path) -> Iterator[str]:
    """Files with secrets, and their folder, that others than their owner may enter."""
    if sys.platform == "win32":
        return  # the folder of a profile is its user's alone
    for path, most in (
        (folder, FOLDER_MODE),
        *((folder / name, FILE_MODE) for name in (saved.REGISTERED, saved.UP, saved.REGISTERING)),
        (folder / FILE_NAME, SETTINGS_MODE),
    ):
        try:
            mode = path.stat().st_mode & 0o777
        except OSError:
            continue
        if mode & ~most:
            yield f"{path} is open to others (mode {mode:04o}): run `chmod {most:o} {path}`"
        elif path.stat().st_uid not in (os.geteuid(), 0):
            yield f"{path} belongs to another user: give it to who runs the node with chown"


def plugin_settings(config: Config) -> Iterator[str]:
    """What drivers say about their tables, and tables that no driver reads."""
    registry = Registry()
    registry.load()
    file = TomlFile(config.config_dir / FILE_NAME)
    for kind, drivers in config.tables.items():
        known = [candidate.info.name for candidate in registry.candidates(kind)]
        for name in drivers:
            if name not in known:
                place = file.place("plugin", kind, name)
                yield f"{place}: no {kind} driver {name} is installed{did_you_mean(name, known)}"
                continue
            yield from _of_driver(registry, config, kind, name, file)
    for kind, names in config.pins.items():
        for name in names:
            try:
                registry.select(kind, name)
            except UsageError as error:
                yield f"{config.origins[f'plugins.{kind}'].place}: {error}"


def _of_driver(
    registry: Registry, config: Config, kind: Kind, name: str, file: TomlFile
) -> Iterator[str]:
    try:
        registry.create(kind, config.settings(kind, name), name)
    except UsageError as error:
        # The driver names its key and knows no lines: the place is ours to add.
        named = [
            key
            for key in config.settings(kind, name)
            if re.search(rf"\b{re.escape(key)}\b", str(error))
        ]
        yield f"{file.place('plugin', kind, name, *named[:1])}: {error}"
