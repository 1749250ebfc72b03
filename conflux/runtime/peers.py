"""Who may speak to a node: root, whoever runs it, and the group `veilnet`.

The kernel says who is at the other end of a Unix socket: SO_PEERCRED and SO_PEERGROUPS on Linux
(unix(7), socket(7)), LOCAL_PEERCRED on macOS (unix(4)). Neither can be forged.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from asyncio.trsock import TransportSocket
from dataclasses import dataclass

if sys.platform != "win32":
    import grp

GROUP = "veilnet"
REFUSED = f"only root and the group {GROUP} may ask this node: use sudo, or join the group"

SO_PEERGROUPS = 59  # asm-generic/socket.h
_MAX_GROUPS = 256  # the longest answer that Python takes; who is in more counts as in none
SOL_LOCAL = 0  # sys/un.h of macOS, as the next
LOCAL_PEERCRED = 1 if sys.platform == "darwin" else None
_UCRED = struct.Struct("=iII")  # pid, uid, gid
_XUCRED = struct.Struct("=IIhxx16I")  # cr_version, cr_uid, cr_ngroups, cr_groups; sys/ucred.h


@dataclass(frozen=True, slots=True)
class Peer:
    """A process as its kernel describes it."""

    uid: int
    groups: frozenset[int]


def peer_of(connection: socket.socket | TransportSocket) -> Peer:
    """Return who connected. Raises OSError if the system does not say."""
    if LOCAL_PEERCRED is not None:
        return parse_xucred(connection.getsockopt(SOL_LOCAL, LOCAL_PEERCRED, _XUCRED.size))
    octets = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    _, uid, gid = _UCRED.unpack(octets)
    return Peer(uid, frozenset({gid, *_peer_groups(connection)}))


def _peer_groups(connection: socket.socket | TransportSocket) -> tuple[int, ...]:
    try:
        octets = connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, 4 * _MAX_GROUPS)
    except OSError:  # ERANGE; or a kernel before 4.13
        return ()
    return struct.unpack(f"={len(octets) // 4}I", octets)


def parse_xucred(octets: bytes) -> Peer:
    """Read a struct xucred of macOS. Raises OSError if it is none."""
    try:
        version, uid, count, *groups = _XUCRED.unpack(octets)
    except struct.error:
        raise OSError("LOCAL_PEERCRED gives no struct xucred") from None
    if version != 0 or not 0 <= count <= len(groups):  # XUCRED_VERSION
        raise OSError("a struct xucred of another version")
    return Peer(uid, frozenset(groups[:count]))


def is_welcome(peer: Peer) -> bool:
    """Tell whether *peer* may speak to a node that this process runs."""
    group = group_id()
    return peer.uid in (0, os.geteuid()) or (group is not None and group in peer.groups)


def group_id() -> int | None:
    """Return the group's number; None if this machine has no such group."""
    try:
        return grp.getgrnam(GROUP).gr_gid
    except KeyError:
        return None
