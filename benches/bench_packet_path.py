"""What the protocol core costs per superframe: seal, open, and the whole way through two nodes.

`seal` and `open` are a stream alone; `egress` is Anchor.take_burst up to the tether's send,
`ingress` is a message from the tether up to the TUN device's records, both with every check.
Egress keeps each frame until it is reported, ingress notes it; `report` is making a report of 25 ms
at 4,000 frames a second, `reported` is taking it in, both once for 100 frames. `relay` is a message
from one tether up to the send of the next, `quota` the same at a relay with limits (not reached).
Microseconds per superframe, medians of interleaved rounds.

The second table is egress towards a peer whose interface carries 1,500 bytes, from one that carries
1,500 as well and from one that carries 9,000 (docs/protocol/inside.md).

The third is 64 kB of one TCP flow, as a record of layout virtio that stands for 45 packets and as
45 bare packets: egress and ingress at a device that takes the record, and at one that does not,
where it is cut up in software; egress to a peer that does not take it; and in messages of at most
12,000 bytes, as a tether may want them. Mbit/s of the slower side, as above.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Sequence
from time import perf_counter
from typing import Any

from conflux.anchor.quota import Relaying
from conflux.anchor.stream import InStream, OutStream
from conflux.api import MAX_MESSAGE_BYTES, Buffer, Gso, Layout
from conflux.testing.fakes.tether import MemoryHub, MemoryTether
from conflux.testing.packets import tcp_packet, udp_packet
from conflux.testing.simnet import SimNetwork, SimNode
from conflux.testing.virtio import virtio_body
from conflux.wire.frame import DATA_BYTE, INNER, OUTER, SIZE, bare
from conflux.wire.segment import segments

ROUNDS = 30
FRAMES = 200
SHAPES = ((1, 64), (1, 1_400), (40, 64), (40, 1_400))
"""(packets in a superframe, bytes of each packet)"""
LIMITS = (Relaying(), Relaying(mbit=1e6, neighbour_mbit=1e6))


def main() -> None:
    print(
        f"{'packets':>7}{'bytes':>7}{'seal':>8}{'open':>8}{'egress':>8}{'ingress':>9}"
        f"{'relay':>7}{'quota':>7}{'report':>8}{'reported':>9}   Mbit/s*"
    )
    for packets, size in SHAPES:
        rounds = [measure(packets, size) for _ in range(ROUNDS)]
        seal, opened, egress, ingress, relay, quota, made, taken = (
            statistics.median(column) for column in zip(*rounds, strict=True)
        )
        rate = packets * size * 8 / max(egress, ingress)
        print(
            f"{packets:>7}{size:>7}{seal:>8.2f}{opened:>8.2f}{egress:>8.2f}{ingress:>9.2f}"
            f"{relay:>7.2f}{quota:>7.2f}{made:>8.2f}{taken:>9.2f}{rate:>10.0f}"
        )
    print("* of the slower side, on one core, without TUN and tether\n")
    print(f"{'packets':>7}{'bytes':>7}{'1,500':>8}{'9,000':>8}")
    for packets, size in ((1, 64), (40, 64), (40, 1_400), (7, 8_972)):
        alike, wider = (
            statistics.median(fitted(packets, size, mtu_bytes) for _ in range(ROUNDS))
            for mtu_bytes in (1_500, 9_000)
        )
        shown = f"{alike:>8.2f}" if size <= 1_500 else f"{'-':>8}"
        print(f"{packets:>7}{size:>7}{shown}{wider:>8.2f}{'   cut' if size > 1_500 else ''}")
    print(f"\n{'64 kB':<36}{'egress':>8}{'ingress':>9}   Mbit/s*")
    for what, options in MANY.items():
        rounds = [measure_many(**options) for _ in range(ROUNDS // 3)]
        out, into = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(f"{what:<36}{out:>8.1f}{into:>9.1f}{MANY_BYTES * 8 / max(out, into):>10.0f}")


MANY_BYTES = 65_000
MANY: dict[str, dict[str, Any]] = {
    "one record": {},
    "one record, to a bare device": {"gso": ()},
    "one record, to a peer without layout": {"takes_virtio": False},
    "one record, 12,000 bytes a message": {"unit_bytes": 12_000},
    "45 bare packets": {"layout": Layout.BARE},
}


def measure_many(
    layout: Layout = Layout.VIRTIO,
    gso: Collection[Gso] = frozenset(Gso),
    *,
    takes_virtio: bool = True,
    unit_bytes: int = MAX_MESSAGE_BYTES,
) -> tuple[float, float]:
    """Return microseconds for MANY_BYTES of one flow, out of one node and into the other."""
    _, left, right = connected()
    left.anchor.sessions[right.node_id].takes_virtio = takes_virtio
    right.anchor.ingress.device_takes(gso)
    right.deliver = nothing  # type: ignore[method-assign,assignment]
    packet = tcp_packet(left.address, right.address, bytes(MANY_BYTES))
    body = virtio_body(packet, gso_size=1_448)
    if layout is Layout.VIRTIO:
        burst = memoryview(bytearray((layout,)) + SIZE.pack(len(body)) + body)
    else:
        burst = memoryview(bare(segments(memoryview(body))))
    sink: list[Buffer] = []
    neighbour = left.anchor.neighbours.get(right.node_id)
    here = right.anchor.neighbours.get(left.node_id)
    assert neighbour is not None
    assert here is not None
    neighbour.tethers[-1] = Sink(sink, unit_bytes)
    egress = timed(lambda: left.anchor.take_burst(burst, now=0.0))
    take = right.anchor.neighbours.take_datagram
    began = perf_counter()
    for message in sink:
        take(here, memoryview(message))
    return egress, (perf_counter() - began) / FRAMES * 1e6


def measure(packets: int, size: int) -> tuple[float, ...]:
    """Return microseconds per superframe for each stage."""
    _, left, right = connected()
    packet = left.packet(right, bytes(size - 28))
    superframe = memoryview(bare([packet] * packets))

    session = left.anchor.sessions[right.node_id]
    out: OutStream = session.out
    frames: list[Buffer] = []
    seal = timed(lambda: frames.append(out.seal(superframe, now=0.0)))

    sink: list[Buffer] = []
    neighbour = left.anchor.neighbours.get(right.node_id)
    assert neighbour is not None
    neighbour.tethers[-1] = Sink(sink)
    egress = timed(lambda: left.anchor.take_burst(superframe, now=0.0))

    back = right.anchor.sessions[left.node_id].inbound
    assert back is not None
    into = memoryview(bytearray(MAX_MESSAGE_BYTES))
    opened = timed_over(frames, lambda frame: open_one(back, frame, into))

    right.deliver = nothing  # type: ignore[method-assign,assignment]
    here = right.anchor.neighbours.get(left.node_id)
    assert here is not None
    ingress = timed_over(sink, lambda m: right.anchor.neighbours.take_datagram(here, memoryview(m)))

    made, taken = report_costs(left, right)
    relays = (relay_costs(packets * size, relaying) for relaying in LIMITS)
    return seal, opened, egress, ingress, *relays, made, taken


def relay_costs(size: int, relaying: Relaying) -> float:
    """Return microseconds for passing on one frame of *size* bytes."""
    network = SimNetwork(seed=1)
    left, right = (network.add_node(name, teams=["ops"]) for name in ("left", "right"))
    network.block(left, right)
    relay = network.add_node("relay", relaying=relaying)
    left.ping(right)
    network.run(5)
    before, after = (relay.anchor.neighbours.get(node.node_id) for node in (left, right))
    assert before is not None
    assert after is not None
    after.tethers[-1] = Sink([])
    label = next(label for label, hop in before.labels.items() if hop.next_hop is after)
    frame = OUTER.pack(DATA_BYTE, 5, 0, label) + bytes(size)
    message = memoryview(frame)
    cost = timed(lambda: relay.anchor.neighbours.take_datagram(before, message))
    assert before.received_bytes > FRAMES * size
    assert not relay.anchor.counters["relay_over_quota"]
    return cost


def report_costs(left: SimNode, right: SimNode) -> tuple[float, float]:
    """Return microseconds for making one report, and for taking it in, about 100 frames each."""
    inbound = right.anchor.sessions[left.node_id].inbound
    assert inbound is not None
    tally, replay = inbound.tally, inbound.replay
    made = taken = 0.0
    for highest in range(tally.highest - FRAMES + 100, tally.highest + 1, 100):
        tally.highest = highest
        began = perf_counter()
        body = tally.report(inbound.stream_id, replay, now=right.now()).encode()
        made += perf_counter() - began
        began = perf_counter()
        left.anchor.resender.reported(right.node_id, body, left.now())
        taken += perf_counter() - began
    return tuple(total / (FRAMES / 100) * 1e6 for total in (made, taken))  # type: ignore[return-value]


def fitted(packets: int, size: int, mtu_bytes: int) -> float:
    """Return microseconds of egress for one superframe of packets that may be cut."""
    _, left, right = connected(mtu_bytes=mtu_bytes)
    packet = udp_packet(left.address, right.address, bytes(size - 28), may_be_cut=True)
    superframe = memoryview(bytes((Layout.BARE,)) + (SIZE.pack(size) + packet) * packets)
    neighbour = left.anchor.neighbours.get(right.node_id)
    assert neighbour is not None
    neighbour.tethers[-1] = Sink([])
    return timed(lambda: left.anchor.take_burst(superframe, now=0.0))


def connected(mtu_bytes: int = 1_500) -> tuple[SimNetwork, SimNode, SimNode]:
    """*mtu_bytes* is left's; right's is 1,500."""
    network = SimNetwork(seed=1)
    left = network.add_node("left", teams=["ops"], mtu_bytes=mtu_bytes)
    right = network.add_node("right", teams=["ops"])
    left.ping(right)
    network.run(1)
    return network, left, right


class Sink(MemoryTether):
    """A tether of the kit that keeps what it is given."""

    unit_bytes = MAX_MESSAGE_BYTES

    def __init__(self, messages: list[Buffer], unit_bytes: int = MAX_MESSAGE_BYTES) -> None:
        super().__init__(MemoryHub(), b"")
        self._messages = messages
        self.unit_bytes = unit_bytes

    def send(self, messages: Sequence[Buffer]) -> int:
        self._messages.extend(messages)
        return len(messages)


def open_one(stream: InStream, frame: Buffer, into: memoryview) -> None:
    view = memoryview(frame)
    stream.open(view, INNER.unpack_from(view, OUTER.size)[1], into)


def nothing(records: memoryview, layout: Layout) -> None:
    """Where the packets end."""


def timed(call: Callable[[], object]) -> float:
    began = perf_counter()
    for _ in range(FRAMES):
        call()
    return (perf_counter() - began) / FRAMES * 1e6


def timed_over(items: list[Buffer], call: Callable[[Buffer], object]) -> float:
    began = perf_counter()
    for item in items:
        call(item)
    return (perf_counter() - began) / len(items) * 1e6


if __name__ == "__main__":
    main()
