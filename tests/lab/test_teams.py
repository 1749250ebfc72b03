"""Conflux of two users: silence without a common team, an answer with one, at once."""

from __future__ import annotations

import subprocess

import pytest

pytestmark = pytest.mark.lab

CONNECT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], 9), 2)
except OSError as error:
    print(type(error).__name__)
"""


@pytest.fixture(scope="module")
def strangers(overlay):
    """A conflux of alice and one of bob."""
    overlay.start_guardian()
    london, tokyo = overlay.conflux("london", "alice"), overlay.conflux("tokyo", "bob")
    london.ready()
    tokyo.ready()
    overlay.admin("team", "create", "friends", "--owner", "alice@example.org")
    return london, tokyo


def received_packets(conflux):
    """How many packets the system got from a conflux's interface."""
    table = conflux.host.run(["cat", "/proc/net/dev"]).stdout
    [line] = [line for line in table.splitlines() if line.strip().startswith("veilnet:")]
    return int(line.split()[2])


def connecting(source, target, python):
    return source.host.run([*python, CONNECT, target.address]).stdout.strip()


def test_strangers_get_not_one_answer(strangers, python):
    london, tokyo = strangers
    before = {conflux.name: received_packets(conflux) for conflux in strangers}
    pings = [
        source.host.popen(
            ["ping", "-n", "-c", "4", "-i", "0.5", "-W", "1", target.address],
            stdout=subprocess.PIPE,
        )
        for source, target in ((london, tokyo), (tokyo, london))
    ]
    assert connecting(london, tokyo, python) == "TimeoutError"
    assert connecting(tokyo, london, python) == "TimeoutError"
    for ping in pings:
        text, _ = ping.communicate(timeout=20)
        assert "4 packets transmitted, 0 received, 100% packet loss" in text
    after = {conflux.name: received_packets(conflux) for conflux in strangers}
    assert after == before, "something of a stranger reached an interface"
    for conflux in strangers:
        assert conflux.status()["peers"] == []
        assert conflux.status()["neighbours"] == []


def test_common_team_works_at_once_and_its_end_too(overlay, strangers, python):
    london, tokyo = strangers
    processes = [conflux.process.pid for conflux in strangers]
    assert not london.reaches(tokyo)
    for conflux in strangers:
        overlay.admin("team", "attach", "friends", conflux.name)
    overlay.until(lambda: london.reaches(tokyo), "the team to take effect", within_s=15)
    overlay.until(lambda: tokyo.reaches(london), "the team to take effect", within_s=15)
    assert connecting(london, tokyo, python) == "ConnectionRefusedError"
    [peer] = london.status()["peers"]
    assert peer["teams"] == ["friends"]

    overlay.admin("team", "detach", "friends", "tokyo")
    overlay.until(lambda: not london.reaches(tokyo), "the team's end to take effect", within_s=10)
    before = {conflux.name: received_packets(conflux) for conflux in strangers}
    assert not tokyo.ping(london, count=3, wait_s=1)
    assert connecting(london, tokyo, python) == "TimeoutError"
    assert {conflux.name: received_packets(conflux) for conflux in strangers} == before

    assert [conflux.process.pid for conflux in strangers] == processes, "nobody was restarted"
