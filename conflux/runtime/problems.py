"""What `status` warns of: read from what a node says of itself, each with what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypedDict

LOSS = 0.05
"""A share of lost probes that people notice."""


class Problem(TypedDict):
    """What is wrong, and what to do about it: a line each."""

    what: str
    do: str


def problems(table: Mapping[str, Any]) -> list[Problem]:
    """Return the problems of a node whose `status` is *table*, the gravest first."""
    return [
        Problem(what=what, do=do)
        for found in (_servers, _security, _peers, _parts, _machine)
        for what, do in found(table)
    ]


def _servers(table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if table["state"].startswith("waiting for "):
        what, colon, do = table["waiting"].rpartition(": ")
        look = "see `veilnet-conflux netcheck`"
        yield (what, f"{do}; {look}") if colon else (do, look)
    elif table["state"] == "running" and not table["master"]["connected"]:
        yield (
            "the Master is gone: new peers are found only over tethers that there are",
            "see `veilnet-conflux netcheck`",
        )
    if reason := table["renewal"]:
        yield f"the certificate is not renewed: {reason}", "see `veilnet-conflux netcheck`"


def _security(table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if forged := table["counters"].get("security_frame_forged", 0):
        yield (
            f"{forged} streams had packets under a stolen key and were closed",
            "find the host whose memory was read: see SECURITY.md",
        )


def _peers(table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for peer in table["peers"]:
        if not peer["path"]:
            yield (
                f"there is no way to {peer['address']} right now",
                "see `veilnet-conflux netcheck` at both ends; a relay of the plane would do",
            )
        elif (peer["loss"] or 0) >= LOSS:
            yield (
                f"{peer['loss']:.0%} of probes on the way to {peer['address']} are lost",
                "check the network in between",
            )


def _parts(table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for kind, reason in table["left_out"].items():
        yield (
            f"the tether driver {kind} is left out: {reason}",
            "mend that and restart the node, or leave it out of [plugins]",
        )


def _machine(table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for line in table["hardening"]["missing"]:
        what, semicolon, do = line.rpartition("; ")
        yield (what, do) if semicolon else (line, "see SECURITY.md")
