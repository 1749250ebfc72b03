"""Errors that cross a contract: peers cause WireError, users UsageError, bugs anything else."""


class ConfluxError(Exception):
    """Base of every error that this project raises on purpose."""


class WireError(ConfluxError):
    """Bytes from outside are not what the protocol allows. Counted and dropped, never logged."""


class Closed(ConfluxError):
    """The device, tether or channel was closed."""


class TetherError(ConfluxError):
    """A tether could not be made, or broke. The message says what was tried."""


class UsageError(ConfluxError):
    """Something that the person at the keyboard can mend. The message is one line that says how."""

    exit_code = 2


class Unavailable(UsageError):
    """A driver cannot run on this machine. The message says why and what to do."""

    exit_code = 3


class Unreachable(UsageError):
    """Guardian or the Master does not answer. Passing: worth another try later."""

    exit_code = 4


class Refused(UsageError):
    """Guardian answered and said no. Final until somebody changes something."""

    exit_code = 5
