"""Sends or fetches a stream of bytes that a seed makes: `serve HOST PORT BYTES MARKER RATE`,
`fetch HOST PORT`. Each 512 bytes of the stream begin with the marker, and it is sent at so many
bytes a second; an empty marker is none, rate 0 no limit.

`serve` prints "ready" and then, for each connection until it is killed, the SHA-256 of what it
sent; `fetch` prints {"bytes", "sha256"} after each megabyte and at the end. A stream that stands
still for 60 s is an error.
"""

import hashlib
import json
import random
import socket
import sys
import threading

BLOCK = 1 << 20
MARKED = 512
SO_MAX_PACING_RATE = 47
"""socket(7), of Linux; Python has no name for it."""


def serve(host: str, port: int, size: int, marker: bytes, rate: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=64)
    print("ready", flush=True)
    for seed in range(1_000_000):
        connection, _ = listener.accept()
        if rate:
            connection.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, rate)
        threading.Thread(target=send, args=(connection, seed, size, marker), daemon=True).start()


def send(connection: socket.socket, seed: int, size: int, marker: bytes) -> None:
    chance, digest = random.Random(seed), hashlib.sha256()
    with connection:
        while size:
            block = marked(chance.randbytes(min(BLOCK, size)), marker)
            digest.update(block)
            size -= len(block)
            connection.sendall(block)
        # In one piece, as several of these print, and before the other end sees the stream's end.
        print(f"{digest.hexdigest()}\n", end="", flush=True)


def marked(block: bytes, marker: bytes) -> bytes:
    if not marker:
        return block
    starts = range(0, len(block), MARKED)
    return b"".join(
        (marker + block[at + len(marker) : at + MARKED])[: len(block) - at] for at in starts
    )


def fetch(host: str, port: int) -> None:
    digest, size, told = hashlib.sha256(), 0, 0
    with socket.create_connection((host, port), 20) as connection:
        connection.settimeout(60)
        while block := connection.recv(BLOCK):
            digest.update(block)
            size += len(block)
            if size - told >= BLOCK:
                told = size
                tell(size, digest)
    tell(size, digest)


def tell(size: int, digest: "hashlib._Hash") -> None:
    print(json.dumps({"bytes": size, "sha256": digest.copy().hexdigest()}), flush=True)


if __name__ == "__main__":
    verb, host, port, *rest = sys.argv[1:]
    if verb == "serve":
        size, marker, rate = rest
        serve(host, int(port), int(size), marker.encode(), int(rate))
    else:
        fetch(host, int(port))
