"""Affinity: two nodes may talk only if they share a team, and prove it without naming any.

A tag is a keyed proof over one Ask, so it tells strangers nothing and is of no use a second time.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence

from conflux.anchor.seal import Entropy
from conflux.wire.control import MAX_TEAM_TAGS, TEAM_TAG_BYTES, TEAM_TAGS_MULTIPLE
from conflux.wire.credentials import TeamKey


def team_tag(key: bytes, core_hash: bytes) -> bytes:
    """16 bytes that prove *key* for the Ask whose `core` has *core_hash*."""
    return hmac.digest(key, b"VeilNet/1 team tag\x00" + core_hash, "sha256")[:TEAM_TAG_BYTES]


def make_tags(teams: Sequence[TeamKey], core_hash: bytes, entropy: Entropy) -> list[bytes]:
    """Return one tag a team, padded with random ones and shuffled: the count tells little.

    Teams beyond MAX_TEAM_TAGS are left out, in the order given.
    """
    tags = [team_tag(team.key, core_hash) for team in teams[:MAX_TEAM_TAGS]]
    padded = max(1, -(-len(tags) // TEAM_TAGS_MULTIPLE)) * TEAM_TAGS_MULTIPLE
    tags += [entropy(TEAM_TAG_BYTES) for _ in range(padded - len(tags))]
    # Tags look random, so their own order is a shuffle that needs no more randomness.
    return sorted(tags)


def common_teams(
    teams: Sequence[TeamKey], core_hash: bytes, tags: Sequence[bytes]
) -> Mapping[bytes, TeamKey]:
    """Return the teams whose tags are among *tags*, by tag; empty means: stay silent."""
    offered = frozenset(tags)
    own = {team_tag(team.key, core_hash): team for team in teams}
    return {tag: team for tag, team in own.items() if tag in offered}


def team_salt(teams: Sequence[TeamKey]) -> bytes:
    """32 bytes that only holders of **all** *teams* can compute: the salt of every stream key."""
    keys = sorted(team.key for team in teams)
    return hashlib.sha256(b"VeilNet/1 teams\x00" + b"".join(keys)).digest()
