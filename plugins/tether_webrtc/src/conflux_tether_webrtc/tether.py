"""One tether: ICE, DTLS and SCTP stacked, opened in this order and closed at once.

made --connect--> connecting --> open --close, far end, consent--> closed
          any state --close, cancellation, failure--> closed
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Sequence

from conflux.api import Buffer, Tether, TetherError, TetherStats
from conflux_tether_webrtc import description as wire
from conflux_tether_webrtc.association import Association
from conflux_tether_webrtc.dtls import DtlsTransport
from conflux_tether_webrtc.ice import (
    Gatherer,
    IceConnection,
    Reach,
    local_endpoints,
    remote_candidates,
)
from conflux_tether_webrtc.rtc import (
    RTCDtlsFingerprint,
    RTCDtlsParameters,
    RTCIceParameters,
    RTCIceTransport,
)

_SHA256 = "sha-256"


class _State(enum.Enum):
    MADE = enum.auto()
    CONNECTING = enum.auto()
    OPEN = enum.auto()
    CLOSED = enum.auto()


class WebRtcTether(Tether):
    """A tether whose tasks belong to *group*; *forget* is called once nothing of it is left.

    The offerer controls ICE and is the DTLS server (RFC 5763 §5, setup actpass and active).
    """

    __slots__ = (
        "_association",
        "_connection",
        "_dtls",
        "_forget",
        "_gathered",
        "_gathering",
        "_group",
        "_ice",
        "_kind",
        "_on_closed",
        "_reach",
        "_remote",
        "_state",
        "_torn_down",
        "description",
    )

    def __init__(
        self,
        *,
        group: asyncio.TaskGroup,
        reach: Reach,
        offer: wire.Description | None,
        forget: Callable[[WebRtcTether], None],
    ) -> None:
        self.description = b""
        self._group = group
        self._reach = reach
        self._remote = offer
        self._forget = forget
        self._kind = wire.Kind.ANSWER if offer else wire.Kind.OFFER
        self._connection = IceConnection(controlling=offer is None, reach=reach)
        self._ice = RTCIceTransport(Gatherer(self._connection))
        self._dtls = DtlsTransport(self._ice, self._connection)
        self._association = Association(self._dtls, group)
        self._association.on_closed = self._break
        self._on_closed: Callable[[str], None] | None = None
        self._state = _State.MADE
        self._gathering: asyncio.Timeout | None = None
        self._gathered = asyncio.Event()
        self._torn_down = asyncio.Event()

    async def gather(self) -> None:
        """Bind the sockets and write the description. Any failure closes.

        Raises TetherError without any address, or if it is closed meanwhile.
        """
        try:
            await self._gather()
        except BaseException:
            await self._close_and_wait()
            raise

    async def connect(self, secret: bytes, remote: bytes | None) -> None:
        """Connect; DTLS makes its own keys, so *secret* is not used. Any failure closes.

        Raises TetherError, WireError for a malformed answer. On cancellation it returns when no
        task and socket of this tether is left.
        """
        if self._state is not _State.MADE:
            raise TetherError("this tether was closed, or is connected already")
        self._state = _State.CONNECTING
        try:
            await self._connect(self._far_end(remote))
        except BaseException:
            await self._close_and_wait()
            raise

    def attach(
        self,
        on_datagram: Callable[[memoryview], None],
        on_reliable: Callable[[memoryview], None],
        on_closed: Callable[[str], None],
    ) -> None:
        self._association.on_datagram = on_datagram
        self._association.on_reliable = on_reliable
        self._on_closed = on_closed

    def send(self, messages: Sequence[Buffer]) -> int:
        return self._association.send(messages)

    def send_reliable(self, message: Buffer) -> bool:
        return self._association.send_reliable(message)

    def room_bytes(self) -> int:
        return self._association.room_bytes()

    def stats(self) -> TetherStats:
        association = self._association
        return TetherStats(
            rtt_s=association.rtt_s,
            loss=association.loss,
            queued_bytes=association.queued_bytes,
            underlay=self._connection.underlay(),
        )

    def close(self) -> None:
        """Tell the far end and stop at once; sockets and tasks go in the next turns of the loop."""
        if self._state is _State.CLOSED:
            return
        self._state = _State.CLOSED
        if self._gathering is not None:
            self._gathering.reschedule(0)
        self._association.abort()
        self._dtls.say_goodbye()
        self._group.create_task(self._tear_down())

    def abandon(self) -> None:
        """Stop at once; what DTLS would still say is not sent."""
        self._connection.silence()
        self.close()

    async def _gather(self) -> None:
        try:
            async with asyncio.timeout(None) as self._gathering:
                await self._connection.gather_candidates()
        except TimeoutError:
            raise TetherError("closed while it gathered addresses") from None
        finally:
            self._gathering = None
            self._gathered.set()
        endpoints = local_endpoints(self._connection)
        if not endpoints:
            raise TetherError("this machine has no address that a tether may use")
        fingerprints = {
            print_.algorithm: print_.value
            for print_ in self._dtls.getLocalParameters().fingerprints
        }
        self.description = wire.Description(
            kind=self._kind,
            ufrag=self._connection.local_username,
            password=self._connection.local_password,
            fingerprint=bytes.fromhex(fingerprints[_SHA256].replace(":", "")),
            candidates=endpoints,
        ).encode()

    def _far_end(self, remote: bytes | None) -> wire.Description:
        if self._remote is not None:
            if remote is not None:
                raise TetherError("the answerer has its far end's description already")
            return self._remote
        if remote is None:
            raise TetherError("the offerer needs the answer")
        return wire.decode(remote, wire.Kind.ANSWER)

    async def _connect(self, far: wire.Description) -> None:
        for candidate in remote_candidates(far.candidates, self._reach):
            await self._connection.add_remote_candidate(candidate)
        await self._connection.add_remote_candidate(None)
        await self._ice.start(RTCIceParameters(usernameFragment=far.ufrag, password=far.password))
        if self._ice.state != "completed":
            raise TetherError(f"no way to the far end among {len(far.candidates)} addresses")
        fingerprint = RTCDtlsFingerprint(algorithm=_SHA256, value=_colons(far.fingerprint))
        await self._dtls.start(RTCDtlsParameters(fingerprints=[fingerprint]))
        if not self._dtls.is_connected:
            raise TetherError("DTLS failed: the far end is not who its description says")
        try:
            await self._association.open()
        except ConnectionError as error:
            raise TetherError(f"SCTP failed: {error}") from error
        if not self._association.is_open:
            raise TetherError("the far end closed the tether at once")
        self._state = _State.OPEN

    def _break(self, reason: str) -> None:
        """The association ended, not by us. While connecting, `connect` reports it instead."""
        if self._state is not _State.OPEN:
            return
        on_closed = self._on_closed
        self.close()
        if on_closed is not None:
            on_closed(reason)

    async def _close_and_wait(self) -> None:
        self.close()
        await self._torn_down.wait()

    async def _tear_down(self) -> None:
        try:
            # Else an ICE server's late answer would open one more socket.
            await self._gathered.wait()
            await self._dtls.stop()
            await self._ice.stop()
        finally:
            self._forget(self)
            self._torn_down.set()


def _colons(fingerprint: bytes) -> str:
    """As RFC 8122 §5 writes fingerprints."""
    return fingerprint.hex(":").upper()
