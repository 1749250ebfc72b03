"""The tokens that Guardian gives out: three kinds of JWT (RFC 7519) and the registration token.

Each kind of JWT has a key of its own, derived from one secret, so that none passes for another.
Registration tokens follow docs/protocol/login.md; the database keeps their SHA-256 alone.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from uuid import UUID

from veilnet_guardian.errors import Unauthorized

if TYPE_CHECKING:
    from joserfc.jwk import OctKey

USER_TOKEN_S = 3_600
MAX_TOKEN_CHARS = 4_096
REGISTRATION_PREFIX = "vnr_"

TokenKind = Literal["user", "conflux", "session"]


@dataclass(frozen=True, slots=True)
class Claim:
    """What a token that verified says: whom it is for, and which of that one's tokens it is."""

    subject: UUID
    token_id: UUID


class Tokens:
    """Makes and reads JWTs. *now* is in Unix seconds throughout."""

    def __init__(self, secret: bytes, fingerprint: bytes) -> None:
        self._secret = secret
        self._fingerprint = fingerprint

    def issue(
        self,
        kind: TokenKind,
        subject: UUID,
        *,
        token_id: UUID,
        now: int,
        lifetime_s: int | None = None,
    ) -> str:
        """Return a signed token; without *lifetime_s* it lives as long as its subject."""
        from joserfc import jwt

        claims: dict[str, str | int] = {
            "aud": f"veilnet-{kind}",
            "sub": str(subject),
            "jti": str(token_id),
            "iat": now,
        }
        if kind == "conflux":
            claims["gkf"] = _base64url(self._fingerprint)
        if lifetime_s is not None:
            claims["exp"] = now + lifetime_s
        return jwt.encode({"alg": "HS256"}, claims, self._key(kind))

    def read(self, kind: TokenKind, token: str, *, now: int) -> Claim:
        """Return what *token* claims. Raises Unauthorized, without telling which check failed."""
        from joserfc import jwt
        from joserfc.errors import JoseError

        if len(token) > MAX_TOKEN_CHARS:
            raise _refusal(kind)
        try:
            claims = jwt.decode(token, self._key(kind), algorithms=["HS256"]).claims
            if claims["aud"] != f"veilnet-{kind}" or now >= claims.get("exp", now + 1):
                raise _refusal(kind)
            return Claim(UUID(claims["sub"]), UUID(claims["jti"]))
        except (JoseError, ValueError, KeyError, TypeError, AttributeError):
            raise _refusal(kind) from None

    def registration(self) -> tuple[str, bytes]:
        """Return a new registration token and the hash to keep of it."""
        token = REGISTRATION_PREFIX + _base64url(secrets.token_bytes(32) + self._fingerprint)
        return token, token_hash(token)

    def _key(self, kind: TokenKind) -> OctKey:
        from joserfc.jwk import OctKey

        key = hmac.digest(self._secret, b"VeilNet Guardian/1 token " + kind.encode(), "sha256")
        return OctKey.import_key(key)


def invitation() -> tuple[str, bytes]:
    """Return a new invitation token and the hash to keep of it."""
    token = "vni_" + _base64url(secrets.token_bytes(32))
    return token, token_hash(token)


def token_hash(token: str) -> bytes:
    """SHA-256 of *token*. Tokens hold 32 random bytes, so that no slower hash is called for."""
    return hashlib.sha256(token.encode(errors="surrogatepass")).digest()


_REFUSALS: dict[TokenKind, str] = {
    "user": "user token is wrong or has expired: log in again with POST /auth/login",
    "conflux": "conflux token is not known here: register this conflux again",
    "session": "session token is wrong or has expired: log in again",
}


def _refusal(kind: TokenKind) -> Unauthorized:
    return Unauthorized(_REFUSALS[kind])


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
