"""Parsers of the plugins, and of what stands on this machine, each as a function of one input."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from aiortc.rtcsctptransport import RTCSctpTransport

from conflux.api import UsageError, WireError
from conflux.config import load_config
from conflux.runtime import saved
from conflux.runtime.localapi import LocalApi
from conflux.runtime.token import fingerprint_of
from conflux_auth_guardian import answers, url
from conflux_control_nats.driver import ChannelCounters, NatsChannel
from conflux_crypto_openssl.driver import OpenSslCrypto
from conflux_tether_webrtc import association, description
from conflux_tether_webrtc.inbound import MOST_HELD_BYTES, Inbound
from conflux_tether_webrtc.outbound import Outbound


def fits(fact: object) -> None:
    if not fact:
        raise AssertionError("a value outside what its parser promises")


# tether_webrtc


def webrtc(data: bytes) -> None:
    for kind in description.Kind:
        try:
            decoded = description.decode(data, kind)
        except WireError:
            continue
        fits(decoded.encode() == data)


FIRST_TSN = 0xFFFFFFF0
"""Close to where TSNs wrap."""

MOST_CHUNKS = 24
"""In one input: its cost grows with their square, what it reaches does not."""

_DATA = struct.Struct("!HBBBBH")
_SACK = struct.Struct("!LLB")


def sctp_data(data: bytes) -> None:
    """DATA and FORWARD TSN chunks behind DTLS. Ahead (2), flags, stream, sequence, what, size."""
    got: list[bytes] = []
    inbound = Inbound(
        FIRST_TSN, ordered_stream=1, deliver=lambda stream, ppid, message: got.append(message)
    )
    at = 0
    for _ in range(MOST_CHUNKS):
        if at + _DATA.size > len(data):
            break
        ahead, flags, stream, sequence, what, size = _DATA.unpack_from(data, at)
        at += _DATA.size
        tsn = FIRST_TSN + ahead & 0xFFFFFFFF
        try:
            if what & 1:
                inbound.forward(tsn)
            else:
                inbound.data(tsn, flags, stream, sequence, 53, data[at : at + size % 64])
                at += size % 64
        except WireError:
            return
        inbound.sack()
    fits(held_bytes(inbound) <= inbound._held_bytes <= MOST_HELD_BYTES)
    fits(sum(map(len, got)) <= len(data))


def held_bytes(inbound: Inbound) -> int:
    """What lies in it unfinished, counted anew."""
    runs = sum(run.size for run in inbound._by_first.values())
    return runs + sum(len(message) for _, message in inbound._early.values())


def sctp_sack(data: bytes) -> None:
    """SACKs for what was sent: cumulative (4), window (4), gaps (1), gap blocks (2 ‖ 2 each)."""
    outbound = Outbound(FIRST_TSN, peer_window=1 << 20)
    for at in range(4):
        outbound.send(0.0, bytes(2_500), at % 3, 53)
    outbound.send_reliable(bytes(2_500), 1, 53)
    now, at = 0.0, 0
    for _ in range(MOST_CHUNKS):
        if at + _SACK.size > len(data):
            break
        now += 0.05
        while outbound.packet(now):
            pass
        cumulative, window, gaps = _SACK.unpack_from(data, at)
        at += _SACK.size
        size = min(gaps % 8 * 4, (len(data) - at) & ~3)
        blocks = list(struct.iter_unpack("!HH", data[at : at + size]))
        at += size
        outbound.on_sack(now, cumulative, window, blocks)
        outbound.forward_tsn(now)
        fits(outbound._flight_bytes >= 0 and outbound.queued_bytes >= 0)


def sctp_setup(data: bytes) -> None:
    """Chunks that set an association up: kind (1), flags (1), body."""
    if len(data) < 2 or data[0] not in association._SETUP:
        return
    make, parameters_at = association._SETUP[data[0]]
    body = data[2:]
    try:
        if parameters_at >= 0:
            association._check_parameters(body, parameters_at)
        make(data[1], body)
    except (WireError, struct.error):
        return


class _Silent:
    """DTLS, ICE and tasks of which an association needs no more than this."""

    state = "connected"
    role = "controlling"

    def __init__(self) -> None:
        self.transport = self

    def send_packets(self, packets: list[bytes]) -> None:
        for packet in packets:
            fits(len(packet) <= 1_280)

    def create_task(self, work: Coroutine[Any, Any, None]) -> None:
        work.close()


_LOOP = asyncio.new_event_loop()


async def _association() -> association.Association:
    made = association.Association(_Silent(), _Silent())  # type: ignore[arg-type]
    made._association_state = RTCSctpTransport.State.ESTABLISHED
    made._in = Inbound(FIRST_TSN, ordered_stream=0, deliver=made._deliver)
    made._out = Outbound(FIRST_TSN, peer_window=1 << 20)
    return made


def sctp_packet(data: bytes) -> None:
    """A packet's chunks as they stand behind DTLS, for an association that is up."""
    there = _LOOP.run_until_complete(_association())
    there.send([bytes(2_500)])
    try:
        there._chunks(bytes(12) + data)
    except (WireError, struct.error):
        there._close("what `packet` does")
        return
    there._flush()
    if there._timer is not None:
        there._timer.cancel()


# auth_guardian, control_nats, crypto_openssl


def guardian_answer(data: bytes) -> None:
    """What Guardian answers over HTTP: registration, login, the reason of a refusal."""
    fits(len(answers.detail(data)) <= 200)
    try:
        answer = answers.json_object(data)
    except ValueError:
        return
    for read in (answers.registration, answers.login):
        try:
            read(answer)
        except ValueError:
            continue


def guardian_url(data: bytes) -> None:
    try:
        found = url.base_url(data.decode("utf-8", "surrogateescape"))
    except UsageError:
        return
    fits(found.startswith(("http://", "https://")) and found.isprintable())


class _Calls:
    """An event loop that makes every call at once."""

    def call_soon(self, call: Any, *arguments: Any) -> None:
        call(*arguments)


def nats_subject(data: bytes) -> None:
    """The subject of a message, as a server sends it."""
    got: list[bytes] = []
    channel = NatsChannel.__new__(NatsChannel)
    channel.counters = ChannelCounters()
    channel._closed = False
    channel._loop = _Calls()  # type: ignore[assignment]
    channel._on_message = lambda tag, sender, payload: got.append(sender)
    channel._receive({b"v1.ab": b"ab", b"v1.cd": b"cd"}, data, b"payload")
    fits(all(len(sender) == 16 and data.endswith(sender.hex().encode()) for sender in got))


_CRYPTO = OpenSslCrypto({})
_KEM, _SIGNER = _CRYPTO.generate_kem(), _CRYPTO.generate_signer()
_SIGNATURE = _SIGNER.sign(b"message", b"context")


def crypto(data: bytes) -> None:
    """Keys, ciphertexts and signatures of others: which (1), then what replaces its beginning."""
    which, changed = data[:1], data[1:]
    if which == b"k":
        public = changed + _KEM.public[len(changed) :]
        try:
            secret, ciphertext = _CRYPTO.encapsulate(public)
        except WireError:
            return
        fits((len(public), len(secret), len(ciphertext)) == (1_184, 32, 1_088))
    elif which == b"c":
        try:
            fits(len(_KEM.decapsulate(changed + bytes(1_088 - min(len(changed), 1_088)))) == 32)
        except WireError:
            fits(len(changed) > 1_088)
    elif which == b"s":
        signature = changed + _SIGNATURE[len(changed) :]
        good = _CRYPTO.verify(_SIGNER.public, b"message", signature, b"context")
        fits(good == (signature == _SIGNATURE))
    else:
        public = changed + _SIGNER.public[len(changed) :]
        good = _CRYPTO.verify(public, b"message", _SIGNATURE, b"context")
        fits(good == (public == _SIGNER.public))


# What stands on this machine


class _Text:
    """A file of these bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __str__(self) -> str:
        return "file"

    def read_text(self, encoding: str) -> str:
        return self._data.decode(encoding)


class _Folder:
    """A folder whose every file holds the same."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __truediv__(self, name: str) -> _Text:
        return _Text(self._data)


def token(data: bytes) -> None:
    try:
        fingerprint = fingerprint_of(data.decode("utf-8", "surrogateescape"))
    except UsageError:
        return
    fits(len(fingerprint) == 32)


def local_api(data: bytes) -> None:
    api = LocalApi(Path("unused"), {"status": lambda: "up", "stop": lambda: None})
    reply = api._reply(data)
    fits(reply.keys() in ({"ok"}, {"error"}))


def membership(data: bytes) -> None:
    try:
        saved.load(_Text(data))  # type: ignore[arg-type]
    except UsageError as error:
        fits("\n" not in str(error))


def config(data: bytes) -> None:
    try:
        load_config(_Folder(data), {})  # type: ignore[arg-type]
    except UsageError as error:
        fits("\n" not in str(error))
