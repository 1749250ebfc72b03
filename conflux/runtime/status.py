"""What a node tells about itself, as JSON values. The schema is in docs/reference/local-api.md."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict

from conflux.anchor.handshake import SUITE_1, SUITE_NAMES
from conflux.anchor.node import Anchor
from conflux.anchor.reach import Route
from conflux.anchor.stream import Session
from conflux.hardening import Hardening
from conflux.runtime.saved import Membership


def status(
    state: str,
    anchor: Anchor | None,
    names: Mapping[str, str],
    *,
    packet_auth: str,
    hardening: Hardening,
    control_dropped: Mapping[str, int],
) -> dict[str, object]:
    """Return `status --json`: who is reached how, and what was dropped. Call it from the loop."""
    table: dict[str, object] = {
        "state": state,
        "packet_auth": packet_auth,
        "cipher_suite": SUITE_NAMES[SUITE_1],
        "hardening": asdict(hardening),
        "tasks": len(asyncio.all_tasks()),
        "plugins": dict(names),
        "peers": [],
        "neighbours": [],
        "relayed_routes": 0,
        "counters": {},
    }
    if anchor is not None:
        table["peers"] = [_peer(anchor, session) for session in anchor.sessions.values()]
        table["neighbours"] = [
            {
                "node_id": neighbour.node_id.hex(),
                "rtt_ms": _ms(neighbour.srtt_s),
                "loss": round(neighbour.loss, 4),
                "sent_bytes": neighbour.sent_bytes,
                "received_bytes": neighbour.received_bytes,
                "tether": neighbour.kind,
                "underlay": neighbour.stats().underlay,
            }
            for neighbour in anchor.neighbours.all()
        ]
        table["relayed_routes"] = anchor.relay.carried
        of_control = {f"control_{reason}": n for reason, n in control_dropped.items() if n}
        table["counters"] = dict(sorted({**anchor.counters, **of_control}.items()))
        table["teams"] = [team.name for team in anchor.standing.grant.teams]
    return table


def info(membership: Membership, anchor: Anchor | None) -> dict[str, object]:
    """Return `info --json`: who this node is."""
    table: dict[str, object] = {
        "id": membership.conflux_id,
        "tag": membership.tag,
        "node_id": "",
        "address": membership.address,
        "addresses": [membership.address] if membership.address else [],
        "plane": membership.plane,
        "guardian": membership.guardian,
    }
    if anchor is not None:
        grant = anchor.standing.grant
        certificate = grant.certificate
        table |= {
            "id": _uuid(certificate.conflux_id),
            "node_id": anchor.standing.node_id.hex(),
            "address": str(certificate.addresses[0]) if certificate.addresses else "",
            "addresses": [str(address) for address in certificate.addresses],
            "plane": grant.plane_name,
            "certificate_serial": certificate.serial,
            "certificate_not_after": certificate.not_after,
        }
    return table


def _peer(anchor: Anchor, session: Session) -> dict[str, object]:
    reach = anchor.routing.get(session.node_id)
    routes = reach.routes if reach is not None else []
    # An empty frame that tries a suspect route does not make it the one in use.
    in_use = reach.usable if reach is not None else []
    best = max(in_use, key=lambda route: route.last_used, default=None)
    addresses = session.peer.certificate.addresses
    return {
        "node_id": session.node_id.hex(),
        "address": str(addresses[0].ip) if addresses else "",
        "addresses": [str(address.ip) for address in addresses],
        "path": [node.hex() for node in best.path] if best else [],
        "paths": [[node.hex() for node in route.path] for route in routes],
        "tether": best.neighbour.kind if best else "",
        "rtt_ms": _ms(best.rtt_s) if best else None,
        "loss": _loss(best),
        "cipher_suite": SUITE_NAMES[session.suite],
        "packet_auth": session.auth_level.name.lower(),
        "mtu_bytes": session.mtu_bytes,
        "teams": [team.name for team in session.teams],
    }


def _loss(route: Route | None) -> float | None:
    return round(route.neighbour.loss, 4) if route else None


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


def _uuid(value: bytes) -> str:
    text = value.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
