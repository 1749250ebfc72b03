"""conflux/wire/codec.py and credentials.py: what is encoded is decoded, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Interface, IPv6Network, ip_interface, ip_network
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conflux.api import (
    SIGN_PUBLIC_BYTES,
    SIGNATURE_BYTES,
    TAG_BYTES,
    ControlCredentials,
    IceServer,
    WireError,
)
from conflux.wire.codec import Reader, Writer
from conflux.wire.credentials import (
    HYBRID_PUBLIC_BYTES,
    ID_BYTES,
    KEY_BYTES,
    SALT_BYTES,
    Certificate,
    Grant,
    Interface,
    LoginRequest,
    Network,
    Revocations,
    Revoked,
    TeamKey,
)

some = settings(max_examples=60, deadline=None)


def exactly(size: int) -> st.SearchStrategy[bytes]:
    """Bytes of one length, made from a seed: the long fields carry nothing that is looked into."""
    return st.integers(0, 2**32 - 1).map(lambda seed: Random(seed).randbytes(size))


def several(of: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(of, max_size=4).map(tuple)


def prefixed(make: Callable[[tuple[bytes, int]], Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.tuples(exactly(4), st.integers(0, 32)),
        st.tuples(exactly(16), st.integers(0, 128)),
    ).map(make)


def network_around(value: tuple[bytes, int]) -> Network:
    return ip_interface(value).network


u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
ids = exactly(ID_BYTES)
keys = exactly(KEY_BYTES)
tags = exactly(TAG_BYTES)
names = st.text(max_size=60)
texts = st.text(max_size=300)
interfaces: st.SearchStrategy[Interface] = prefixed(ip_interface)
networks: st.SearchStrategy[Network] = prefixed(network_around)

certificates = st.builds(
    Certificate,
    serial=u64,
    conflux_id=ids,
    plane_id=ids,
    sign_public=exactly(SIGN_PUBLIC_BYTES),
    kem_public=exactly(HYBRID_PUBLIC_BYTES),
    addresses=several(interfaces),
    networks=several(networks),
    portal=st.booleans(),
    not_before=u64,
    not_after=u64,
    salt=exactly(SALT_BYTES),
    signature=exactly(SIGNATURE_BYTES),
)
revoked = st.dictionaries(u64, u64, max_size=4).map(
    lambda ends: tuple(Revoked(serial, ends[serial]) for serial in sorted(ends))
)
grants = st.builds(
    Grant,
    revision=u64,
    time_ms=u64,
    certificate=certificates,
    plane_name=names,
    plane_key=keys,
    teams=several(st.builds(TeamKey, team_id=ids, epoch=u32, key=keys, name=names)),
    control=st.builds(
        ControlCredentials,
        urls=several(texts),
        prefix=names,
        handle=tags,
        tags=several(tags),
        shared_tag=tags,
        jwt=texts,
        seed=names,
        ca_pem=texts,
    ),
    ice_servers=several(st.builds(IceServer, url=texts, username=texts, credential=texts)),
    networks=several(networks),
    revoked=revoked,
)
revocations = st.builds(
    Revocations, plane_id=ids, revoked=revoked, signature=exactly(SIGNATURE_BYTES)
)
logins = st.builds(
    LoginRequest,
    token_digest=keys,
    nonce=keys,
    time_ms=u64,
    sign_public=exactly(SIGN_PUBLIC_BYTES),
    kem_public=exactly(HYBRID_PUBLIC_BYTES),
    signature=exactly(SIGNATURE_BYTES),
)

Message = Certificate | Grant | LoginRequest | Revocations
KINDS: list[Any] = [
    pytest.param(Certificate, certificates, id="certificate"),
    pytest.param(Grant, grants, id="grant"),
    pytest.param(LoginRequest, logins, id="login"),
    pytest.param(Revocations, revocations, id="revocations"),
]
every_kind = pytest.mark.parametrize(("kind", "values"), KINDS)

CERTIFICATE = Certificate(
    serial=7,
    conflux_id=bytes(range(16)),
    plane_id=bytes(range(16, 32)),
    sign_public=bytes(SIGN_PUBLIC_BYTES),
    kem_public=bytes(HYBRID_PUBLIC_BYTES),
    addresses=(ip_interface("10.1.2.3/16"), ip_interface("fd00::3/64")),
    networks=(ip_network("192.168.0.0/24"),),
    portal=True,
    not_before=1_000,
    not_after=2_000,
    signature=bytes(SIGNATURE_BYTES),
)
FLAG_AT = 1 + 8 + ID_BYTES + ID_BYTES + SIGN_PUBLIC_BYTES + HYBRID_PUBLIC_BYTES
SHOWN_AT = FLAG_AT + 1 + 8 + 8
ADDRESSES_AT = SHOWN_AT + 1 + SALT_BYTES


# Fields

FIELDS: list[tuple[str, st.SearchStrategy[Any]]] = [
    ("u8", st.integers(0, 2**8 - 1)),
    ("u16", st.integers(0, 2**16 - 1)),
    ("u32", u32),
    ("u64", u64),
    ("vec8", st.binary(max_size=255)),
    ("vec16", st.binary(max_size=300)),
    ("text8", names),
    ("text16", texts),
]


@given(st.lists(st.one_of(*(st.tuples(st.just(name), values) for name, values in FIELDS))))
def test_fields_come_back_in_order(fields: list[tuple[str, Any]]) -> None:
    out = Writer()
    for name, value in fields:
        getattr(out, name)(value)
    take = Reader(out.done())
    for name, value in fields:
        assert getattr(take, name)() == value
    assert take.at == len(out.done())
    take.end()


@given(st.binary(max_size=40), st.integers(0, 40), st.sampled_from([bytes, bytearray, memoryview]))
def test_raw_runs_split_a_buffer_of_any_type(data: bytes, size: int, buffer: Any) -> None:
    take = Reader(buffer(data))
    if size > len(data):
        with pytest.raises(WireError):
            take.raw(size)
        return
    assert take.raw(size) == data[:size]
    assert take.rest() == data[size:]
    take.end()


def test_message_with_a_tail_is_a_wire_error() -> None:
    take = Reader(b"\x01\x02")
    take.u8()
    with pytest.raises(WireError):
        take.end()


def test_text_that_is_not_utf8_is_a_wire_error() -> None:
    for wrong in (b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"):
        with pytest.raises(WireError):
            Reader(Writer().vec8(wrong).done()).text8()


def test_value_that_does_not_fit_its_field_is_a_value_error() -> None:
    for write in (
        lambda: Writer().u8(256),
        lambda: Writer().u8(-1),
        lambda: Writer().u64(2**64),
        lambda: Writer().vec8(bytes(256)),
        lambda: Writer().vec16(bytes(65_536)),
        lambda: Writer().text8("é" * 128),
        lambda: Writer().raw(b"12", 3),
    ):
        with pytest.raises(ValueError, match=r"fit|belong"):
            write()


@given(st.binary(max_size=64))
def test_fields_taken_from_noise_raise_nothing_but_wire_errors(noise: bytes) -> None:
    for name, _ in FIELDS:
        take = Reader(noise)
        try:
            while take.at < len(noise):
                getattr(take, name)()
        except WireError:
            continue
        take.end()


# Messages


@every_kind
def test_decoding_undoes_encoding(kind: type[Message], values: st.SearchStrategy[Message]) -> None:
    @some
    @given(values)
    def check(value: Message) -> None:
        assert kind.decode(value.encode()) == value

    check()


@every_kind
def test_every_truncation_and_every_tail_is_a_wire_error(
    kind: type[Message], values: st.SearchStrategy[Message]
) -> None:
    @settings(max_examples=3, deadline=None)
    @given(values)
    def check(value: Message) -> None:
        data = value.encode()
        for size in range(len(data)):
            with pytest.raises(WireError):
                kind.decode(data[:size])
        with pytest.raises(WireError):
            kind.decode(data + b"\0")

    check()


@every_kind
def test_changed_bytes_are_a_wire_error_or_just_another_value(
    kind: type[Message], values: st.SearchStrategy[Message]
) -> None:
    """There is one encoding of each value: else two byte strings would share a signature."""

    @settings(max_examples=300, deadline=None)
    @given(values, st.data())
    def check(value: Message, data: st.DataObject) -> None:
        changed = bytearray(value.encode())
        # The small fields at both ends of the long keys are where a decoder can go wrong.
        long_runs = SIGN_PUBLIC_BYTES + HYBRID_PUBLIC_BYTES
        bit = data.draw(
            st.one_of(
                st.integers(0, len(changed) * 8 - 1),
                st.integers(0, 8 * 80),
                st.integers(8 * long_runs, min(8 * (long_runs + 300), len(changed) * 8 - 1)),
            )
        )
        changed[bit // 8] ^= 1 << bit % 8
        try:
            decoded = kind.decode(bytes(changed))
        except WireError:
            return
        assert decoded != value
        assert decoded.encode() == changed

    check()


@every_kind
def test_noise_is_a_wire_error(kind: type[Message], values: st.SearchStrategy[Message]) -> None:
    @settings(max_examples=200, deadline=None)
    @given(st.integers(0, 2**32 - 1), st.integers(0, 20_000), st.sampled_from([0, 1, 2, 255]))
    def check(seed: int, size: int, version: int) -> None:
        noise = bytes([version]) + Random(seed).randbytes(size)
        with pytest.raises(WireError):
            kind.decode(noise)

    check()


@every_kind
def test_unknown_version_is_a_wire_error(
    kind: type[Message], values: st.SearchStrategy[Message]
) -> None:
    @settings(max_examples=5, deadline=None)
    @given(values, st.integers(0, 255).filter(lambda version: version != 1))
    def check(value: Message, version: int) -> None:
        with pytest.raises(WireError):
            kind.decode(bytes([version]) + value.encode()[1:])

    check()


def test_login_request_changed_anywhere_in_its_body_has_another_body() -> None:
    request = LoginRequest(
        token_digest=bytes(KEY_BYTES),
        nonce=bytes(KEY_BYTES),
        time_ms=0,
        sign_public=bytes(SIGN_PUBLIC_BYTES),
        kem_public=bytes(HYBRID_PUBLIC_BYTES),
        signature=bytes(SIGNATURE_BYTES),
    )
    for at in range(1, len(request.body())):
        data = bytearray(request.encode())
        data[at] = 1
        assert LoginRequest.decode(bytes(data)).body() != request.body()


def test_flag_other_than_0_and_1_is_a_wire_error() -> None:
    data = bytearray(CERTIFICATE.encode())
    assert data[FLAG_AT] == 1
    for at in (FLAG_AT, SHOWN_AT):
        changed = bytearray(data)
        changed[at] = 2
        with pytest.raises(WireError):
            Certificate.decode(bytes(changed))


@given(certificates)
def test_bare_certificate_shows_no_address_and_has_the_same_signature(whole: Certificate) -> None:
    bare = whole.bare()
    assert (bare.addresses, bare.networks, bare.salt) == ((), (), b"")
    assert bare.body() == whole.body()
    assert bare.bare() == bare
    assert Certificate.decode(bare.encode()) == bare


@given(certificates, interfaces)
def test_addresses_that_were_not_certified_need_another_signature(
    whole: Certificate, interface: Interface
) -> None:
    wider = replace(whole, addresses=[*whole.addresses, interface])
    assert wider.body() != whole.body()


def test_salt_keeps_hidden_addresses_from_being_guessed() -> None:
    """Who tries all addresses of a plane has 2^256 salts to try for each."""
    other = replace(CERTIFICATE, salt=b"s" * SALT_BYTES)
    assert other.bare().hidden != CERTIFICATE.bare().hidden


@pytest.mark.parametrize(
    "field",
    [
        pytest.param(b"\x05\x0a\x01\x02\x03\x04\x10", id="five bytes"),
        pytest.param(b"\x00\x10", id="no bytes"),
        pytest.param(b"\x04\x0a\x01\x02\x03\x21", id="prefix of 33"),
        pytest.param(b"\x10" + bytes(16) + b"\x81", id="prefix of 129"),
    ],
)
def test_impossible_address_is_a_wire_error(field: bytes) -> None:
    data = replace(CERTIFICATE, addresses=(), networks=()).encode()
    assert data[ADDRESSES_AT] == 0
    changed = data[:ADDRESSES_AT] + b"\x01" + field + data[ADDRESSES_AT + 1 :]
    with pytest.raises(WireError):
        Certificate.decode(changed)


def test_network_with_host_bits_is_a_wire_error() -> None:
    data = replace(CERTIFICATE, addresses=(), networks=()).encode()
    at = ADDRESSES_AT + 1
    good = data[:at] + b"\x01\x04\x0a\x00\x00\x00\x08" + data[at + 1 :]
    assert Certificate.decode(good).networks == (ip_network("10.0.0.0/8"),)
    with pytest.raises(WireError):
        Certificate.decode(data[:at] + b"\x01\x04\x0a\x00\x00\x01\x08" + data[at + 1 :])


def test_field_of_a_wrong_length_cannot_be_encoded() -> None:
    for wrong in (
        replace(CERTIFICATE, conflux_id=bytes(15)),
        replace(CERTIFICATE, sign_public=bytes(SIGN_PUBLIC_BYTES + 1)),
        replace(CERTIFICATE, signature=b""),
        replace(CERTIFICATE, serial=-1),
    ):
        with pytest.raises(ValueError, match=r"belong|fit"):
            wrong.encode()


def test_certificate_of_the_greatest_size_still_fits_in_a_grant() -> None:
    greatest = replace(
        CERTIFICATE,
        addresses=(ip_interface("fd00::1/128"),) * 255,
        networks=(IPv6Network("fd00::/8"),) * 255,
    )
    assert len(greatest.encode()) <= 65_535


def test_decoded_values_can_be_members_of_a_set() -> None:
    assert {CERTIFICATE, Certificate.decode(CERTIFICATE.encode())} == {CERTIFICATE}


def test_reprs_show_no_secret() -> None:
    secret = "5ecret" * 6
    team = TeamKey(team_id=bytes(16), epoch=1, key=secret[:32].encode(), name="blue")
    control = ControlCredentials(
        urls=("nats://127.0.0.1",),
        prefix="v1",
        handle=bytes(16),
        tags=(),
        shared_tag=bytes(16),
        jwt=secret,
        seed=secret,
    )
    grant = Grant(
        revision=1,
        time_ms=1,
        certificate=CERTIFICATE,
        plane_name="p",
        plane_key=secret[:32].encode(),
        teams=(team,),
        control=control,
        ice_servers=(IceServer(url="turn:127.0.0.1", credential=secret),),
    )
    assert "5ecret" not in repr(grant)
    assert "5ecret" not in repr(team)
    assert "5ecret" not in repr(control)
    assert "blue" in repr(grant)


def test_address_keeps_its_host_part_and_its_prefix_length() -> None:
    address = Certificate.decode(CERTIFICATE.encode()).addresses[0]
    assert isinstance(address, IPv4Interface)
    assert (str(address.ip), address.network.prefixlen) == ("10.1.2.3", 16)
