"""A UDP tether's hop in a world of stubs, and the programs that act on it.

    program := step ...        step := what (1) ‖ size (2) ‖ payload (size, cut to what is there)

One end is real; the far end's keys are at hand, so that genuine datagrams reach every state behind
the seal. Time moves between steps, the network is a list.
"""

from __future__ import annotations

import struct

from fuzz_plugins import fits

from conflux.api import WireError
from conflux_tether_udp import control as udp_control
from conflux_tether_udp import description as udp_description
from conflux_tether_udp import keys, stun
from conflux_tether_udp.arrivals import MAX_ORDERED, MAX_ORDERED_BYTES
from conflux_tether_udp.datagram import (
    HEADER_BYTES,
    ID_BYTES,
    MAX_PIECES,
    Cutter,
    Kind,
    single,
)
from conflux_tether_udp.hop import Hop
from conflux_tether_udp.ingress import distribute
from conflux_tether_udp.kept import KEEP_BYTES
from conflux_tether_udp.paths import AMPLIFICATION, Path
from conflux_tether_udp.reassembly import MAX_HELD_BYTES, MAX_PARTIAL
from conflux_tether_udp.reliable import QUEUE_BYTES, WINDOW

STEP = struct.Struct("!BH")
MAX_STEPS = 64
SECRET = bytes(range(32))
OWN_ID, FAR_ID = b"\x80" + bytes(ID_BYTES - 1), b"\x81" + bytes(ID_BYTES - 1)
FAR = ("192.0.2.2", 4_000)
FORBIDDEN = ("10.128.0.9", 4_000)
"""An address of the overlay."""
OTHERS = (FAR, ("192.0.2.3", 4_000), ("198.51.100.1", 1), ("203.0.113.9", 9), FORBIDDEN)
OWN = bytes((192, 0, 2, 1))


class Far:
    """The far end, as far as it takes to be heard: its keys, and what it was sent."""

    def __init__(self) -> None:
        self.sealer, self.opener = keys.derive(SECRET, is_offerer=False)
        self.plain = memoryview(bytearray(65_536))
        self.tokens: list[bytes] = []

    def hear(self, datagram: bytes, now: float) -> None:
        """Open what the hop sent: all of it must be genuine. Note what it wants to have back."""
        counter = int.from_bytes(datagram[ID_BYTES:14], "big")
        header, sealed = datagram[:HEADER_BYTES], datagram[HEADER_BYTES:]
        if datagram[15]:
            return  # a piece of a longer message
        size = self.opener.open_into(counter, header, sealed, self.plain, now)
        if size >= 9 and datagram[14] and self.plain[0] == 1:
            self.tokens.append(bytes(self.plain[1:9]))


class World:
    """The hop's wire and lanes (`world.Wire`, `world.Lanes`)."""

    def __init__(self, far: Far) -> None:
        self.now = 1_000.0
        self.wake_at: float | None = None
        self.sent: dict[tuple, int] = {}
        self.ready_count = self.ended = self.got = 0
        self._far = far

    def send(self, path: Path, parts: list, datagram_bytes: int) -> None:
        for at in range(0, len(parts), 2):
            data = b"".join(bytes(part) for part in parts[at : at + 2])
            assert HEADER_BYTES < len(data) <= datagram_bytes
            self.sent[path.remote] = self.sent.get(path.remote, 0) + len(data)
            self._far.hear(data, self.now)

    def room_bytes(self) -> int:
        return 1 << 20

    def overflows(self) -> int:
        return 0

    def interface(self, path: Path) -> tuple[int, int]:
        return 1_472, 28

    def permits(self, path: Path) -> bool:
        return path.remote != FORBIDDEN

    def wake(self, when: float) -> None:
        self.wake_at = when if self.wake_at is None else min(self.wake_at, when)

    def ready(self) -> None:
        self.ready_count += 1

    def datagram(self, message: memoryview) -> None:
        self.got += len(message)

    def reliable(self, message: memoryview) -> None:
        self.got += len(message)

    def broken(self, reason: str) -> None:
        assert reason
        self.ended += 1


class Runner:
    """A hop that a program acts on."""

    def __init__(self) -> None:
        self.far = Far()
        self.world = World(self.far)
        self.received: dict[tuple, int] = {}
        self.proven: set[tuple] = set()
        self._tokens = 0
        self.hop = Hop(
            secret=SECRET,
            is_offerer=True,
            far_id=FAR_ID,
            candidates=[(FAR, 0)],
            wire=self.world,
            lanes=self.world,
            cutter=Cutter(),
            plain=memoryview(bytearray(65_536)),
            entropy=self._entropy,
            now=self.now,
        )
        self.hop.poll(self.now)

    @property
    def now(self) -> float:
        return self.world.now

    def _entropy(self, size: int) -> bytes:
        self._tokens += 1
        return self._tokens.to_bytes(size, "big")

    def run(self, program: bytes) -> None:
        steps = (
            self.raw, self.batch, self.items, self.probe, self.message, self.answer, self.later,
            self.send, self.reliable, self.elsewhere,
        )  # fmt: skip
        at = 0
        for _ in range(MAX_STEPS):
            if at + STEP.size > len(program):
                break
            what, size = STEP.unpack_from(program, at)
            at += STEP.size
            steps[what % len(steps)](program[at : at + size])
            at += size
            self.check()
        self.later(b"\xff\xff")
        self.check()

    def check(self) -> None:
        """What must hold whatever a far end or a stranger does."""
        hop, world = self.hop, self.world
        assert world.ended <= 1
        assert world.ready_count <= 1
        arrivals = hop._arrivals
        assert arrivals._reassembly._held_bytes <= MAX_HELD_BYTES
        assert len(arrivals._reassembly._partial) <= MAX_PARTIAL
        assert arrivals._held_bytes == sum(len(held) for _, held in arrivals._held.values())
        assert arrivals._held_bytes <= MAX_ORDERED_BYTES
        assert len(arrivals._held) <= MAX_ORDERED
        assert hop._kept._bytes <= KEEP_BYTES
        assert len(hop._in._early) < WINDOW
        assert hop.held_bytes <= QUEUE_BYTES + 1_024
        assert 0 <= hop._out._in_flight <= len(hop._out._flight) <= WINDOW
        assert 0 <= hop.loss <= 1
        assert 1 <= hop.unit_bytes() <= 65_535
        if world.ended:
            assert hop.send([b"x"], self.now) == 0
        self.proven |= {path.remote for path in hop._paths._proven}
        assert FORBIDDEN not in world.sent
        for remote, size in world.sent.items():
            if remote != FAR and remote not in self.proven:
                assert size <= AMPLIFICATION * self.received.get(remote, 0)

    # Steps

    def raw(self, data: bytes) -> None:
        """A datagram of anybody's, from anywhere."""
        if data:
            self._arrive(OWN_ID + data[1:], OTHERS[data[0] % len(OTHERS)])

    def batch(self, data: bytes) -> None:
        """Headers and pieces as the kernel joins them, of any sizes."""
        if len(data) < 4:
            return
        each, count = 17 + int.from_bytes(data[:2], "big"), 1 + data[2] % MAX_PIECES
        last = 1 + data[3] % each
        body = data[4:]
        headers = bytearray()
        for index in range(count):
            tail = body[2 * index : 2 * index + 2].ljust(2, b"\0")
            headers += OWN_ID + (5 + tail[0] % 2).to_bytes(6, "big") + bytes((index, tail[1] % 64))
        size = min((count - 1) * each + last, 65_535)
        count = -(-size // each)
        distribute(
            memoryview(bytes(headers).ljust(MAX_PIECES * HEADER_BYTES, b"\0")),
            memoryview(body.ljust(65_535, b"\0")),
            size,
            each,
            count,
            Path(FAR, OWN),
            self.now,
            {OWN_ID: self.hop.receive},
        )

    def items(self, data: bytes) -> None:
        self._genuine(Kind.CONTROL, data, FAR)

    def probe(self, data: bytes) -> None:
        self._genuine(Kind.PROBE, data[1:], OTHERS[(data[0] if data else 0) % len(OTHERS)])

    def message(self, data: bytes) -> None:
        """A message of the far end in pieces, maybe without one of them."""
        if len(data) < 4:
            return
        size = int.from_bytes(data[:2], "big")
        parts = Cutter().cut(self.far.sealer, OWN_ID, bytes(size), 1_184, self.now)
        lost = data[2] if data[3] & 1 else -1
        for index in range(0, len(parts), 2):
            if index // 2 != lost:
                self._arrive(bytes(parts[index]) + bytes(parts[index + 1]), FAR)

    def answer(self, data: bytes) -> None:
        """The far end answers the latest challenges."""
        tokens, self.far.tokens = self.far.tokens[-3:], []
        source = OTHERS[(data[0] if data else 0) % len(OTHERS)]
        for token in tokens:
            self._genuine(Kind.PROBE, b"\x02" + token, source)

    def later(self, data: bytes) -> None:
        """Let up to 65 s pass."""
        until = self.now + int.from_bytes(data[:2], "big") / 1_000
        world = self.world
        for _ in range(400):
            if world.wake_at is None or world.wake_at > until:
                break
            world.now, world.wake_at = max(world.now, world.wake_at), None
            self.hop.poll(world.now)
        world.now = until

    def send(self, data: bytes) -> None:
        self.hop.send([data, bytes(int.from_bytes(data[:2], "big"))], self.now)

    def reliable(self, data: bytes) -> None:
        self.hop.send_reliable(data[:16_384], self.now)

    def elsewhere(self, data: bytes) -> None:
        """A genuine message from another address."""
        if data:
            self._genuine(Kind.MESSAGE, data[1:], OTHERS[data[0] % len(OTHERS)])

    def _genuine(self, kind: Kind, plain: bytes, source: tuple) -> None:
        self._arrive(single(self.far.sealer, OWN_ID, kind, plain, self.now), source)

    def _arrive(self, datagram: bytes, source: tuple) -> None:
        self.received[source] = self.received.get(source, 0) + len(datagram)
        distribute(
            memoryview(datagram[:HEADER_BYTES].ljust(HEADER_BYTES, b"\0")),
            memoryview(datagram[HEADER_BYTES:]),
            len(datagram),
            len(datagram),
            1,
            Path(source, OWN),
            self.now,
            {OWN_ID: self.hop.receive},
        )


def description_of_peers(data: bytes) -> None:
    for kind in udp_description.Kind:
        try:
            decoded = udp_description.decode(data, kind)
        except WireError:
            continue
        fits(decoded.encode() == data)


def items(data: bytes) -> None:
    """Items of a UDP tether: what is read encodes to the same bytes, up to where padding begins."""
    try:
        found = list(udp_control.read(memoryview(data)))
    except WireError:
        return
    whole = b"".join(item.encode() for item in found)
    fits(data.startswith(whole) and data[len(whole) : len(whole) + 1] in (b"", b"\0"))


def stun_answer(data: bytes) -> None:
    """An answer of a STUN server, its header as it has to be."""
    head = struct.pack("!HH4s12s", 0x0101, len(data), stun.MAGIC, bytes(12))
    fits(stun.transaction_of(head + data) == bytes(12))
    stun.transaction_of(data)
    try:
        address, port = stun.mapped_address(head + data)
    except WireError:
        return
    fits(address.version in (4, 6) and 0 <= port < 65_536)


def hop(data: bytes) -> None:
    Runner().run(data)
