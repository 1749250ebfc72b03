"""Contract of tether drivers: message pipes to a neighbour, made by an exchange of descriptions.

    offerer                                   answerer
    t = offer()            description ──►    t = answer(description)
                           ◄── description
    t.connect(secret, description)            t.connect(secret, None)

Descriptions travel sealed and signed inside Answer and Open (docs/protocol/handshake.md), so what
they say (addresses, certificate fingerprints) comes from the certified neighbour.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from conflux.api.types import Buffer, Settings

MAX_MESSAGE_BYTES = 65_535
MAX_DESCRIPTION_BYTES = 4_096


@dataclass(frozen=True, slots=True, kw_only=True)
class IceServer:
    """A STUN or TURN server (RFC 8489, RFC 8656): `url` is "stun:host:port" or "turn:host:port"."""

    url: str
    username: str = ""
    credential: str = ""

    def __repr__(self) -> str:
        return f"IceServer(url={self.url!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class TetherConfig:
    """What every tether of a node needs to know.

    `is_overlay` tells whether an address of this machine belongs to the overlay: such an address
    must never become a candidate, nor may a socket be bound to it, else the overlay would carry
    itself.
    """

    is_overlay: Callable[[IPv4Address | IPv6Address], bool]
    ice_servers: Sequence[IceServer] = ()


@dataclass(slots=True, kw_only=True)
class TetherStats:
    """What the driver itself measured; None where it does not measure. Loss is a share, 0 to 1."""

    rtt_s: float | None = None
    loss: float | None = None
    queued_bytes: int = 0
    underlay: str = ""
    """How it runs, for people: "udp 192.0.2.1:4000 > 198.51.100.2:5000"."""


class Tether(abc.ABC):
    """One pipe with two lanes. All calls come from the event loop's thread.

    The *datagram lane* keeps message boundaries, may lose, reorder and (rarely) double. The
    *reliable lane* keeps boundaries and order and loses nothing while the tether lives.
    """

    __slots__ = ()

    description: bytes
    """For the far end, at most MAX_DESCRIPTION_BYTES. Holds no secret but must be kept whole."""

    @abc.abstractmethod
    async def connect(self, secret: bytes, remote: bytes | None) -> None:
        """Wait until both lanes carry messages; *remote* is the answer, None at the answerer.

        *secret* is 32 bytes that only the two ends know, for drivers that key themselves. Raises
        TetherError when it fails for good, WireError for a malformed *remote*. It may take long
        towards a blocked peer: the caller sets the deadline by cancelling, which closes it.
        """

    @abc.abstractmethod
    def attach(
        self,
        on_datagram: Callable[[memoryview], None],
        on_reliable: Callable[[memoryview], None],
        on_closed: Callable[[str], None],
    ) -> None:
        """Set where messages go. Called once, before `connect`.

        A message handed over is valid only during the call. *on_closed* is called once, with a
        reason for people, when the tether breaks or the far end closes it; not after `close`.
        Messages that come in before `connect` returns are handed over all the same.
        """

    @abc.abstractmethod
    def send(self, messages: Sequence[Buffer]) -> int:
        """Send on the datagram lane without waiting; return how many were taken, in order.

        The caller may reuse its buffers at once. Fewer than all means that the bounded queue is
        full: the rest is the caller's to drop. Returns 0 once closed. Messages of more than
        MAX_MESSAGE_BYTES raise ValueError.
        """

    @abc.abstractmethod
    def send_reliable(self, message: Buffer) -> bool:
        """Send on the reliable lane without waiting; False if the bounded queue is full or closed.

        At most 16 KiB a message, else ValueError.
        """

    @abc.abstractmethod
    def room_bytes(self) -> int:
        """How much `send` would take right now, in bytes; 0 when closed or full."""

    @property
    def unit_bytes(self) -> int:
        """The largest message worth sending right now, 1 to MAX_MESSAGE_BYTES; `send` takes larger.

        A message is lost with any part of it. A driver that cuts messages into datagrams says here
        how long they should be for the size and the loss that it measures on its path, so that most
        of what is sent arrives. The sender packs no more than this into one message, but never cuts
        a packet for it. It may change with every call, and is cheap to ask for.
        """
        return MAX_MESSAGE_BYTES

    @abc.abstractmethod
    def stats(self) -> TetherStats: ...

    @abc.abstractmethod
    def close(self) -> None:
        """Close at once, waiting for nothing; the far end notices. Closing twice is fine."""

    def abandon(self) -> None:
        """Close at once and let nothing out any more that is sealed under this tether's keys.

        For keys that another machine may use, too, as after a VM was cloned: a nonce that is used
        twice gives a key away. The far end notices by the silence. Fine after `close`, and twice.
        A driver whose `close` sends anything writes its own.
        """
        self.close()


class TetherDriver(abc.ABC):
    """Makes tethers of one kind, which is the driver's name and is negotiated in Ask and Answer."""

    @abc.abstractmethod
    def __init__(self, settings: Settings) -> None: ...

    @abc.abstractmethod
    async def start(self, config: TetherConfig) -> None:
        """Get ready; called once. Raises Unavailable."""

    @abc.abstractmethod
    async def offer(self) -> Tether:
        """Begin a tether. Raises TetherError."""

    @abc.abstractmethod
    async def answer(self, offer: bytes) -> Tether:
        """Begin the other end of *offer*. Raises WireError if it is malformed, TetherError."""

    @abc.abstractmethod
    async def stop(self) -> None:
        """Close every tether and wait until no task, socket or thread of this driver is left."""
