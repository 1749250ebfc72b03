"""UDP datagrams, echoed: `echo HOST PORT`, `ask HOST PORT BYTES...`.

`echo` prints "ready" and sends back what it gets. `ask` sends one datagram of each size, again
every second for at most 10 s until its echo has come, and prints for each how often it was sent,
or "lost", or the name of the error. IPv4 datagrams go without DF.
"""

import errno
import os
import socket
import sys

IP_MTU_DISCOVER, IP_PMTUDISC_DONT = 10, 0  # ip(7); Python 3.11 has no names for them
TRIES = 10


def made(host: str) -> socket.socket:
    if ":" in host:
        return socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
    return made


def echo(host: str, port: int) -> None:
    with made(host) as server:
        server.bind((host, port))
        print("ready", flush=True)
        while True:
            data, peer = server.recvfrom(65_535)
            server.sendto(data, peer)


def ask(host: str, port: int, sizes: list[int]) -> None:
    with made(host) as client:
        client.connect((host, port))
        client.settimeout(1)
        for size in sizes:
            print(size, answered(client, os.urandom(size)), flush=True)


def answered(client: socket.socket, data: bytes) -> int | str:
    for tries in range(1, TRIES + 1):
        try:
            client.send(data)
            if client.recv(65_535) == data:
                return tries
        except TimeoutError:
            continue
        except OSError as error:
            # What IPv6 tells a sender that has not asked for fragmentation (udpv6_err).
            if error.errno != errno.EMSGSIZE:
                return type(error).__name__
    return "lost"


if __name__ == "__main__":
    verb, host, port, *sizes = sys.argv[1:]
    if verb == "echo":
        echo(host, int(port))
    else:
        ask(host, int(port), list(map(int, sizes)))
