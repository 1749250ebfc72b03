"""A conflux as a service of a real systemd, from `register` to nothing left."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from booted import ROOT, Machine, needs_systemd, sweep

pytestmark = pytest.mark.lab

UNITS = "/etc/systemd/system"
DROP_IN = "/etc/systemd/system/veilnet.service.d/test.conf"
DROP_IN_2 = "/etc/systemd/system/veilnet.service.d/watchdog.conf"


@pytest.fixture(scope="module")
def machines(overlay):
    """Two computers that systemd has booted."""
    needs_systemd()
    made = []
    try:
        overlay.start_guardian()
        for name in ("london", "tokyo"):
            made.append(Machine(overlay.internet.world, overlay.internet.host(name), name))
            made[-1].boot()
            if ROOT.is_relative_to("/tmp"):
                # The service has a /tmp of its own, and this program lies in the machine's.
                made[-1].write(DROP_IN, "[Service]\nPrivateTmp=no\n")
        yield made
    finally:
        for machine in made:
            machine.power_off()
        sweep(made)


@pytest.fixture
def register(overlay, machines):
    def register(machine, *words, check=True, user="alice"):
        url = f"http://{overlay.internet.address}:8000"
        return machine.cli(
            "register", "-g", url, *words, check=check,
            VEILNET_REGISTRATION_TOKEN=overlay.tokens[user],
        )  # fmt: skip

    return register


def running(machine) -> bool:
    return machine.status()["state"] == "running"


def pings(source, target: str) -> bool:
    return source.run("ping", "-c1", "-W2", target, check=False).returncode == 0


def show(machine, name: str) -> str:
    return machine.run("systemctl", "show", "veilnet", "--value", "-p", name).stdout.strip()


def journal(machine) -> str:
    return machine.run("journalctl", "-u", "veilnet", "-o", "cat", "--no-pager").stdout


def journal_of_systemd(machine) -> str:
    return machine.run("journalctl", "-u", "veilnet", "-o", "short", "--no-pager").stdout


def nothing_left(machine) -> bool:
    """Neither a unit nor a file, be it half of one."""
    kept = machine.run("find", "/root/.config/conflux", "-type", "f", check=False).stdout
    units = machine.run("find", UNITS, "-name", "*veilnet*", "-not", "-name", "*.d").stdout
    known = machine.run("systemctl", "list-unit-files", "veilnet*", "--no-legend", check=False)
    found = [kept, units, known.stdout] if show(machine, "LoadState") == "not-found" else ["it"]
    print(found)
    return "".join(found) == ""


def address(machine) -> str:
    return json.loads(machine.cli("info", "--json").stdout)["address"].partition("/")[0]


def test_service_lives_through_everything_and_leaves_nothing(machines, register, overlay):
    london, tokyo = machines
    before = london.files("/etc", "/var/lib", "/var/cache", "/run", "/root/.config")
    for machine in machines:
        said = register(machine, "--tag", machine.name)
        assert "the service runs (systemd)" in said.stdout
        assert running(machine), journal(machine)
        assert show(machine, "ActiveState") == "active"
        assert show(machine, "StatusText").startswith("running: 10.99.0.")
        assert "enabled" in machine.run("systemctl", "is-enabled", "veilnet").stdout
    assert "running: 10.99.0." in journal(london)
    assert "\x1b" not in journal(london)
    assert overlay.tokens["alice"] not in journal(london)
    assert "veilnet" in london.run("ip", "-br", "link").stdout
    there = address(tokyo)
    overlay.until(lambda: pings(london, there), "london to reach tokyo")

    process = show(london, "MainPID")
    london.run("kill", "-KILL", process)
    overlay.until(
        lambda: show(london, "MainPID") not in ("0", process) and running(london),
        "it to be back after SIGKILL",
    )
    overlay.until(lambda: pings(london, there), "london to reach tokyo again")

    # One that hangs is found by its heart: the watchdog ends it.
    london.write(DROP_IN_2, "[Service]\nWatchdogSec=8\nTimeoutAbortSec=1\n")
    london.run("systemctl", "daemon-reload")
    london.cli("restart")
    process = show(london, "MainPID")
    london.run("kill", "-STOP", process)
    overlay.until(
        lambda: show(london, "MainPID") not in ("0", process) and running(london),
        "it to be back after it hung",
    )
    assert "watchdog" in journal_of_systemd(london)
    london.run("rm", DROP_IN_2)
    london.run("rmdir", "--ignore-fail-on-non-empty", DROP_IN_2.rpartition("/")[0])
    london.run("systemctl", "daemon-reload")

    london.reboot()
    overlay.until(lambda: running(london), "it to be back after a reboot")
    overlay.until(lambda: pings(london, there), "london to reach tokyo after a reboot")

    london.cli("stop")
    assert show(london, "ActiveState") == "inactive"
    assert "the service is stopped" in london.cli("status", check=False).stderr
    london.cli("start")
    assert running(london)
    for machine in machines:
        assert machine.cli("unregister").stdout == f"unregistered {machine.name}\n"
        assert "veilnet" not in machine.run("ip", "-br", "link").stdout
        assert machine.cli("status", check=False).returncode == 2
    left = london.files("/etc", "/var/lib", "/var/cache", "/run", "/root/.config")
    assert [path for path in left if path not in before] == []
    assert london.run("find", "/root/.config/conflux", "-type", "f", check=False).stdout == ""


def test_failures_are_one_line_and_leave_no_service(machines, register, overlay):
    machine = machines[1]
    machine.run("ip", "tuntap", "add", "dev", "veilnet", "mode", "tun")
    try:
        refused = register(machine, "--tag", "busy", check=False)
        assert refused.returncode == 3
        assert "interface veilnet is in use" in refused.stderr
    finally:
        machine.run("ip", "link", "delete", "veilnet")
    bad = machine.cli(
        "register", "-t", "vnr_" + "A" * 86, "-g", f"http://{overlay.internet.address}:8000",
        check=False,
    )  # fmt: skip
    assert bad.returncode == 5
    nobody = machine.cli("register", "-t", "vnr_x", "-g", "http://127.0.0.1:1", check=False)
    assert nobody.returncode == 4
    for ended in (refused, bad, nobody):
        lines = [line for line in ended.stderr.splitlines() if "without TLS" not in line]
        assert len(lines) == 1, ended.stderr
    # No answer is no proof that Guardian made nothing: it is kept until somebody says otherwise.
    forgotten = machine.cli("unregister", "--force")
    assert "Guardian may know of the registration that was cut short" in forgotten.stderr
    assert nothing_left(machine)


@pytest.mark.parametrize(("options", "code", "line"), [
    ("size=4k", 2, f"{UNITS}/veilnet.service cannot be written: No space left on device"),
    ("ro", 3, f"{UNITS} cannot be written: make it writable; "),
])  # fmt: skip
def test_place_of_units_that_takes_none_is_named(machines, register, overlay, options, code, line):
    machine = machines[1]
    machine.run("mount", "-t", "tmpfs", "-o", options, "tmpfs", UNITS)
    try:
        machine.run("sh", "-c", f"echo full >{UNITS}/full", check=False)
        refused = register(machine, "--tag", "homeless", check=False)
        assert nothing_left(machine)
    finally:
        machine.run("umount", UNITS)
        machine.run("systemctl", "daemon-reload")
    said = [line for line in refused.stderr.splitlines() if "without TLS" not in line]
    assert [words.startswith(f"veilnet-conflux: {line}") for words in said] == [True], said
    assert refused.returncode == code
    with contextlib.closing(sqlite3.connect(overlay.data / "guardian.db")) as database:
        assert ("homeless",) not in database.execute("select tag from conflux").fetchall()


def test_register_that_is_killed_at_any_step_with_systemd_is_mended_by_the_next_verb(
    machines, overlay
):
    machine = machines[1]

    def killed(step: int, tag: str) -> list[str]:
        machine.run(
            sys.executable, ROOT / "tests/cli/killed_at.py", step, "/run/steps",
            f"/root/.config:{UNITS}", "register", "--tag", tag,
            "-g", f"http://{overlay.internet.address}:8000", check=step == 0,
            variables={"VEILNET_REGISTRATION_TOKEN": overlay.tokens["alice"]},
        )  # fmt: skip
        return machine.run("cat", "/run/steps").stdout.splitlines()

    steps = killed(0, "whole")
    assert machine.cli("unregister").returncode == 0
    ours = [n for n, step in enumerate(steps, 1) if "systemctl" in step or UNITS in step]
    assert len(ours) >= 5, steps
    for number in ours:
        for verbs in (["unregister"], ["start", "unregister"]):
            print(f"killed before {steps[number - 1]}, then {verbs}")
            assert len(killed(number, f"killed-{number}")) == number
            said = machine.cli("status", check=False)
            assert said.returncode == (0 if show(machine, "ActiveState") == "active" else 2)
            for verb in verbs:
                done = machine.cli(verb, check=False)
                assert done.returncode == 0, done.stderr
                assert running(machine) == (verb == "start")
            assert nothing_left(machine)


def test_driver_conforms(machines):
    machine = machines[1]
    done = machine.run(
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ROOT,
        ROOT / "plugins/service_systemd/tests/on_a_booted_systemd.py",
        check=False, variables={"PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": "/run"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout


def test_unit_is_sound_and_exposes_little(machines, register):
    machine = machines[1]
    register(machine, "--tag", "examined")
    try:
        path = "/etc/systemd/system/veilnet.service"
        verified = machine.run("systemd-analyze", "verify", path, check=False)
        assert (verified.returncode, verified.stderr.replace("\n", "")) == (0, "")
        judged = machine.run(
            "systemd-analyze", "security", "--threshold=40", "--no-pager", "veilnet", check=False
        )
        assert judged.returncode == 0, judged.stdout[-2000:]
        process = show(machine, "MainPID")
        status = machine.run("cat", f"/proc/{process}/status").stdout
        bounding = next(x for x in status.splitlines() if x.startswith("CapBnd")).split()[1]
        assert int(bounding, 16) == 1 << 12 | 1 << 13, "CAP_NET_ADMIN and CAP_NET_RAW"
        assert "NoNewPrivs:\t1" in status
    finally:
        machine.cli("unregister")
