"""DTLS (RFC 8261) by aiortc, which makes the handshake; afterwards records pass synchronously."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress

from OpenSSL import SSL

from conflux_tether_webrtc.ice import IceConnection
from conflux_tether_webrtc.rtc import RTCCertificate, RTCDtlsTransport, RTCIceTransport, State

_RECORD_BYTES = 2_048
"""More than any record of ours; a longer one of a peer is read in parts and fails the checksum."""

_LENGTH = struct.Struct("!H")
_LENGTH_AT = 11
_HEADER_BYTES = 13


class DtlsTransport(RTCDtlsTransport):
    """One DTLS association over *ice*.

    `on_packet` is called for every decrypted packet, `on_closed` once when the far end closes or
    ICE loses it; both only after `start` has returned with `is_connected`.
    """

    def __init__(self, ice: RTCIceTransport, connection: IceConnection) -> None:
        super().__init__(ice, [RTCCertificate.generateCertificate()])
        self.on_packet: Callable[[bytes], None] | None = None
        self.on_closed: Callable[[], None] | None = None
        self._ice_connection = connection
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def is_connected(self) -> bool:
        return self._state is State.CONNECTED

    def take_over(self) -> None:
        """From now on datagrams come straight from ICE, those first that already wait there."""
        self._ice_connection.on_lost = self._end
        for data in self._ice_connection.take_waiting():
            self._datagram(data)
        self._ice_connection.on_datagram = self._datagram

    def send_packets(self, packets: Sequence[bytes]) -> None:
        """Encrypt and send *packets*; runs of equal size leave in one system call."""
        ssl = self._ssl
        if ssl is None or not self.is_connected:
            return
        total = 0
        try:
            for packet in packets:
                ssl.send(packet)
                total += len(packet) + 64
            records = ssl.bio_read(total)
        except SSL.Error:
            self._end()
            return
        for start, end, size in _runs(records):
            self._ice_connection.send_run(records[start:end], size)

    def say_goodbye(self) -> None:
        """Send close_notify (RFC 8446 §6.1), if there is anybody to send it to."""
        ssl = self._ssl
        if ssl is None or self._state not in (State.CONNECTING, State.CONNECTED):
            return
        with suppress(SSL.Error):
            ssl.shutdown()
        self._flush(ssl)

    async def stop(self) -> None:
        """Close, and wait for the task that aiortc started."""
        task = self._task
        self._end()
        await super().stop()
        if task is not None:
            await asyncio.wait({task})

    # aiortc's hooks

    def _setup_srtp(self) -> None:
        """No media, so no SRTP keys: a peer need not offer the extension."""

    async def _recv_next(self) -> None:
        # aiortc's task reads on after the handshake; here it only waits for the end.
        if self.is_connected:
            await self._ended
        else:
            await super()._recv_next()

    async def _send_data(self, data: bytes) -> None:
        self.send_packets([data])

    def _datagram(self, data: bytes) -> None:
        ssl = self._ssl
        if ssl is None:
            return
        ssl.bio_write(data)
        more = True
        while more:
            try:
                packet = ssl.recv(_RECORD_BYTES)
            except SSL.ZeroReturnError:
                self._end()
                return
            except SSL.Error:
                # Noise, or a handshake message sent again, which may want an answer.
                self._flush(ssl)
                return
            # What stayed in OpenSSL would come out one datagram late, from now on.
            more = not _is_one_record(data)
            if self.on_packet is not None:
                self.on_packet(packet)

    def _flush(self, ssl: SSL.Connection) -> None:
        with suppress(SSL.Error):
            records = ssl.bio_read(_RECORD_BYTES)
            self._ice_connection.send_run(records, len(records))

    def _end(self) -> None:
        if self._ended.done():
            return
        self._ended.set_exception(ConnectionError("DTLS closed"))
        self._ended.exception()  # aiortc's task may be gone: nobody else has to look
        closed, self.on_closed = self.on_closed, None
        if closed is not None:
            closed()


def _is_one_record(datagram: bytes) -> bool:
    """Whether *datagram* is a record that one read empties; RFC 6347 §4.1.1 allows several."""
    if not _HEADER_BYTES <= len(datagram) <= _RECORD_BYTES:
        return False
    (length,) = _LENGTH.unpack_from(datagram, _LENGTH_AT)
    return bool(len(datagram) == _HEADER_BYTES + length)


def _runs(records: bytes) -> list[tuple[int, int, int]]:
    """Cut DTLS records, back to back, into runs (start, end, size) of equal size.

    A shorter record may end a run, as UDP_SEGMENT allows.
    """
    runs: list[tuple[int, int, int]] = []
    start = at = 0
    run_size = 0
    while at < len(records):
        size = _HEADER_BYTES + _LENGTH.unpack_from(records, at + _LENGTH_AT)[0]
        if at > start and size != run_size:
            if size < run_size:
                at += size
                runs.append((start, at, run_size))
                start = at
                run_size = 0
                continue
            runs.append((start, at, run_size))
            start = at
        if at == start:
            run_size = size
        at += size
    if at > start:
        runs.append((start, at, run_size))
    return runs
