"""What Guardian says no with: one line on what to do, and the HTTP status that goes with it."""

from __future__ import annotations

from conflux.api import UsageError


class GuardianError(UsageError):
    """Somebody asked for what cannot be. The message is one line for people."""

    status = 400


class Unauthorized(GuardianError):
    status = 401


class Forbidden(GuardianError):
    status = 403


class NotFound(GuardianError):
    status = 404


class Conflict(GuardianError):
    status = 409


class Invalid(GuardianError):
    """A value is well formed but of no use here, such as an address outside its plane."""

    status = 422


class TooMany(GuardianError):
    """Come back in `retry_s` seconds."""

    status = 429

    def __init__(self, message: str, *, retry_s: int) -> None:
        super().__init__(message)
        self.retry_s = retry_s


def one_line(message: str) -> str:
    """*message* without what could break a line or a terminal: it may quote what somebody sent."""
    return "".join(char if char.isprintable() else "?" for char in message)
