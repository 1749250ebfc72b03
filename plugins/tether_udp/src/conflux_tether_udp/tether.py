"""One tether: the contract in front, a `Hop` behind it, the port and the loop's clock around.

made --connect--> connecting --> open --close, far end, silence--> closed
          any state --close, cancellation, failure--> closed
"""

from __future__ import annotations

import asyncio
import enum
import secrets
from collections.abc import Callable, Sequence
from ipaddress import ip_address

from conflux.api import Buffer, Tether, TetherError, TetherStats
from conflux_tether_udp import description as wire
from conflux_tether_udp.hop import Hop
from conflux_tether_udp.paths import Path
from conflux_tether_udp.port import Port
from conflux_tether_udp.reach import socket_address
from conflux_tether_udp.sockets import QUEUE_BYTES as BACKLOG_BYTES

QUEUE_BYTES = 256 * 1024
"""What of one tether may wait for the system to have room."""


class _State(enum.Enum):
    MADE = enum.auto()
    CONNECTING = enum.auto()
    OPEN = enum.auto()
    CLOSED = enum.auto()


class UdpTether(Tether):
    """A tether on *port*; *forget* is called once nothing of it is left."""

    __slots__ = (
        "_far",
        "_forget",
        "_hop",
        "_id",
        "_kind",
        "_line",
        "_port",
        "_shown",
        "_state",
        "_text",
        "description",
    )

    def __init__(
        self,
        *,
        port: Port,
        candidates: Sequence[wire.Candidate],
        offer: wire.Description | None,
        forget: Callable[[UdpTether], None],
    ) -> None:
        self._port = port
        self._far = offer
        self._forget = forget
        self._id = port.new_id()
        self._kind = wire.Kind.OFFER if offer is None else wire.Kind.ANSWER
        self._hop: Hop | None = None
        self._line = _Line(port, self._broken)
        self._state = _State.MADE
        self._shown: tuple[Path, int] | None = None
        self._text = ""
        self.description = wire.Description(
            kind=self._kind, id=self._id, candidates=tuple(candidates[: wire.MAX_CANDIDATES])
        ).encode()

    async def connect(self, secret: bytes, remote: bytes | None) -> None:
        if self._state is not _State.MADE:
            raise TetherError("this tether was closed, or is connected already")
        self._state = _State.CONNECTING
        try:
            far = self._far_end(remote)
            self._hop = self._line.start(
                secret, far, own_id=self._id, is_offerer=self._kind is wire.Kind.OFFER
            )
            await self._line.connected
            # The far end may have closed it between that news and this turn.
            if self._state is not _State.CONNECTING:
                raise TetherError("the far end closed the tether at once")
        except BaseException:
            self.close()
            raise
        self._state = _State.OPEN

    def attach(
        self,
        on_datagram: Callable[[memoryview], None],
        on_reliable: Callable[[memoryview], None],
        on_closed: Callable[[str], None],
    ) -> None:
        self._line.datagram = on_datagram
        self._line.reliable = on_reliable
        self._line.on_closed = on_closed

    def send(self, messages: Sequence[Buffer]) -> int:
        return 0 if self._hop is None else self._hop.send(messages, self._line.now())

    def send_reliable(self, message: Buffer) -> bool:
        return self._hop is not None and self._hop.send_reliable(message, self._line.now())

    def room_bytes(self) -> int:
        return 0 if self._hop is None else self._hop.room_bytes()

    @property
    def unit_bytes(self) -> int:
        return super().unit_bytes if self._hop is None else self._hop.unit_bytes()

    def stats(self) -> TetherStats:
        hop = self._hop
        if hop is None:
            return TetherStats(underlay="udp, not connected")
        return TetherStats(
            rtt_s=hop.rtt_s,
            loss=hop.loss,
            queued_bytes=self._line.queued_bytes + hop.held_bytes,
            underlay=self._underlay(hop),
        )

    def close(self) -> None:
        """Tell the far end and stop at once."""
        hop = self._hop
        if self._state is not _State.CLOSED and hop is not None and hop.path is not None:
            self._port.goodbye(self._line, hop.path, hop.close(self._line.now()))
        self.abandon()

    def abandon(self) -> None:
        """Stop at once."""
        if self._state is _State.CLOSED:
            return
        self._state = _State.CLOSED
        self._hop = None
        self._line.stop()
        self._port.forget(self._id)
        self._forget(self)

    def _far_end(self, remote: bytes | None) -> wire.Description:
        if self._far is not None:
            if remote is not None:
                raise TetherError("the answerer has its far end's description already")
            return self._far
        if remote is None:
            raise TetherError("the offerer needs the answer")
        return wire.decode(remote, wire.Kind.ANSWER)

    def _broken(self, reason: str) -> None:
        was_open = self._state is _State.OPEN
        on_closed = self._line.on_closed
        self._line.fail(reason)
        self.close()
        if was_open and on_closed is not None:
            on_closed(reason)

    def _underlay(self, hop: Hop) -> str:
        path = hop.path
        if path is None:
            return "udp, connecting"
        # Asked for with every round trip that is measured, and hardly ever another.
        shown = path, hop.datagram_bytes
        if shown != self._shown:
            host, port = path.remote[:2]
            own = "any" if path.local is None else str(ip_address(path.local))
            way = f"{_show(own, self._port.number(path))} > {_show(host, port)}"
            self._shown, self._text = shown, f"udp {way}, {hop.datagram_bytes} bytes"
        return self._text


class _Line:
    """What a hop needs: `world.Wire` and `world.Lanes`; and what hears of sockets: `Sender`."""

    def __init__(self, port: Port, broken: Callable[[str], None]) -> None:
        self.queued_bytes = 0
        self.datagram: Callable[[memoryview], None] = _ignore
        self.reliable: Callable[[memoryview], None] = _ignore
        self.on_closed: Callable[[str], None] | None = None
        self.broken = broken
        self._loop = asyncio.get_running_loop()
        self.now = self._loop.time
        self.connected: asyncio.Future[None] = self._loop.create_future()
        self._port = port
        self._backlog = port.backlog
        self._hop: Hop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.permits = port.permits
        self.interface = port.interface
        self.overflows = port.overflows

    def start(
        self, secret: bytes, far: wire.Description, *, own_id: bytes, is_offerer: bool
    ) -> Hop:
        reach = self._port.reach
        hop = self._hop = Hop(
            secret=secret,
            is_offerer=is_offerer,
            far_id=far.id,
            candidates=[
                (socket_address(candidate.address, candidate.port), candidate.type)
                for candidate in far.candidates
                if reach.permits(candidate.address)
            ],
            wire=self,
            lanes=self,
            cutter=self._port.cutter,
            plain=self._port.plain,
            entropy=secrets.token_bytes,
            now=self.now(),
        )
        self._port.listen(own_id, hop.receive)
        hop.poll(self.now())
        return hop

    def stop(self) -> None:
        self.fail("closed")
        self.datagram = self.reliable = _ignore
        self._hop = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def fail(self, reason: str) -> None:
        if not self.connected.done():
            self.connected.set_exception(TetherError(reason))
            self.connected.exception()  # whoever waits raises it again; there may be nobody

    # Lanes

    def ready(self) -> None:
        if not self.connected.done():
            self.connected.set_result(None)

    # Wire

    def send(self, path: Path, parts: Sequence[Buffer], datagram_bytes: int) -> None:
        self._port.send(self, path, parts, datagram_bytes)

    def room_bytes(self) -> int:
        if self._backlog.queued_bytes >= BACKLOG_BYTES:
            return 0
        return max(0, QUEUE_BYTES - self.queued_bytes)

    def wake(self, when: float) -> None:
        if self._timer is not None:
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._poll)

    def _poll(self) -> None:
        self._timer = None
        if self._hop is not None:
            self._hop.poll(self.now())

    # Sender

    def refused(self, datagram_bytes: int) -> None:
        if self._hop is not None:
            self._hop.refused(datagram_bytes, self.now())

    def local_gone(self) -> None:
        if self._hop is not None:
            self._hop.local_gone()


def _ignore(message: memoryview) -> None:
    """Before `attach`, after `close`."""


def _show(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
