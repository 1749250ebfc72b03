"""Keys: two directions, epochs by counter and time, each message once."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conflux_tether_udp import keys
from conflux_tether_udp.keys import EPOCH_S, EPOCH_SHIFT, OLD_KEY_S, WINDOW

SECRET = bytes(range(32))
HEADER = b"sixteen bytes..."


class Direction:
    """A sealer and the opener at its far end."""

    def __init__(self) -> None:
        self.sealer = keys.derive(SECRET, is_offerer=True)[0]
        self.opener = keys.derive(SECRET, is_offerer=False)[1]
        self.out = memoryview(bytearray(64))
        self.now = 0.0

    def seal(self) -> tuple[int, bytes]:
        counter, key, nonce = self.sealer.next(self.now)
        return int.from_bytes(counter, "big"), key.encrypt(nonce, b"m", HEADER)

    def opens(self, sealed: tuple[int, bytes]) -> bool:
        counter, data = sealed
        return self.opener.open_into(counter, HEADER, data, self.out, self.now) == 1


def test_directions_have_different_keys():
    near, far = keys.derive(SECRET, is_offerer=True), keys.derive(SECRET, is_offerer=False)
    out = memoryview(bytearray(64))
    for sealer, opener, works in (
        (near[0], far[1], True), (far[0], near[1], True),
        (near[0], near[1], False), (far[0], far[1], False),
    ):  # fmt: skip
        counter, key, nonce = sealer.next(0.0)
        data = key.encrypt(nonce, b"m", HEADER)
        size = opener.open_into(int.from_bytes(counter, "big"), HEADER, data, out, 0.0)
        assert (size == 1) is works


def test_secret_has_32_bytes():
    with pytest.raises(ValueError, match="31"):
        keys.derive(bytes(31), is_offerer=True)


def test_no_nonce_is_used_twice_across_epochs():
    direction = Direction()
    used = set()
    for _ in range(3_000):
        direction.now += EPOCH_S / 100
        _, _, nonce = direction.sealer.next(direction.now)
        used.add((id(direction.sealer._epoch), nonce))
    assert len(used) == 3_000


def test_key_changes_after_its_time_and_the_far_end_follows():
    direction = Direction()
    assert direction.opens(direction.seal())
    direction.now = EPOCH_S - 1
    assert direction.opens(direction.seal())
    direction.now = EPOCH_S
    counter, data = direction.seal()
    assert counter == 1 << EPOCH_SHIFT
    assert direction.opens((counter, data))


def test_key_changes_after_its_counters():
    direction = Direction()
    direction.seal()
    direction.sealer._counter = (1 << EPOCH_SHIFT) - 2
    last, first = direction.seal(), direction.seal()
    assert (last[0], first[0]) == ((1 << EPOCH_SHIFT) - 1, 1 << EPOCH_SHIFT)
    direction.opener._highest = last[0] - 1
    assert direction.opens(last)
    assert direction.opens(first)


def test_old_key_opens_what_was_late_for_a_while_only():
    direction = Direction()
    late = [direction.seal() for _ in range(3)]
    direction.now = EPOCH_S
    assert direction.opens(direction.seal())
    # The window is far beyond by now unless the jump is smaller than it.
    direction.opener._highest = late[-1][0]
    assert direction.opens(late[0])
    direction.now += OLD_KEY_S
    assert not direction.opens(late[1])
    direction.opener.forget_old(direction.now)
    assert direction.opener._old is None


def test_epoch_beyond_the_next_is_out_of_reach():
    direction = Direction()
    for _ in range(2):
        direction.now += EPOCH_S
        direction.seal()
    direction.now += EPOCH_S
    assert not direction.opens(direction.seal())
    assert direction.opener.forged == 1


def test_noise_moves_neither_window_nor_epoch():
    direction = Direction()
    genuine = direction.seal()
    for counter in (1, 5, 1 << EPOCH_SHIFT, 1 << EPOCH_SHIFT + 1, (1 << 48) - 1):
        for size in (0, 15, 16, 17, 40):
            assert not direction.opens((counter, bytes(size)))
    assert direction.opener.highest == 0
    assert direction.opens(genuine)


def test_counter_zero_is_never_opened():
    assert not Direction().opens((0, bytes(17)))


@given(st.integers(0, 2**32), st.integers(1, 400))
def test_window_is_like_a_set_of_what_came(seed, length):
    chance = random.Random(seed)
    opener = keys.derive(SECRET, is_offerer=True)[1]
    came: set[int] = set()
    highest = 0
    for _ in range(length):
        step = chance.choice([1, 1, 1, 7, 8, 9, 4_000, WINDOW - 1, WINDOW, WINDOW + 9])
        counter = max(1, highest + chance.choice([1, -1]) * chance.randrange(step + 1))
        expected = counter in came or counter <= highest - WINDOW
        assert opener.seen(counter) is expected
        if not expected:
            opener._mark(counter)
            came.add(counter)
            highest = max(highest, counter)
