"""The one thing that a node reads of its own token: which Guardian it belongs to."""

from __future__ import annotations

import base64
import json

from conflux.api import UsageError

_MALFORMED = "the conflux token is not whole: copy it again, in one piece"


def fingerprint_of(conflux_token: str) -> bytes:
    """Return the claim `gkf`: SHA3-256 of Guardian's ML-DSA key. Raises UsageError.

    The JWT's own signature is Guardian's affair; a false fingerprint only makes the login fail.
    """
    try:
        _, payload, _ = conflux_token.split(".")
        claims = json.loads(_base64url(payload))
        fingerprint = _base64url(claims["gkf"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UsageError(_MALFORMED) from None
    if len(fingerprint) != 32:
        raise UsageError(_MALFORMED)
    return fingerprint


def _base64url(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
