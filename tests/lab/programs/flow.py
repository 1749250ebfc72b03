"""A steady flow of 100 messages a second: `receive udp|tcp HOST PORT`, `send udp|tcp HOST PORT`.

`receive` prints "ready", takes one flow, and on SIGTERM prints what it saw: {"received", "missing",
"doubled", "gaps"}. `missing` counts the numbers that never came below the highest that did; `gaps`
are the longest pauses between two arrivals as [when it began, seconds], the longest first, on the
clock of time.monotonic, which all hosts of the lab share. `send` sends until it is killed; a TCP
receiver that lags makes it wait, as any program would.
"""

import json
import signal
import socket
import struct
import sys
import time
from contextlib import suppress

EVERY_S = 0.01
NUMBER = struct.Struct("!Q192x")
GAPS = 10


class Told(Exception):
    """SIGTERM came."""


def tell(_number: int, _frame: object) -> None:
    raise Told


def messages(kind: str, host: str, port: int):
    """Yield the number of each message as it comes."""
    if kind == "udp":
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind((host, port))
            print("ready", flush=True)
            while True:
                yield NUMBER.unpack(server.recv(65_535))[0]
    with socket.create_server((host, port)) as server:
        print("ready", flush=True)
        connection, _ = server.accept()
        with connection, connection.makefile("rb") as stream:
            while message := stream.read(NUMBER.size):
                yield NUMBER.unpack(message)[0]


def receive(kind: str, host: str, port: int) -> None:
    seen: dict[int, int] = {}
    gaps: list[tuple[float, float]] = []
    last = None
    with suppress(Told):
        for number in messages(kind, host, port):
            now = time.monotonic()
            seen[number] = seen.get(number, 0) + 1
            if last is not None:
                gaps.append((last, now - last))
            last = now
    report = {
        "received": len(seen),
        "missing": max(seen, default=-1) + 1 - len(seen),
        "doubled": sum(times - 1 for times in seen.values()),
        "gaps": sorted(gaps, key=lambda gap: -gap[1])[:GAPS],
    }
    print(json.dumps(report), flush=True)


def send(kind: str, host: str, port: int) -> None:
    kinds = {"udp": socket.SOCK_DGRAM, "tcp": socket.SOCK_STREAM}
    with socket.socket(socket.AF_INET, kinds[kind]) as client:
        client.connect((host, port))
        if kind == "tcp":
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        began = time.monotonic()
        for number in range(1_000_000):
            client.sendall(NUMBER.pack(number))
            time.sleep(max(0.0, began + (number + 1) * EVERY_S - time.monotonic()))


if __name__ == "__main__":
    verb, kind, host, port = sys.argv[1:]
    if verb == "receive":
        signal.signal(signal.SIGTERM, tell)
        receive(kind, host, int(port))
    else:
        send(kind, host, int(port))
