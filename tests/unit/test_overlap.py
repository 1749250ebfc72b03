"""A plane must not swallow the way to Guardian or the Master."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from conflux.api import UsageError
from conflux.config import Config
from conflux.hardening import Hardening
from conflux.registry import Registry
from conflux.runtime.node import Launch, Node
from conflux.runtime.saved import Membership
from conflux.testing.simnet import SimNetwork


def check(tmp_path: Path, guardian: str, master: str) -> None:
    launch = Launch(
        config=Config(config_dir=tmp_path),
        membership=Membership(guardian=guardian, conflux_token="-"),
        api_socket=tmp_path / "api.sock",
        patience_s=0,
        hardening=Hardening(core_dumps=True, memory_locked=False, missing=()),
    )
    grant = SimNetwork(seed=1).add_node("one", teams=["ops"]).anchor.standing.grant
    grant = replace(grant, control=replace(grant.control, urls=[master]))
    Node(launch, Registry())._check_overlap(grant)


@pytest.mark.parametrize(
    ("guardian", "master"),
    [
        ("http://10.77.3.1:8000", "nats://192.0.2.1:4222"),
        ("https://guardian.example", "nats://10.77.3.1:4222"),
        ("http://[fd77::99]:8000", "nats://192.0.2.1:4222"),
    ],
)
def test_plane_that_covers_guardian_or_master_is_refused(tmp_path, guardian, master):
    with pytest.raises(UsageError, match="which this node needs"):
        check(tmp_path, guardian, master)


def test_names_and_other_ranges_are_fine(tmp_path):
    check(tmp_path, "https://guardian.example", "tls://master.example:4222")
    check(tmp_path, "http://192.168.1.10:8000", "nats://192.168.1.10:4222")
