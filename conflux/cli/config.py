"""`veilnet-conflux config`: what holds, and who said so."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from conflux.cli.options import DEFAULT_GUARDIAN, api_socket, config_dir_option, folder, json_option
from conflux.cli.plugins import columns

if TYPE_CHECKING:
    from conflux.config import Config

HIDDEN = "(hidden)"


@click.group()
def config() -> None:
    """Show and check what is configured."""


@config.command()
@config_dir_option
@json_option
def show(config_dir: Path | None, as_json: bool) -> None:
    """Show every setting, and where it comes from: flag, variable, file and line, or default.

    Tokens are hidden, and so is every text in the table of a plugin, which may be a secret.
    """
    from conflux.config import load_config

    source = click.get_current_context().get_parameter_source("config_dir")
    typed = config_dir if source is click.core.ParameterSource.COMMANDLINE else None
    found = list(lines(load_config(typed, os.environ), config_dir))
    if as_json:
        click.echo(json.dumps([asdict(line) for line in found], indent=2))
        return
    rows = ((line.key, _shown(line.value), line.place or line.source) for line in found)
    click.echo("\n".join(columns(("SETTING", "VALUE", "FROM"), rows)))


@config.command()
@config_dir_option
def check(config_dir: Path | None) -> None:
    """Check all of it, the plugins' own settings too; one line for each mistake.

    Exits with 0 if a node would take it, with 2 if not.
    """
    from conflux.checks.configuration import mistakes

    found = mistakes(config_dir, os.environ)
    for line in found:
        click.echo(f"veilnet-conflux: {line}", err=True)
    if found:
        click.get_current_context().exit(2)
    click.echo(f"{folder(config_dir)} is in order")


@dataclass(frozen=True, slots=True)
class Line:
    """One setting. `source`: "flag", "variable", "file" or "default"; `place`: which one."""

    key: str
    value: object
    source: str
    place: str


def lines(config: Config, config_dir: Path | None) -> Iterator[Line]:
    """Every setting of this machine, secrets hidden, in the order of the reference."""
    where = _line(config, "config_dir", str(config.config_dir))
    yield where
    yield Line("api_socket", str(api_socket(config_dir)), where.source, where.place)
    yield from _membership(config.config_dir)
    yield from _settings(config)


def _membership(where: Path) -> Iterator[Line]:
    from conflux.runtime import saved

    path = where / saved.REGISTERED
    found = saved.load(path)
    if found is None:
        path = where / saved.UP
        found = saved.load(path)
    variables = {
        "guardian": ("VEILNET_GUARDIAN",),
        "conflux_token": ("VEILNET_CONFLUX_TOKEN_FILE", "VEILNET_CONFLUX_TOKEN"),
    }
    for key in saved.Membership.__dataclass_fields__:
        value = getattr(found, key, "")
        source, place = ("file", _place_in_json(path, key)) if value else ("default", "")
        for variable in variables.get(key, ()):
            if said := os.environ.get(variable):
                value, source, place = said, "variable", variable
                break
        if key == "guardian" and not value:
            value = DEFAULT_GUARDIAN
        if key == "conflux_token" and value:
            value = HIDDEN
        yield Line(key, _without_password(value), source, place)


def _settings(config: Config) -> Iterator[Line]:
    from conflux.api import Kind
    from conflux.config import SETTINGS

    for setting in SETTINGS:
        yield _line(config, setting.key, config.value(setting))
    for kind in Kind:
        yield _line(config, f"plugins.{kind}", ", ".join(config.pins.get(kind, ())))
    for kind, drivers in config.tables.items():
        for name, table in drivers.items():
            for key, value in table.items():
                shown = value if isinstance(value, int | float) else HIDDEN
                yield _line(config, f"plugin.{kind}.{name}.{key}", shown)


def _line(config: Config, key: str, value: object) -> Line:
    origin = config.origins.get(key)
    return Line(key, value, origin.source if origin else "default", origin.place if origin else "")


def _place_in_json(path: Path, key: str) -> str:
    """Line of *key* in a file that `saved` wrote, which gives each a line of its own."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if f'"{key}":' in line:
                return f"{path}:{number}"
    return str(path)


def _without_password(url: str) -> str:
    scheme, slashes, rest = url.partition("//")
    credentials, at, host = rest.rpartition("@")
    return f"{scheme}{slashes}{HIDDEN}@{host}" if at and credentials else url


def _shown(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
