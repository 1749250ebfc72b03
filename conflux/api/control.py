"""Contract of control drivers: they carry sealed control messages between pseudonyms.

A *tag* is 16 bytes that only members of a plane can compute from an address, a node or "any relay"
(docs/protocol/control.md). The channel is trusted with nothing: it may read, drop, delay, double.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from conflux.api.auth import ServerCheck
from conflux.api.types import Settings

TAG_BYTES = 16
MAX_CONTROL_BYTES = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlCredentials:
    """What Guardian gave this node for the channel. All but `urls` is opaque to the kernel.

    The node may publish to any tag of its plane and must name itself by `handle`; it may listen
    to `tags`, each of which is its own alone, and to `shared_tag`, of whose many listeners each
    message reaches one. `shared_tag` is empty for a node that takes no part in that, `ca_pem` where
    the system's certificates serve.
    """

    urls: Sequence[str]
    prefix: str
    handle: bytes
    tags: Sequence[bytes]
    shared_tag: bytes
    jwt: str
    seed: str
    ca_pem: str = ""

    def __repr__(self) -> str:
        return f"ControlCredentials(urls={list(self.urls)!r})"


class ControlChannel(abc.ABC):
    """A live connection that mends itself. All calls come from the event loop's thread."""

    __slots__ = ()

    connected: bool

    @abc.abstractmethod
    def publish(self, tag: bytes, payload: bytes) -> bool:
        """Send without waiting; False if not connected or the bounded queue is full.

        Best effort: the protocol repeats what matters. At most MAX_CONTROL_BYTES, else ValueError.
        """

    @abc.abstractmethod
    async def renew(self, credentials: ControlCredentials) -> None:
        """Move to new credentials without a gap: the old connection ends after the new one works.

        Messages may come twice meanwhile. Raises Unreachable or Refused and then keeps the old.
        """

    def dropped(self) -> Mapping[str, int]:
        """How many messages were dropped here since `connect`, by reason; `status` shows it.

        A reason is a word or several with underscores between. None is known unless told.
        """
        return {}

    @abc.abstractmethod
    async def close(self) -> None:
        """Flush for at most a second, then close. Closing twice is fine."""


class ControlDriver(abc.ABC):
    """Connects to one kind of message broker."""

    @abc.abstractmethod
    def __init__(self, settings: Settings) -> None: ...

    @abc.abstractmethod
    async def connect(
        self,
        credentials: ControlCredentials,
        on_message: Callable[[bytes, bytes, bytes], None],
        on_connected: Callable[[bool], None],
    ) -> ControlChannel:
        """Connect and listen to the credentials' tags; return once subscribed.

        *on_message(tag, sender handle, payload)* is called from the event loop for each message,
        with noise (an impossible subject, an oversized payload) dropped before; *tag* is the one
        of the credentials' that it was published to. *on_connected* tells of each loss and return
        of the connection, not of the first. Raises Unreachable, Refused.
        """

    async def check(self, url: str, *, ca_pem: str = "") -> ServerCheck | None:
        """Ask one broker without credentials whether it is there, for `netcheck`.

        None where the driver cannot tell. Raises Unreachable, Refused.
        """
        return None
