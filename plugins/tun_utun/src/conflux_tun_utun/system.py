"""The calls of macOS behind `link.System`."""

from __future__ import annotations

import fcntl
import os
import socket
import time

from conflux_tun_utun import darwin
from conflux_tun_utun.darwin import Address, CtlInfo, RtMsghdr
from conflux_tun_utun.link import HEADER_BYTES, System

ANSWER_S = 2.0
ANSWER_BYTES = 2048


class Macos(System):
    """Every call opens and closes a socket of its own."""

    def ioctl(self, version: int, request: int, argument: bytes) -> bytes:
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        with socket.socket(family, socket.SOCK_DGRAM) as any_socket:
            return fcntl.ioctl(any_socket, request, argument)

    def route(self, message: bytes) -> bytes:
        wanted = RtMsghdr.from_buffer_copy(message)
        with socket.socket(darwin.PF_ROUTE, socket.SOCK_RAW) as kernel:
            kernel.settimeout(ANSWER_S)
            kernel.send(message)  # raises what the kernel has against it
            ends = time.monotonic() + ANSWER_S
            while time.monotonic() < ends:  # everybody's messages come here
                answer = kernel.recv(ANSWER_BYTES)
                if len(answer) < HEADER_BYTES:
                    continue
                found = RtMsghdr.from_buffer_copy(answer)
                if (found.rtm_pid, found.rtm_seq, found.rtm_type) == (
                    wanted.rtm_pid,
                    wanted.rtm_seq,
                    wanted.rtm_type,
                ):
                    if found.rtm_errno:
                        raise OSError(found.rtm_errno, os.strerror(found.rtm_errno))
                    return answer
        raise TimeoutError("no answer from the routing socket")

    def is_ours(self, address: Address) -> bool:
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind((str(address), 0))
            except OSError:
                return False
        return True

    def index_of(self, name: str) -> int:
        return socket.if_nametoindex(name)

    def name_of(self, index: int) -> str:
        return socket.if_indextoname(index)


def open_control(unit: int) -> tuple[socket.socket, str]:
    """Make an interface: number *unit* less one, any free one for 0. Return it and its name.

    Raises OSError. The interface lives as long as the socket.
    """
    control = socket.socket(darwin.PF_SYSTEM, socket.SOCK_DGRAM, darwin.SYSPROTO_CONTROL)
    try:
        info = CtlInfo(0, darwin.UTUN_CONTROL_NAME.encode())
        answer = fcntl.ioctl(control, darwin.CTLIOCGINFO, bytes(info))
        control.connect((CtlInfo.from_buffer_copy(answer).ctl_id, unit))
        raw = control.getsockopt(darwin.SYSPROTO_CONTROL, darwin.UTUN_OPT_IFNAME, darwin.IFNAMSIZ)
    except BaseException:
        control.close()
        raise
    return control, raw.partition(b"\0")[0].decode()
