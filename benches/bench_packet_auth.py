"""What each level of packet authentication costs.

`egress` is Anchor.take_burst up to the tether's send, `ingress` a message from the tether up to
the TUN device's records, both with all that a level does per frame; cutting and covering leaves is
part of it, in microseconds per frame; signatures are the simulator's, so as good as free. `sign`
(a batch of leaves) and `verify` (one of them) are what worker threads do with ML-DSA-65, in
microseconds; `bytes` is one CHECKPOINT. Medians of interleaved rounds.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from time import perf_counter

from benches.bench_packet_path import Sink, nothing
from conflux.anchor.notary import digest_of, sign_batch, verify_checkpoint
from conflux.api import Buffer, CryptoDriver, Kind, Layout
from conflux.registry import Registry
from conflux.testing.simnet import SimNetwork, SimNode
from conflux.wire.control import AuthLevel
from conflux.wire.frame import SIZE

ROUNDS = 25
FRAMES = 96
"""As many as a strict receiver keeps back of the largest."""
SHAPES = ((1, 64), (1, 1_400), (28, 1_400))
"""(packets in a frame, bytes of each packet)"""


def main() -> None:
    print(
        f"{'packets':>7}{'bytes':>7}{'level':>12}{'egress':>9}{'ingress':>9}{'digest':>8}   Mbit/s*"
    )
    for packets, size in SHAPES:
        rounds = [[measure(level, packets, size) for level in AuthLevel] for _ in range(ROUNDS)]
        for level in AuthLevel:
            columns = zip(*(taken[level] for taken in rounds), strict=True)
            egress, ingress, digest = (statistics.median(column) for column in columns)
            rate = packets * size * 8 / max(egress, ingress)
            print(
                f"{packets:>7}{size:>7}{level.name.lower():>12}{egress:>9.2f}{ingress:>9.2f}"
                f"{digest:>8.2f}{rate:>10.0f}"
            )
    print("* of the slower side, on one core, without TUN, tether and signatures\n")
    registry = Registry()
    registry.load()
    _, crypto = registry.create(Kind.CRYPTO, lambda _: {})
    print(f"{'leaves':>7}{'sign':>9}{'verify':>9}{'bytes':>8}")
    for leaves in (1, 16, 256):
        print(f"{leaves:>7}{signing(crypto, leaves)}")


def measure(level: AuthLevel, packets: int, size: int) -> tuple[float, float, float]:
    network, left, right = connected(level)
    packet = left.packet(right, bytes(size - 28))
    superframe = memoryview(bytes((Layout.BARE,)) + (SIZE.pack(size) + packet) * packets)
    neighbour = left.anchor.neighbours.get(right.node_id)
    assert neighbour is not None
    sink: list[Buffer] = []
    tether, neighbour.tethers[-1] = neighbour.tethers[-1], Sink(sink)
    began = perf_counter()
    for _ in range(FRAMES):
        left.anchor.take_burst(superframe, now=network.now())
    left.anchor.timers.run(network.now() + 3.0)
    egress = (perf_counter() - began) / FRAMES * 1e6
    frames = sink[:]
    neighbour.tethers[-1] = tether

    right.deliver = nothing  # type: ignore[method-assign,assignment]
    here = right.anchor.neighbours.get(left.node_id)
    assert here is not None
    began = perf_counter()
    for frame in frames:
        right.anchor.neighbours.take_datagram(here, memoryview(frame))
    network.run(0.05)  # the leaves cross, are verified, and what was kept back is delivered
    ingress = (perf_counter() - began) / FRAMES * 1e6

    began = perf_counter()
    for frame in frames:
        digest_of(frame)
    return egress, ingress, (perf_counter() - began) / FRAMES * 1e6


def signing(crypto: CryptoDriver, leaves: int) -> str:
    """Microseconds for a batch, and to verify one of its leaves; bytes of that leaf."""
    _, left, right = connected(AuthLevel.CHECKPOINT)
    witness = left.anchor.sessions[right.node_id].out.witness
    assert witness is not None
    left.send_packet(right, bytes(100))
    drafts = witness.cut(1) * leaves
    signer = crypto.generate_signer()
    checkpoints = sign_batch(signer, drafts)
    sign = statistics.median(timed(lambda: sign_batch(signer, drafts)) for _ in range(50))
    verify = statistics.median(
        timed(lambda: verify_checkpoint(crypto, signer.public, checkpoints[-1])) for _ in range(50)
    )
    return f"{sign:>9.0f}{verify:>9.0f}{len(checkpoints[-1].encode()):>8}"


def connected(level: AuthLevel) -> tuple[SimNetwork, SimNode, SimNode]:
    network = SimNetwork(seed=1, packet_auth=level)
    left, right = (network.add_node(name, teams=["ops"]) for name in ("left", "right"))
    left.ping(right)
    network.run(5)
    return network, left, right


def timed(call: Callable[[], object]) -> float:
    began = perf_counter()
    call()
    return (perf_counter() - began) * 1e6


if __name__ == "__main__":
    main()
