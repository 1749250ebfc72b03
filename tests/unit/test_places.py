"""Who is served next, and who gives way, when more ask than there are places."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from conflux.anchor.places import Claim, Places

KNOWN, TEAM, STRANGER = Claim


def places(limit: int = 6, per_sender: int = 3) -> Places:
    return Places(limit=limit, per_sender=per_sender)


def take(places: Places, *asks: tuple[bytes, bytes, Claim]) -> list[bytes | None]:
    yielded = []
    for ref, sender, claim in asks:
        assert places.has_room(sender, claim), ref
        yielded.append(places.take(ref, sender, claim))
    return yielded


def served(places: Places) -> list[bytes]:
    return list(iter(places.next, None))


def test_known_senders_are_served_first_then_the_team_then_strangers():
    waiting = places()
    take(waiting, (b"s", b"1", STRANGER), (b"t", b"2", TEAM), (b"k", b"3", KNOWN))
    assert served(waiting) == [b"k", b"t", b"s"]


def test_senders_take_turns_however_much_one_of_them_asks():
    waiting = places()
    take(waiting, *((bytes([n]), b"greedy", TEAM) for n in range(3)), (b"once", b"honest", TEAM))
    assert served(waiting) == [b"\0", b"once", b"\1", b"\2"]


def test_a_sender_has_so_many_places_and_no_more():
    waiting = places(per_sender=2)
    take(waiting, (b"1", b"greedy", TEAM), (b"2", b"greedy", STRANGER))
    assert not waiting.has_room(b"greedy", TEAM)
    waiting.leave(b"1")
    assert waiting.has_room(b"greedy", TEAM)


def test_whoever_holds_two_more_gives_way_and_loses_what_he_had_first():
    waiting = places(limit=4)
    take(waiting, *((bytes([n]), b"greedy", TEAM) for n in range(3)), (b"one", b"other", TEAM))
    assert take(waiting, (b"new", b"honest", TEAM)) == [b"\0"]
    assert len(waiting) == 4
    assert served(waiting) == [b"one", b"new", b"\1", b"\2"]
    # With two each nobody holds two more than a newcomer who has one already.
    assert not waiting.has_room(b"honest", TEAM)


def test_nobody_gives_way_to_a_newcomer_where_all_hold_one():
    waiting = places(limit=4)
    take(waiting, *((bytes([n]), bytes([n]), TEAM) for n in range(4)))
    assert not waiting.has_room(b"honest", TEAM)
    assert not waiting.has_room(b"stranger", STRANGER)


def test_strangers_give_way_to_the_team_and_everybody_to_those_who_are_known():
    waiting = places(limit=2)
    take(waiting, (b"s", b"1", STRANGER), (b"t", b"2", TEAM))
    assert take(waiting, (b"u", b"3", TEAM)) == [b"s"]
    assert take(waiting, (b"k", b"4", KNOWN)) == [b"t"]
    assert take(waiting, (b"l", b"5", KNOWN)) == [b"u"]
    assert not waiting.has_room(b"6", KNOWN)
    assert not waiting.has_room(b"7", TEAM)


def test_whoever_was_served_keeps_his_place_until_he_leaves():
    waiting = places(limit=1)
    take(waiting, (b"t", b"1", TEAM))
    assert served(waiting) == [b"t"]
    assert not waiting.has_room(b"2", TEAM)
    waiting.leave(b"t")
    waiting.leave(b"t")
    assert waiting.has_room(b"2", TEAM)
    assert len(waiting) == 0


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from(Claim), st.sampled_from(["take", "leave"])),
        max_size=200,
    )
)
def test_limits_hold_and_one_that_holds_least_is_never_put_out(steps):
    waiting, held = places(limit=5, per_sender=3), {}
    for number, (sender, claim, what) in enumerate(steps):
        owner = bytes([sender])
        mine = [ref for ref, (whose, _) in held.items() if whose == owner]
        if what == "leave" and mine:
            waiting.leave(mine[0])
            del held[mine[0]]
        elif what == "take" and waiting.has_room(owner, claim):
            ref = number.to_bytes(2, "big")
            yielded = waiting.take(ref, owner, claim)
            if yielded is not None:
                whose, other = held.pop(yielded)
                theirs = sum(1 for w, c in held.values() if w == whose and c is other) + 1
                assert other > claim or theirs >= len(mine) + 2
            held[ref] = owner, claim
        assert len(waiting) == len(held) <= 5
        counts = [sum(1 for w, _ in held.values() if w == bytes([n])) for n in range(6)]
        assert max(counts) <= 3
