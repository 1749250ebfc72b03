"""An SCTP association over DTLS (RFC 8831): aiortc sets it up, data passes through our own halves.

    data:  send -> Outbound -> packet -> DtlsTransport
           DtlsTransport -> packet -> Inbound -> on_datagram, on_reliable
    setup: INIT, INIT ACK, COOKIE ECHO, COOKIE ACK -> aiortc's RTCSctpTransport

Channels are negotiated beforehand (RFC 8831 §6.2): a data channel is a stream number and a rule,
and no message has to open it.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Sequence

import google_crc32c

from conflux.api import MAX_MESSAGE_BYTES, Buffer, WireError
from conflux_tether_webrtc.congestion import RTO_INITIAL_S
from conflux_tether_webrtc.dtls import DtlsTransport
from conflux_tether_webrtc.inbound import SACK, SACK_HEADER, WINDOW_BYTES, Inbound
from conflux_tether_webrtc.outbound import (
    DATA,
    DATA_HEADER,
    FORWARD_TSN,
    FORWARD_TSN_TYPE,
    Outbound,
)
from conflux_tether_webrtc.rtc import (
    AbortChunk,
    Chunk,
    CookieAckChunk,
    CookieEchoChunk,
    ErrorChunk,
    HeartbeatChunk,
    InitAckChunk,
    InitChunk,
    RTCSctpCapabilities,
    RTCSctpTransport,
)

SCTP_PORT = 5_000

DATAGRAM_STREAMS = 4
"""Channels 0 to 3: unordered, no retransmits. Messages go round."""

RELIABLE_STREAM = DATAGRAM_STREAMS
"""Channel 4: reliable and ordered."""

MAX_RELIABLE_BYTES = 16_384
QUEUE_BYTES = 256 * 1024
"""What waits for the congestion window, per lane. A message is taken if all of it fits."""

PACKETS_PER_TURN = 64

MAX_CONTROL_CHUNKS = 4
"""Of one packet, besides DATA. Each may cost a walk through all that is unfinished or in flight;
nobody needs more, and what a further one says is said again."""

# RFC 8831 §8
_BINARY, _BINARY_EMPTY = 53, 57

_COMMON = struct.Struct("!HHLL")
_PORTS_AND_TAG = struct.Struct("!HHL")
_CHUNK = struct.Struct("!BBH")
_CRC = struct.Struct("<L")
_NO_CRC = bytes(4)
_GAP = struct.Struct("!HH")
_PARAMETER = struct.Struct("!HH")

_SETUP: dict[int, tuple[type[Chunk], int]] = {
    1: (InitChunk, 16),
    2: (InitAckChunk, 16),
    4: (HeartbeatChunk, 0),
    9: (ErrorChunk, 0),
    10: (CookieEchoChunk, -1),
    11: (CookieAckChunk, -1),
}
"""Chunks that aiortc handles, and where their parameters begin, -1 for none."""

_ABORT, _SHUTDOWN = 6, 7


class Association(RTCSctpTransport):
    """One association with its two lanes. All calls come from the loop's thread.

    `on_closed` is called once with a reason when the far end closes, breaks the rules or cannot be
    reached, never after `abort`. `established` is done when both lanes carry messages, or has the
    ConnectionError that prevented it.
    """

    def __init__(self, dtls: DtlsTransport, group: asyncio.TaskGroup) -> None:
        super().__init__(dtls, SCTP_PORT)
        self.on_datagram: Callable[[memoryview], None] = _ignore
        self.on_reliable: Callable[[memoryview], None] = _ignore
        self.on_closed: Callable[[str], None] | None = None
        loop = asyncio.get_running_loop()
        self.established: asyncio.Future[None] = loop.create_future()
        self._turns = loop
        self._dtls = dtls
        self._group = group
        self._rto = RTO_INITIAL_S
        self._advertised_rwnd = WINDOW_BYTES
        self._out = Outbound(self._local_tsn, peer_window=0)
        self._in: Inbound | None = None
        self._next_stream = 0
        self._timer: asyncio.TimerHandle | None = None
        self._flush_due = False
        self._is_closed = False

    # Sending

    @property
    def is_open(self) -> bool:
        return self._association_state is self.State.ESTABLISHED

    def room_bytes(self) -> int:
        return max(0, QUEUE_BYTES - self._out.queued_bytes) if self.is_open else 0

    def send(self, messages: Sequence[Buffer]) -> int:
        """Queue what fits and send what the window allows; return how many were taken."""
        if not self.is_open:
            return 0
        out = self._out
        stream = self._next_stream
        taken = 0
        now = self._turns.time()
        try:
            for message in messages:
                size = len(message)
                if size > MAX_MESSAGE_BYTES:
                    msg = f"message of {size} bytes, {MAX_MESSAGE_BYTES} are allowed"
                    raise ValueError(msg)
                if out.queued_bytes + size > QUEUE_BYTES:
                    break
                stream = (stream + 1) % DATAGRAM_STREAMS
                ppid = _BINARY if size else _BINARY_EMPTY
                out.send(now, bytes(message) or b"\0", stream, ppid)
                taken += 1
        finally:
            self._next_stream = stream
            self._flush()
        return taken

    def send_reliable(self, message: Buffer) -> bool:
        size = len(message)
        if size > MAX_RELIABLE_BYTES:
            msg = f"reliable message of {size} bytes, {MAX_RELIABLE_BYTES} are allowed"
            raise ValueError(msg)
        if not self.is_open or self._out.reliable_bytes + size > QUEUE_BYTES:
            return False
        ppid = _BINARY if size else _BINARY_EMPTY
        self._out.send_reliable(bytes(message) or b"\0", RELIABLE_STREAM, ppid)
        self._flush()
        return True

    @property
    def queued_bytes(self) -> int:
        return self._out.queued_bytes + self._out.reliable_bytes

    @property
    def rtt_s(self) -> float | None:
        return self._out.srtt

    @property
    def loss(self) -> float:
        return self._out.loss

    # Life

    async def open(self) -> None:
        """Set the association up; the deadline is the caller's. Raises ConnectionError."""
        self._dtls.on_packet = self.packet
        self._dtls.on_closed = lambda: self._close("the far end closed the tether or is gone")
        await self.start(RTCSctpCapabilities(MAX_MESSAGE_BYTES), SCTP_PORT)
        self._dtls.take_over()
        await self.established

    def abort(self) -> None:
        """End it at once and tell the far end; `on_closed` is not called."""
        self.on_closed = None
        if not self._is_closed:
            self._transmit_packets([bytes(AbortChunk())])
        self._close("closed")

    def packet(self, data: bytes) -> None:
        """Take a decrypted packet. What is malformed is dropped."""
        if len(data) < _COMMON.size or self._is_closed:
            return
        _, _, tag, _ = _COMMON.unpack_from(data)
        (checksum,) = _CRC.unpack_from(data, 8)
        crc = google_crc32c.extend(google_crc32c.value(data[:8] + _NO_CRC), data[12:])
        is_init = len(data) > _COMMON.size and data[_COMMON.size] == 1
        if checksum != crc or tag != (0 if is_init else self._local_verification_tag):
            return
        try:
            self._chunks(data)
        except (WireError, struct.error) as error:
            self._close(f"the far end broke SCTP's rules: {error}")
            return
        if not self._flush_due:
            # After the whole burst: one SACK answers all of it, in front of what it gave rise to.
            self._flush_due = True
            self._turns.call_soon(self._flush)

    def _chunks(self, data: bytes) -> None:
        at = _COMMON.size
        control = 0
        while at + _CHUNK.size <= len(data):
            kind, flags, size = _CHUNK.unpack_from(data, at)
            if size < _CHUNK.size or at + size > len(data):
                raise WireError("chunk of impossible length")
            if kind == DATA:
                self._data(data, at, flags, size)
            elif kind in (_ABORT, _SHUTDOWN):
                self._close("the far end closed the tether")
                return
            elif control < MAX_CONTROL_CHUNKS:
                control += 1
                self._control(data, at, kind, flags, size)
            at += size + (-size & 3)

    def _control(self, data: bytes, at: int, kind: int, flags: int, size: int) -> None:
        if kind == SACK:
            self._sack(data, at)
        elif kind == FORWARD_TSN_TYPE:
            if self._in is not None:
                self._in.forward(FORWARD_TSN.unpack_from(data, at)[3])
        elif kind in _SETUP:
            self._set_up(kind, flags, data[at + _CHUNK.size : at + size])

    def _data(self, data: bytes, at: int, flags: int, size: int) -> None:
        if self._in is None or size <= DATA_HEADER.size:
            return
        _, _, _, tsn, stream, sequence, ppid = DATA_HEADER.unpack_from(data, at)
        self._in.data(tsn, flags, stream, sequence, ppid, data[at + DATA_HEADER.size : at + size])

    def _sack(self, data: bytes, at: int) -> None:
        if self._in is None:
            return
        _, _, size, cumulative, window, gaps, _ = SACK_HEADER.unpack_from(data, at)
        if size < SACK_HEADER.size + gaps * _GAP.size:
            raise WireError("SACK shorter than its gap blocks")
        first = at + SACK_HEADER.size
        blocks = list(_GAP.iter_unpack(data[first : first + gaps * _GAP.size]))
        self._out.on_sack(self._turns.time(), cumulative, window, blocks)

    def _deliver(self, stream: int, ppid: int, data: bytes) -> None:
        if self._is_closed:
            return  # closed by the handler of an earlier message of this packet
        message = memoryview(b"" if ppid == _BINARY_EMPTY else data)
        if stream == RELIABLE_STREAM:
            self.on_reliable(message)
        elif stream < DATAGRAM_STREAMS:
            self.on_datagram(message)

    # Setting up, by aiortc

    def _set_up(self, kind: int, flags: int, body: bytes) -> None:
        make, parameters_at = _SETUP[kind]
        if kind in (1, 2) and self.is_open:
            return  # a double; a restart would reset counters under our feet
        if parameters_at >= 0:
            _check_parameters(body, parameters_at)
        self._group.create_task(self._receive_chunk(make(flags, body)))

    async def _receive_chunk(self, chunk: Chunk) -> None:
        if self._is_closed:
            return
        await super()._receive_chunk(chunk)
        if isinstance(chunk, InitChunk | InitAckChunk) and self._in is None:
            last = self._last_received_tsn
            if last is not None:
                self._in = Inbound(last, ordered_stream=RELIABLE_STREAM, deliver=self._deliver)
                self._out.peer_window = chunk.advertised_rwnd

    async def _send_chunk(self, chunk: Chunk) -> None:
        self._transmit_packets([bytes(chunk)])

    def _set_state(self, state: RTCSctpTransport.State) -> None:
        if state is self.State.CLOSED:
            self._close("the association could not be kept up")
            return
        self._association_state = state
        if state is self.State.ESTABLISHED and not self.established.done():
            self.established.set_result(None)

    def _close(self, reason: str) -> None:
        self._is_closed = True
        self._association_state = self.State.CLOSED
        self._t1_cancel()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self.established.done():
            self.established.set_exception(ConnectionError(reason))
            self.established.exception()  # whoever waits raises it again; there may be nobody
        closed, self.on_closed = self.on_closed, None
        if closed is not None:
            closed(reason)

    # Transmission

    def _flush(self) -> None:
        self._flush_due = False
        if self._in is None or self._is_closed:
            return
        now = self._turns.time()
        head = self._in.sack() + self._out.forward_tsn(now)
        packets: list[bytes] = []
        if self.is_open:
            while len(packets) < PACKETS_PER_TURN:
                packet = self._out.packet(now, head)
                if not packet:
                    break
                packets.append(packet)
                head = b""
            else:
                self._flush_due = True
                self._turns.call_soon(self._flush)
        elif head:
            packets.append(head)
        if packets:
            self._transmit_packets(packets)
        self._set_timer()

    def _transmit_packets(self, payloads: Sequence[bytes]) -> None:
        header = _PORTS_AND_TAG.pack(SCTP_PORT, SCTP_PORT, self._remote_verification_tag)
        start = google_crc32c.value(header + _NO_CRC)
        extend = google_crc32c.extend
        pack = _CRC.pack
        self._dtls.send_packets(
            [header + pack(extend(start, payload)) + payload for payload in payloads]
        )

    def _set_timer(self) -> None:
        """Have `_on_timer` called by the deadline; a timer that is too early sets itself anew."""
        deadline = self._out.deadline
        if deadline is None or self._is_closed:
            return
        if self._timer is not None:
            if self._timer.when() <= deadline:
                return
            self._timer.cancel()
        self._timer = self._turns.call_at(deadline, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        deadline = self._out.deadline
        now = self._turns.time()
        if deadline is not None and deadline <= now:
            self._out.on_timer(now)
            self._flush()
        self._set_timer()


def _check_parameters(body: bytes, at: int) -> None:
    """Raise WireError unless *body* is a list of parameters from *at* on (RFC 9260 §3.2.1).

    aiortc walks them for ever if one says that it is shorter than its own header.
    """
    if len(body) < at:
        raise WireError("chunk shorter than its fields")
    while at + _PARAMETER.size <= len(body):
        _, size = _PARAMETER.unpack_from(body, at)
        if size < _PARAMETER.size or at + size > len(body):
            raise WireError("parameter of impossible length")
        at += size + (-size & 3)


def _ignore(message: memoryview) -> None:
    """Before `attach`."""
