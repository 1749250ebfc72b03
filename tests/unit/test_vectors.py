"""tests/vectors/suite1.json against the code, and against a decoder that shares none of it."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from conflux.anchor import handshake, identity
from conflux.anchor.handshake import StreamKeys
from conflux.anchor.stream import InStream
from conflux.api import WireError
from conflux.wire import inband
from conflux.wire.codec import Reader
from conflux.wire.control import Answer, Ask, Open, read_envelope
from conflux.wire.credentials import Certificate, Grant, LoginRequest, _network
from conflux.wire.features import mtu_of
from conflux.wire.frame import INNER, OUTER, read_outer, read_probe, records

FOLDER = Path(__file__).parents[1] / "vectors"
VECTORS: dict[str, Any] = json.loads((FOLDER / "suite1.json").read_bytes())
HANDSHAKES: list[dict[str, Any]] = VECTORS["handshakes"]
CREDENTIALS: dict[str, Any] = VECTORS["credentials"]


@cache
def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"vectors_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make, second = load("make"), load("second_decoder")


def unhex(text: str) -> bytes:
    return bytes.fromhex(text)


def by_comment(case: dict[str, Any]) -> str:
    return str(case["comment"])


# The code


def test_code_makes_exactly_these_vectors():
    made = make.build()
    assert made.keys() == VECTORS.keys()
    for section, value in made.items():
        assert value == VECTORS[section], section


@pytest.mark.parametrize("case", CREDENTIALS["certificates"], ids=by_comment)
def test_code_reads_certificate(case):
    decoded = Certificate.decode(unhex(case["bytes"]))
    assert make.certificate_values(decoded) == case["values"]
    assert hashlib.sha256(decoded.body()).hexdigest() == case["signed_sha256"]


def test_code_reads_grant_and_login_request():
    grant, login = CREDENTIALS["grant"], CREDENTIALS["login"]
    assert make.grant_values(Grant.decode(unhex(grant["bytes"]))) == grant["values"]
    assert make.login_values(LoginRequest.decode(unhex(login["bytes"]))) == login["values"]


@pytest.mark.parametrize("case", VECTORS["inband"], ids=by_comment)
def test_code_reads_inband_message(case):
    assert make.inband_values(inband.decode(unhex(case["bytes"]))) == case["values"]


@pytest.mark.parametrize("case", VECTORS["probes"], ids=by_comment)
def test_code_reads_probe(case):
    message, values = memoryview(unhex(case["bytes"])), case["values"]
    outer = (values["type"], values["hop_limit"], values["label"])
    assert read_outer(message) == outer
    assert read_probe(message) == (values["sequence"], values["stamp_us"])


@pytest.mark.parametrize("case", VECTORS["frames"], ids=by_comment)
def test_code_opens_frame(case):
    frame, values = memoryview(unhex(case["bytes"])), case["values"]
    keys = StreamKeys(unhex(case["key"]), unhex(case["iv"]), int(case["stream_id"], 16))
    assert INNER.unpack_from(frame, OUTER.size) == (keys.stream_id, values["counter"])
    room = memoryview(bytearray(len(frame)))
    superframe = InStream(keys, None).open(frame, values["counter"], room)
    assert superframe.hex() == values["superframe"]
    assert [superframe[start:end].hex() for start, end in packets(superframe)] == values["packets"]


def packets(superframe):
    if superframe[0] == 0x80:
        return []
    return [(start, end) for _, start, end in records(superframe)]


@pytest.mark.parametrize("case", VECTORS["superframes"], ids=by_comment)
def test_code_takes_superframe_apart(case):
    superframe = memoryview(unhex(case["bytes"]))
    found = [superframe[start:end].hex() for _, start, end in records(superframe)]
    assert found == case["values"]["packets"]


@pytest.mark.parametrize("case", VECTORS["features"], ids=by_comment)
def test_code_and_second_decoder_find_the_mtu_among_the_features(case):
    assert mtu_of(case["features"]) == case["mtu_bytes"]
    assert second.mtu_bytes(case["features"]) == case["mtu_bytes"]


@pytest.mark.parametrize("case", HANDSHAKES, ids=by_comment)
def test_code_reads_what_its_handshake_sealed(case):
    f = make.Fixture()
    received = handshake.open_ask(f.b, unhex(case["ask"]["message"])[2:], wall=float(make.WALL))
    assert make.ask_values(received.ask) == case["ask"]["values"]


def test_code_refuses_each_bad_message():
    codecs: dict[str, Callable[[bytes], object]] = {
        "certificate": Certificate.decode,
        "network": lambda data: _network(Reader(data)),
        "inband": inband.decode,
        "envelope": read_envelope,
        "outer": lambda data: read_outer(memoryview(data)),
        "probe": lambda data: (read_outer(memoryview(data)), read_probe(memoryview(data))),
        "superframe": lambda data: list(records(memoryview(data))),
        "open": Open.decode,
        "ask": Ask.decode,
    }
    refuses_all(codecs, WireError)


def refuses_all(codecs: dict[str, Callable[[bytes], object]], error: type[Exception]) -> None:
    taken = []
    for case in VECTORS["refused"]:
        try:
            codecs[case["message"]](unhex(case["bytes"]))
        except error:
            continue
        taken.append((case["message"], case["comment"]))
    assert not taken
    assert {case["message"] for case in VECTORS["refused"]} == set(codecs)


# The second decoder


def test_second_decoder_shares_no_code_with_conflux():
    imported = set()
    for node in ast.walk(ast.parse((FOLDER / "second_decoder.py").read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module or "")
    roots = {name.partition(".")[0] for name in imported}
    assert "cryptography" in roots
    assert roots - {"cryptography"} <= sys.stdlib_module_names


@pytest.mark.parametrize("case", CREDENTIALS["certificates"], ids=by_comment)
def test_second_decoder_reads_certificate_and_what_guardian_signed(case):
    data = unhex(case["bytes"])
    assert second.certificate(data) == case["values"]
    assert second.sha256(second.before_signature(data)).hex() == case["signed_sha256"]


def test_second_decoder_reads_grant():
    case = CREDENTIALS["grant"]
    assert second.grant(unhex(case["bytes"])) == case["values"]


def test_second_decoder_reads_login_request_and_what_the_node_signed():
    case = CREDENTIALS["login"]
    data = unhex(case["bytes"])
    assert second.login(data) == case["values"]
    assert second.sha256(second.before_signature(data)).hex() == case["signed_sha256"]
    assert second.sha256(case["token"].encode()).hex() == case["values"]["token_digest"]
    assert second.sha256(data).hex() == case["binding"]


def test_second_decoder_opens_sealed_grant_and_finds_what_guardian_signed():
    case = CREDENTIALS["sealed_grant"]
    binding, public = unhex(CREDENTIALS["login"]["binding"]), unhex(case["x_wing_public"])
    plain = second.unseal(
        unhex(case["bytes"]), info=b"VeilNet/1 grant seal", aad=binding, **unsealing(case)
    )
    guardian, _, grant = second.opened_grant(plain)
    assert guardian.hex() == case["guardian_public"]
    assert second.node_id(guardian).hex() == case["guardian_fingerprint"]
    assert grant.hex() == CREDENTIALS["grant"]["bytes"]
    signed = binding + second.sha256(public) + grant
    assert second.sha256(signed).hex() == case["signed_sha256"]


def unsealing(case: dict[str, Any]) -> dict[str, bytes]:
    return {
        "x25519": unhex(case["x25519_private"]),
        "public": unhex(case["x_wing_public"]),
        "ml_kem_shared": unhex(case["ml_kem_shared"]),
    }


@pytest.mark.parametrize("case", VECTORS["inband"], ids=by_comment)
def test_second_decoder_reads_inband_message(case):
    assert second.inband(unhex(case["bytes"])) == case["values"]


@pytest.mark.parametrize("case", VECTORS["probes"], ids=by_comment)
def test_second_decoder_reads_probe(case):
    assert second.probe(unhex(case["bytes"])) == case["values"]


@pytest.mark.parametrize("case", VECTORS["frames"], ids=by_comment)
def test_second_decoder_opens_frame(case):
    key, iv = unhex(case["key"]), unhex(case["iv"])
    assert second.frame(unhex(case["bytes"]), key, iv) == case["values"]


@pytest.mark.parametrize("case", VECTORS["frames"], ids=by_comment)
def test_second_decoder_opens_no_frame_with_a_byte_changed_behind_the_outer_header(case):
    key, iv, whole = unhex(case["key"]), unhex(case["iv"]), unhex(case["bytes"])
    for at in range(8, len(whole)):
        changed = bytearray(whole)
        changed[at] ^= 1
        with pytest.raises(second.Refused):
            second.frame(bytes(changed), key, iv)


@pytest.mark.parametrize("case", VECTORS["superframes"], ids=by_comment)
def test_second_decoder_takes_superframe_apart(case):
    assert second.superframe(unhex(case["bytes"])) == case["values"]


def test_worked_example_of_the_document_is_the_first_frame():
    text = (Path(__file__).parents[2] / "docs" / "protocol" / "frame.md").read_text()
    example = text.partition("## 5. Worked example")[2]
    shown = "".join(
        word
        for line in example.splitlines()
        if line.startswith("    ") and "superframe" not in line
        for word in line.split()
        if word not in ("outer", "inner", "sealed")
    )
    assert shown == VECTORS["frames"][0]["bytes"]


def test_second_decoder_recomputes_pseudonyms():
    case = VECTORS["pseudonyms"]
    addresses = [unhex(address) for address in case["addresses"]]
    node = second.node_id(unhex(case["ml_dsa_public"]))
    assert node.hex() == case["node_id"]
    found = second.pseudonyms(unhex(case["plane_key"]), addresses, node)
    assert found == {name: case[name] for name in found}
    assert identity.node_id(unhex(case["ml_dsa_public"])) == node


@pytest.mark.parametrize("case", HANDSHAKES, ids=by_comment)
def test_second_decoder_opens_ask_and_finds_the_teams_in_it(case):
    ask, message = case["ask"], unhex(case["ask"]["message"])
    assert second.reference(message).hex() == ask["reference"]
    plain = second.open_ask(unhex(case["plane_key"]), message)
    values = second.ask(plain)
    assert values == ask["values"]
    core = second.core_of(plain)
    assert second.sha256(core).hex() == ask["core_hash"]
    assert second.sha256(plain).hex() == ask["hash"]
    tags = {name: second.team_tag(unhex(key), core) for name, key in case["teams_of_a"].items()}
    assert {name: tag.hex() for name, tag in tags.items()} == ask["tags"]
    carried = {name for name, tag in ask["tags"].items() if tag in values["team_tags"]}
    assert carried == (set(ask["tags"]) if values["purpose"] == 1 else set())
    assert values["team_tags"] == sorted(values["team_tags"])


@pytest.mark.parametrize("case", HANDSHAKES, ids=by_comment)
def test_second_decoder_opens_answer_and_recomputes_its_mac(case):
    answer, plain = case["answer"], open_answer(case)
    values = second.answer(plain)
    assert values == answer["values"]
    assert values["ask_hash"] == case["ask"]["hash"]
    assert second.sha256(plain).hex() == answer["hash"]
    held, tags = case["teams_of_b"], case["ask"]["tags"]
    common = [name for name in sorted(held) if tags.get(name) in values["team_tags"]]
    assert common == answer["common_teams"]
    salt = second.team_salt([unhex(held[name]) for name in common])
    assert second.answer_mac(salt, second.before_mac(plain)).hex() == values["mac"]
    signed = unhex(values["ask_hash"]) + second.before_signature(plain)
    assert second.sha256(signed).hex() == answer["signed_sha256"]


@pytest.mark.parametrize("case", HANDSHAKES, ids=by_comment)
def test_second_decoder_opens_open(case):
    opening, plain = case["open"], open_open(case)
    values = second.opening(plain)
    assert values == opening["values"]
    assert values["answer_hash"] == case["answer"]["hash"]
    assert second.sha256(plain).hex() == opening["hash"]
    signed = unhex(case["ask"]["hash"]) + second.before_signature(plain)
    assert second.sha256(signed).hex() == opening["signed_sha256"]


@pytest.mark.parametrize("case", HANDSHAKES, ids=by_comment)
def test_second_decoder_derives_the_same_keys_and_opens_the_first_frame(case):
    held = case["teams_of_b"]
    salt = second.team_salt([unhex(held[name]) for name in case["answer"]["common_teams"]])
    ask = second.open_ask(unhex(case["plane_key"]), unhex(case["ask"]["message"]))
    keys = second.key_schedule(salt, ask, open_answer(case), open_open(case))
    assert keys == case["keys"]
    stream = keys["answer_to_ask"]
    frame = case["first_frame"]
    assert second.nonce(unhex(stream["iv"]), 1).hex() == frame["nonce"]
    read = second.frame(unhex(frame["bytes"]), unhex(stream["key"]), unhex(stream["iv"]))
    assert (read["stream_id"], read["counter"], read["superframe"]) == (
        stream["stream_id"],
        1,
        "00",
    )


def open_answer(case: dict[str, Any]) -> bytes:
    return unsealed(case["answer"], 2, case["ask"]["reference"], b"VeilNet/1 answer seal")


def open_open(case: dict[str, Any]) -> bytes:
    return unsealed(case["open"], 3, case["answer"]["reference"], b"VeilNet/1 open seal")


def unsealed(case: dict[str, Any], kind: int, reference: str, info: bytes) -> bytes:
    found, body = second.envelope(unhex(case["message"]))
    assert (found, body[:16].hex()) == (kind, reference)
    plain: bytes = second.unseal(body[16:], info=info, aad=body[:16], **unsealing(case))
    return plain


def test_second_decoder_refuses_each_bad_message():
    codecs: dict[str, Callable[[bytes], object]] = {
        "certificate": second.certificate,
        "network": lambda data: second.whole(data, lambda fields: fields.network()),
        "inband": second.inband,
        "envelope": second.envelope,
        "outer": second.outer,
        "probe": second.probe,
        "superframe": second.superframe,
        "open": second.opening,
        "ask": second.ask,
    }
    refuses_all(codecs, second.Refused)


def test_second_decoder_refuses_every_truncation():
    for case in VECTORS["inband"]:
        data = unhex(case["bytes"])
        for size in range(len(data)):
            with pytest.raises(second.Refused):
                second.inband(data[:size])
            with pytest.raises(WireError):
                inband.decode(data[:size])


def test_code_and_second_decoder_agree_on_answers_and_opens():
    for case in HANDSHAKES:
        answer, opening = open_answer(case), open_open(case)
        assert make.answer_values(Answer.decode(answer)) == second.answer(answer)
        assert make.open_values(Open.decode(opening)) == second.opening(opening)
