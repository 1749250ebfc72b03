"""Every message of suite 1, cut at every byte and extended: both decoders refuse it.

Driven by tests/vectors/suite1.json: a message that is added there is cut here. What a live node
does with them: tests/sim/test_oversized_and_truncated.py.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from conflux.api import WireError
from conflux.wire import checkpoint, inband
from conflux.wire.control import Answer, Ask, Kind, Open, envelope, read_envelope
from conflux.wire.credentials import Certificate, Grant, LoginRequest, Revocations
from conflux.wire.frame import read_outer, read_probe, records
from conflux.wire.report import Report

FOLDER = Path(__file__).parents[1] / "vectors"
VECTORS: dict[str, Any] = json.loads((FOLDER / "suite1.json").read_bytes())

sys.path.insert(0, str(FOLDER))

import second_decoder as second  # noqa: E402
import second_in_stream as in_stream  # noqa: E402

TAILS = (b"\x00", b"\xff", bytes(32), b"\x01" * 70_000)


@dataclass(frozen=True)
class Message:
    name: str
    data: bytes
    code: Callable[[bytes], object]
    second: Callable[[bytes], object]

    def __str__(self) -> str:
        return self.name


def messages() -> Iterator[Message]:
    """All that have fields; what has none of its own (`rest`) is below."""
    credentials = VECTORS["credentials"]
    for case in credentials["certificates"]:
        yield message(
            f"certificate: {case['comment']}", case, Certificate.decode, second.certificate
        )
    yield message("grant", credentials["grant"], Grant.decode, second.grant)
    yield message("login", credentials["login"], LoginRequest.decode, second.login)
    yield message("revocations", VECTORS["revocations"], Revocations.decode, second.revocations)
    for case in VECTORS["inband"]:
        yield message(f"inband: {case['comment']}", case, inband.decode, second.inband)
    for case in VECTORS["probes"]:
        yield message(case["comment"], case, lambda d: read_probe(memoryview(d)), second.probe)
    for case in VECTORS["reports"]:
        yield message(f"report: {case['comment']}", case, Report.decode, in_stream.report)
    for case in VECTORS["packet_auth"]["messages"]:
        yield message(case["comment"], case, checkpoint.decode, in_stream.packet_auth)
    yield from handshakes()


def message(name: str, case: dict[str, Any], code: Any, second: Any) -> Message:
    return Message(name, bytes.fromhex(case["bytes"]), code, second)


def handshakes() -> Iterator[Message]:
    """Ask, Answer and Open as they stand within their seals."""
    case = VECTORS["handshakes"][0]
    plane_key, sealed_ask = (
        bytes.fromhex(text) for text in (case["plane_key"], case["ask"]["message"])
    )
    yield Message("Ask", second.open_ask(plane_key, sealed_ask), Ask.decode, second.ask)
    for name, info, code, other in (
        ("answer", b"VeilNet/1 answer seal", Answer.decode, second.answer),
        ("open", b"VeilNet/1 open seal", Open.decode, second.opening),
    ):
        _, body = second.envelope(bytes.fromhex(case[name]["message"]))
        yield Message(name.title(), unsealed(case[name], body, info), code, other)


def unsealed(case: dict[str, Any], body: bytes, info: bytes) -> bytes:
    names = ("x25519_private", "x_wing_public", "ml_kem_shared")
    x25519, public, shared = (bytes.fromhex(case[name]) for name in names)
    plain: bytes = second.unseal(
        body[16:], x25519=x25519, public=public, ml_kem_shared=shared, info=info, aad=body[:16]
    )
    return plain


ALL = list(messages())


def taken(decode: Callable[[bytes], object], data: bytes, error: type[Exception]) -> bool:
    try:
        decode(data)
    except error:
        return False
    return True


@pytest.mark.parametrize("whole", ALL, ids=str)
def test_message_is_taken_whole_and_refused_cut_at_every_byte(whole):
    assert taken(whole.code, whole.data, WireError)
    assert taken(whole.second, whole.data, second.Refused)
    cut = [whole.data[:size] for size in range(len(whole.data))]
    assert [len(data) for data in cut if taken(whole.code, data, WireError)] == []
    assert [len(data) for data in cut if taken(whole.second, data, second.Refused)] == []


@pytest.mark.parametrize("whole", ALL, ids=str)
def test_message_with_a_tail_is_refused(whole):
    longer = [whole.data + tail for tail in TAILS]
    assert [len(data) for data in longer if taken(whole.code, data, WireError)] == []
    assert [len(data) for data in longer if taken(whole.second, data, second.Refused)] == []


def test_every_message_of_the_vectors_is_among_these():
    kinds = {type(whole.code(whole.data)).__name__ for whole in ALL}
    assert kinds == {
        *(
            "Certificate",
            "Grant",
            "LoginRequest",
            "Revocations",
            "Ask",
            "Answer",
            "Open",
            "Report",
            "tuple",
        ),
        *(one.__name__ for one in inband.Message.__args__),
        *(one.__name__ for one in checkpoint.Message.__args__),
    }


# Messages of which any length is a message


def test_outer_header_cut_at_every_byte_is_refused():
    for case in VECTORS["frames"]:
        header = bytes.fromhex(case["bytes"])[:8]
        for size in range(8):
            assert not taken(lambda data: read_outer(memoryview(data)), header[:size], WireError)
            assert not taken(second.outer, header[:size], second.Refused)


WITH_PACKETS = [
    case for case in VECTORS["superframes"] + VECTORS["frames"] if not case["values"].get("control")
]


@pytest.mark.parametrize("case", WITH_PACKETS, ids=lambda case: case["comment"])
def test_superframe_cut_at_every_byte_holds_the_packets_before_the_cut_or_is_refused(case):
    values = case["values"]
    whole = bytes.fromhex(values.get("superframe") or case["bytes"])
    for size in range(len(whole)):
        cut = memoryview(whole)[:size]
        try:
            packets = [cut[start:end].hex() for _, start, end in records(cut)]
        except WireError:
            assert not taken(second.superframe, bytes(cut), second.Refused)
            continue
        assert packets == values["packets"][: len(packets)]
        assert packets == second.superframe(bytes(cut))["packets"]


@pytest.mark.parametrize("kind", Kind)
def test_envelope_over_its_limit_is_refused(kind):
    most = 65_536 if kind is Kind.GRANT else 16_384
    for size, good in ((most, True), (most + 1, False), (100_000, False), (1, False), (0, False)):
        data = envelope(kind, bytes(most))[:size].ljust(size, b"\0")
        assert taken(read_envelope, data, WireError) is good
        assert taken(second.envelope, data, second.Refused) is good
