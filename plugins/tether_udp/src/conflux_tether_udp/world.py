"""What a hop needs of the world: sockets and a clock below it, lanes above."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from conflux.api import Buffer
from conflux_tether_udp.paths import Path


class Wire(Protocol):
    """What a hop needs of its sockets and its clock. Nothing here waits."""

    def send(self, path: Path, parts: Sequence[Buffer], datagram_bytes: int) -> None:
        """Send datagrams of *datagram_bytes*, the last one maybe shorter.

        *parts* are header and piece of each in turn, or one whole datagram; they may be reused when
        this returns. What the system has no room for is queued.
        """

    def room_bytes(self) -> int:
        """How much more may be queued."""

    def overflows(self) -> int:
        """How many datagrams the own sockets had no room for so far."""

    def interface(self, path: Path) -> tuple[int, int]:
        """The largest datagram that the interface takes, and the bytes of IP and UDP headers."""

    def permits(self, path: Path) -> bool:
        """Whether both ends of *path* may be part of an underlay."""

    def wake(self, when: float) -> None:
        """Have `Hop.poll` called at *when* or a bit later; of several calls the earliest counts."""


class Lanes(Protocol):
    """Where a hop's messages and news go."""

    def ready(self) -> None:
        """Both lanes carry messages. Called once."""

    def datagram(self, message: memoryview) -> None:
        """A message of the datagram lane, valid only during the call."""

    def reliable(self, message: memoryview) -> None:
        """The same of the reliable lane."""

    def broken(self, reason: str) -> None:
        """The far end closed the tether, is gone, or broke the rules. Called once, at the end."""
