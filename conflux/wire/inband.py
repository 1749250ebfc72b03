"""Messages of the reliable lane, which set up and take down routes (docs/protocol/route.md)."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from conflux.api import TAG_BYTES, Buffer, NodeId, WireError
from conflux.wire.codec import Reader, Writer

MAX_INBAND_BYTES = 16_384
"""What a reliable lane must carry (conflux.api.Tether): what is larger could not be passed on."""
ROUTE_ID_BYTES = 16
FLOOD_ID_BYTES = 16
FLOOD_HEADER_BYTES = 1 + FLOOD_ID_BYTES + 1 + 2 * TAG_BYTES + 2
NODE_ID_BYTES = 32
MAX_RELAYS = 4
MAX_PATH_NODES = MAX_RELAYS + 2


class Kind(enum.IntEnum):
    SETUP = 1
    SETUP_OK = 2
    SETUP_FAILED = 3
    TEARDOWN = 4
    LABEL_UNKNOWN = 5
    FLOOD = 6


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
        out.u8(len(self.path))
        for node in self.path:
            out.raw(node, NODE_ID_BYTES)
        return out.done()


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


Message = Setup | SetupOk | SetupFailed | Teardown | LabelUnknown | Flood


def decode(data: Buffer) -> Message:
    """Decode one message. Raises WireError."""
    if len(data) > MAX_INBAND_BYTES:
        raise WireError("in-band message too large")
    take = Reader(data)
    kind = take.u8()
    message: Message
    if kind == Kind.SETUP:
        message = Setup(take.raw(ROUTE_ID_BYTES), take.u16(), _path(take))
    elif kind == Kind.SETUP_OK:
        route_id, label = take.raw(ROUTE_ID_BYTES), take.u32()
        message = SetupOk(route_id, label, [take.u32() for _ in range(_hops(take))])
    elif kind == Kind.SETUP_FAILED:
        message = SetupFailed(take.raw(ROUTE_ID_BYTES), _reason(take))
    elif kind == Kind.TEARDOWN:
        message = Teardown(take.raw(ROUTE_ID_BYTES), _reason(take))
    elif kind == Kind.LABEL_UNKNOWN:
        message = LabelUnknown(take.u32())
    elif kind == Kind.FLOOD:
        message = _flood(take)
    else:
        raise WireError("unknown in-band message")
    take.end()
    return message


def _flood(take: Reader) -> Flood:
    flood_id, relays_left = take.raw(FLOOD_ID_BYTES), take.u8()
    if relays_left > MAX_RELAYS:
        raise WireError("more relays than a flood may have")
    return Flood(flood_id, relays_left, take.raw(TAG_BYTES), take.raw(TAG_BYTES), take.vec16())


def _path(take: Reader) -> list[NodeId]:
    count = take.u8()
    if not 2 <= count <= MAX_PATH_NODES:
        raise WireError("path of an impossible length")
    path = [NodeId(take.raw(NODE_ID_BYTES)) for _ in range(count)]
    if len(set(path)) != count:
        raise WireError("path with a loop")
    return path


def _hops(take: Reader) -> int:
    count = take.u8()
    if count > MAX_RELAYS:
        raise WireError("more hops than a route can have")
    return count


def _reason(take: Reader) -> Reason:
    try:
        return Reason(take.u8())
    except ValueError:
        raise WireError("unknown reason") from None
