"""Guessing passwords gets slow, and costs Guardian no memory."""

from __future__ import annotations

import pytest

from veilnet_guardian import limiter
from veilnet_guardian.errors import TooMany
from veilnet_guardian.limiter import Limiter, login_keys


def guess(limits: Limiter, email: str, client: str, *, now: float) -> None:
    keys = login_keys(email, client)
    limits.check(keys, now=now)
    limits.failed(keys, now=now)


def test_five_wrong_guesses_close_the_door_for_a_minute() -> None:
    limits = Limiter()
    for _ in range(5):
        guess(limits, "alice@example.com", "192.0.2.1", now=100.0)
    with pytest.raises(TooMany, match="wait 40 s") as refused:
        guess(limits, "alice@example.com", "192.0.2.1", now=120.0)
    assert refused.value.retry_s == 40
    guess(limits, "alice@example.com", "192.0.2.1", now=160.0)


def test_stranger_does_not_lock_a_user_out() -> None:
    limits = Limiter()
    for _ in range(5):
        guess(limits, "alice@example.com", "192.0.2.66", now=0.0)
    guess(limits, "alice@example.com", "192.0.2.1", now=1.0)


def test_client_that_tries_many_users_is_stopped() -> None:
    limits = Limiter()
    for number in range(20):
        guess(limits, f"user{number}@example.com", "192.0.2.66", now=0.0)
    with pytest.raises(TooMany):
        guess(limits, "another@example.com", "192.0.2.66", now=1.0)


def test_right_password_takes_its_count_back() -> None:
    limits, keys = Limiter(), login_keys("alice@example.com", "192.0.2.1")
    for _ in range(50):
        limits.check(keys, now=0.0)
        limits.failed(keys, now=0.0)
        limits.passed(keys)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limiter, "MAX_KEYS", 30)
    limits = Limiter()
    for number in range(1_000):
        guess(limits, f"user{number}@example.com", f"192.0.2.{number}", now=0.0)
    assert len(limits._windows) == 30
