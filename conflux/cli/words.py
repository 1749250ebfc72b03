"""What a node says of itself, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def as_text(table: Mapping[str, Any]) -> str:
    """Return *table*, the answer to `status` or {"gone": why}, for people."""
    if "gone" in table:
        return str(table["gone"])
    total = table["throughput"]
    lines = [
        f"state         {state(table)}",
        *_service(table),
        f"address       {table['address'] or '-'}",
        f"master        {master(table)}",
        f"packet auth   {table['packet_auth']}",
        f"cipher suite  {table['cipher_suite']}",
        f"hardening     {_hardening(table['hardening'])}",
        f"plugins       {plugins(table)}",
        f"throughput    out {mbit(total['sent_bps'])}, in {mbit(total['received_bps'])}",
        f"relaying      {table['relayed_routes']} routes of others",
        f"peers         {len(table['peers']) or 'none'}",
    ]
    for peer in table["peers"]:
        lines.append(
            f"  {peer['address']:<16} {way(peer):<10} rtt {ms(peer['rtt_ms']):<10} "
            f"loss {share(peer['loss']):<7} "
            f"{peer['tether']}  {peer['packet_auth']}  {peer['node_id'][:8]}"
        )
    lines.append(f"problems      {len(table['problems']) or 'none'}")
    for problem in table["problems"]:
        lines += [f"  {problem['what']}", f"    {problem['do']}"]
    return "\n".join(lines)


def _service(table: Mapping[str, Any]) -> list[str]:
    found = table.get("service", {"driver": ""})
    return [f"service       {found['state']} ({found['driver']})"] if found["driver"] else []


def state(table: Mapping[str, Any]) -> str:
    plane = f", plane {table['plane']}" if table["plane"] else ""
    return f"{table['state']}{plane}"


def master(table: Mapping[str, Any]) -> str:
    return "connected" if table["master"]["connected"] else "not connected"


def plugins(table: Mapping[str, Any]) -> str:
    return ", ".join(f"{kind}={name}" for kind, name in sorted(table["plugins"].items())) or "-"


def way(peer: Mapping[str, Any]) -> str:
    """The path in use, in words."""
    hops = len(peer["path"]) - 1
    if hops < 1:
        return "no way yet"
    if hops == 1:
        return "direct"
    return f"{hops - 1} relay" if hops == 2 else f"{hops - 1} relays"


def ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"


def share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def mbit(bps: float) -> str:
    return f"{bps / 1e6:.1f} Mbit/s" if bps >= 1e5 else f"{bps / 1e3:.1f} kbit/s"


def _hardening(table: Mapping[str, Any]) -> str:
    core = "core dumps possible" if table["core_dumps"] else "no core dumps"
    return f"{core}, memory {'locked' if table['memory_locked'] else 'not locked'}"
