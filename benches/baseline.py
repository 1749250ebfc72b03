"""Instructions that the packet path takes, beside those that were kept: what a change costs.

Times of a busy machine tell little, numbers of instructions differ by less than 1 %: callgrind
counts those of COUNT and of twice as many calls, and the difference is theirs alone. They say
nothing of memory and the kernel, and are those of the CPU that valgrind pretends to be.

    .venv/bin/python benches/baseline.py            compare with baseline.json
    .venv/bin/python benches/baseline.py --keep     write it anew

Exit code 1 if something takes more than SLOWER times what was kept. Counts of other versions of
Python or of the libraries are shown, but not judged. Needs valgrind.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from ipaddress import ip_address
from pathlib import Path

KEPT = Path(__file__).with_name("baseline.json")
SLOWER = 1.05
COUNT = 50
LIBRARIES = ("cryptography", "blake3")


def main() -> int:
    if sys.argv[1:] == ["--count"]:
        count_all()
        return 0
    counted, here = measured(), versions()
    if sys.argv[1:] == ["--keep"]:
        KEPT.write_text(json.dumps({"versions": here, "instructions": counted}, indent=2) + "\n")
    kept = json.loads(KEPT.read_text())
    is_alike = kept["versions"] == here
    if not is_alike:
        print(f"kept with {kept['versions']}, here are {here}: shown, not judged")
    is_slower = False
    print(f"{'':<32}{'kept':>10}{'now':>10}{'ratio':>8}")
    for name, now in counted.items():
        before = kept["instructions"].get(name)
        ratio = now / before if before else 1.0
        is_worse = is_alike and ratio > SLOWER
        is_slower |= is_worse
        shown = f"{before or '-':>10}{now:>10}{ratio:>8.3f}"
        print(f"{name:<32}{shown}{'   slower' if is_worse else ''}")
    return int(is_slower)


def versions() -> dict[str, str]:
    found = {name: version(name) for name in LIBRARIES}
    return {"python": platform.python_version(), "machine": platform.machine()} | found


def measured() -> dict[str, int]:
    """Instructions of one call of each operation."""
    if shutil.which("valgrind") is None:
        sys.exit("no valgrind on this machine: apt install valgrind")
    argv = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", "--trace-children=no"]
    argv += [sys.executable, "-B", str(Path(__file__)), "--count"]
    env = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr[-2_000:])
    by_process = dict(re.findall(r"==(\d+)== Collected : (\d+)", done.stderr))
    return {
        name: (int(by_process[twice]) - int(by_process[once])) // COUNT
        for name, once, twice in (line.split("\t") for line in done.stdout.splitlines())
    }


def count_all() -> None:
    """Call each operation in two forks, COUNT times and twice as often; print their process ids.

    A fork begins with what all have in common, so the two differ in the calls alone.
    """
    made = operations()
    gc.collect()
    gc.freeze()
    for name, operation in made.items():
        once, twice = (forked(operation, count) for count in (COUNT, 2 * COUNT))
        print(name, once, twice, sep="\t", flush=True)


def forked(operation: Callable[[int], None], count: int) -> int:
    pid = os.fork()
    if pid == 0:
        gc.disable()
        operation(count)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if status:
        sys.exit("an operation failed")
    return pid


def operations() -> dict[str, Callable[[int], None]]:
    """Each takes how often it is to be done."""
    from benches.bench_packet_path import Sink, connected, nothing
    from conflux.api import MAX_MESSAGE_BYTES, Buffer, Gso, Layout, NodeId
    from conflux.testing.packets import tcp_packet, udp_packet
    from conflux.testing.virtio import virtio_body
    from conflux.wire import inband
    from conflux.wire.frame import INNER, OUTER, SIZE, bare, records
    from conflux.wire.join import join
    from conflux_tether_udp.datagram import Cutter
    from conflux_tether_udp.keys import derive

    _, left, right = connected()
    session = left.anchor.sessions[right.node_id]
    inbound = right.anchor.sessions[left.node_id].inbound
    ahead = left.anchor.neighbours.get(right.node_id)
    back = right.anchor.neighbours.get(left.node_id)
    assert inbound is not None
    assert ahead is not None
    assert back is not None
    right.anchor.ingress.device_takes(Gso)
    right.deliver = nothing  # type: ignore[method-assign,assignment]
    sink: list[Buffer] = []
    ahead.tethers[-1] = Sink(sink)
    into = memoryview(bytearray(MAX_MESSAGE_BYTES))
    small = udp_packet(left.address, right.address, bytes(64))
    lone = memoryview(bare([small]))
    forty = memoryview(bare([small] * 40))
    body = virtio_body(tcp_packet(left.address, right.address, bytes(62_000)), gso_size=1_448)
    flow = memoryview(bytearray((Layout.VIRTIO,)) + SIZE.pack(len(body)) + body)
    source, destination = (ip_address(text) for text in ("fd00::1", "fd00::2"))
    many = [virtio_body(udp_packet(source, destination, bytes(64)))] * 40
    singles = memoryview(
        bytearray((Layout.VIRTIO,)) + b"".join(SIZE.pack(len(b)) + b for b in many)
    )
    setup = inband.Setup(bytes(16), 60, [NodeId(bytes([n]) * 32) for n in range(3)])
    sealer, _ = derive(bytes(32), is_offerer=True)
    cutter = Cutter()

    def seal(burst: memoryview) -> Callable[[int], None]:
        return lambda count: repeat(count, lambda: session.out.seal(burst, now=0.0))

    def opened(burst: memoryview) -> Callable[[int], None]:
        frames = [memoryview(session.out.seal(burst, now=0.0)) for _ in range(2 * COUNT)]

        def run(count: int) -> None:
            for frame in frames[:count]:
                inbound.open(frame, INNER.unpack_from(frame, OUTER.size)[1], into)

        return run

    def egress(burst: memoryview) -> Callable[[int], None]:
        return lambda count: repeat(count, lambda: left.anchor.take_burst(burst, now=1.0))

    def ingress(burst: memoryview) -> Callable[[int], None]:
        sink.clear()
        repeat(2 * COUNT, lambda: left.anchor.take_burst(burst, now=1.0))
        frames = [memoryview(frame) for frame in sink]

        def run(count: int) -> None:
            for frame in frames[:count]:
                right.anchor.neighbours.take_datagram(back, frame)

        return run

    return {
        "seal, a lone 64 B": seal(lone),
        "seal, 62 kB of one flow": seal(flow),
        "open, a lone 64 B": opened(lone),
        "open, 62 kB of one flow": opened(flow),
        "codec, 40 records": lambda count: repeat(count, lambda: list(records(forty))),
        "codec, a SETUP there and back": lambda count: repeat(
            count, lambda: inband.decode(memoryview(setup.encode()))
        ),
        "join, 40 x 64 B": lambda count: repeat(count, lambda: join(singles)),
        "pump to tether, a lone 64 B": egress(lone),
        "pump to tether, 40 x 64 B": egress(forty),
        "pump to tether, 62 kB of one flow": egress(flow),
        "tether to TUN, a lone 64 B": ingress(lone),
        "tether to TUN, 40 x 64 B": ingress(forty),
        "tether to TUN, 62 kB of one flow": ingress(flow),
        "UDP tether, seal and cut 62 kB": lambda count: repeat(
            count, lambda: cutter.cut(sealer, bytes(8), flow, 1_456, 0.0)
        ),
    }


def repeat(count: int, call: Callable[[], object]) -> None:
    for _ in range(count):
        call()


if __name__ == "__main__":
    sys.exit(main())
