"""A program that keeps routing rules for as long as an interface is there, and no longer.

    python -I rule_keeper.py INDEX TABLE PRIORITY ADDRESS...

Sets `from ADDRESS lookup TABLE` for each address, says "ready", and takes the rules away when the
interface of that index has gone. With an interface Linux removes its addresses and routes but no
rule, and a node that was killed removes nothing: so this is a process of its own. It needs the
standard library alone, so that it starts in tens of milliseconds.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import sys
from collections.abc import Sequence
from ipaddress import ip_address


def main(words: Sequence[str]) -> None:
    index, table, priority = map(int, words[:3])
    # A service manager that ends a node signals all of its processes. This one is done soon.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with _netlink(RTMGRP_LINK) as events, _netlink() as kernel:
        kept: list[bytes] = []
        try:
            for address in words[3:]:
                rule = _rule(address, table, priority)
                _ask(kernel, RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, rule, fine=EEXIST)
                kept.append(rule)
            _say("ready")
            while _is_there(index):
                _await_change(events)
        except OSError as error:
            _say(error.strerror)
        finally:
            for rule in kept:
                _ask(kernel, RTM_DELRULE, 0, rule, fine=ENOENT)


def _say(line: str | None) -> None:
    with contextlib.suppress(BrokenPipeError):  # who asked is gone, and its interface too
        os.write(STDOUT, f"{line}\n".encode())


def _is_there(index: int) -> bool:
    try:
        socket.if_indextoname(index)
    except OSError:
        return False
    return True


def _await_change(events: socket.socket) -> None:
    try:
        events.recv(65_536)
    except OSError as error:
        if error.errno != ENOBUFS:  # more happened than the kernel kept for us: look anew
            raise


def _netlink(groups: int = 0) -> socket.socket:
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    made.bind((0, groups))
    return made


def _rule(address: str, table: int, priority: int) -> bytes:
    """The body of a rule's message: `struct fib_rule_hdr` and attributes, linux/fib_rules.h."""
    source = ip_address(address)
    family = socket.AF_INET if source.version == 4 else socket.AF_INET6
    return (
        struct.pack("=8BI", family, 0, source.max_prefixlen, 0, 0, 0, 0, FR_ACT_TO_TBL, 0)
        + _attribute(FRA_SRC, source.packed)
        + _attribute(FRA_PRIORITY, struct.pack("=I", priority))
        + _attribute(FRA_TABLE, struct.pack("=I", table))
    )


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value  # all of ours are aligned to 4


def _ask(kernel: socket.socket, kind: int, flags: int, body: bytes, *, fine: int) -> None:
    """Send one request (RFC 3549 §2.3.2) and wait for its answer. Raises OSError but for *fine*."""
    head = struct.pack("=IHHII", 16 + len(body), kind, NLM_F_REQUEST | NLM_F_ACK | flags, 1, 0)
    kernel.sendall(head + body)
    answer = kernel.recv(65_536)
    code = -struct.unpack_from("=i", answer, 16)[
        0
    ]  # of `struct nlmsgerr`; 0 is the acknowledgement
    if code not in (0, fine):
        raise OSError(code, os.strerror(code))


STDOUT = 1
# linux/rtnetlink.h, linux/netlink.h, linux/fib_rules.h, asm-generic/errno.h
RTMGRP_LINK = 1
RTM_NEWRULE, RTM_DELRULE = 32, 33
NLM_F_REQUEST, NLM_F_ACK, NLM_F_EXCL, NLM_F_CREATE = 0x1, 0x4, 0x200, 0x400
FRA_SRC, FRA_PRIORITY, FRA_TABLE = 2, 6, 15
FR_ACT_TO_TBL = 1
ENOENT, EEXIST, ENOBUFS = 2, 17, 105

if __name__ == "__main__":
    main(sys.argv[1:])
