"""A conflux token that was stolen: two nodes log in with it at the same time, with a real Guardian.

Each has keys and a certificate of its own; the one of the higher serial wins, with whom the other
one talked as well.
"""

from __future__ import annotations

import shutil
import sqlite3
import time

import pytest

from conflux.anchor.identity import node_id
from conflux.wire.credentials import Certificate

pytestmark = pytest.mark.lab


@pytest.fixture
def friends(overlay):
    """Two conflux of one user, and a host on which london's saved state was copied."""
    overlay.start_guardian()
    london, tokyo = overlay.conflux("london", "alice"), overlay.conflux("tokyo", "alice")
    london.ready()
    tokyo.ready()
    overlay.until(lambda: london.reaches(tokyo), "the two to meet")
    thief = overlay.host("thief")
    shutil.copytree(
        london.folder, thief.folder, ignore=lambda _, names: [n for n in names if "sock" in n]
    )
    return london, tokyo, thief


def winner_of(overlay, conflux_tag):
    """The NodeId, in hex, of the certificate with the highest serial."""
    with sqlite3.connect(f"file:{overlay.data / 'guardian.db'}?mode=ro", uri=True) as db:
        row = db.execute(
            "select encoded from certificates where conflux_id = (select id from conflux"
            " where tag = ?) order by serial desc limit 1",
            (conflux_tag,),
        ).fetchone()
    db.close()
    return node_id(Certificate.decode(row[0]).sign_public).hex()


def test_of_two_nodes_with_one_conflux_token_the_higher_serial_wins_and_the_other_is_cut_off(
    overlay, friends
):
    london, tokyo, thief = friends
    london.stop()
    for node in (london, thief):
        node.run()
    for node in (london, thief):
        node.ready()
    assert london.node_id != thief.node_id
    winner = winner_of(overlay, "london")
    first, second = (london, thief) if london.node_id == winner else (thief, london)
    assert first.node_id == winner
    overlay.until(lambda: first.reaches(tokyo), "the newer start to reach its friend")

    def is_cut_off():
        assert first.reaches(tokyo)
        return not any(second.reaches(tokyo) for _ in range(3))

    overlay.until(is_cut_off, "the older start to be cut off")
    ends = time.monotonic() + 5
    while time.monotonic() < ends:
        assert is_cut_off()
    assert [peer["node_id"] for peer in tokyo.status()["peers"]] == [winner]
