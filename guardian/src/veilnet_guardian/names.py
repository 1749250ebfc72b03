"""Names that people give, checked once at the edge. Each check returns the value in one form."""

from __future__ import annotations

import re
from uuid import UUID

from veilnet_guardian.errors import Invalid

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_EMAIL = re.compile(r"[^\s@\x00-\x1f\x7f<>\"',;:\\()\[\]]+@[A-Za-z0-9][A-Za-z0-9.-]*")
_MAX_EMAIL_BYTES = 200


def name(value: str, *, of: str) -> str:
    """A plane's, team's or conflux's name; *of* says whose, for the error. Raises Invalid."""
    value = value.strip()
    if not _NAME.fullmatch(value) or _is_id(value):
        raise Invalid(
            f"{of} {value[:80]!r} cannot be used: take 1 to 63 letters, digits, '.', '_' or '-', "
            "beginning with a letter or digit, and no UUID"
        )
    return value


def _is_id(value: str) -> bool:
    """What looks like an id would never be found by its name."""
    try:
        UUID(value)
    except ValueError:
        return False
    return True


def email(value: str) -> str:
    """An e-mail address in lower case. Raises Invalid."""
    value = value.strip().lower()
    if len(value.encode(errors="replace")) > _MAX_EMAIL_BYTES or not _EMAIL.fullmatch(value):
        raise Invalid(f"{value[:80]!r} is not an e-mail address: write it as name@domain")
    return value
