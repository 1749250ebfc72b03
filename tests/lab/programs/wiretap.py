"""Watches every wire of the lab for a marker: `wiretap MARKER`, in the router between all hosts.

Prints "ready", and for each line on standard input {"packets", "bytes", "found", "lost"}: what came
in from the wires so far, how many packets held the marker, how many the kernel had to drop before
this program saw them. Each packet of the lab comes in from one wire, so each is seen once.
"""

import json
import select
import socket
import struct
import sys

ETH_P_ALL = 3  # linux/if_ether.h
SOL_PACKET, PACKET_STATISTICS, PACKET_IGNORE_OUTGOING = 263, 6, 23  # linux/if_packet.h
SO_RCVBUFFORCE = 33  # asm-generic/socket.h
ROOM_BYTES = 1 << 29


def watch(marker: bytes) -> None:
    wires = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    wires.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    wires.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, ROOM_BYTES)
    wires.settimeout(0)
    seen = {"packets": 0, "bytes": 0, "found": 0, "lost": 0}
    buffer = bytearray(1 << 17)
    view = memoryview(buffer)
    print("ready", flush=True)
    while True:
        readable, _, _ = select.select([wires, sys.stdin], [], [])
        for _ in range(4096):
            try:
                size = wires.recv_into(view)
            except BlockingIOError:
                break
            seen["packets"] += 1
            seen["bytes"] += size
            seen["found"] += buffer.find(marker, 0, size) >= 0
        else:
            continue  # what waits on the wires comes before any question
        if sys.stdin in readable:
            if not sys.stdin.readline():
                return
            statistics = wires.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)
            seen["lost"] += struct.unpack("II", statistics)[1]  # reading them resets them
            print(json.dumps(seen), flush=True)


if __name__ == "__main__":
    watch(sys.argv[1].encode())
