"""Messages of the reliable lane, which find, make and end routes (docs/protocol/route.md)."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from conflux.api import TAG_BYTES, Buffer, NodeId, WireError
from conflux.wire.codec import Reader, Writer

MAX_INBAND_BYTES = 16_384
"""What a reliable lane must carry (conflux.api.Tether): what is larger could not be passed on."""
ROUTE_ID_BYTES = 16
SEEK_ID_BYTES = 16
FLOOD_ID_BYTES = 16
FLOOD_HEADER_BYTES = 1 + FLOOD_ID_BYTES + 1 + 2 * TAG_BYTES + 2
NODE_ID_BYTES = 32
MAX_RELAYS = 4
MAX_PATH_NODES = MAX_RELAYS + 2
MAX_SEEK_AVOID = 16


class Kind(enum.IntEnum):
    SETUP = 1
    SETUP_OK = 2
    SETUP_FAILED = 3
    TEARDOWN = 4
    LABEL_UNKNOWN = 5
    FLOOD = 6
    SEEK = 7
    FOUND = 8


class Reason(enum.IntEnum):
    """Why a route could not be set up, or ended."""

    REFUSED = 1
    """A loop, a wrong neighbour, a known id: asking again is of no use."""
    BUSY = 2
    """Over quota."""
    NO_TETHER = 3
    """No tether to the next node could be made."""
    NO_HANDSHAKE = 4
    """The destination has no streams with the origin (yet)."""
    BROKEN = 5
    """A tether of the route died."""
    IDLE = 6


@dataclass(frozen=True, slots=True)
class Setup:
    """Asks the receiver to carry frames along `path`; forgotten after `idle_s` without one."""

    route_id: bytes
    idle_s: int
    path: Sequence[NodeId]

    def encode(self) -> bytes:
        out = Writer().u8(Kind.SETUP).raw(self.route_id, ROUTE_ID_BYTES).u16(self.idle_s)
        return _write_nodes(out, self.path).done()


@dataclass(frozen=True, slots=True)
class SetupOk:
    """Frames for the route carry `label` on this tether; `rtts_us` of the hops behind it."""

    route_id: bytes
    label: int
    rtts_us: Sequence[int] = ()

    def encode(self) -> bytes:
        out = Writer().u8(Kind.SETUP_OK).raw(self.route_id, ROUTE_ID_BYTES).u32(self.label)
        out.u8(len(self.rtts_us))
        for rtt in self.rtts_us:
            out.u32(rtt)
        return out.done()


@dataclass(frozen=True, slots=True)
class SetupFailed:
    route_id: bytes
    reason: Reason

    def encode(self) -> bytes:
        out = Writer().u8(Kind.SETUP_FAILED).raw(self.route_id, ROUTE_ID_BYTES)
        return out.u8(self.reason).done()


@dataclass(frozen=True, slots=True)
class Teardown:
    """The route ends; goes both ways."""

    route_id: bytes
    reason: Reason

    def encode(self) -> bytes:
        out = Writer().u8(Kind.TEARDOWN).raw(self.route_id, ROUTE_ID_BYTES)
        return out.u8(self.reason).done()


@dataclass(frozen=True, slots=True)
class LabelUnknown:
    """A frame came with a label that means nothing (any more)."""

    label: int

    def encode(self) -> bytes:
        return Writer().u8(Kind.LABEL_UNKNOWN).u32(self.label).done()


@dataclass(frozen=True, slots=True)
class Flood:
    """A sealed control message from handle `sender` to `tag`, for when the Master is silent."""

    flood_id: bytes
    relays_left: int
    tag: bytes
    sender: bytes
    message: bytes

    def encode(self) -> bytes:
        out = Writer().u8(Kind.FLOOD).raw(self.flood_id, FLOOD_ID_BYTES).u8(self.relays_left)
        out.raw(self.tag, TAG_BYTES).raw(self.sender, TAG_BYTES)
        return out.vec16(self.message).done()


@dataclass(frozen=True, slots=True)
class Seek:
    """Looks for a path to `target`: `path` as far as it came, source first, and at most so many
    relays more. Relays in `avoid` should be on it only if there is no other way."""

    seek_id: bytes
    relays_left: int
    target: NodeId
    path: Sequence[NodeId]
    avoid: Sequence[NodeId] = ()

    def encode(self) -> bytes:
        out = Writer().u8(Kind.SEEK).raw(self.seek_id, SEEK_ID_BYTES).u8(self.relays_left)
        out.raw(self.target, NODE_ID_BYTES)
        return _write_nodes(_write_nodes(out, self.path), self.avoid).done()


@dataclass(frozen=True, slots=True)
class Found:
    """A whole path from the source of a SEEK to its target: a hint, which nobody vouches for."""

    seek_id: bytes
    path: Sequence[NodeId]

    def encode(self) -> bytes:
        out = Writer().u8(Kind.FOUND).raw(self.seek_id, SEEK_ID_BYTES)
        return _write_nodes(out, self.path).done()


Message = Setup | SetupOk | SetupFailed | Teardown | LabelUnknown | Flood | Seek | Found


def decode(data: Buffer) -> Message:
    """Decode one message. Raises WireError."""
    if len(data) > MAX_INBAND_BYTES:
        raise WireError("in-band message too large")
    take = Reader(data)
    read = _READ.get(take.u8())
    if read is None:
        raise WireError("unknown in-band message")
    message = read(take)
    take.end()
    return message


def _setup(take: Reader) -> Setup:
    return Setup(take.raw(ROUTE_ID_BYTES), take.u16(), _nodes(take, 2, MAX_PATH_NODES))


def _setup_ok(take: Reader) -> SetupOk:
    route_id, label, hops = take.raw(ROUTE_ID_BYTES), take.u32(), take.u8()
    if hops > MAX_RELAYS:
        raise WireError("more hops than a route can have")
    return SetupOk(route_id, label, [take.u32() for _ in range(hops)])


def _flood(take: Reader) -> Flood:
    flood_id, relays_left = take.raw(FLOOD_ID_BYTES), take.u8()
    if relays_left > MAX_RELAYS:
        raise WireError("more relays than a flood may have")
    return Flood(flood_id, relays_left, take.raw(TAG_BYTES), take.raw(TAG_BYTES), take.vec16())


def _seek(take: Reader) -> Seek:
    seek_id, relays_left = take.raw(SEEK_ID_BYTES), take.u8()
    target = NodeId(take.raw(NODE_ID_BYTES))
    path = _nodes(take, 1, MAX_RELAYS + 1)
    if len(path) - 1 + relays_left > MAX_RELAYS:
        raise WireError("more relays than a route may have")
    if target in path:
        raise WireError("path that has passed its target")
    return Seek(seek_id, relays_left, target, path, _nodes(take, 0, MAX_SEEK_AVOID))


def _found(take: Reader) -> Found:
    return Found(take.raw(SEEK_ID_BYTES), _nodes(take, 3, MAX_PATH_NODES))


_READ: Mapping[int, Callable[[Reader], Message]] = MappingProxyType(
    {
        Kind.SETUP: _setup,
        Kind.SETUP_OK: _setup_ok,
        Kind.SETUP_FAILED: lambda take: SetupFailed(take.raw(ROUTE_ID_BYTES), _reason(take)),
        Kind.TEARDOWN: lambda take: Teardown(take.raw(ROUTE_ID_BYTES), _reason(take)),
        Kind.LABEL_UNKNOWN: lambda take: LabelUnknown(take.u32()),
        Kind.FLOOD: _flood,
        Kind.SEEK: _seek,
        Kind.FOUND: _found,
    }
)


def _nodes(take: Reader, least: int, most: int) -> list[NodeId]:
    """Nodes of which none stands twice."""
    count = take.u8()
    if not least <= count <= most:
        raise WireError("path of an impossible length")
    nodes = [NodeId(take.raw(NODE_ID_BYTES)) for _ in range(count)]
    if len(set(nodes)) != count:
        raise WireError("path with a loop")
    return nodes


def _write_nodes(out: Writer, nodes: Sequence[NodeId]) -> Writer:
    out.u8(len(nodes))
    for node in nodes:
        out.raw(node, NODE_ID_BYTES)
    return out


def _reason(take: Reader) -> Reason:
    try:
        return Reason(take.u8())
    except ValueError:
        raise WireError("unknown reason") from None
