"""What a node can take beyond this version: the `features` of Ask and Answer.

    bit 0           superframes of layout virtio (frame.md §3)
    bits 16 to 31   MTU of its TUN device in bytes; 0 is not said
    the others      none is given out; unknown ones are ignored

docs/protocol/handshake.md §1, inside.md §1.
"""

from __future__ import annotations

TAKES_VIRTIO = 1 << 0
"""Superframes of layout virtio, whatever the node's device takes."""

DEFAULT_MTU_BYTES = 1_500
"""Of a node that does not say: as Ethernet has it."""
MIN_MTU_BYTES = 1_280
"""What every link must carry for IPv6 (RFC 8200 §5). A peer that says less is taken at this."""

_MTU_SHIFT, _MTU_MASK = 16, 0xFFFF


def of_mtu(mtu_bytes: int) -> int:
    """Return the bits that say *mtu_bytes*, at most 65,535."""
    if not 0 < mtu_bytes <= _MTU_MASK:
        msg = f"an MTU of {mtu_bytes} bytes does not fit"
        raise ValueError(msg)
    return mtu_bytes << _MTU_SHIFT


def mtu_of(features: int) -> int:
    """Return the MTU that *features* say, in bytes, never below MIN_MTU_BYTES."""
    said = features >> _MTU_SHIFT & _MTU_MASK
    return max(said, MIN_MTU_BYTES) if said else DEFAULT_MTU_BYTES
