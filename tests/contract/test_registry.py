"""How the registry chooses, what it takes from a plugin, how observers are told."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from conflux.api import API_VERSION, DriverInfo, Kind, Unavailable, UsageError, hookimpl
from conflux.registry import Registry, Stage
from conflux.registry import registry as registry_module


def describing(*infos: object) -> object:
    class Plugin:
        @hookimpl
        def conflux_tun_driver(self) -> Any:
            return list(infos)

    return Plugin()


def driver(name: str, **fields: Any) -> DriverInfo:
    return DriverInfo(**{"name": name, "target": "x:Y", "api": (1, 0), **fields})


def unavailable(reason: str) -> Callable[[], None]:
    def probe() -> None:
        raise Unavailable(reason)

    return probe


@pytest.fixture
def registry() -> Registry:
    return Registry(platform="linux")


# Choice


def test_usable_driver_of_the_highest_priority_wins(registry: Registry) -> None:
    registry.add(
        describing(
            driver("low", priority=1),
            driver("high", priority=9),
            driver("elsewhere", priority=99, platforms=frozenset({"darwin"})),
            driver("broken", priority=98, probe=unavailable("no device")),
        ),
        name="plugin",
    )
    assert registry.select(Kind.TUN).name == "high"
    assert [c.info.name for c in registry.candidates(Kind.TUN)] == [
        "high", "low", "elsewhere", "broken",
    ]  # fmt: skip


def test_driver_behind_a_usable_one_is_not_probed(registry: Registry) -> None:
    probed = []
    registry.add(
        describing(
            driver("low", priority=1, probe=lambda: probed.append("low")),
            driver("high", priority=9, probe=lambda: probed.append("high")),
            driver("highest", priority=10, probe=unavailable("no device")),
        ),
        name="plugin",
    )
    assert registry.select(Kind.TUN).name == "high"
    assert probed == ["high"]  # the other may import a library that nobody needs then
    assert registry.candidates(Kind.TUN)[1].info.name == "low"
    assert probed == ["high", "low"]


def test_pinned_driver_wins_over_priority(registry: Registry) -> None:
    registry.add(describing(driver("low", priority=1), driver("high", priority=9)), name="plugin")
    assert registry.select(Kind.TUN, "low").name == "low"


def test_pinned_driver_that_cannot_run_is_an_error_not_a_fallback(registry: Registry) -> None:
    registry.add(
        describing(driver("works"), driver("mine", probe=unavailable("no device"))), name="plugin"
    )
    with pytest.raises(UsageError, match="the tun driver mine cannot be used here: no device"):
        registry.select(Kind.TUN, "mine")


def test_all_usable_drivers_are_given_best_first_or_the_pinned_ones_as_pinned(
    registry: Registry,
) -> None:
    registry.add(
        describing(
            driver("low", priority=1),
            driver("high", priority=9),
            driver("also-low", priority=1),
            driver("broken", priority=98, probe=unavailable("no device")),
        ),
        name="plugin",
    )
    assert [i.name for i in registry.select_all(Kind.TUN)] == ["high", "also-low", "low"]
    assert [i.name for i in registry.select_all(Kind.TUN, ["low", "high"])] == ["low", "high"]
    with pytest.raises(Unavailable, match="no device"):
        registry.select_all(Kind.TUN, ["low", "broken"])


def test_unknown_pin_says_what_is_installed(registry: Registry) -> None:
    registry.add(describing(driver("linux"), driver("other")), name="plugin")
    with pytest.raises(UsageError) as caught:
        registry.select(Kind.TUN, "linus")
    assert str(caught.value) == (
        "there is no tun driver linus: did you mean linux? (installed: linux, other)"
    )


def test_nothing_usable_lists_every_candidate_with_its_reason(registry: Registry) -> None:
    def explode() -> None:
        raise KeyError("x")

    registry.add(
        describing(
            driver("a", api=(2, 0)),
            driver("b", api=(1, 99)),
            driver("c", platforms=frozenset({"win32", "darwin"})),
            driver("d", probe=unavailable("needs CAP_NET_ADMIN")),
            driver("e", probe=explode),
            driver("f", capabilities=frozenset({"ipv6"}), probe=unavailable("never asked")),
        ),
        name="plugin",
    )
    with pytest.raises(UsageError) as caught:
        registry.select(Kind.TUN, needs=["offload", "ipv6"])
    reasons = str(caught.value)
    assert "\n" not in reasons
    known = "{}.{}".format(*API_VERSION)
    assert f"a: written for plugin API 2.0, this kernel has {known}" in reasons
    assert f"b: written for plugin API 1.99, this kernel has {known}" in reasons
    assert "c: runs on darwin, win32 only, this is linux" in reasons
    assert "f: cannot do offload" in reasons
    with pytest.raises(UsageError) as caught:
        registry.select(Kind.TUN)
    assert "d: needs CAP_NET_ADMIN" in str(caught.value)
    assert "e: its probe failed: KeyError: 'x'" in str(caught.value)


def test_nothing_installed_says_so(registry: Registry) -> None:
    with pytest.raises(UsageError, match="no tun driver is installed"):
        registry.select(Kind.TUN)


def test_tie_is_an_error_that_says_how_to_choose(registry: Registry) -> None:
    registry.add(describing(driver("a"), driver("b"), driver("c", priority=1)), name="plugin")
    with pytest.raises(UsageError) as caught:
        registry.select(Kind.TUN)
    assert str(caught.value) == (
        "the tun drivers a and b have the same priority: choose one with VEILNET_PLUGIN_TUN=a"
    )


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), AssertionError("x")])
def test_probe_may_raise_anything(registry: Registry, error: BaseException) -> None:
    def probe() -> None:
        raise error

    registry.add(describing(driver("odd", probe=probe), driver("even", priority=1)), name="plugin")
    assert registry.select(Kind.TUN).name == "even"


def test_probe_that_hangs_is_given_up(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "PROBE_DEADLINE_S", 0.05)
    release = threading.Event()

    def probe() -> None:
        release.wait()

    registry.add(describing(driver("slow", probe=probe), driver("fast", priority=1)), name="plugin")
    try:
        assert registry.select(Kind.TUN).name == "fast"
        (slow,) = [c for c in registry.candidates(Kind.TUN) if c.info.name == "slow"]
        assert slow.objection == "its probe did not return within 0.05 s"
    finally:
        release.set()


def test_probe_runs_once(registry: Registry) -> None:
    runs: list[int] = []
    registry.add(describing(driver("counted", probe=lambda: runs.append(1))), name="plugin")
    for _ in range(3):
        registry.select(Kind.TUN)
    assert runs == [1]


# What a plugin says


@pytest.mark.parametrize(
    ("info", "rule"),
    [
        (None, "returned NoneType"),
        ("linux", "returned str"),
        (driver(""), "name must be"),
        (driver("Upper Case"), "name must be"),
        (driver("a", target="module.without.class"), "target must be"),
        (driver("a", target=print), "target must be"),
        (driver("a", api=(1,)), "api must be"),
        (driver("a", api="1.0"), "api must be"),
        (driver("a", platforms="linux"), "platforms must be"),
        (driver("a", platforms=frozenset({1})), "platforms must be"),
        (driver("a", capabilities={"offload"}), "capabilities must be"),
        (driver("a", priority=100), "priority must be 0 to 99"),
        (driver("a", priority=True), "priority must be"),
        (driver("a", probe="no"), "probe must be"),
    ],
)
def test_garbage_description_drops_the_whole_plugin(
    registry: Registry, info: object, rule: str
) -> None:
    registry.add(describing(driver("good"), info), name="plugin")
    (report,) = registry.reports
    assert report.stage is Stage.DESCRIBE
    assert rule in report.reason
    assert registry.drivers[Kind.TUN] == []


def test_two_drivers_of_one_name_in_one_plugin_are_refused(registry: Registry) -> None:
    registry.add(describing(driver("a"), driver("a")), name="plugin")
    assert registry.reports[0].reason == "it describes two tun drivers called a"


def test_one_name_may_stand_for_drivers_of_two_kinds(registry: Registry) -> None:
    class Plugin:
        @hookimpl
        def conflux_tun_driver(self) -> DriverInfo:
            return driver("memory")

        @hookimpl
        def conflux_tether_driver(self) -> DriverInfo:
            return driver("memory")

    registry.add(Plugin(), name="plugin")
    assert registry.reports[0].stage is Stage.OK
    assert {kind for kind, _ in registry.drivers_of("plugin")} == {Kind.TUN, Kind.TETHER}


def test_failed_plugin_leaves_its_name_free(registry: Registry) -> None:
    registry.add(describing(None), name="plugin")
    registry.add(describing(driver("good")), name="plugin")
    assert [report.stage for report in registry.reports] == [Stage.DESCRIBE, Stage.OK]


def test_same_object_twice_is_refused_and_the_first_stays(registry: Registry) -> None:
    plugin = describing(driver("good"))
    registry.add(plugin, name="first")
    registry.add(plugin, name="second")
    assert [report.stage for report in registry.reports] == [Stage.OK, Stage.REGISTER]
    assert registry.select(Kind.TUN).name == "good"


def test_optional_hook_of_a_newer_kernel_is_fine(registry: Registry) -> None:
    class Plugin:
        @hookimpl
        def conflux_tun_driver(self) -> DriverInfo:
            return driver("memory")

        @hookimpl(optionalhook=True)
        def conflux_moon_driver(self) -> None: ...

    registry.add(Plugin(), name="plugin")
    assert registry.reports[0].stage is Stage.OK


# Observers


class Observer:
    def __init__(self) -> None:
        self.heard: list[str] = []

    @hookimpl
    def conflux_stream_closed(self, reason: str) -> None:
        """Takes a part of the hook's arguments, as pluggy allows."""
        self.heard.append(reason)


class FailingObserver:
    @hookimpl
    def conflux_stream_closed(self, peer: bytes, reason: str) -> None:
        raise SystemExit(reason)


def test_observer_that_raises_is_counted_and_the_others_are_told(registry: Registry) -> None:
    before, after = Observer(), Observer()
    registry.add(before, name="before")
    registry.add(FailingObserver(), name="failing")
    registry.add(after, name="after")
    for reason in ("idle", "gone"):
        registry.notify("conflux_stream_closed", peer=b"", reason=reason)
    assert before.heard == after.heard == ["idle", "gone"]
    assert registry.observer_failures == {"failing": 2}
    failures = [report for report in registry.reports if report.failed]
    assert [(r.name, r.stage, r.reason) for r in failures] == [
        ("failing", Stage.OBSERVE, "conflux_stream_closed: SystemExit: idle")
    ]


def test_observers_of_a_refused_plugin_are_never_told(registry: Registry) -> None:
    class Both(Observer):
        @hookimpl
        def conflux_tun_driver(self) -> None:
            """Describes nothing, which is wrong."""

    refused = Both()
    registry.add(refused, name="refused")
    registry.notify("conflux_stream_closed", peer=b"", reason="idle")
    assert refused.heard == []
