"""One broken plugin never hides the others: real distributions, found on the import path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from conflux.api import Kind, UsageError
from conflux.registry import Registry, Report, Stage

Install = Callable[..., str]

GOOD = """
from conflux.api import DriverInfo, Router, hookimpl

class Good(Router):
    def __init__(self, settings):
        self.settings = settings

    def weigh(self, destination, paths, *, now):
        return [1.0] * len(paths)

@hookimpl
def conflux_router_driver():
    return DriverInfo(name="good", target="{module}:Good", api=(1, 0), priority=99)
"""

DESCRIBES = """
from conflux.api import DriverInfo, hookimpl

@hookimpl
def conflux_router_driver():
    return DriverInfo(name="bad", target="{target}", api=(1, 0), priority=99)
"""

HOOKIMPL = "from conflux.api import hookimpl\n@hookimpl"

BROKEN = {
    "import error": ("import no_such_module", Stage.IMPORT, "ModuleNotFoundError: No module named"),
    "syntax error": ("def broken(:", Stage.IMPORT, "SyntaxError: "),
    "exit": ("import sys; sys.exit(0)", Stage.IMPORT, "SystemExit: 0"),
    "assertion": ("assert False, 'never'", Stage.IMPORT, "AssertionError: never"),
    "own base exception": (
        "class Stop(BaseException): pass\nraise Stop('now')",
        Stage.IMPORT,
        "Stop: now",
    ),
    "exception that cannot be shown": (
        "class Mute(Exception):\n    def __str__(self): raise ValueError\nraise Mute",
        Stage.IMPORT,
        "Mute: <exception str() failed>",
    ),
    "no hook": ("def conflux_router_driver(): ...", Stage.REGISTER, "is @hookimpl missing?"),
    "misspelt hook": (
        HOOKIMPL + "\ndef conflux_ruter_driver(): ...",
        Stage.REGISTER,
        "there is no hook conflux_ruter_driver: did you mean conflux_router_driver?",
    ),
    "wrong signature": (
        HOOKIMPL + "\ndef conflux_router_driver(config): ...",
        Stage.REGISTER,
        "Argument(s) {'config'} are declared in the hookimpl but can not be found",
    ),
    "wrapper": (
        HOOKIMPL + "(wrapper=True)\ndef conflux_router_driver(): return (yield)",
        Stage.REGISTER,
        "wraps other plugins",
    ),
    "async hook": (
        HOOKIMPL + "\nasync def conflux_router_driver(): ...",
        Stage.REGISTER,
        "is async",
    ),
    "describe raises": (
        HOOKIMPL + "\ndef conflux_router_driver(): return 1 / 0",
        Stage.DESCRIBE,
        "ZeroDivisionError: division by zero",
    ),
    "describe exits": (
        HOOKIMPL + "\ndef conflux_router_driver(): raise SystemExit",
        Stage.DESCRIBE,
        "SystemExit",
    ),
    "describe returns nothing": (
        HOOKIMPL + "\ndef conflux_router_driver(): ...",
        Stage.DESCRIBE,
        "returned NoneType, not DriverInfo",
    ),
}


def load() -> Registry:
    registry = Registry()
    registry.load()
    return registry


def report(registry: Registry, name: str) -> Report:
    (found,) = [report for report in registry.reports if report.name == name]
    return found


@pytest.mark.parametrize(("source", "stage", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_broken_plugin_is_reported_and_the_rest_goes_on(
    install: Install, source: str, stage: Stage, reason: str
) -> None:
    install(source, name="a-broken")
    install(GOOD, name="the-good")
    registry = load()
    failed = report(registry, "a-broken")
    assert failed.stage is stage
    assert reason in failed.reason
    assert "\n" not in failed.reason
    assert failed.dist == "conflux-plugin-a-broken 1.0"
    assert report(registry, "the-good").stage is Stage.OK
    assert registry.select(Kind.ROUTER).name == "good"
    assert registry.drivers_of("a-broken") == []


def test_ctrl_c_during_an_import_is_no_fault_of_the_plugin(install: Install) -> None:
    install("raise KeyboardInterrupt", name="interrupted")
    with pytest.raises(KeyboardInterrupt):
        load()


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("not a module!", "is not 'module' or 'module:object'"),
        ("{module}:missing", "has no attribute 'missing'"),
        ("no_such_module", "ModuleNotFoundError"),
    ],
)
def test_entry_point_that_leads_nowhere_is_an_import_failure(
    install: Install, entry: str, reason: str
) -> None:
    install(GOOD, name="lost", entry=entry)
    failed = report(load(), "lost")
    assert failed.stage is Stage.IMPORT
    assert reason in failed.reason


def test_entry_point_that_leads_to_none_is_reported(install: Install) -> None:
    install("nothing = None", name="none", entry="{module}:nothing")
    assert report(load(), "none").reason == "the entry point leads to None"


def test_unreadable_metadata_hides_no_other_plugin(install: Install, tmp_path: Path) -> None:
    install(GOOD, name="the-good")
    damaged = tmp_path / "damaged-1.0.dist-info"
    damaged.mkdir()
    (damaged / "METADATA").write_text("Metadata-Version: 2.1\nName: damaged\nVersion: 1.0\n")
    (damaged / "entry_points.txt").write_bytes(b"[conflux.plugins]\nx = \xff\xfe\n")
    registry = load()
    assert report(registry, "damaged 1.0").stage is Stage.DISCOVER
    assert registry.select(Kind.ROUTER).name == "good"


def test_two_plugins_of_one_name_are_told_apart_by_their_distribution(install: Install) -> None:
    install(GOOD, name="twin", dist="conflux-plugin-first")
    install(GOOD, name="twin", dist="conflux-plugin-second")
    registry = load()
    first, second = [report for report in registry.reports if report.name == "twin"]
    assert (first.dist, first.stage) == ("conflux-plugin-first 1.0", Stage.OK)
    assert (second.dist, second.stage) == ("conflux-plugin-second 1.0", Stage.REGISTER)
    assert second.reason == "conflux-plugin-first 1.0 has a plugin called twin already"
    assert registry.select(Kind.ROUTER).name == "good"


def test_two_drivers_of_one_name_leave_the_first(install: Install) -> None:
    install(GOOD, name="a-first")
    install(GOOD, name="b-second")
    registry = load()
    second = report(registry, "b-second")
    assert second.stage is Stage.DESCRIBE
    assert second.reason == (
        "a router driver called good is there already, from a-first (conflux-plugin-a-first 1.0)"
    )
    assert registry.owner(Kind.ROUTER, "good") == "a-first"


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("no_such_module:Router", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("{module}:Missing", "has no attribute 'Missing'"),
        ("{module}:NotARouter", "is not a subclass of Router"),
        ("{module}:HalfARouter", "does not implement weigh"),
        ("{module}:Raises", "ValueError: not today"),
        ("{module}:Exits", "SystemExit: 3"),
        ("{module}:TakesNothing", "TypeError: "),
    ],
)
def test_driver_that_cannot_be_made_is_one_clear_line(
    install: Install, target: str, reason: str
) -> None:
    classes = """
from conflux.api import Router

class NotARouter: ...

class HalfARouter(Router):
    def __init__(self, settings): ...

class Whole(Router):
    def weigh(self, destination, paths, *, now): return [1.0] * len(paths)

class Raises(Whole):
    def __init__(self, settings): raise ValueError("not today")

class Exits(Whole):
    def __init__(self, settings): raise SystemExit(3)

class TakesNothing(Whole):
    def __init__(self): ...
"""
    install(DESCRIBES.replace("{target}", target) + classes, name="bad")
    registry = load()
    with pytest.raises(UsageError) as caught:
        registry.create(Kind.ROUTER, {}, "bad")
    assert reason in str(caught.value)
    assert "conflux-plugin-bad 1.0" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [r.stage for r in registry.reports if r.name == "bad"] == [Stage.OK, Stage.CREATE]


def test_usage_errors_of_a_driver_reach_the_user_as_they_are(install: Install) -> None:
    install(
        DESCRIBES.replace("{target}", "{module}:Picky")
        + "from conflux.api import Router, UsageError\n"
        "class Picky(Router):\n"
        "    def __init__(self, settings): raise UsageError('set plugin.router.bad.x')\n"
        "    def weigh(self, destination, paths, *, now): ...\n",
        name="bad",
    )
    with pytest.raises(UsageError, match=r"^set plugin\.router\.bad\.x$"):
        load().create(Kind.ROUTER, {}, "bad")


def test_created_driver_gets_its_settings(install: Install) -> None:
    install(GOOD, name="the-good")
    info, driver = load().create(Kind.ROUTER, lambda info: {"name": info.name}, "good")
    assert info.name == "good"
    assert driver.settings == {"name": "good"}


def test_discovery_reads_and_writes_no_cache_of_the_user(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setenv("HOME", str(tmp_path))
    install(GOOD, name="the-good")
    assert report(load(), "the-good").stage is Stage.OK
    assert not cache.exists()
    assert not (tmp_path / ".cache").exists()


def test_of_two_versions_the_first_on_the_path_counts(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(GOOD, name="the-good")
    front = tmp_path / "front"
    older = front / "Conflux.Plugin_the_good-0.5.dist-info"
    older.mkdir(parents=True)
    (older / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: Conflux.Plugin_the_good\nVersion: 0.5\n"
    )
    (older / "entry_points.txt").write_text("[conflux.plugins]\nthe-good = no_such_module\n")
    monkeypatch.syspath_prepend(str(front))
    found = report(load(), "the-good")
    assert (found.dist, found.stage) == ("Conflux.Plugin_the_good 0.5", Stage.IMPORT)
