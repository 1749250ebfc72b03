"""tests/vectors/suite1.json against the code, and against a decoder that shares none of it."""

from __future__ import annotations

import ast
import hashlib
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from conflux.anchor import handshake, identity
from conflux.anchor.handshake import StreamKeys
from conflux.anchor.notary import verify_checkpoint
from conflux.anchor.stream import InStream
from conflux.api import WireError
from conflux.runtime.token import fingerprint_of
from conflux.testing.fakes import FakeCrypto
from conflux.wire import checkpoint, inband, segment
from conflux.wire.checkpoint import AuthKind
from conflux.wire.codec import Reader
from conflux.wire.control import Answer, Ask, Open, read_envelope
from conflux.wire.credentials import Certificate, Grant, LoginRequest, Revocations, _network
from conflux.wire.features import mtu_of
from conflux.wire.frame import INNER, OUTER, read_outer, read_probe, records
from conflux.wire.report import Report

FOLDER = Path(__file__).parents[1] / "vectors"
VECTORS: dict[str, Any] = json.loads((FOLDER / "suite1.json").read_bytes())
HANDSHAKES: list[dict[str, Any]] = VECTORS["handshakes"]
CREDENTIALS: dict[str, Any] = VECTORS["credentials"]
PACKET_AUTH: dict[str, Any] = VECTORS["packet_auth"]

sys.path.insert(0, str(FOLDER))

import make  # noqa: E402
import make_values  # noqa: E402
import second_decoder as second  # noqa: E402
import second_in_stream as in_stream  # noqa: E402
import second_virtio  # noqa: E402


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
    assert make_values.certificate_values(decoded) == case["values"]
    assert hashlib.sha256(decoded.body()).hexdigest() == case["signed_sha256"]


def test_code_reads_grant_and_login_request():
    grant, login = CREDENTIALS["grant"], CREDENTIALS["login"]
    assert make_values.grant_values(Grant.decode(unhex(grant["bytes"]))) == grant["values"]
    assert make_values.login_values(LoginRequest.decode(unhex(login["bytes"]))) == login["values"]


def test_code_opens_revocations_and_reads_what_is_in_them():
    case, f = VECTORS["revocations"], make.Fixture()
    opened = f.a.guardian.open_revocations(
        unhex(case["message"])[2:],
        plane_id=unhex(case["values"]["plane_id"]),
        plane_key=unhex(case["plane_key"]),
    )
    assert opened == Revocations.decode(unhex(case["bytes"]))
    assert make.revocations_values(opened) == case["values"]


@pytest.mark.parametrize("case", VECTORS["inband"], ids=by_comment)
def test_code_reads_inband_message(case):
    assert make_values.inband_values(inband.decode(unhex(case["bytes"]))) == case["values"]


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


@pytest.mark.parametrize("case", VECTORS["reports"], ids=by_comment)
def test_code_reads_report(case):
    assert make_values.report_values(Report.decode(unhex(case["bytes"]))) == case["values"]


@pytest.mark.parametrize("case", PACKET_AUTH["messages"], ids=by_comment)
def test_code_reads_packet_auth_message(case):
    decoded = checkpoint.decode(unhex(case["bytes"]))
    assert make_values.packet_auth_values(decoded) == case["values"]


def test_code_verifies_what_was_signed():
    """FakeCrypto's ML-DSA signs with what everybody knows, so that this needs no private key."""
    public = unhex(PACKET_AUTH["ml_dsa_public"])
    signed = [c for c in PACKET_AUTH["messages"] if c["values"]["kind"] == AuthKind.CHECKPOINT]
    assert len(signed) == 2
    for case in signed:
        verify_checkpoint(FakeCrypto(), public, checkpoint.decode(unhex(case["bytes"])))


def test_code_opens_the_grant_that_guardian_pushed():
    f = make.Fixture()
    sealed = unhex(CREDENTIALS["pushed_grant"]["message"])[2:]
    fingerprint = unhex(CREDENTIALS["tokens"]["fingerprint"])
    grant, _ = identity.open_grant(
        f.crypto,
        f.a.identity,
        sealed,
        binding=identity.PUSH_BINDING,
        fingerprint=fingerprint,
    )
    assert grant.encode().hex() == CREDENTIALS["grant"]["bytes"]


def test_code_reads_the_token():
    tokens = CREDENTIALS["tokens"]
    assert fingerprint_of(tokens["conflux"]).hex() == tokens["fingerprint"]


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


@pytest.mark.parametrize("case", VECTORS["virtio"], ids=by_comment)
def test_code_takes_virtio_header_and_cuts_the_record_up(case):
    body = unhex(case["bytes"])
    segment.check(memoryview(body))
    assert make_values.virtio_values(body) == case["values"]


@pytest.mark.parametrize("case", HANDSHAKES, ids=by_comment)
def test_code_reads_what_its_handshake_sealed(case):
    f = make.Fixture()
    received = handshake.open_ask(f.b, unhex(case["ask"]["message"])[2:], wall=float(make.WALL))
    assert make_values.ask_values(received.ask) == case["ask"]["values"]


def test_code_refuses_each_bad_message():
    codecs: dict[str, Callable[[bytes], object]] = {
        "certificate": Certificate.decode,
        "network": lambda data: _network(Reader(data)),
        "inband": inband.decode,
        "envelope": read_envelope,
        "revocations": Revocations.decode,
        "outer": lambda data: read_outer(memoryview(data)),
        "probe": lambda data: (read_outer(memoryview(data)), read_probe(memoryview(data))),
        "superframe": lambda data: list(records(memoryview(data))),
        "virtio": lambda data: segment.check(memoryview(data)),
        "open": Open.decode,
        "ask": Ask.decode,
        "packet_auth": checkpoint.decode,
        "report": Report.decode,
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


@pytest.mark.parametrize(
    ("file", "besides"),
    [("second_decoder.py", "cryptography"), ("second_in_stream.py", "second_decoder")],
)
def test_second_decoder_shares_no_code_with_conflux(file, besides):
    imported = set()
    for node in ast.walk(ast.parse((FOLDER / file).read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module or "")
    roots = {name.partition(".")[0] for name in imported}
    assert besides in roots
    assert roots - {besides} <= sys.stdlib_module_names


@pytest.mark.parametrize("case", CREDENTIALS["certificates"], ids=by_comment)
def test_second_decoder_reads_certificate_and_what_guardian_signed(case):
    data = unhex(case["bytes"])
    assert second.certificate(data) == case["values"]
    assert second.sha256(second.certificate_signed(data)).hex() == case["signed_sha256"]


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


def test_second_decoder_opens_revocations_and_finds_what_guardian_signed():
    case = VECTORS["revocations"]
    kind, _ = second.envelope(unhex(case["message"]))
    plain = second.open_revocations(unhex(case["plane_key"]), unhex(case["message"]))
    assert (kind, plain.hex()) == (7, case["bytes"])
    assert second.revocations(plain) == case["values"]
    assert second.sha256(second.before_signature(plain)).hex() == case["signed_sha256"]


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


@pytest.mark.parametrize("case", VECTORS["virtio"], ids=by_comment)
def test_second_decoder_takes_virtio_header_and_cuts_the_record_up(case):
    assert second_virtio.virtio(unhex(case["bytes"])) == case["values"]


@pytest.mark.parametrize("case", VECTORS["superframes"], ids=by_comment)
def test_second_decoder_takes_superframe_apart(case):
    assert second.superframe(unhex(case["bytes"])) == case["values"]


@pytest.mark.parametrize("case", VECTORS["reports"], ids=by_comment)
def test_second_decoder_reads_report(case):
    assert in_stream.report(unhex(case["bytes"])) == case["values"]


def test_worked_example_of_the_report_page_is_the_first_report():
    text = (Path(__file__).parents[2] / "docs" / "protocol" / "report.md").read_text()
    (shown,) = [line for line in text.splitlines() if line.startswith("    1122334455667788")]
    assert shown.replace(" ", "") == VECTORS["reports"][0]["bytes"]


@pytest.mark.parametrize("case", PACKET_AUTH["messages"], ids=by_comment)
def test_second_decoder_reads_packet_auth_message(case):
    assert in_stream.packet_auth(unhex(case["bytes"])) == case["values"]


@pytest.mark.parametrize("size", [0, 1, 64, 65, 1_023, 1_024, 1_025, 2_048, 2_049, 7_169, 65_519])
def test_second_decoders_blake3_is_that_of_the_library(size):
    data = random.Random(size).randbytes(size)
    assert in_stream.blake3(data) == blake3(data).digest()


@pytest.mark.parametrize("case", PACKET_AUTH["long"], ids=lambda case: str(case["size"]))
def test_second_decoder_finds_the_digest_of_a_long_frame(case):
    frame = bytes(at % 251 for at in range(case["size"]))
    assert in_stream.frame_digest(frame).hex() == case["digest"]


def test_second_decoder_finds_the_digests_of_the_frames_and_what_their_sender_signed():
    frames = [unhex(c["bytes"]) for c in VECTORS["frames"] if not c["values"]["control"]]
    digests = [in_stream.frame_digest(frame) for frame in frames]
    assert [digest.hex() for digest in digests] == PACKET_AUTH["digests"]
    checkpoints = [c for c in PACKET_AUTH["messages"] if c["values"]["kind"] == 16]
    leaf = checkpoints[0]["values"]["leaf"]
    assert in_stream.digests_hash(digests).hex() == leaf["digests_hash"]
    for case in checkpoints:
        values, told = case["values"], in_stream.leaf_of(unhex(case["bytes"]))
        path = [unhex(node) for node in values["path"]]
        signed = in_stream.signed_bytes(told, values["index"], values["size"], path)
        assert signed.hex() == PACKET_AUTH["signed"]
        assert second.sha256(signed).hex() == PACKET_AUTH["signed_sha256"]


def test_second_decoder_opens_the_grant_that_guardian_pushed():
    case = CREDENTIALS["pushed_grant"]
    kind, sealed = second.envelope(unhex(case["message"]))
    assert kind == 4
    binding = bytes(32)
    plain = second.unseal(sealed, info=b"VeilNet/1 grant seal", aad=binding, **unsealing(case))
    _, _, grant = second.opened_grant(plain)
    assert grant.hex() == CREDENTIALS["grant"]["bytes"]
    signed = binding + second.sha256(unhex(case["x_wing_public"])) + grant
    assert second.sha256(signed).hex() == case["signed_sha256"]


def test_second_decoder_reads_the_tokens():
    tokens = CREDENTIALS["tokens"]
    assert second.registration_token(tokens["registration"]).hex() == tokens["fingerprint"]
    assert second.conflux_token(tokens["conflux"]).hex() == tokens["fingerprint"]


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
        "revocations": second.revocations,
        "outer": second.outer,
        "probe": second.probe,
        "superframe": second.superframe,
        "virtio": second_virtio.virtio,
        "open": second.opening,
        "ask": second.ask,
        "packet_auth": in_stream.packet_auth,
        "report": in_stream.report,
    }
    refuses_all(codecs, second.Refused)


def test_code_and_second_decoder_agree_on_answers_and_opens():
    for case in HANDSHAKES:
        answer, opening = open_answer(case), open_open(case)
        assert make_values.answer_values(Answer.decode(answer)) == second.answer(answer)
        assert make_values.open_values(Open.decode(opening)) == second.opening(opening)
