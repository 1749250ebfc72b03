"""A steady flow over UDP: `send FROM TO PORT EVERY_S`, `hear AT PORT`.

`send` numbers its datagrams from 0 and sends until it is killed. `hear` prints "ready", then for
each datagram its sender, its number and the time of time.monotonic(), which hosts of a lab share.
"""

import contextlib
import socket
import sys
import time


def send(own: str, to: str, port: int, every_s: float) -> None:
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.bind((own, 0))
    due, number = time.monotonic(), 0
    while True:
        with contextlib.suppress(OSError):  # the interface is full: a packet lost, no more
            client.sendto(b"%d" % number, (to, port))
        number, due = number + 1, due + every_s
        time.sleep(max(0.0, due - time.monotonic()))


def hear(at: str, port: int) -> None:
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    server.bind((at, port))
    print("ready", flush=True)
    while True:
        data, (sender, _) = server.recvfrom(2_048)
        print(sender, int(data), time.monotonic(), flush=True)


if __name__ == "__main__":
    verb, *rest = sys.argv[1:]
    if verb == "send":
        send(rest[0], rest[1], int(rest[2]), float(rest[3]))
    else:
        hear(rest[0], int(rest[1]))
