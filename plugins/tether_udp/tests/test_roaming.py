"""Which addresses a tether takes: the best of several, new ones, none of a stranger's."""

from __future__ import annotations

NEAR, FAR = ("10.0.0.1", 4_000), ("10.0.0.2", 4_000)
VICTIM = ("203.0.113.9", 9)


def paths(pair):
    return pair.near.hop.path.remote, pair.far.hop.path.remote


def add_address(pair, end, address):
    end.addresses.append(address)
    pair.net.hosts[address] = end


def works(pair):
    """Whether messages get across both ways right now."""
    pair.near.messages.clear()
    pair.far.messages.clear()
    pair.near.post(b"there")
    pair.far.post(b"back")
    pair.net.run(0.5)
    return bool(pair.near.messages and pair.far.messages)


def test_only_one_of_many_addresses_works_and_is_found(make_pair):
    pair = make_pair()
    add_address(pair, pair.far, ("10.0.0.7", 4_000))
    add_address(pair, pair.far, ("10.0.0.8", 4_000))
    pair.net.passes = lambda source, target, data: target[0] in ("10.0.0.8", "10.0.0.1")
    # The far end answers from where it was asked.
    pair.connect().settle()
    assert pair.near.hop.path.remote == ("10.0.0.8", 4_000)
    assert works(pair)


def test_better_rank_replaces_what_answered_first(make_pair):
    pair = make_pair(delay_s=0.01)
    slow = ("10.0.0.7", 4_000)
    add_address(pair, pair.far, slow)
    pair.net.delay_s = 0.01
    pair.far.start(pair.near, is_offerer=False)
    pair.near.start(pair.far, is_offerer=True, candidates=[(FAR, 1), (slow, 0)])
    # The direct address answers only a while after the other one.
    began = pair.net.now
    pair.net.passes = lambda s, t, d: slow not in (s, t) or pair.net.now > began + 0.3
    pair.net.run(0.25)
    assert pair.near.hop.path.remote == FAR
    pair.net.run(2.0)
    assert pair.near.hop.path.remote == slow
    assert works(pair)
    assert str(pair.far.hop.path.local) == str(bytes([10, 0, 0, 7])), "the answerer follows"


def test_both_ends_settle_on_one_path_when_several_work(make_pair):
    pair = make_pair(seed=11)
    for end, host in ((pair.near, 21), (pair.near, 22), (pair.far, 31), (pair.far, 32)):
        add_address(pair, end, (f"10.0.0.{host}", 4_000))
    pair.net.jitter_s = 0.02
    pair.connect().settle(5)
    changes = []
    for _ in range(50):
        pair.near.post(b"x")
        pair.far.post(b"y")
        pair.net.run(0.1)
        changes.append((pair.near.hop.path, pair.far.hop.path))
    assert len(set(changes)) == 1, "nobody changes his mind any more"


def test_far_end_that_moves_is_followed_within_two_round_trips(pair):
    pair.settle()
    for mover, other, to in (
        (pair.far, pair.near, ("10.0.0.77", 5_000)),
        (pair.near, pair.far, ("10.0.0.78", 5_000)),
    ):
        mover.move(to)
        began = pair.net.now
        mover.post(b"I am here")
        pair.net.run(5, lambda: other.hop.path.remote == to)  # noqa: B023 (called at once)
        assert pair.net.now - began <= 0.031, "one way for the message, one round for the challenge"
        pair.settle(1)
        assert works(pair)


def test_nat_that_forgets_its_mapping_is_followed(make_pair):
    pair = make_pair()
    outside = [("198.51.100.1", 10_001)]
    inside = pair.near.source
    pair.net.translate = lambda source, target: outside[0] if source == inside else source
    pair.net.inside[outside[0]] = inside
    pair.far.start(pair.near, is_offerer=False, candidates=[(inside, 0)])
    pair.near.start(pair.far, is_offerer=True)
    pair.net.passes = lambda source, target, data: target != inside
    assert pair.net.run(2, lambda: pair.far.is_ready and pair.near.is_ready)
    assert pair.far.hop.path.remote == outside[0]
    del pair.net.inside[outside[0]]
    outside[0] = ("198.51.100.1", 10_002)
    pair.net.inside[outside[0]] = inside
    pair.near.post(b"from a new port")
    pair.settle(1)
    assert pair.far.hop.path.remote == outside[0]
    assert works(pair)


def test_dead_path_is_left_for_another_that_works(make_pair):
    pair = make_pair()
    for end, host in ((pair.near, 21), (pair.far, 31)):
        add_address(pair, end, (f"10.0.0.{host}", 4_000))
    pair.connect().settle()
    dead = {pair.near.hop.path.remote[0], pair.far.hop.path.remote[0]}
    pair.near.source = next(a for a in pair.near.addresses if a[0] not in dead)
    pair.far.source = next(a for a in pair.far.addresses if a[0] not in dead)
    pair.net.passes = lambda source, target, data: not dead & {source[0], target[0]}
    began = pair.net.now
    while not works(pair):
        assert pair.net.now - began < 4, "a tether with another way out is dead"


def test_moved_address_gets_no_messages_before_it_has_answered(pair):
    pair.settle()
    pair.net.hosts.pop(FAR)
    moved = ("10.0.0.99", 4_000)  # nobody answers there
    genuine = capture(pair, pair.far, b"genuine")
    del pair.net.log[:]
    pair.net.deliver(moved, NEAR, genuine)
    for _ in range(20):
        pair.near.post(bytes(20_000))
        pair.net.run(0.05)
    to_moved = [data for _, target, data in pair.net.log if target == moved]
    assert sum(map(len, to_moved)) <= 3 * len(genuine)
    assert pair.near.hop.path.remote == FAR


def capture(pair, end, message):
    """A genuine datagram of *end* that has not arrived."""
    before, pair.net.passes = pair.net.passes, lambda source, target, data: False
    end.post(message)
    pair.net.passes = before
    return pair.net.log[-1][2]


def test_spoofed_source_makes_nobody_send_more_than_three_times_as_much(pair):
    """A peer that says it is at a victim's address: what goes there is bounded, for ever."""
    pair.settle()
    del pair.net.log[:]
    received = 0
    for _ in range(200):
        genuine = capture(pair, pair.far, b"m")
        pair.net.deliver(VICTIM, NEAR, genuine)
        received += len(genuine)
        pair.net.run(0.02)
    to_victim = sum(len(data) for _, target, data in pair.net.log if target == VICTIM)
    assert 0 < to_victim <= 3 * received
    assert to_victim < received, "challenges are rare besides"


def test_copy_from_elsewhere_moves_nothing(pair):
    """Whoever repeats a datagram of ours from his own address is not followed."""
    pair.settle()
    pair.far.post(b"once")
    copied = pair.net.log[-1][2]
    pair.net.run(0.1)
    del pair.net.log[:]
    pair.net.deliver(VICTIM, NEAR, copied)
    pair.settle(2)
    assert not [data for _, target, data in pair.net.log if target == VICTIM]
    assert pair.near.hop.path.remote == FAR


def test_older_datagram_that_arrives_late_from_elsewhere_moves_nothing(pair):
    pair.settle()
    late = capture(pair, pair.far, b"late")
    pair.far.post(b"newer")
    pair.net.run(0.1)
    del pair.net.log[:]
    pair.net.deliver(VICTIM, NEAR, late)
    pair.settle(1)
    assert pair.near.messages[-1] == b"late"
    assert not [data for _, target, data in pair.net.log if target == VICTIM]


def test_response_counts_only_from_where_the_challenge_went(pair):
    """A peer cannot prove a victim's address by answering from its own."""
    pair.settle()
    genuine = capture(pair, pair.far, b"moving")
    pair.net.translate = lambda source, target: VICTIM if source == FAR else source
    pair.net.deliver(VICTIM, NEAR, genuine)
    # The far end, which sees all, would answer the challenge if it got it: hand it over.
    challenge = next(data for _, target, data in pair.net.log[::-1] if target == VICTIM)
    pair.net.translate = lambda source, target: source
    pair.net.deliver(NEAR, FAR, challenge)
    pair.settle(1)
    assert pair.near.hop.path.remote == FAR


def test_overlay_addresses_are_neither_tried_nor_answered_nor_followed(make_pair):
    overlay = ("10.128.0.9", 4_000)
    pair = make_pair()
    add_address(pair, pair.far, overlay)
    pair.near.forbidden = {overlay[0]}
    pair.connect().settle()
    pair.far.source = overlay
    genuine = capture(pair, pair.far, b"through the overlay")
    pair.net.deliver(overlay, NEAR, genuine)
    pair.settle(1)
    assert pair.near.messages == [b"through the overlay"], "it is genuine, and read"
    to_overlay = [t for s, t, _ in pair.net.log if t == overlay and s == NEAR]
    assert not to_overlay
    assert paths(pair) == (FAR, NEAR)


def test_number_of_challenges_to_a_blocked_far_end_is_bounded(make_pair):
    pair = make_pair()
    pair.net.passes = lambda source, target, data: False
    candidates = [((f"192.0.2.{i}", 4_000), 0) for i in range(16)]
    pair.near.start(pair.far, is_offerer=True, candidates=candidates)
    pair.net.run(60)
    sent = [data for source, _, data in pair.net.log if source == NEAR]
    assert not pair.near.is_ready
    assert len(sent) <= 16 * 24
    assert sum(map(len, sent)) <= 16 * 1_000
