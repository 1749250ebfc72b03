"""What a node tells about itself, as JSON values: docs/reference/status.schema.json."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from conflux.anchor.handshake import SUITE_1, SUITE_NAMES
from conflux.anchor.node import Anchor
from conflux.anchor.reach import Route
from conflux.anchor.stream import Session
from conflux.anchor.tether import Neighbour
from conflux.api import ControlChannel
from conflux.hardening import Hardening
from conflux.runtime.problems import problems
from conflux.runtime.saved import Membership
from conflux.runtime.throughput import Meter


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a node knows beside its protocol."""

    plugins: Mapping[str, str]
    """Names of drivers by kind."""
    packet_auth: str
    hardening: Hardening
    meter: Meter = field(default_factory=Meter)
    control: ControlChannel | None = None
    waiting: str = ""
    """Why the node waits for Guardian or the Master; empty unless it does."""
    renewal: str = ""
    """Why the certificate could not be renewed; empty if it could, or is not due."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Tether drivers that were found broken, and why."""


def status(state: str, anchor: Anchor | None, around: Surroundings) -> dict[str, object]:
    """Return `status --json`: who is reached how, and what was dropped. Call it from the loop."""
    table: dict[str, object] = {
        "state": state,
        "address": "",
        "plane": "",
        "master": _master(anchor, around.control),
        "waiting": around.waiting,
        "renewal": around.renewal,
        "packet_auth": around.packet_auth,
        "cipher_suite": SUITE_NAMES[SUITE_1],
        "hardening": asdict(around.hardening),
        "tasks": len(asyncio.all_tasks()),
        "plugins": dict(around.plugins),
        "left_out": dict(around.left_out),
        "throughput": asdict(around.meter.total()),
        "peers": [],
        "neighbours": [],
        "teams": [],
        "relayed_routes": 0,
        "counters": {},
    }
    if anchor is not None:
        table["peers"] = [_peer(anchor, session) for session in anchor.sessions.values()]
        table["neighbours"] = [
            _neighbour(neighbour, around.meter) for neighbour in anchor.neighbours.all()
        ]
        table["relayed_routes"] = anchor.relay.carried
        dropped = around.control.dropped() if around.control is not None else {}
        of_control = {f"control_{reason}": n for reason, n in dropped.items() if n}
        table["counters"] = dict(sorted({**anchor.counters, **of_control}.items()))
        grant = anchor.standing.grant
        table["teams"] = [team.name for team in grant.teams]
        table["address"] = str(next(iter(grant.certificate.addresses), ""))
        table["plane"] = grant.plane_name
    table["problems"] = problems(table)
    return table


def underlay(membership: Membership, tun_name: str, anchor: Anchor | None) -> dict[str, object]:
    """Return whom this node needs to reach, for `netcheck`: no credentials."""
    grant = anchor.standing.grant if anchor is not None else None
    return {
        "guardian": membership.guardian,
        "master_urls": list(grant.control.urls) if grant else [],
        "master_ca_pem": grant.control.ca_pem if grant else "",
        "ice_servers": [server.url for server in grant.ice_servers] if grant else [],
        "tun_name": tun_name,
    }


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


def _master(anchor: Anchor | None, control: ControlChannel | None) -> dict[str, object]:
    urls = list(anchor.standing.grant.control.urls) if anchor is not None else []
    return {"connected": control is not None and control.connected, "urls": urls}


def _neighbour(neighbour: Neighbour, meter: Meter) -> dict[str, object]:
    return {
        "node_id": neighbour.node_id.hex(),
        "rtt_ms": _ms(neighbour.srtt_s),
        "loss": round(neighbour.loss, 4),
        "sent_bytes": neighbour.sent_bytes,
        "received_bytes": neighbour.received_bytes,
        **asdict(meter.rate(neighbour.node_id)),
        "tether": neighbour.kind,
        "underlay": neighbour.stats().underlay,
    }


def _peer(anchor: Anchor, session: Session) -> dict[str, object]:
    reach = anchor.routing.get(session.node_id)
    routes = reach.routes if reach is not None else []
    # An empty frame that tries a suspect route does not make it the one in use.
    in_use = reach.usable if reach is not None else []
    best = max(in_use, key=lambda route: route.last_used, default=None)
    addresses = session.peer.certificate.addresses
    return {
        "node_id": session.node_id.hex(),
        "conflux_id": _uuid(session.peer.certificate.conflux_id),
        "address": str(addresses[0].ip) if addresses else "",
        "addresses": [str(address.ip) for address in addresses],
        "path": [node.hex() for node in best.path] if best else [],
        "paths": _paths(routes),
        "paths_in_use": _paths([route for route in in_use if not route.is_suspect]),
        "tether": best.neighbour.kind if best else "",
        "rtt_ms": _ms(best.rtt_s) if best else None,
        "loss": _loss(best),
        "cipher_suite": SUITE_NAMES[session.suite],
        "packet_auth": session.auth_level.name.lower(),
        "mtu_bytes": session.mtu_bytes,
        "teams": [team.name for team in session.teams],
    }


def _paths(routes: Sequence[Route]) -> list[list[str]]:
    return [[node.hex() for node in route.path] for route in routes]


def _loss(route: Route | None) -> float | None:
    return round(route.neighbour.loss, 4) if route else None


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


def _uuid(value: bytes) -> str:
    text = value.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
