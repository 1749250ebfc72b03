"""The verbs around the system service, before a manager that starts and hears real nodes."""

from __future__ import annotations

import json

import pytest

NOBODY = "http://127.0.0.1:1"


@pytest.fixture
def machine(served):
    return served


@pytest.fixture
def register(machine, guardian):
    def register(*words, fate="good", **variables):
        return machine.cli(
            "register", "-t", guardian.tokens[fate], "-g", guardian.url, *words, **variables
        )

    return register


def unit(machine) -> dict:
    return json.loads((machine.manager / "unit").read_text())


def heard(machine) -> list[str]:
    return (machine.manager / "heard").read_text().splitlines()


def break_verb(machine, verb: str) -> None:
    machine.manager.mkdir(exist_ok=True)
    (machine.manager / "broken").write_text(verb)


def nothing_left(machine) -> bool:
    saved = {name for name in machine.snapshot() if name.startswith(("conflux", "up", "service"))}
    return not saved and not (machine.manager / "unit").exists() and machine.state() == "down"


def test_register_installs_and_starts_and_unregister_leaves_nothing(machine, guardian, register):
    ended = register("--tag", "served", VEILNET_MTU="1400")
    assert (ended.code, ended.lines) == (0, [])
    first, last = ended.out.splitlines()
    assert first.startswith("registered served as 10.99.0.")
    assert last == "the service runs (standin): see `veilnet-conflux status`"
    assert machine.state() == "running"
    token = machine.saved()["conflux_token"]
    assert token not in json.dumps(unit(machine))
    assert guardian.tokens["good"] not in json.dumps(unit(machine))
    assert unit(machine)["environment"]["VEILNET_MTU"] == "1400"
    assert unit(machine)["environment"]["VEILNET_CONFIG_DIR"] == str(machine.folder)
    words = heard(machine)
    assert words.count("READY=1") == 1
    assert words.index("WATCHDOG=1") < words.index("READY=1")
    assert any(w.startswith("STATUS=running: 10.99.0.") for w in words)

    table = json.loads(machine.cli("status", "--json").out)
    assert table["service"] == {"driver": "standin", "state": "running"}
    again = register("--tag", "second")
    again.refused(2, ".*registered: start it with `veilnet-conflux start`.*")
    assert machine.state() == "running"

    assert machine.cli("stop").out == "stopped\n"
    assert machine.state() == "down"
    machine.cli("status").refused(2, ".*the service is stopped: .*veilnet-conflux start.*")
    assert machine.cli("start").code == 0
    assert machine.state() == "running"
    assert machine.cli("restart").code == 0
    assert machine.state() == "running"
    assert machine.cli("remove").out == "the service is removed\n"
    assert machine.state() == "down"
    assert machine.saved()["tag"] == "served"
    assert machine.cli("start").code == 0, "it is installed again"
    assert machine.state() == "running"

    ended = machine.cli("unregister")
    assert (ended.code, ended.out) == (0, "unregistered served\n")
    assert nothing_left(machine)
    assert "served" not in guardian.known()


@pytest.mark.parametrize("fate", ["revoked", "expired"])
def test_refused_registration_leaves_the_service_that_runs(machine, guardian, register, fate):
    token = guardian.conflux_token(f"before-{fate}")
    assert machine.cli("up", "-t", token, "-g", guardian.url).code == 0
    before = unit(machine)
    register(fate=fate).refused(5, f".*{fate}.*")
    assert machine.state() == "running"
    assert unit(machine) == before
    assert machine.cli("down").code == 0
    assert nothing_left(machine)


@pytest.mark.parametrize("verb", ["check", "install", "start"])
def test_failure_half_way_gives_everything_back(machine, guardian, register, verb):
    break_verb(machine, verb)
    ended = register("--tag", f"half-{verb}")
    assert ended.code == 2
    assert ended.lines == [f"veilnet-conflux: the manager refuses to {verb}"]
    assert nothing_left(machine)
    assert f"half-{verb}" not in guardian.known()


def test_service_that_does_not_come_up_says_why_and_is_given_back(machine, guardian, register):
    ended = register("--tag", "deaf", VEILNET_PLUGIN_SERVICE="standin", VEILNET_PLUGIN_CRYPTO="")
    assert ended.code == 0
    machine.cli("stop")
    machine.save("conflux.json", **{**machine.saved(), "conflux_token": "nonsense"})
    line = (
        "the service did not come up: the conflux token is not whole: copy it again, in one piece"
    )
    machine.cli("start").refused(2, line)
    machine.cli("status").refused(2, ".*the service is failed.*")


def test_register_takes_over_from_up(machine, guardian, register):
    token = guardian.conflux_token("temporary")
    ended = machine.cli("up", VEILNET_CONFLUX_TOKEN=token, VEILNET_GUARDIAN=guardian.url)
    assert (ended.code, ended.out) == (
        0,
        "the service runs (standin): see `veilnet-conflux status`\n",
    )
    assert machine.saved("up.json")["conflux_token"] == token
    assert token not in json.dumps(unit(machine))
    assert register("--tag", "lasting").code == 0
    assert json.loads(machine.cli("info", "--json").out)["tag"] == "lasting"
    assert "up.json" not in machine.snapshot()
    machine.cli("down").refused(2, "this conflux was registered, not brought up.*")
    line = "this machine is registered: `veilnet-conflux unregister` first.*"
    machine.cli("up", "-t", token, "-g", guardian.url).refused(2, line)
    assert machine.state() == "running"
    assert machine.cli("unregister").code == 0
    assert nothing_left(machine)


def test_up_that_fails_leaves_the_former_token_and_service(machine, guardian):
    token = guardian.conflux_token("former")
    assert machine.cli("up", "-t", token, "-g", guardian.url).code == 0
    gone = guardian.conflux_token("gone", gone=True)
    ended = machine.cli("up", "-t", gone, "-g", guardian.url)
    ended.refused(2, "the service did not come up: .+")
    assert machine.saved("up.json")["conflux_token"] == token
    assert machine.state() == "running"
    assert machine.cli("down").out == "down\n"
    assert nothing_left(machine)


def test_guardian_that_is_down_keeps_the_file_unless_forced(machine, guardian):
    machine.save(
        "conflux.json", guardian=NOBODY, conflux_token=machine.token_of_nobody(), tag="stray"
    )
    ended = machine.cli("start")
    assert ended.code == 0
    assert ended.lines == ["warning: the node is waiting for Guardian, and goes on by itself"]
    assert any(w.startswith("STATUS=waiting for Guardian: Guardian at") for w in heard(machine))
    line = rf".* does not answer.*; {machine.folder}/conflux.json was kept: .*--force.*"
    machine.cli("unregister").refused(4, line)
    assert machine.state() == "waiting for Guardian"
    ended = machine.cli("unregister", "--force")
    assert (ended.code, ended.out) == (0, "unregistered stray\n")
    assert "forgotten on this machine only" in ended.err
    assert nothing_left(machine)


def test_service_of_another_folder_is_left_alone(machine, guardian, register):
    assert register("--tag", "first").code == 0
    other = machine.home / "other"
    token = guardian.conflux_token("other")
    other.mkdir(mode=0o700)
    (other / "conflux.json").write_text(
        json.dumps({"guardian": guardian.url, "conflux_token": token})
    )
    words = ["--config-dir", str(other)]
    for verb in ("start", "stop", "restart"):
        machine.cli(verb, *words).refused(2, "the service runs the node of another folder.*")
        assert machine.state() == "running"
    assert machine.cli("unregister", *words).code == 0
    assert machine.state() == "running"


def test_nothing_to_start_or_stop(machine):
    machine.cli("start").refused(2, "nothing is registered in .*")
    machine.cli("stop").refused(2, "there is no service to stop.*")
    machine.cli("restart").refused(2, "there is no service to restart: .*run it again")
    assert machine.cli("remove").code == 0
