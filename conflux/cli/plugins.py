"""`veilnet-conflux plugins`: which plugins are here, which drivers they bring, what is chosen."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from conflux.cli.options import config_dir_option, json_option

if TYPE_CHECKING:
    from conflux.api import Kind
    from conflux.config import Config
    from conflux.registry import Registry


@click.group()
def plugins() -> None:
    """Show what is installed and what would be used."""


@plugins.command("list")
@click.option("-v", "--verbose", is_flag=True, help="Show the tracebacks of failed plugins.")
@config_dir_option
@json_option
@click.pass_context
def list_plugins(
    context: click.Context, *, as_json: bool, verbose: bool, config_dir: Path | None
) -> None:
    """List every plugin, and every driver of each kind with why it is used or not.

    Driver modules are not imported. Exits with 1 if a plugin failed or a pin cannot be met.
    """
    from conflux.config import load_config
    from conflux.registry import Registry

    config = load_config(config_dir, os.environ)
    registry = Registry()
    registry.load()
    survey = _survey(registry, config, verbose=verbose)
    click.echo(json.dumps(survey, indent=2) if as_json else _as_text(survey))
    failed = any(plugin["stage"] != "ok" for plugin in survey["plugins"])
    unmet = any(kind["pinned"] and not kind["chosen"] for kind in survey["kinds"].values())
    context.exit(1 if failed or unmet else 0)


def survey_of(config: Config) -> dict[str, Any]:
    """Return what `plugins list -v --json` shows."""
    from conflux.registry import Registry

    registry = Registry()
    registry.load()
    return _survey(registry, config, verbose=True)


def _survey(registry: Registry, config: Config, *, verbose: bool) -> dict[str, Any]:
    from conflux.api import API_VERSION, Kind

    kinds = {str(kind): _choice(registry, kind, config.pins.get(kind, ())) for kind in Kind}
    reports = sorted(registry.reports, key=lambda report: (report.name, report.dist))
    return {
        "api": "{}.{}".format(*API_VERSION),
        "plugins": [
            {
                "name": report.name,
                "dist": report.dist,
                "stage": str(report.stage),
                "reason": report.reason,
                **({"details": report.details} if verbose else {}),
            }
            for report in reports
        ],
        "kinds": kinds,
        "drivers": [
            {
                "kind": str(kind),
                "name": candidate.info.name,
                "plugin": candidate.plugin,
                "priority": candidate.info.priority,
                "capabilities": sorted(candidate.info.capabilities),
                "usable": not candidate.objection,
                "reason": candidate.objection,
                "chosen": candidate.info.name in kinds[str(kind)]["chosen"].split(", "),
            }
            for kind in Kind
            for candidate in registry.candidates(kind)
        ],
    }


def _choice(registry: Registry, kind: Kind, pinned: Sequence[str]) -> dict[str, str]:
    """What a node would use of *kind*, or why it could not choose. Of tethers it uses all."""
    from conflux.api import Kind, UsageError

    chosen, reason = "", ""
    try:
        if kind is Kind.TETHER:
            chosen = ", ".join(info.name for info in registry.select_all(kind, pinned))
        else:
            chosen = registry.select(kind, pinned[0] if pinned else None).name
    except UsageError as error:
        reason = str(error)
    return {"chosen": chosen, "pinned": ", ".join(pinned), "reason": reason}


def _as_text(survey: dict[str, Any]) -> str:
    lines = columns(
        ("PLUGIN", "STAGE", "DISTRIBUTION", "REASON"),
        ((p["name"], p["stage"], p["dist"], p["reason"]) for p in survey["plugins"]),
    )
    for plugin in survey["plugins"]:
        if plugin.get("details"):
            lines += ["", f"{plugin['name']}:", plugin["details"].rstrip()]
    lines += ["", *columns(("KIND", "", "DRIVER", "PRIORITY", "PLUGIN", ""), _rows(survey))]
    lines += ["", "* would be used by a node started now"]
    for choice in survey["kinds"].values():
        if choice["reason"]:
            lines.append(f"! {choice['reason']}")
    return "\n".join(lines)


def _rows(survey: dict[str, Any]) -> Iterable[tuple[str, ...]]:
    for driver in survey["drivers"]:
        pinned = driver["name"] in survey["kinds"][driver["kind"]]["pinned"].split(", ")
        verdict = driver["reason"] or ("usable, pinned" if pinned else "usable")
        mark = "*" if driver["chosen"] else ""
        yield (
            driver["kind"], mark, driver["name"], str(driver["priority"]), driver["plugin"], verdict
        )  # fmt: skip


def columns(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Columns as wide as their widest cell; the last one is free."""
    table = [head, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(head) - 1)]
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]])
        .rstrip()
        for row in table
    ]  # fmt: skip
