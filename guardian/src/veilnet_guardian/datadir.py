"""Guardian's folder: its secrets, the embedded Master's files and, by default, the database.

    guardian.key   seed of the ML-DSA-65 key that signs certificates and grants (32 bytes)
    token.key      secret under the JWTs that Guardian gives out (32 bytes)
    master.key     root of the NATS operator, accounts and users (32 bytes)
    guardian.db    SQLite, unless --database-url names another database
    master/        the embedded nats-server's configuration and log

The folder has mode 0700, every file in it 0600. Any number of commands may use it at once.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from veilnet_guardian.errors import GuardianError

SECRET_BYTES = 32


class DataDir:
    """An existing, writable, private folder."""

    def __init__(self, root: Path) -> None:
        """Make the folder if there is none. Raises GuardianError if it cannot serve."""
        self.root = root.absolute()
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._insist_private()
            if not os.access(self.root, os.W_OK | os.X_OK):
                raise PermissionError
        except (FileExistsError, NotADirectoryError):
            raise GuardianError(
                f"data folder {self.root} is not a folder: choose another with --data-dir"
            ) from None
        except OSError:
            raise GuardianError(
                f"data folder {self.root} is not writable: "
                "choose another with --data-dir or change its owner"
            ) from None

    def _insist_private(self) -> None:
        if not self.root.stat().st_mode & 0o077:
            return
        # A fresh folder, as container platforms mount it, may be closed; one that holds
        # something may be shared on purpose (--data-dir /tmp) and is left as it is.
        if any(self.root.iterdir()):
            raise GuardianError(
                f"data folder {self.root} is open to other users: chmod 700 it or choose another"
            )
        self.root.chmod(0o700)

    def secret(self, name: str) -> bytes:
        """Return the 32-byte secret *name*, made on first use. Concurrent callers agree on one."""
        path = self.root / name
        try:
            secret = path.read_bytes()
        except FileNotFoundError:
            self._publish(path, secrets.token_bytes(SECRET_BYTES))
            secret = path.read_bytes()
        if len(secret) != SECRET_BYTES:
            raise GuardianError(
                f"{path} does not hold {SECRET_BYTES} bytes: restore it from a backup"
            )
        return secret

    def _publish(self, path: Path, content: bytes) -> None:
        fresh = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        try:
            write_private(fresh, content)
            # A link, unlike a rename, fails where a faster process has already put its own.
            os.link(fresh, path)
        except FileExistsError:
            pass
        finally:
            fresh.unlink(missing_ok=True)

    @contextmanager
    def lock(self, name: str, *, wait: bool) -> Iterator[bool]:
        """Hold the lock file *name* inside; yields False if it is taken and *wait* is False."""
        handle = os.open(self.root / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(handle)

    def subfolder(self, name: str) -> Path:
        path = self.root / name
        path.mkdir(mode=0o700, exist_ok=True)
        return path


def write_private(path: Path, content: bytes) -> None:
    """Write *path* with mode 0600, replacing what was there, and wait until it is on disk."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(handle)
