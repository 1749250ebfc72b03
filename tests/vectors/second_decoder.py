"""A second reader of the protocol, written from docs/protocol alone: no line of conflux in it.

Plain functions from bytes to the values of `suite1.json`. Raises Refused for what the documents
forbid. Slow and short on purpose: where it and the code disagree, one document is wrong.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

T = TypeVar("T")
Values = dict[str, Any]

NODE_ID = HASH = KEY = SALT = 32
ID = TAG = 16
X_WING_LABEL = b"\\.//^\\"
ML_DSA_PUBLIC, SIGNATURE = 1_952, 3_309
X_WING_PUBLIC, ENCAPSULATED = 1_216, 1_120
SHOWN_AT = 1 + 8 + 2 * ID + ML_DSA_PUBLIC + X_WING_PUBLIC + 1 + 8 + 8


class Refused(Exception):
    """Not what docs/protocol allows."""


def require(fact: object, what: str) -> None:
    if not fact:
        raise Refused(what)


class Fields:
    """encoding.md §1."""

    def __init__(self, data: bytes) -> None:
        self.left = data

    def raw(self, size: int) -> bytes:
        require(len(self.left) >= size, "shorter than its fields")
        taken, self.left = self.left[:size], self.left[size:]
        return taken

    def u(self, bits: int) -> int:
        return int.from_bytes(self.raw(bits // 8), "big")

    def vec(self, bits: int) -> bytes:
        return self.raw(self.u(bits))

    def text(self, bits: int) -> str:
        try:
            return self.vec(bits).decode("utf-8")
        except UnicodeDecodeError:
            raise Refused("not UTF-8") from None

    def list(self, bits: int, item: Callable[[], T], most: int = 1 << 16) -> list[T]:
        count = self.u(bits)
        require(count <= most, "list over its limit")
        return [item() for _ in range(count)]

    def nodes(self, least: int, most: int) -> Sequence[str]:
        """route.md §1: NodeIds of which none stands twice."""
        nodes = self.list(8, lambda: self.raw(NODE_ID).hex(), most)
        require(len(set(nodes)) == len(nodes) >= least, "no path")
        return nodes

    def one_of(self, bits: int, *allowed: int) -> int:
        value = self.u(bits)
        require(value in allowed, "unknown value")
        return value

    def interface(self) -> str:
        address, prefix = self.vec(8), self.u(8)
        require(len(address) in (4, 16), "no address")
        require(prefix <= 8 * len(address), "prefix longer than the address")
        return f"{ipaddress.ip_address(address)}/{prefix}"

    def network(self) -> str:
        text = self.interface()
        address, prefix = text.split("/")
        packed = ipaddress.ip_address(address).packed
        behind = 8 * len(packed) - int(prefix)
        require(int.from_bytes(packed, "big") % (1 << behind) == 0, "bits behind the prefix")
        return text

    def end(self) -> None:
        require(not self.left, "longer than its fields")


def whole(data: bytes, read: Callable[[Fields], T]) -> T:
    fields = Fields(data)
    value = read(fields)
    fields.end()
    return value


# encoding.md §3, §4


def certificate(data: bytes) -> Values:
    return whole(data, _certificate)


def _certificate(f: Fields) -> Values:
    f.one_of(8, 1)
    return {
        "serial": f.u(64),
        "conflux_id": f.raw(ID).hex(),
        "plane_id": f.raw(ID).hex(),
        "ml_dsa_public": f.raw(ML_DSA_PUBLIC).hex(),
        "x_wing_public": f.raw(X_WING_PUBLIC).hex(),
        "portal": f.one_of(8, 0, 1) == 1,
        "not_before": f.u(64),
        "not_after": f.u(64),
        **(_shown(f) if f.one_of(8, 0, 1) else _hidden(f)),
        "signature": f.raw(SIGNATURE).hex(),
    }


def _shown(f: Fields) -> Values:
    salt = f.raw(SALT).hex()
    shown = {"addresses": f.list(8, f.interface), "networks": f.list(8, f.network)}
    return {**shown, "salt": salt, "hidden": ""}


def _hidden(f: Fields) -> Values:
    return {"addresses": [], "networks": [], "salt": "", "hidden": f.raw(HASH).hex()}


def certificate_signed(data: bytes) -> bytes:
    """What Guardian's signature covers: the same whether addresses are shown or not."""
    head, flag, rest = data[:SHOWN_AT], data[SHOWN_AT], data[SHOWN_AT + 1 : -SIGNATURE]
    return head + (sha256(b"VeilNet/1 scope\0" + rest) if flag else rest)


def grant(data: bytes) -> Values:
    return whole(data, _grant)


def _grant(f: Fields) -> Values:
    f.one_of(8, 1)
    return {
        "revision": f.u(64),
        "time_ms": f.u(64),
        "certificate": certificate(f.vec(16)),
        "plane_name": f.text(8),
        "plane_key": f.raw(KEY).hex(),
        "teams": f.list(16, lambda: _team(f)),
        "control": _control(f),
        "ice_servers": f.list(8, lambda: _ice_server(f)),
        "networks": f.list(16, f.network),
        "revoked": _revoked(f),
    }


def _revoked(f: Fields, most: int = 1 << 16) -> list[Values]:
    entries = f.list(16, lambda: {"serial": f.u(64), "not_after": f.u(64)}, most)
    serials = [entry["serial"] for entry in entries]
    require(serials == sorted(set(serials)), "serials do not ascend")
    return entries


def revocations(data: bytes) -> Values:
    return whole(data, _revocations)


def _revocations(f: Fields) -> Values:
    f.one_of(8, 1)
    return {
        "plane_id": f.raw(ID).hex(),
        "revoked": _revoked(f, most=800),
        "signature": f.raw(SIGNATURE).hex(),
    }


def _team(f: Fields) -> Values:
    return {"id": f.raw(ID).hex(), "epoch": f.u(32), "key": f.raw(KEY).hex(), "name": f.text(8)}


def _control(f: Fields) -> Values:
    return {
        "urls": f.list(8, lambda: f.text(16)),
        "prefix": f.text(8),
        "handle": f.raw(TAG).hex(),
        "tags": f.list(8, lambda: f.raw(TAG).hex()),
        "shared_tag": f.raw(TAG).hex(),
        "jwt": f.text(16),
        "seed": f.text(8),
        "ca_pem": f.text(16),
    }


def _ice_server(f: Fields) -> Values:
    return {"url": f.text(16), "username": f.text(16), "credential": f.text(16)}


def login(data: bytes) -> Values:
    return whole(data, _login)


def _login(f: Fields) -> Values:
    f.one_of(8, 1)
    return {
        "token_digest": f.raw(HASH).hex(),
        "random": f.raw(32).hex(),
        "time_ms": f.u(64),
        "ml_dsa_public": f.raw(ML_DSA_PUBLIC).hex(),
        "x_wing_public": f.raw(X_WING_PUBLIC).hex(),
        "signature": f.raw(SIGNATURE).hex(),
    }


def before_signature(data: bytes) -> bytes:
    """What the signature at the end of a message covers, but for what stands outside of it."""
    return data[:-SIGNATURE]


def opened_grant(plain: bytes) -> tuple[bytes, bytes, bytes]:
    """login.md §3: Guardian's key, its signature, the grant."""
    f = Fields(plain)
    return f.raw(ML_DSA_PUBLIC), f.raw(SIGNATURE), f.left


def registration_token(token: str) -> bytes:
    """login.md: the fingerprint of the Guardian that gave it out."""
    require(token.startswith("vnr_"), "no registration token")
    decoded = _base64url(token[4:])
    require(len(decoded) == 64, "not whole")
    return decoded[32:]


def conflux_token(token: str) -> bytes:
    parts = token.split(".")
    require(len(parts) == 3, "no JWT")
    return _base64url(json.loads(_base64url(parts[1]))["gkf"])


def _base64url(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


# handshake.md §1, §3, §4


def ask(data: bytes) -> Values:
    f = Fields(data)
    core, tags = f.vec(16), f.vec(16)
    f.end()
    require(len(tags) % (8 * TAG) == 0, "team tags are no multiple of 8")
    require(len(tags) <= 128 * TAG, "too many team tags")
    return whole(core, _core) | {"team_tags": _cut(tags)}


def core_of(data: bytes) -> bytes:
    return Fields(data).vec(16)


def _core(f: Fields) -> Values:
    return {
        "nonce": f.raw(16).hex(),
        "time_ms": f.u(64),
        "purpose": f.one_of(8, 1, 2),
        "target": _target(f),
        "certificate": certificate(f.vec(16)),
        "x_wing_public": f.raw(X_WING_PUBLIC).hex(),
        "suites": f.list(8, lambda: f.u(16)),
        "auth_level": f.one_of(8, 0, 1, 2),
        "features": f.u(32),
        "tether_kinds": f.list(8, lambda: f.text(8)),
        "avoid": f.list(8, lambda: f.raw(NODE_ID).hex(), most=16),
    }


def _target(f: Fields) -> Values:
    kind, value = f.one_of(8, 1, 2, 3), f.vec(8)
    require(len(value) in {1: (4, 16), 2: (NODE_ID,), 3: (0,)}[kind], "no such target")
    return {"kind": kind, "value": value.hex()}


def answer(data: bytes) -> Values:
    return whole(data, _answer)


def _answer(f: Fields) -> Values:
    return {
        "ask_hash": f.raw(HASH).hex(),
        "suite": f.u(16),
        "auth_level": f.one_of(8, 0, 1, 2),
        "features": f.u(32),
        "certificate": certificate(f.vec(16)),
        "x_wing_public": f.raw(X_WING_PUBLIC).hex(),
        "random": f.raw(32).hex(),
        "team_tags": _cut(f.vec(16)),
        "mac": f.raw(HASH).hex(),
        "tether": _tether(f),
        "signature": f.raw(SIGNATURE).hex(),
    }


def before_mac(data: bytes) -> bytes:
    """What the MAC of an Answer covers: the fields before it."""
    values = answer(data)
    tether = values["tether"]
    behind = HASH + 1 + len(tether["driver"].encode()) + 2 + len(tether["description"]) // 2
    return before_signature(data)[:-behind]


def opening(data: bytes) -> Values:
    return whole(data, _opening)


def _opening(f: Fields) -> Values:
    return {
        "answer_hash": f.raw(HASH).hex(),
        "random": f.raw(32).hex(),
        "tether": _tether(f),
        "signature": f.raw(SIGNATURE).hex(),
    }


def _tether(f: Fields) -> Values:
    driver, description = f.text(8), f.vec(16)
    require(len(description) <= 4_096, "description too long")
    return {"driver": driver, "description": description.hex()}


def _cut(tags: bytes) -> list[str]:
    require(len(tags) % TAG == 0, "half a tag")
    return [tags[at : at + TAG].hex() for at in range(0, len(tags), TAG)]


# inside.md §1


def mtu_bytes(features: int) -> int:
    said = features // 65_536
    return max(said, 1_280) if said else 1_500


# control.md §3


def envelope(data: bytes) -> tuple[int, bytes]:
    f = Fields(data)
    f.one_of(8, 1)
    kind = f.one_of(8, 1, 2, 3, 4, 5, 6, 7)
    require(len(data) <= (65_536 if kind == 4 else 16_384), "message too large")
    return kind, f.left


def reference(message: bytes) -> bytes:
    return sha256(message)[:16]


# route.md §1


def inband(data: bytes) -> Values:
    return whole(data, _inband)


def _inband(f: Fields) -> Values:
    kind = f.one_of(8, *range(1, 9))
    if kind == 1:
        values = {"route": f.raw(16).hex(), "idle_s": f.u(16)}
        return {"kind": kind, **values, "path": f.nodes(2, 6)}
    if kind == 2:
        values = {"route": f.raw(16).hex(), "label": f.u(32)}
        return {"kind": kind, **values, "rtts_us": f.list(8, lambda: f.u(32), most=4)}
    if kind in (3, 4):
        return {"kind": kind, "route": f.raw(16).hex(), "reason": f.one_of(8, 1, 2, 3, 4, 5, 6)}
    if kind == 5:
        return {"kind": kind, "label": f.u(32)}
    if kind == 7:
        return {"kind": kind, "id": f.raw(16).hex(), **_seek(f)}
    if kind == 8:
        return {"kind": kind, "id": f.raw(16).hex(), "path": f.nodes(3, 6)}
    return {
        "kind": kind,
        "id": f.raw(16).hex(),
        "relays_left": f.one_of(8, 0, 1, 2, 3, 4),
        "tag": f.raw(TAG).hex(),
        "sender": f.raw(TAG).hex(),
        "message": f.vec(16).hex(),
    }


def _seek(f: Fields) -> Values:
    left, target = f.u(8), f.raw(NODE_ID).hex()
    path = f.nodes(1, 5)
    require(len(path) - 1 + left <= 4, "more relays than a route has")
    require(target not in path, "past its target")
    return {"relays_left": left, "target": target, "path": path, "avoid": f.nodes(0, 16)}


# frame.md


def outer(message: bytes) -> tuple[Values, bytes]:
    """§1: the header's values, and what stands behind it."""
    f = Fields(message)
    first, hop_limit, zero, label = f.u(8), f.u(8), f.u(16), f.u(32)
    require(first >> 4 == 1 and zero == 0, "unknown version")
    require(first & 15 <= 2, "unknown type")
    return {"type": first & 15, "hop_limit": hop_limit, "label": label}, f.left


def probe(message: bytes) -> Values:
    values, rest = outer(message)
    require(values["type"] in (1, 2), "no probe")
    return values | whole(rest, lambda f: {"sequence": f.u(32), "stamp_us": f.u(64)})


def nonce(iv: bytes, counter: int) -> bytes:
    """§4."""
    padded = bytes(4) + counter.to_bytes(8, "big")
    return bytes(one ^ other for one, other in zip(iv, padded, strict=True))


def frame(message: bytes, key: bytes, iv: bytes) -> Values:
    """§2 and §3: open a frame and take it apart."""
    values, rest = outer(message)
    require(values["type"] == 0, "no frame")
    f = Fields(rest)
    stream_id, counter = f.raw(8), f.u(64)
    require(1 <= len(f.left) - 16 <= 65_495, "no room for a superframe")
    try:
        plain = AESGCM(key).decrypt(nonce(iv, counter), f.left, rest[:16])
    except InvalidTag:
        raise Refused("forged") from None
    values |= {"stream_id": stream_id.hex(), "counter": counter, "superframe": plain.hex()}
    if plain[0] == 0x80:
        return values | {"packets": [], "control": plain[1:].hex()}
    return values | {"packets": superframe(plain)["packets"], "control": ""}


def superframe(data: bytes) -> Values:
    """§3."""
    f = Fields(data)
    layout = f.one_of(8, 0, 1)
    packets = []
    while f.left:
        body = f.vec(16)
        packet = body[10:] if layout == 1 else body
        require(len(packet) >= 20, "too small for a packet")
        packets.append(packet.hex())
    return {"layout": layout, "packets": packets}


# Keys: encoding.md §2, control.md §1, handshake.md §1, §3, §5


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def mac(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, "sha256").digest()


def node_id(ml_dsa_public: bytes) -> bytes:
    return hashlib.sha3_256(ml_dsa_public).digest()


def pseudonyms(plane_key: bytes, addresses: Sequence[bytes], node: bytes) -> Values:
    return {
        "prefix": "v1." + mac(plane_key, b"VeilNet/1 plane")[:8].hex(),
        "addresses": {
            address.hex(): mac(plane_key, b"VeilNet/1 address\0" + address)[:16].hex()
            for address in addresses
        },
        "node_tag": mac(plane_key, b"VeilNet/1 node\0" + node)[:16].hex(),
        "relay_tag": mac(plane_key, b"VeilNet/1 relay")[:16].hex(),
    }


def extract(salt: bytes, ikm: bytes) -> bytes:
    """HKDF-Extract, RFC 5869 §2.2: no salt is 32 zeros."""
    return mac(salt or bytes(32), ikm)


def expand(prk: bytes, info: bytes, size: int) -> bytes:
    """HKDF-Expand, RFC 5869 §2.3."""
    made = block = b""
    for number in range(1, 256):
        if len(made) >= size:
            break
        block = mac(prk, block + info + bytes((number,)))
        made += block
    return made[:size]


def open_ask(plane_key: bytes, message: bytes) -> bytes:
    require(envelope(message)[0] == 1, "no Ask")
    return _of_plane(plane_key, message, b"VeilNet/1 ask")


def open_revocations(plane_key: bytes, message: bytes) -> bytes:
    require(envelope(message)[0] == 7, "no revocations")
    return _of_plane(plane_key, message, b"VeilNet/1 revocations")


def _of_plane(plane_key: bytes, message: bytes, info: bytes) -> bytes:
    salt, sealed = message[2:34], message[34:]
    key = expand(extract(salt, plane_key), info, 32)
    try:
        return AESGCM(key).decrypt(bytes(12), sealed, message[:2] + salt)
    except InvalidTag:
        raise Refused("sealed under another plane's key") from None


def team_tag(team_key: bytes, core: bytes) -> bytes:
    return mac(team_key, b"VeilNet/1 team tag\0" + sha256(core))[:16]


def team_salt(keys: Sequence[bytes]) -> bytes:
    return sha256(b"VeilNet/1 teams\0" + b"".join(sorted(keys)))


def answer_mac(salt: bytes, claims: bytes) -> bytes:
    return mac(salt, b"VeilNet/1 answer mac\0" + claims)


def unseal(
    sealed: bytes, *, x25519: bytes, public: bytes, ml_kem_shared: bytes, info: bytes, aad: bytes
) -> bytes:
    """RFC 9180 base mode after X-Wing; *ml_kem_shared* is what ML-KEM-768 gives for its part."""
    enc, ciphertext = sealed[:ENCAPSULATED], sealed[ENCAPSULATED:]
    their_x, own_x = enc[1_088:], public[1_184:]
    x_shared = X25519PrivateKey.from_private_bytes(x25519).exchange(
        X25519PublicKey.from_public_bytes(their_x)
    )
    shared = hashlib.sha3_256(ml_kem_shared + x_shared + their_x + own_x + X_WING_LABEL).digest()
    suite = b"HPKE" + bytes.fromhex("647a 0001 0002")

    def labelled_extract(salt: bytes, label: bytes, ikm: bytes) -> bytes:
        return extract(salt, b"HPKE-v1" + suite + label + ikm)

    def labelled_expand(prk: bytes, label: bytes, what: bytes, size: int) -> bytes:
        return expand(prk, size.to_bytes(2, "big") + b"HPKE-v1" + suite + label + what, size)

    context = b"\0" + labelled_extract(b"", b"psk_id_hash", b"")
    context += labelled_extract(b"", b"info_hash", info)
    secret = labelled_extract(shared, b"secret", b"")
    key = labelled_expand(secret, b"key", context, 32)
    base_nonce = labelled_expand(secret, b"base_nonce", context, 12)
    try:
        return AESGCM(key).decrypt(base_nonce, ciphertext, aad)
    except InvalidTag:
        raise Refused("sealed to another key") from None


def key_schedule(
    salt: bytes, ask_plain: bytes, answer_plain: bytes, open_plain: bytes
) -> Mapping[str, Any]:
    """§5."""
    transcript = sha256(sha256(ask_plain) + sha256(answer_plain) + sha256(open_plain))
    of_open = bytes.fromhex(opening(open_plain)["random"])
    of_answer = bytes.fromhex(answer(answer_plain)["random"])
    prk = extract(salt, of_open + of_answer + transcript)

    def secret(label: str, size: int) -> str:
        info = b"VeilNet/1 " + label.encode() + b"\0" + transcript
        return expand(prk, info, size).hex()

    def stream(direction: str) -> Values:
        return {
            "key": secret(f"{direction} key", 32),
            "iv": secret(f"{direction} iv", 12),
            "stream_id": secret(f"{direction} stream id", 8),
        }

    return {
        "team_salt": salt.hex(),
        "transcript": transcript.hex(),
        "prk": prk.hex(),
        "ask_to_answer": stream("ask to answer"),
        "answer_to_ask": stream("answer to ask"),
        "tether": secret("tether", 32),
    }
