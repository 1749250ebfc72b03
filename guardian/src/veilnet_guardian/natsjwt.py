"""The Master's own trust chain: NATS operator, accounts and users as nkeys and JWTs.

Format: NATS ADR-1 / jwt v2: header `ed25519-nkey`, claims under `nats`, signed with ed25519. All
keys are derived from one secret of the data folder, so that a restart changes nothing and no
user's key is stored anywhere.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import nkeys

from conflux.anchor.identity import address_tag, control_prefix, node_id, node_tag, relay_tag
from conflux.api import MAX_CONTROL_BYTES
from conflux.wire.credentials import Certificate

RELAY_QUEUE = "relay"
"""The queue group of docs/protocol/control.md §2."""

GUARDIAN_HANDLE = bytes(16)
"""What Guardian publishes under; HMAC never yields it for a node."""

_NODE_SUBSCRIPTIONS = 32


class NKey:
    """An ed25519 key pair in the encoding of NATS."""

    def __init__(self, seed: bytes, prefix: int) -> None:
        self.seed: str = nkeys.encode_seed(seed, prefix).decode()
        self._pair = nkeys.from_seed(bytearray(self.seed.encode()))
        self.public: str = self._pair.public_key.decode()

    def sign(self, data: bytes) -> bytes:
        signature: bytes = self._pair.sign(data)
        return signature

    def __repr__(self) -> str:
        return f"NKey({self.public})"


class MasterKeys:
    """Everything that makes Guardian the operator of its Master.

    *derive* turns a label into 32 secret bytes, always the same for a label.
    """

    def __init__(self, derive: Callable[[str], bytes]) -> None:
        self._derive = derive

    @cached_property
    def operator(self) -> NKey:
        return NKey(self._derive("operator"), nkeys.PREFIX_BYTE_OPERATOR)

    @cached_property
    def account(self) -> NKey:
        """The account of all nodes of all planes; subjects keep planes apart."""
        return NKey(self._derive("account"), nkeys.PREFIX_BYTE_ACCOUNT)

    @cached_property
    def account_signer(self) -> NKey:
        return NKey(self._derive("account signer"), nkeys.PREFIX_BYTE_ACCOUNT)

    @cached_property
    def system(self) -> NKey:
        return NKey(self._derive("system account"), nkeys.PREFIX_BYTE_ACCOUNT)

    def operator_jwt(self, *, now: int) -> str:
        nats = {"type": "operator", "version": 2, "system_account": self.system.public}
        return encode(self.operator, self.operator.public, "VeilNet", nats, now=now)

    def account_jwt(self, revoked: Mapping[str, int], *, now: int) -> str:
        """*revoked* maps a user's public key to the Unix second up to which its JWTs are dead."""
        nats = {
            "type": "account",
            "version": 2,
            "limits": _NO_LIMITS,
            "signing_keys": [self.account_signer.public],
            "default_permissions": {"pub": {"deny": [">"]}, "sub": {"deny": [">"]}},
            "revocations": dict(revoked),
        }
        return encode(self.operator, self.account.public, "veilnet", nats, now=now)

    def system_jwt(self, *, now: int) -> str:
        nats = {"type": "account", "version": 2, "limits": _NO_LIMITS}
        return encode(self.operator, self.system.public, "system", nats, now=now)

    def node_user(self, serial: int) -> NKey:
        """The key of the node that holds certificate *serial*."""
        return NKey(self._derive(f"node {serial}"), nkeys.PREFIX_BYTE_USER)

    def node_jwt(self, certificate: Certificate, plane_key: bytes) -> str:
        """What the node may do on the control channel, until its certificate ends (§2)."""
        prefix = control_prefix(plane_key)
        handle = node_tag(plane_key, node_id(certificate.sign_public))
        own = [handle, *(address_tag(plane_key, ip.packed) for ip in certificate.addresses)]
        listen = [f"{prefix}.{tag.hex()}.*" for tag in own]
        listen.append(f"{prefix}.{relay_tag(plane_key).hex()}.* {RELAY_QUEUE}")
        return self._user_jwt(
            self.node_user(certificate.serial),
            f"node {certificate.serial}",
            publish=[f"{prefix}.*.{handle.hex()}"],
            subscribe=listen,
            limits={"subs": _NODE_SUBSCRIPTIONS, "data": -1, "payload": MAX_CONTROL_BYTES},
            now=certificate.not_before,
            expires=certificate.not_after,
        )

    def guardian_user(self) -> NKey:
        return NKey(self._derive("guardian"), nkeys.PREFIX_BYTE_USER)

    def guardian_jwt(self, *, now: int) -> str:
        """Guardian's own rights: push grants, and be the sink that hides which tags exist."""
        return self._user_jwt(
            self.guardian_user(),
            "guardian",
            publish=[f"v1.*.*.{GUARDIAN_HANDLE.hex()}"],
            subscribe=["v1.>"],
            limits={"subs": 4, "data": -1, "payload": -1},
            now=now,
        )

    def system_user(self) -> NKey:
        return NKey(self._derive("system user"), nkeys.PREFIX_BYTE_USER)

    def system_user_jwt(self, *, now: int) -> str:
        """The right to tell every server of the Master about revocations, and nothing else."""
        user = self.system_user()
        nats = {
            "type": "user",
            "version": 2,
            "pub": {"allow": ["$SYS.REQ.ACCOUNT.*.CLAIMS.UPDATE", "$SYS.REQ.CLAIMS.UPDATE"]},
            "sub": {"allow": ["_INBOX.>"]},
            "subs": 8,
            "data": -1,
            "payload": -1,
        }
        return encode(self.system, user.public, "guardian-system", nats, now=now)

    def _user_jwt(
        self,
        user: NKey,
        name: str,
        *,
        publish: Sequence[str],
        subscribe: Sequence[str],
        limits: Mapping[str, int],
        now: int,
        expires: int | None = None,
    ) -> str:
        nats = {
            "type": "user",
            "version": 2,
            "issuer_account": self.account.public,
            "pub": {"allow": list(publish)},
            "sub": {"allow": list(subscribe)},
            **limits,
        }
        return encode(self.account_signer, user.public, name, nats, now=now, expires=expires)


_NO_LIMITS = {
    "subs": -1,
    "data": -1,
    "payload": -1,
    "imports": 0,
    "exports": -1,
    "wildcards": True,
    "conn": -1,
    "leaf": 0,
}


def encode(
    issuer: NKey,
    subject: str,
    name: str,
    nats: Mapping[str, Any],
    *,
    now: int,
    expires: int | None = None,
) -> str:
    """Return a NATS JWT. The same arguments give the same token: ed25519 takes no chance."""
    claims: dict[str, Any] = {"iat": now, "iss": issuer.public, "name": name, "sub": subject}
    if expires is not None:
        claims["exp"] = expires
    claims["nats"] = dict(nats)
    digest = hashlib.sha256(_json(claims)).digest()
    claims["jti"] = base64.b32encode(digest).rstrip(b"=").decode()
    header = _base64url(_json({"typ": "JWT", "alg": "ed25519-nkey"}))
    signed = header + b"." + _base64url(_json(claims))
    return (signed + b"." + _base64url(issuer.sign(signed))).decode()


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
