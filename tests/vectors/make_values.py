"""Messages as values of `suite1.json`: what a decoder shows of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from conflux.wire import inband, segment
from conflux.wire.checkpoint import Checkpoint, Covered, Digests, Leaf, Message, Wanted
from conflux.wire.control import Answer, Ask, Description, Open
from conflux.wire.credentials import Certificate, Grant, LoginRequest, Revocations, Revoked
from conflux.wire.report import Report

Values = dict[str, Any]


def case(comment: str, data: bytes, values: Values) -> Values:
    return {"comment": comment, "bytes": data.hex(), "values": values}


def certificate_values(c: Certificate) -> Values:
    return {
        "serial": c.serial,
        "conflux_id": c.conflux_id.hex(),
        "plane_id": c.plane_id.hex(),
        "ml_dsa_public": c.sign_public.hex(),
        "x_wing_public": c.kem_public.hex(),
        "portal": c.portal,
        "not_before": c.not_before,
        "not_after": c.not_after,
        "addresses": [str(address) for address in c.addresses],
        "networks": [str(network) for network in c.networks],
        "salt": c.salt.hex(),
        "hidden": c.hidden.hex(),
        "signature": c.signature.hex(),
    }


def grant_values(g: Grant) -> Values:
    control = g.control
    return {
        "revision": g.revision,
        "time_ms": g.time_ms,
        "certificate": certificate_values(g.certificate),
        "plane_name": g.plane_name,
        "plane_key": g.plane_key.hex(),
        "teams": [
            {"id": t.team_id.hex(), "epoch": t.epoch, "key": t.key.hex(), "name": t.name}
            for t in g.teams
        ],
        "control": {
            "urls": list(control.urls),
            "prefix": control.prefix,
            "handle": control.handle.hex(),
            "tags": [tag.hex() for tag in control.tags],
            "shared_tag": control.shared_tag.hex(),
            "jwt": control.jwt,
            "seed": control.seed,
            "ca_pem": control.ca_pem,
        },
        "ice_servers": [
            {"url": s.url, "username": s.username, "credential": s.credential}
            for s in g.ice_servers
        ],
        "networks": [str(network) for network in g.networks],
        "revoked": revoked_values(g.revoked),
    }


def revoked_values(revoked: Sequence[Revoked]) -> list[Values]:
    return [{"serial": entry.serial, "not_after": entry.not_after} for entry in revoked]


def revocations_values(r: Revocations) -> Values:
    return {
        "plane_id": r.plane_id.hex(),
        "revoked": revoked_values(r.revoked),
        "signature": r.signature.hex(),
    }


def login_values(r: LoginRequest) -> Values:
    return {
        "token_digest": r.token_digest.hex(),
        "random": r.nonce.hex(),
        "time_ms": r.time_ms,
        "ml_dsa_public": r.sign_public.hex(),
        "x_wing_public": r.kem_public.hex(),
        "signature": r.signature.hex(),
    }


def ask_values(a: Ask) -> Values:
    return {
        "nonce": a.nonce.hex(),
        "time_ms": a.time_ms,
        "purpose": int(a.purpose),
        "target": {"kind": int(a.target.kind), "value": a.target.value.hex()},
        "certificate": certificate_values(a.certificate),
        "x_wing_public": a.kem_public.hex(),
        "suites": list(a.suites),
        "auth_level": int(a.auth_level),
        "features": a.features,
        "tether_kinds": list(a.tether_kinds),
        "avoid": [node.hex() for node in a.avoid],
        "team_tags": [tag.hex() for tag in a.team_tags],
    }


def answer_values(a: Answer) -> Values:
    return {
        "ask_hash": a.ask_hash.hex(),
        "suite": a.suite,
        "auth_level": int(a.auth_level),
        "features": a.features,
        "certificate": certificate_values(a.certificate),
        "x_wing_public": a.kem_public.hex(),
        "random": a.random.hex(),
        "team_tags": [tag.hex() for tag in a.team_tags],
        "mac": a.mac.hex(),
        "tether": tether_values(a.tether),
        "signature": a.signature.hex(),
    }


def open_values(o: Open) -> Values:
    return {
        "answer_hash": o.answer_hash.hex(),
        "random": o.random.hex(),
        "tether": tether_values(o.tether),
        "signature": o.signature.hex(),
    }


def tether_values(d: Description) -> Values:
    return {"driver": d.kind, "description": d.data.hex()}


def inband_values(message: inband.Message) -> Values:
    match message:
        case inband.Setup():
            path = [node.hex() for node in message.path]
            return {"kind": 1, "route": message.route_id.hex(), "idle_s": message.idle_s} | {
                "path": path
            }
        case inband.SetupOk():
            rtts = list(message.rtts_us)
            return {"kind": 2, "route": message.route_id.hex(), "label": message.label} | {
                "rtts_us": rtts
            }
        case inband.SetupFailed():
            return {"kind": 3, "route": message.route_id.hex(), "reason": int(message.reason)}
        case inband.Teardown():
            return {"kind": 4, "route": message.route_id.hex(), "reason": int(message.reason)}
        case inband.LabelUnknown():
            return {"kind": 5, "label": message.label}
        case inband.Flood():
            return {
                "kind": 6,
                "id": message.flood_id.hex(),
                "relays_left": message.relays_left,
                "tag": message.tag.hex(),
                "sender": message.sender.hex(),
                "message": message.message.hex(),
            }
        case inband.Seek():
            return {
                "kind": 7,
                "id": message.seek_id.hex(),
                "relays_left": message.relays_left,
                "target": message.target.hex(),
                "path": [node.hex() for node in message.path],
                "avoid": [node.hex() for node in message.avoid],
            }
        case inband.Found():
            path = [node.hex() for node in message.path]
            return {"kind": 8, "id": message.seek_id.hex(), "path": path}


# Inside streams


def stream(stream_id: int) -> str:
    return stream_id.to_bytes(8, "big").hex()


def report_values(r: Report) -> Values:
    return {
        "stream_id": stream(r.stream_id),
        "highest": r.highest,
        "held_us": r.held_us,
        "first": r.first,
        "arrived": [c for c in range(r.first, r.highest + 1) if r.has(c)],
    }


def leaf_values(leaf: Leaf) -> Values:
    return {
        "transcript": leaf.transcript.hex(),
        "stream_id": stream(leaf.stream_id),
        "counters": list(leaf.counters),
        "digests_hash": leaf.digests_hash.hex(),
    }


def packet_auth_values(message: Message) -> Values:
    match message:
        case Checkpoint():
            return {
                "kind": 16,
                "leaf": leaf_values(message.leaf),
                "index": message.index,
                "size": message.size,
                "path": [node.hex() for node in message.path],
                "signature": message.signature.hex(),
                "digests": [digest.hex() for digest in message.digests],
            }
        case Covered():
            return {"kind": 17, "stream_id": stream(message.stream_id), "first": message.first}
        case Wanted():
            return {"kind": 18, "stream_id": stream(message.stream_id)} | {
                "first": message.first,
                "counters": list(message.counters),
            }
        case Digests():
            given = {str(counter): digest.hex() for counter, digest in message.digests.items()}
            return {"kind": 19, "stream_id": stream(message.stream_id)} | {
                "first": message.first,
                "digests": given,
            }


def virtio_values(body: bytes) -> Values:
    names = "flags", "gso_type", "hdr_len", "gso_size", "csum_start", "csum_offset"
    fields = segment.HEADER.unpack_from(body)
    cut_up = [packet.hex() for packet in segment.segments(memoryview(body))]
    return dict(zip(names, fields, strict=True)) | {"cut_up": cut_up}
