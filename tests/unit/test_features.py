"""conflux/wire/features.py: an MTU among the features of Ask and Answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conflux.wire.features import DEFAULT_MTU_BYTES, MIN_MTU_BYTES, mtu_of, of_mtu


@given(st.integers(MIN_MTU_BYTES, 65_535), st.integers(0, 2**16 - 1))
def test_mtu_is_read_back_whatever_the_other_bits_say(mtu_bytes, others):
    assert mtu_of(of_mtu(mtu_bytes) | others) == mtu_bytes


@given(st.integers(0, 2**32 - 1))
def test_no_features_lead_to_an_mtu_that_ip_cannot_live_with(features):
    assert MIN_MTU_BYTES <= mtu_of(features) <= 65_535
    if features < 2**16:
        assert mtu_of(features) == DEFAULT_MTU_BYTES


@pytest.mark.parametrize("mtu_bytes", [-1, 0, 65_536])
def test_an_mtu_that_does_not_fit_is_a_bug(mtu_bytes):
    with pytest.raises(ValueError, match=str(mtu_bytes)):
        of_mtu(mtu_bytes)
