"""The fingerprint that a node reads of its own token."""

from __future__ import annotations

import base64
import json
import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from conflux.api import UsageError
from conflux.runtime.token import fingerprint_of


def token_with(payload: bytes) -> str:
    return f"head.{base64.urlsafe_b64encode(payload).rstrip(b'=').decode()}.tail"


def claims(fingerprint: bytes) -> bytes:
    text = base64.urlsafe_b64encode(fingerprint).rstrip(b"=").decode()
    return json.dumps({"sub": "x", "gkf": text}).encode()


@given(st.binary(min_size=32, max_size=32))
def test_fingerprint_is_read(fingerprint):
    assert fingerprint_of(token_with(claims(fingerprint))) == fingerprint


@given(st.binary(max_size=64).filter(lambda value: len(value) != 32))
def test_fingerprint_of_another_length_is_refused(value):
    with pytest.raises(UsageError, match="copy it again"):
        fingerprint_of(token_with(claims(value)))


@given(st.text() | st.binary().map(token_with))
@example("")
@example("..")
@example("a.b")
@example("a.b.c.d")
@example("vnr_AAAA")
@example("\udcff.\udcff.\udcff")
@example(token_with(b"[" * 100_000))
@example(token_with(b"{}"))
@example(token_with(b'{"gkf": 7}'))
@example(token_with(b'{"gkf": null}'))
@example(token_with(b'["gkf"]'))
@example(token_with(b'"gkf"'))
@example(token_with('{"gkf": "ü"}'.encode()))
def test_noise_is_refused_in_one_line_that_does_not_repeat_it(noise):
    with pytest.raises(UsageError) as caught:
        fingerprint_of(noise)
    assert str(caught.value) == "the conflux token is not whole: copy it again, in one piece"
    assert caught.value.exit_code == 2


def test_token_that_lost_its_end_or_a_piece_within_is_refused():
    whole = token_with(claims(os.urandom(32)))
    payload = whole.split(".")[1]
    for broken in (whole[:-10], f"head.{payload[:-12]}.tail", f"head.{payload[9:]}.tail"):
        with pytest.raises(UsageError):
            fingerprint_of(broken)
