"""Sends or fetches a stream of bytes that a seed makes: `serve HOST PORT BYTES`, `fetch HOST PORT`.

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


def serve(host: str, port: int, size: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=64)
    print("ready", flush=True)
    for seed in range(1_000_000):
        connection, _ = listener.accept()
        threading.Thread(target=send, args=(connection, seed, size), daemon=True).start()


def send(connection: socket.socket, seed: int, size: int) -> None:
    chance, digest = random.Random(seed), hashlib.sha256()
    with connection:
        while size:
            block = chance.randbytes(min(BLOCK, size))
            digest.update(block)
            size -= len(block)
            connection.sendall(block)
    print(digest.hexdigest(), flush=True)


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
        serve(host, int(port), int(rest[0]))
    else:
        fetch(host, int(port))
