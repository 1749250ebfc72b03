"""What `status` says while Guardian and the Master are down, come and go."""

from __future__ import annotations

import socket


def troubles(machine):
    """The problems with servers; what is amiss with the machine that runs the test is not ours."""
    return [p for p in machine.status()["problems"] if "netcheck" in p["do"]]


def test_status_is_true_while_guardian_is_down_and_comes_and_goes(machine, mortal, until):
    guardian = mortal()
    with machine.node("run", state="waiting for Guardian"):
        table = machine.status()
        advice = "check the address and that it runs"
        what = f"Guardian at {guardian.url} does not answer"
        assert table["waiting"] == f"{what}: {advice}"
        do = f"{advice}; see `veilnet-conflux netcheck`"
        assert troubles(machine) == [{"what": what, "do": do}]
        assert what in machine.cli("status").out
        with guardian.up():
            until(lambda: machine.state() == "running")
            assert machine.status()["waiting"] == ""
            assert troubles(machine) == []
        until(lambda: troubles(machine))
        assert machine.state() == "running"
        [problem] = troubles(machine)
        assert problem["what"].startswith("the Master is gone: ")
        with guardian.up():
            until(lambda: not troubles(machine))
            assert machine.state() == "running"


def test_guardian_that_has_answered_is_no_longer_waited_for(machine, mortal, until):
    with socket.create_server(("127.0.0.1", 0)) as mute:
        guardian = mortal("--master", f"nats://127.0.0.1:{mute.getsockname()[1]}")
        with machine.node("run", state="waiting for Guardian"), guardian.up():
            until(lambda: machine.status()["address"])  # it is Guardian's answer
            assert machine.state() in ("starting", "waiting for the Master")
            until(lambda: machine.state() == "waiting for the Master")
            [problem] = troubles(machine)
            assert problem["what"].startswith("the Master at nats://")
