"""Places for Asks of others: whose turn is next, and who has to give way when all are taken.

    KNOWN      there are streams with the sender, or with the neighbour that brought it
    TEAM       it proves a common team
    STRANGER   it asks for a tether alone, as every member of the plane may

Each before the next; within one, first those whose senders had nothing else here. When all places
are taken, one of a lower claim gives way, else one of a sender who holds two more than the
newcomer: an honest node, which asks once, gets in among a thousand that ask all the time.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from dataclasses import dataclass

from conflux.anchor.limits import Shares


class Claim(enum.IntEnum):
    """What an Ask can say for itself before its certificate is verified."""

    KNOWN = 0
    TEAM = 1
    STRANGER = 2


@dataclass(frozen=True, slots=True)
class _Place:
    sender: bytes
    claim: Claim
    turn: int


class Places:
    """At most *limit* Asks, at most *per_sender* of one sender, each by its reference."""

    __slots__ = ("_by_ref", "_limit", "_per_sender", "_shares", "_turns")

    def __init__(self, *, limit: int, per_sender: int) -> None:
        self._limit = limit
        self._per_sender = per_sender
        self._by_ref: dict[bytes, _Place] = {}
        self._shares = {claim: Shares() for claim in Claim}
        self._turns: list[OrderedDict[bytes, None]] = [
            OrderedDict() for _ in range(len(Claim) * per_sender)
        ]

    def __len__(self) -> int:
        return len(self._by_ref)

    def has_room(self, sender: bytes, claim: Claim) -> bool:
        """Tell whether `take` would find a place."""
        held = self._held(sender)
        is_full = len(self._by_ref) >= self._limit
        return held < self._per_sender and not (is_full and self._yields(claim, held) is None)

    def take(self, ref: bytes, sender: bytes, claim: Claim) -> bytes | None:
        """Give an Ask a place and a turn; return who had to give way. `has_room` must hold."""
        held = self._held(sender)
        yields = self._yields(claim, held) if len(self._by_ref) >= self._limit else None
        if yields is not None:
            self.leave(yields)
        turn = claim * self._per_sender + held
        self._by_ref[ref] = _Place(sender, claim, turn)
        self._shares[claim].add(sender, ref)
        self._turns[turn][ref] = None
        return yields

    def leave(self, ref: bytes) -> None:
        """Free the place of an Ask. Twice is fine."""
        place = self._by_ref.pop(ref, None)
        if place is not None:
            self._shares[place.claim].remove(place.sender, ref)
            self._turns[place.turn].pop(ref, None)

    def next(self) -> bytes | None:
        """Take the turn of whoever is next; he keeps his place."""
        for turn in self._turns:
            if turn:
                ref, _ = turn.popitem(last=False)
                return ref
        return None

    def _held(self, sender: bytes) -> int:
        return sum(shares.of(sender) for shares in self._shares.values())

    def _yields(self, claim: Claim, held: int) -> bytes | None:
        for other in reversed(Claim):
            shares = self._shares[other]
            if shares.most >= (1 if other > claim else held + 2):
                return shares.greediest()[1]
            if other is claim:
                break
        return None
