"""Affinity: two nodes may talk only if they share a team, and prove it without naming any.

A tag is a keyed proof over one Ask, so it tells strangers nothing and is of no use a second time.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Mapping, Sequence

from conflux.anchor.seal import Entropy
from conflux.api import NodeId
from conflux.wire.control import MAX_TEAM_TAGS, TEAM_TAG_BYTES, TEAM_TAGS_MULTIPLE
from conflux.wire.credentials import TeamKey

MAX_STRANGERS = 256
STRANGER_S = 60.0
"""How long it is remembered that somebody asked in vain: longer than any pause between Asks."""


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


class Strangers:
    """Who asked and shares no team with this node: should Guardian give it one, they are asked back
    at once, instead of when they ask again. They get no answer, and learn nothing of this."""

    def __init__(self) -> None:
        self._asked: OrderedDict[NodeId, tuple[float, bytes, Sequence[bytes]]] = OrderedDict()

    def note(self, node: NodeId, core_hash: bytes, tags: Sequence[bytes], *, now: float) -> None:
        """*node* asked with *tags* over the Ask whose `core` has *core_hash*."""
        self._asked[node] = now, core_hash, tags
        self._asked.move_to_end(node)
        if len(self._asked) > MAX_STRANGERS:
            self._asked.popitem(last=False)

    def that_share(self, teams: Sequence[TeamKey], *, now: float) -> list[NodeId]:
        """Forget and return those who have proved one of *teams* lately."""
        self.drop_idle(now)
        found = [
            node
            for node, (_, core_hash, tags) in self._asked.items()
            if common_teams(teams, core_hash, tags)
        ]
        for node in found:
            del self._asked[node]
        return found

    def drop_idle(self, now: float) -> None:
        """Forget who asked long ago."""
        for node, (asked_at, _, _) in list(self._asked.items()):
            if now - asked_at > STRANGER_S:
                del self._asked[node]


def team_salt(teams: Sequence[TeamKey]) -> bytes:
    """32 bytes that only holders of **all** *teams* can compute: the salt of every stream key."""
    keys = sorted(team.key for team in teams)
    return hashlib.sha256(b"VeilNet/1 teams\x00" + b"".join(keys)).digest()
