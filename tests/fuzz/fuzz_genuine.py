"""Genuine messages, and the patches that an input applies to them: their keys alone have thousands
of bytes, which no fuzzer would guess."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from fuzz_world import KIND, PLANE

from conflux.anchor import handshake
from conflux.wire.control import AuthLevel, Description, Open, Purpose, Target, TargetKind
from conflux.wire.credentials import Revocations, Revoked

_ASKED = handshake.make_ask(
    PLANE.friend.standing,
    Target(TargetKind.ADDRESS, b"\x0a\x09\x00\x01"),
    purpose=Purpose.STREAM,
    auth_level=AuthLevel.CHECKPOINT,
    tether_kinds=(KIND, "webrtc"),
    avoid=(bytes(32), bytes(range(32))),
    wall=1_800_000_000.0,
)
_ANSWERED = handshake.make_answer(
    PLANE.me.standing,
    handshake.open_ask(PLANE.me.standing, _ASKED.message[2:], wall=1_800_000_000.0),
    PLANE.friend.peer,
    tether=Description(KIND, b"stub"),
    auth_level=AuthLevel.HANDSHAKE,
)
_OPENED = Open(
    answer_hash=bytes(32),
    random=bytes(range(32)),
    tether=Description(KIND, b"stub"),
    signature=bytes(3_309),
)
_LOGIN = PLANE.me.standing.identity.login_request(
    "token", time_ms=1_800_000_000_000, entropy=PLANE.entropy
)
_REVOKED = Revocations(
    plane_id=bytes(16), revoked=[Revoked(1, 2), Revoked(3, 4)], signature=bytes(3_309)
)

GENUINE: Mapping[str, bytes] = MappingProxyType(
    {
        "ask": _ASKED.ask.encode(),
        "answer": _ANSWERED.answer.encode(),
        "open": _OPENED.encode(),
        "certificate": PLANE.me.standing.grant.certificate.encode(),
        "grant": PLANE.me.standing.grant.encode(),
        "login": _LOGIN.encode(),
        "revocations": _REVOKED.encode(),
    }
)


def patched(plain: bytes, patches: bytes) -> bytes:
    """Apply patches of 4 bytes: what (1) ‖ where (2) ‖ value (1).

    *where* counts from the end if *what* has its lowest bit set: what is of interest stands there,
    behind keys of thousands of bytes. The other bits: 0 replaces, 1 removes, 2 inserts, 3 cuts.
    """
    if len(patches) < 4:
        return plain
    changed = bytearray(plain)
    for at in range(0, len(patches) - 3, 4):
        what, value = patches[at], patches[at + 3]
        where = int.from_bytes(patches[at + 1 : at + 3], "big") % (len(changed) + 1)
        if what & 1:
            where = len(changed) - where
        action = what >> 1 & 3
        if action == 0:
            changed[where : where + 1] = bytes((value,))
        elif action == 1:
            del changed[where : where + value]
        elif action == 2:
            changed[where:where] = bytes((value,))
        else:
            del changed[where:]
    return bytes(changed)
