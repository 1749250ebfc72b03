"""`veilnet-conflux ping`: is a peer there, how far, and by which path."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface
from pathlib import Path
from typing import Any

import click

from conflux.api import UsageError
from conflux.cli import words
from conflux.cli.options import Seconds, api_socket, config_dir_option, json_option

Address = IPv4Address | IPv6Address


@click.command()
@click.argument("host")
@click.option(
    "-c", "--count", type=click.IntRange(1), default=4, show_default=True, help="How often to ask."
)
@click.option(
    "-i",
    "--interval",
    "interval_s",
    type=Seconds(min=0),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Between two questions.",
)
@click.option(
    "-W",
    "--wait",
    "wait_s",
    type=Seconds(min=0, min_open=True),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for each answer.",
)
@click.option(
    "-s",
    "--size",
    type=click.IntRange(16, 65_000),
    default=56,
    show_default=True,
    metavar="BYTES",
    help="Payload of each question.",
)
@config_dir_option
@json_option
def ping(
    host: str,
    count: int,
    interval_s: float,
    wait_s: float,
    size: int,
    config_dir: Path | None,
    as_json: bool,
) -> None:
    """Ask HOST over the overlay; show each answer's round trip and the path in use.

    HOST is an overlay address, a name that the system knows, or the first digits of the node id
    of a peer in `status`. Exits with 1 if nothing was answered.
    """
    from conflux.checks.echo import Echo
    from conflux.runtime import localapi

    where = api_socket(config_dir)
    info = localapi.call(where, "info")
    target = _target(host, info["addresses"], localapi.call(where, "status")["peers"])
    echo = Echo(target, _source(target, info["addresses"]), size)
    answers = []
    try:
        for sequence in range(1, count + 1):
            took = echo.ask(sequence, wait_s)
            peers = localapi.call(where, "status")["peers"]
            answer = _answer(sequence, target, took, peers)
            answers.append(answer)
            if not as_json:
                click.echo(_line(answer))
            if sequence < count:
                time.sleep(interval_s)
    finally:
        echo.close()
    times = [answer["rtt_ms"] for answer in answers if answer["rtt_ms"] is not None]
    summary = {"sent": count, "answered": len(times)}
    if as_json:
        shown = {"address": str(target), **summary, "answers": answers}
        click.echo(json.dumps(shown, indent=2))
    else:
        click.echo(_summary(count, times))
    if not times:
        click.get_current_context().exit(1)


def _target(host: str, own: Sequence[str], peers: Sequence[Mapping[str, Any]]) -> Address:
    """Find the address that *host* means. Raises UsageError."""
    try:
        found = ip_address(host)
    except ValueError:
        found = _of_peer(host, peers) or _of_name(host)
    interfaces = [ip_interface(address) for address in own]
    if not any(found in interface.network for interface in interfaces):
        networks = ", ".join(str(interface.network) for interface in interfaces)
        raise UsageError(f"{found} is not in the plane of this node ({networks}): ping goes by it")
    return found


def _of_peer(prefix: str, peers: Sequence[Mapping[str, Any]]) -> Address | None:
    """By the first four digits or more of a node id."""
    if len(prefix) < 4:
        return None
    matching = [peer for peer in peers if peer["node_id"].startswith(prefix.lower())]
    if len(matching) > 1:
        raise UsageError(f"{prefix} begins {len(matching)} node ids: give more digits of it")
    return ip_address(matching[0]["address"]) if matching else None


def _of_name(host: str) -> Address:
    import socket

    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):
        raise UsageError(
            f"{host} is no address, no name that this system knows and no node id of a peer: "
            "see `veilnet-conflux status`"
        ) from None
    return ip_address(str(found[0][4][0]).partition("%")[0])


def _source(target: Address, own: Sequence[str]) -> Address:
    return next(interface.ip for interface in map(ip_interface, own) if target in interface.network)


def _answer(
    sequence: int, target: Address, took: float | str, peers: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    peer = next((peer for peer in peers if str(target) in peer["addresses"]), None)
    return {
        "sequence": sequence,
        "address": str(target),
        "rtt_ms": None if isinstance(took, str) else round(took * 1000, 3),
        "reason": took if isinstance(took, str) else "",
        "path": peer["path"] if peer else [],
        "tether": peer["tether"] if peer else "",
    }


def _line(answer: Mapping[str, Any]) -> str:
    if answer["rtt_ms"] is None:
        return f"{answer['address']}: {answer['reason']}, {_way(answer)}"
    return f"{answer['address']}: {answer['rtt_ms']:.2f} ms, {_way(answer)}"


def _way(answer: Mapping[str, Any]) -> str:
    """The path in words: how many relays, which ones, and the kind of the first tether."""
    if not answer["path"]:
        return "no streams to it" if answer["rtt_ms"] is None else "this machine itself"
    relays = ", ".join(node[:8] for node in answer["path"][1:-1])
    way = words.way(answer) + (f" ({relays})" if relays else "")
    return f"{way}, {answer['tether']}" if answer["tether"] else way


def _summary(sent: int, times: Sequence[float]) -> str:
    lost = f"{sent} asked, {len(times)} answered"
    if not times:
        return f"{lost}: offline, or without a team in common"
    mean = sum(times) / len(times)
    least_mean_most = f"{min(times):.2f} / {mean:.2f} / {max(times):.2f} ms"
    return f"{lost}, round trip {least_mean_most} (least, mean, most)"
