"""Both lanes of one tether, without socket and clock.

    egress    send ─► Cutter ─► wire           send_reliable ─► ReliableOut ─► flush ─► wire
    ingress   batch ─► Arrivals ─► datagram
                           └─ items ─► Paths, PathMtu, Loss, Kept, ReliableIn ─► reliable

What runs inside has its own congestion control, so the datagram lane has none (RFC 8085 §3.1.11).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from conflux.api import MAX_MESSAGE_BYTES, Buffer, WireError
from conflux_tether_udp import control, keys
from conflux_tether_udp.arrivals import Arrivals
from conflux_tether_udp.control import (
    NACK_BYTES,
    Ack,
    Challenge,
    Close,
    Nack,
    Report,
    Response,
    Segment,
)
from conflux_tether_udp.datagram import (
    BASE_BYTES,
    HEADER_BYTES,
    MAX_DATAGRAM_BYTES,
    OVERHEAD_BYTES,
    Cutter,
    Kind,
    batch,
    single,
)
from conflux_tether_udp.kept import Kept
from conflux_tether_udp.keys import TAG_BYTES
from conflux_tether_udp.loss import Loss
from conflux_tether_udp.paths import CHALLENGE_BYTES, Address, Path, Paths, Why
from conflux_tether_udp.pmtu import PathMtu, State
from conflux_tether_udp.reliable import ReliableIn, ReliableOut, RoundTrip
from conflux_tether_udp.world import Lanes, Wire

REPORT_S = 0.1
"""After the first message since the last report."""
QUIET_S = 0.3
"""Messages went out and nothing came by the current path for so long: it is asked. Nothing was
reported for twice as long: their size is in doubt."""
BROKEN_SHARE = 0.5
"""So many messages of one report arrived in part only: the same."""
RTT_S = 1.0
"""Between measurements of the round trip while messages go out, RTT_MESSAGES or more meanwhile."""
RTT_MESSAGES = 64
RTT_FEW_S = 5.0
"""Between them while few do."""
KEEP_ALIVE_S = 15.0
"""RFC 8445 §11: no NAT that heeds RFC 4787 forgets a mapping so soon."""
DEAD_S = 30.0
"""Nothing genuine came in for so long (as RFC 7675 §5.1 has it for consent)."""

_ITEM_ROOM = BASE_BYTES - OVERHEAD_BYTES
_SEGMENT_HEAD = _ITEM_ROOM - control.MAX_SEGMENT_BYTES


class Hop:
    """One end. All calls come from one thread, with the same clock."""

    def __init__(
        self,
        *,
        secret: bytes,
        is_offerer: bool,
        far_id: bytes,
        candidates: Sequence[tuple[Address, int]],
        wire: Wire,
        lanes: Lanes,
        cutter: Cutter,
        plain: memoryview,
        entropy: Callable[[int], bytes],
        now: float,
    ) -> None:
        """*cutter* and *plain*, room for one opened message, may be shared by all hops."""
        self._far_id = far_id
        self._wire = wire
        self._lanes = lanes
        self._cutter = cutter
        self._plain = plain
        self._sealer, self._opener = keys.derive(secret, is_offerer=is_offerer)
        self._paths = Paths(is_offerer=is_offerer, permits=wire.permits, entropy=entropy)
        self._is_closed = False
        self._is_ready = False
        self._wake_at = math.inf

        self._rtt = RoundTrip()
        self._loss = Loss(now)
        self._mtu: PathMtu | None = None
        self._piece_bytes = BASE_BYTES - HEADER_BYTES
        self._out = ReliableOut(self._rtt)
        self._in = ReliableIn(lanes.reliable)
        self._arrivals = Arrivals(self._opener, plain, self._rtt, lanes)
        self._kept = Kept()

        self._sent_at = now
        self._alive_at = now
        self._report_at: float | None = None
        self._asked_at = 0.0
        self._watch_at: float | None = None
        self._silences = 0
        self._unreported_at: float | None = None
        self._rtt_at = now
        self._unmeasured = 0
        self._paths.start(candidates, now)

    # Egress

    def send(self, messages: Sequence[Buffer], now: float) -> int:
        """Seal and send what fits; return how many were taken, in order."""
        wire = self._wire
        taken = 0
        for message in messages:
            size = len(message)
            if size > MAX_MESSAGE_BYTES:
                msg = f"message of {size} bytes, {MAX_MESSAGE_BYTES} are allowed"
                raise ValueError(msg)
            # Anew for each: the system's answer to the one before may have changed both.
            path, piece_bytes = self._paths.current, self._piece_bytes
            if path is None or self._is_closed or size > wire.room_bytes():
                break
            parts = self._cutter.cut(self._sealer, self._far_id, message, piece_bytes, now)
            wire.send(path, parts, piece_bytes + HEADER_BYTES)
            self._kept.keep(parts, piece_bytes + HEADER_BYTES, now)
            taken += 1
        if taken:
            self._sent_at = now
            self._unmeasured += taken
            if self._watch_at is None:
                self._watch(now)
            if self._unreported_at is None:
                self._unreported_at = now
        return taken

    def send_reliable(self, message: Buffer, now: float) -> bool:
        """Take one message, at most 16 KiB, else ValueError; False if it does not fit."""
        if self._is_closed or not self._out.send(message, now):
            return False
        self.flush(now)
        return True

    def room_bytes(self) -> int:
        if self._is_closed or self._paths.current is None:
            return 0
        return self._wire.room_bytes()

    def unit_bytes(self) -> int:
        """The largest message that is worth making one, by the path's size and loss."""
        pieces = self._loss.unit(batch(self.datagram_bytes))
        return min(pieces * self._piece_bytes - TAG_BYTES, MAX_MESSAGE_BYTES)

    @property
    def rtt_s(self) -> float | None:
        return self._rtt.srtt_s

    @property
    def loss(self) -> float:
        return self._loss.share

    @property
    def held_bytes(self) -> int:
        """Of the reliable lane: taken and not acknowledged."""
        return self._out.held_bytes

    @property
    def datagram_bytes(self) -> int:
        return self._piece_bytes + HEADER_BYTES

    @property
    def path(self) -> Path | None:
        return self._paths.current

    @property
    def dropped(self) -> tuple[int, int]:
        """How many messages were replays, and how many forgeries."""
        return self._opener.replayed, self._opener.forged

    # Ingress

    def receive(
        self,
        header: Buffer,
        counter: int,
        kind: int,
        index: int,
        last: int,
        count: int,
        body: memoryview,
        piece_bytes: int,
        path: Path,
        now: float,
    ) -> None:
        """Take *count* neighbouring pieces of one message, from *index* on, out of one batch.

        *header* is that of the first of them. What is not genuine changes nothing but a counter.
        """
        if self._is_closed:
            return
        is_newest = counter > self._opener.highest
        arrivals = self._arrivals
        size = arrivals.open(header, counter, index, last, count, body, piece_bytes, now)
        self._arm(arrivals.due)
        if size < 0:
            return
        self._alive_at = now
        paths = self._paths
        if path == paths.current:
            paths.heard_at = now
        else:
            self._elsewhere(path, count * HEADER_BYTES + len(body), kind, is_newest, now)
        if kind == Kind.MESSAGE:
            if self._report_at is None:
                self._report_later(now)
            arrivals.message(counter, size, now)
        else:
            self._items(size, kind, path, now)

    def _elsewhere(self, path: Path, size: int, kind: int, is_newest: bool, now: float) -> None:
        """Something genuine came by another path than the current one."""
        paths = self._paths
        paths.credit(path, size)
        before = paths.current
        if before is None or kind == Kind.PROBE or not is_newest:
            return
        if paths.elsewhere(path, now):
            self._challenge(path, Why.MOVED, now)
        elif paths.current != before:
            self._path_changed(now)

    def _items(self, size: int, kind: int, path: Path, now: float) -> None:
        challenge: Challenge | None = None
        try:
            for item in control.read(self._plain[:size]):
                if isinstance(item, Challenge):
                    challenge = item
                else:
                    self._item(item, path, now)
                if self._is_closed:
                    return
        except WireError as error:
            self._break(f"the far end broke the rules: {error}")
            return
        if challenge is not None:
            # One answer to a datagram, however many challenges are in it.
            self._challenged(challenge, kind, path, now)

    def _item(self, item: control.Item, path: Path, now: float) -> None:
        if isinstance(item, Segment):
            self._in.segment(item)
            self._arm(now)  # one acknowledgement for all that this turn brings
        elif isinstance(item, Ack):
            self._out.acknowledged(item, now)
            self._arm(now)
        elif isinstance(item, Report):
            self._reported(item, now)
        elif isinstance(item, Response):
            self._responded(item, path, now)
        elif isinstance(item, Nack):
            self._send_again(item, now)
        elif isinstance(item, Close):
            self._break("the far end closed the tether")

    # Paths

    def _challenged(self, item: Challenge, kind: int, path: Path, now: float) -> None:
        response = Response(item.token).encode()
        if self._paths.spend(path, OVERHEAD_BYTES + len(response)):
            self._send_items(response, path, Kind(kind), now)
        if self._paths.current is None and self._paths.spend(path, CHALLENGE_BYTES):
            # What came through may be a way back (RFC 8445 §7.3.1.4, triggered checks).
            self._challenge(path, Why.CONNECT, now)

    def _responded(self, item: Response, path: Path, now: float) -> None:
        before = self._paths.current
        challenge = self._paths.responded(item.token, path, now)
        if challenge is None:
            return
        if challenge.why is not Why.KEEP or challenge.size > BASE_BYTES:
            self._loss.succeeded()
        if self._paths.current != before:
            self._path_changed(now)
        if path == self._paths.current:
            self._paths.heard_at = now
            self._rtt.sample(now - challenge.sent_at)
            if self._mtu is not None and challenge.why is Why.KEEP:
                self._mtu.answered(challenge.size, now)
                self._resized()
            if self._silences and self._unreported_at is not None:
                # It answers, and yet reports nothing: what it is asked is small.
                self._doubt_size(now)
            self._silences = 0

    def _path_changed(self, now: float) -> None:
        """Another path carries: its size, loss and round trip are not known."""
        path = self._paths.current
        if path is None:
            return
        ceiling, headers = self._wire.interface(path)
        self._mtu = PathMtu(min(ceiling, MAX_DATAGRAM_BYTES), headers, now)
        self._resized()
        self._loss = Loss(now)
        self._rtt.forget()
        self._arrivals.path_changed()
        self._unreported_at = None
        # No probe: the far end is to take this path, too.
        self._challenge(path, Why.KEEP, now, kind=Kind.CONTROL)
        self._probe_size(now)
        self.flush(now)
        if not self._is_ready:
            self._is_ready = True
            self._lanes.ready()

    def _try_candidates(self, now: float) -> None:
        for path, token in self._paths.challenges(now):
            self._loss.attempt()
            self._send_items(Challenge(token).encode(), path, Kind.PROBE, now)

    def _challenge(
        self, path: Path, why: Why, now: float, *, kind: Kind = Kind.PROBE, size: int = 0
    ) -> None:
        if why is not Why.KEEP or size > BASE_BYTES:
            self._loss.attempt()
        token = self._paths.challenge(path, why, size, now)
        items = Challenge(token).encode()
        self._send_items(items.ljust(size - OVERHEAD_BYTES, b"\0"), path, kind, now)

    def refused(self, size: int, now: float) -> None:
        """The system refused to send datagrams of *size* bytes to the current path."""
        if self._mtu is not None:
            self._mtu.refused(size, now)
            self._resized()
            self._arm(self._mtu.due)

    def local_gone(self) -> None:
        """The current path's own address is no longer one of this machine."""
        self._paths.local_gone()

    def _probe_size(self, now: float) -> None:
        mtu, path = self._mtu, self._paths.current
        if mtu is None or path is None:
            return
        size = mtu.probe(self._rtt.srtt_s or 0.0, now)
        self._resized()
        if mtu.state is State.FAILED:
            self._break(f"the path carries no datagrams of {BASE_BYTES} bytes")
        elif size is not None:
            self._challenge(path, Why.KEEP, now, size=size)

    def _doubt_size(self, now: float) -> None:
        self._unreported_at = now
        if self._mtu is not None:
            self._mtu.doubt(now)
            self._probe_size(now)

    def _resized(self) -> None:
        if self._mtu is not None:
            self._piece_bytes = self._mtu.size - HEADER_BYTES

    # Sending again

    def _ask(self, now: float) -> None:
        """Ask for pieces that are missing."""
        path = self._paths.current
        nacks = self._arrivals.poll(now)
        if self._report_at is None and self._arrivals.has_lost:
            self._report_later(now)  # where no message arrives the sender has to know, too
        most = _ITEM_ROOM // NACK_BYTES
        if path is not None:
            for at in range(0, len(nacks), most):
                items = b"".join(nack.encode() for nack in nacks[at : at + most])
                self._send_items(items, path, Kind.CONTROL, now)

    def _send_again(self, nack: Nack, now: float) -> None:
        parts, each = self._kept.again(nack, now)
        path = self._paths.current
        fits = each <= self.datagram_bytes and self._wire.room_bytes() > 0
        if parts and path is not None and fits:
            self._wire.send(path, parts, each)

    # Reports

    def _report_later(self, now: float) -> None:
        self._report_at = now + REPORT_S
        self._arm(self._report_at)

    def _report(self, now: float) -> None:
        report = self._arrivals.report(self._wire.overflows())
        self._report_at = None
        path = self._paths.current
        if path is not None:
            self._send_items(report.encode(), path, Kind.CONTROL, now)

    def _reported(self, report: Report, now: float) -> None:
        if not self._loss.report(report, now):
            return
        self._unreported_at = None
        mtu, path = self._mtu, self._paths.current
        if mtu is None or path is None:
            return
        if self._loss.fresh >= BROKEN_SHARE:
            mtu.doubt(now)
        else:
            mtu.used(now)
        self._arm(mtu.due)
        if now - self._rtt_at >= (RTT_S if self._unmeasured >= RTT_MESSAGES else RTT_FEW_S):
            self._rtt_at = now
            self._unmeasured = 0
            self._challenge(path, Why.KEEP, now)

    # Time

    def poll(self, now: float) -> None:
        """Do what is due, and ask to be woken for what comes next."""
        self._wake_at = math.inf
        if self._is_closed:
            return
        self._opener.forget_old(now)
        self._try_candidates(now)
        self._ask(now)
        self._kept.drop_old(now)
        if self._report_at is not None and now >= self._report_at:
            self._report(now)
        if self._out.due is not None and now >= self._out.due and not self._out.timed_out(now):
            self._break("the far end acknowledges nothing")
            return
        self.flush(now)
        self._probe_size(now)
        if self._is_ready:
            self._keep_alive(now)
        if not self._is_closed:
            self._arm_next(now)

    def flush(self, now: float) -> None:
        """Send acknowledgements and segments that are due: after a batch came in, for one."""
        path = self._paths.current
        if path is None or self._is_closed:
            return
        items = self._in.ack().encode() if self._in.ack_due else b""
        while True:
            room = _ITEM_ROOM - len(items) - _SEGMENT_HEAD
            segment = self._out.segment(room, now) if room > 0 else None
            if segment is not None:
                items += segment.encode()
            elif items:
                self._send_items(items, path, Kind.CONTROL, now)
                items = b""
            else:
                break
        if self._out.due is not None:
            self._arm(self._out.due)

    def _keep_alive(self, now: float) -> None:
        if now - self._alive_at >= DEAD_S:
            self._break(f"nothing came from the far end for {DEAD_S:.0f} s")
            return
        if self._watch_at is not None and now >= self._watch_at:
            self._look(now)
        path = self._paths.current
        if path is not None and now - self._sent_at >= KEEP_ALIVE_S:
            self._challenge(path, Why.KEEP, now, kind=Kind.CONTROL)
            self._watch(now)

    def _watch(self, now: float) -> None:
        """Something went out that the far end answers: look in a while whether it did."""
        self._asked_at = now
        self._watch_at = now + self._quiet_s()
        self._arm(self._watch_at)

    def _quiet_s(self) -> float:
        """How long the far end may take to answer what was sent just now."""
        srtt_s = self._rtt.srtt_s
        return RTT_S if srtt_s is None else max(QUIET_S, srtt_s + 4 * self._rtt.var_s + REPORT_S)

    def _look(self, now: float) -> None:
        self._watch_at = None
        unreported_s = 0.0 if self._unreported_at is None else now - self._unreported_at
        if self._paths.heard_at < self._asked_at:
            self._silent(now)
        else:
            self._silences = 0
            if unreported_s >= 2 * self._quiet_s():
                self._doubt_size(now)
            if self._unreported_at is not None:
                self._watch(now)

    def _silent(self, now: float) -> None:
        """Ask the current path, then every other address, too; again and again, less and less."""
        path = self._paths.current
        if path is None:
            return
        self._silences += 1
        if self._silences > 1:
            self._paths.rescue(now)
            self._try_candidates(now)
        self._challenge(path, Why.KEEP, now)
        self._watch_at = now + max(self._quiet_s(), min(QUIET_S * self._silences, RTT_S))

    def _arm_next(self, now: float) -> None:
        dues = [
            self._paths.due(), self._report_at, self._out.due, self._watch_at,
            self._arrivals.due, self._kept.due,
        ]  # fmt: skip
        if self._is_ready:
            dues.append(self._sent_at + KEEP_ALIVE_S)
            dues.append(self._alive_at + DEAD_S)
        if self._mtu is not None:
            dues.append(self._mtu.due)
        self._arm(min((due for due in dues if due is not None), default=math.inf))

    def _arm(self, when: float) -> None:
        if when < self._wake_at:
            self._wake_at = when
            self._wire.wake(when)

    # Sending items, closing

    def _send_items(self, items: bytes, path: Path, kind: Kind, now: float) -> None:
        datagram = single(self._sealer, self._far_id, kind, items, now)
        if path == self._paths.current:
            self._sent_at = now
        self._wire.send(path, [datagram], len(datagram))

    def close(self, now: float) -> bytes:
        """End it; return the datagram that tells the far end, which may be sent several times."""
        self._is_closed = True
        self._arrivals.clear()
        return single(self._sealer, self._far_id, Kind.CONTROL, Close().encode(), now)

    def _break(self, reason: str) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._arrivals.clear()
            self._lanes.broken(reason)
