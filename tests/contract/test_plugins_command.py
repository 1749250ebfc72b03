"""`veilnet-conflux plugins list` shows every plugin and driver, and fails if one of them did."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from conflux.cli.plugins import plugins

Install = Callable[..., str]

ROUTER = """
from conflux.api import DriverInfo, Unavailable, hookimpl

def no_luck():
    raise Unavailable("needs the moon")

@hookimpl
def conflux_router_driver():
    return [
        DriverInfo(name="one", target="x:Y", api=(1, 0), priority=98),
        DriverInfo(name="two", target="x:Y", api=(1, 0), priority=99, probe=no_luck),
    ]
"""


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in ("VEILNET_PLUGIN_ROUTER", "VEILNET_PLUGIN_TUN", "VEILNET_PLUGIN_TETHER"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("VEILNET_CONFIG_DIR", str(tmp_path))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(plugins, ["list", *arguments], catch_exceptions=False)


def survey(*arguments: str) -> tuple[int, dict[str, Any]]:
    result = run("--json", *arguments)
    return result.exit_code, json.loads(result.stdout)


def test_every_driver_is_listed_with_why_it_is_used_or_not(install: Install) -> None:
    install(ROUTER, name="pair")
    code, told = survey()
    assert code == 0
    assert {p["name"]: p["stage"] for p in told["plugins"]}["pair"] == "ok"
    drivers = {d["name"]: d for d in told["drivers"] if d["kind"] == "router"}
    assert drivers["one"]["chosen"]
    assert drivers["one"]["usable"]
    assert not drivers["two"]["chosen"]
    assert drivers["two"]["reason"] == "needs the moon"
    assert told["kinds"]["router"] == {"chosen": "one", "pinned": "", "reason": ""}


def test_text_shows_the_same_for_people(install: Install) -> None:
    install(ROUTER, name="pair")
    result = run()
    assert result.exit_code == 0
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["pair", "ok", "conflux-plugin-pair", "1.0"] in rows
    assert ["router", "*", "one", "98", "pair", "usable"] in rows
    assert ["router", "two", "99", "pair", "needs", "the", "moon"] in rows


def test_broken_plugin_fails_the_command_and_hides_nothing(install: Install) -> None:
    install(ROUTER, name="pair")
    install("import no_such_module", name="broken")
    code, told = survey()
    assert code == 1
    (broken,) = [plugin for plugin in told["plugins"] if plugin["name"] == "broken"]
    assert broken == {
        "name": "broken",
        "dist": "conflux-plugin-broken 1.0",
        "stage": "import",
        "reason": "ModuleNotFoundError: No module named 'no_such_module'",
    }
    assert told["kinds"]["router"]["chosen"] == "one"
    assert "Traceback" not in run().stdout
    assert "Traceback" in run("--verbose").stdout


def test_pin_is_shown_where_it_works(install: Install, tmp_path: Path) -> None:
    install(ROUTER, name="pair")
    (tmp_path / "conflux.toml").write_text('[plugins]\nrouter = "static"\n')
    code, told = survey("--config-dir", str(tmp_path))
    assert (code, told["kinds"]["router"]["chosen"]) == (0, "static")
    assert "usable, pinned" in run().stdout


def test_pin_that_cannot_be_met_fails_the_command(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(ROUTER, name="pair")
    monkeypatch.setenv("VEILNET_PLUGIN_ROUTER", "two")
    code, told = survey()
    assert code == 1
    assert told["kinds"]["router"]["reason"] == (
        "the router driver two cannot be used here: needs the moon"
    )
    assert "! the router driver two cannot be used here: needs the moon" in run().stdout


TETHERS = """
from conflux.api import DriverInfo, hookimpl

@hookimpl
def conflux_tether_driver():
    return [
        DriverInfo(name="one", target="x:Y", api=(1, 0), priority=98),
        DriverInfo(name="two", target="x:Y", api=(1, 0), priority=99),
    ]
"""


def test_every_usable_tether_is_used_best_first(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(TETHERS, name="pair")
    code, told = survey()
    assert code == 0
    assert told["kinds"]["tether"]["chosen"].split(", ")[:2] == ["two", "one"]
    assert all(d["chosen"] for d in told["drivers"] if d["kind"] == "tether" and d["usable"])
    monkeypatch.setenv("VEILNET_PLUGIN_TETHER", "one")
    _, told = survey()
    assert told["kinds"]["tether"] == {"chosen": "one", "pinned": "one", "reason": ""}
    assert [d["name"] for d in told["drivers"] if d["kind"] == "tether" and d["chosen"]] == ["one"]
