"""The code and the second decoder of tests/vectors must take and refuse the same bytes."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuzz_genuine import GENUINE, patched

from conflux.api import WireError
from conflux.wire import checkpoint, inband, segment
from conflux.wire.control import Answer, Ask, Open, read_envelope
from conflux.wire.credentials import Certificate, Grant, LoginRequest, Revocations
from conflux.wire.frame import read_outer, records
from conflux.wire.report import Report

sys.path.insert(0, str(Path(__file__).parents[1] / "vectors"))

import make_values
import second_decoder
import second_in_stream
import second_virtio


@dataclass(frozen=True)
class Both:
    """One message as the code reads it and as the second decoder does, in the same words."""

    first: Callable[[bytes], Any]
    second: Callable[[bytes], Any]
    genuine: bytes = b""


def _outer(data: bytes) -> dict[str, int]:
    kind, hop_limit, label = read_outer(memoryview(data))
    return {"type": kind, "hop_limit": hop_limit, "label": label}


def _superframe(data: bytes) -> list[str]:
    whole = memoryview(data)
    return [whole[start:end].hex() for _, start, end in records(whole)]


def _virtio(data: bytes) -> dict[str, Any]:
    if len(data) <= segment.HEADER.size:
        raise WireError("no packet")
    segment.check(memoryview(data))
    return make_values.virtio_values(data)


_BOTH = (
    Both(lambda data: make_values.inband_values(inband.decode(data)), second_decoder.inband),
    Both(
        lambda data: make_values.packet_auth_values(checkpoint.decode(data)),
        second_in_stream.packet_auth,
    ),
    Both(lambda data: make_values.report_values(Report.decode(data)), second_in_stream.report),
    Both(_outer, lambda data: second_decoder.outer(data)[0]),
    Both(_superframe, lambda data: second_decoder.superframe(data)["packets"]),
    Both(read_envelope, second_decoder.envelope),
    Both(lambda data: make_values.ask_values(Ask.decode(data)), second_decoder.ask, GENUINE["ask"]),
    Both(
        lambda data: make_values.answer_values(Answer.decode(data)),
        second_decoder.answer,
        GENUINE["answer"],
    ),
    Both(
        lambda data: make_values.open_values(Open.decode(data)),
        second_decoder.opening,
        GENUINE["open"],
    ),
    Both(
        lambda data: make_values.certificate_values(Certificate.decode(data)),
        second_decoder.certificate,
        GENUINE["certificate"],
    ),
    Both(
        lambda data: make_values.grant_values(Grant.decode(data)),
        second_decoder.grant,
        GENUINE["grant"],
    ),
    Both(
        lambda data: make_values.login_values(LoginRequest.decode(data)),
        second_decoder.login,
        GENUINE["login"],
    ),
    Both(_virtio, second_virtio.virtio),
    Both(
        lambda data: make_values.revocations_values(Revocations.decode(data)),
        second_decoder.revocations,
        GENUINE["revocations"],
    ),
)


def agree(data: bytes) -> None:
    """First byte: which message; the rest is the message, or patches a genuine one."""
    if not data:
        return
    both = _BOTH[data[0] % len(_BOTH)]
    message = patched(both.genuine, data[1:]) if both.genuine else data[1:]
    first = second = None
    with contextlib.suppress(WireError):
        first = both.first(message)
    with contextlib.suppress(second_decoder.Refused):
        second = both.second(message)
    if first != second:
        raise AssertionError("the code and the second decoder read something else")
