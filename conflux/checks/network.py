"""What `netcheck` looks at, from the near to the far."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from conflux.api import UsageError
from conflux.checks import mtu, nat, portmap, servers
from conflux.checks.findings import Finding, refused
from conflux.config import Config
from conflux.registry import Registry
from conflux.runtime import localapi


def check(
    config: Config, guardian: str, api_socket: Path, stun: Sequence[str] = ()
) -> Iterator[Finding]:
    """Yield each finding as soon as it is there. Blocks; sends to nobody but those it names.

    *guardian*: its URL. *stun*: STUN servers besides those that the running node knows of.
    """
    node = _ask(api_socket, "underlay")
    status = _ask(api_socket, "status")
    registry = Registry()
    registry.load()
    url = str(node.get("guardian", "")) or guardian
    named = (*stun, *node.get("ice_servers", ()))
    try:
        stun_servers = [nat.server(text) for text in named]
    except UsageError as error:
        yield refused("udp", error)
        stun_servers = []
    yield from nat.check(stun_servers)
    yield from portmap.check()
    yield from servers.check_guardian(registry, config, url)
    is_up = status["master"]["connected"] if status.get("state") == "running" else None
    urls = node.get("master_urls", ())
    yield from servers.check_master(registry, config, urls, node.get("master_ca_pem", ""), is_up)
    yield from mtu.check(servers.endpoint(url), stun_servers)


def _ask(api_socket: Path, verb: str) -> Mapping[str, Any]:
    """What the running node says; nothing if there is none, or if it is not ours to ask."""
    try:
        answer = localapi.call(api_socket, verb)
    except UsageError:
        return {}
    return answer if isinstance(answer, dict) else {}
