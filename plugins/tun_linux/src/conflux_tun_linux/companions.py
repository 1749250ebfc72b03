"""Several nodes of one plane in one network namespace: each is left by its own interface.

The routing table sends all packets for the plane to one interface, whatever their source. So every
node but the first has its routes with a higher metric, and once more in a table of its own to which
rules lead all packets that come from its addresses. Routes go with the interface; for rules a
program of their own sees to that (`rule_keeper`), since a killed node could not.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

from pyroute2.iproute.linux import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from conflux.api import TunConfig, Unavailable

Network = IPv4Network | IPv6Network

RULE_PRIORITY = 20_000
"""Before the main table, which is 32,766."""
TABLES = 0x8000_0000
"""Tables from here on are ours, one for each index of an interface: people use small numbers."""


def alias_of(plane: str) -> str:
    """What marks an interface as a node's of *plane*, for `ip link` and for other nodes."""
    return f"veilnet plane {plane}" if plane else "veilnet"


async def companions(netlink: AsyncIPRoute, index: int, plane: str) -> set[int]:
    """Return the interfaces of the other nodes of *plane* here; none if it is unknown."""
    if not plane:
        return set()
    alias = alias_of(plane)
    return {
        message["index"]
        async for message in await netlink.link("dump")
        if message["index"] != index and message.get("ifalias") == alias
    }


async def keep_apart(
    netlink: AsyncIPRoute, index: int, config: TunConfig, networks: Iterable[Network]
) -> RuleKeeper:
    """Let packets from the addresses of *config* leave by interface *index* alone.

    Raises NetlinkError, and Unavailable if the system takes no rules.
    """
    for network in networks:
        await netlink.route("add", dst=str(network), oif=index, table=TABLES | index)
    keeper = RuleKeeper(index, [str(interface.ip) for interface in config.addresses])
    await keeper.ready()
    return keeper


class RuleKeeper:
    """A running `rule_keeper`. It outlives this process if need be, but not the interface."""

    def __init__(self, index: int, addresses: Iterable[str]) -> None:
        program = Path(__file__).with_name("rule_keeper.py")
        numbers = map(str, (index, TABLES | index, RULE_PRIORITY))
        # Not asyncio's: that kills what it started when its loop ends.
        self._process = subprocess.Popen(  # noqa: S603 (numbers and addresses)
            [sys.executable, "-I", str(program), *numbers, *addresses],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
            env={name: value for name, value in os.environ.items() if "VEILNET" not in name},
            start_new_session=True,
        )

    async def ready(self) -> None:
        """Return once the rules are in force. Raises Unavailable."""
        said = (await asyncio.to_thread(self._said)).strip()
        if said != "ready":
            self.wait()
            raise Unavailable(
                "another node of this plane is on this machine, and the system takes no routing "
                f"rules to keep both apart ({said or 'no answer'}): run one of them elsewhere"
            )

    def _said(self) -> str:
        with self._process.stdout as lines:  # type: ignore[union-attr]  # it was asked for
            return lines.readline()

    def wait(self) -> None:
        """Wait until the rules have followed the interface, which was removed: some milliseconds.

        A system too busy for that within a second has them a little longer.
        """
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)


async def remove_orphaned_rules(netlink: AsyncIPRoute) -> None:
    """Remove the rules of interfaces that are gone.

    There are some only where a node and its rule keeper were killed together.
    """
    rules = [
        rule
        async for rule in await netlink.get_rules()  # of whatever families this system has
        if rule.get("priority") == RULE_PRIORITY and (rule.get("table") or 0) >= TABLES
    ]
    here = {index for index, _ in socket.if_nameindex()}  # listed last: none is newer than this
    for rule in rules:
        if rule.get("table") - TABLES not in here:
            await _remove_rule(netlink, rule)


async def _remove_rule(netlink: AsyncIPRoute, rule: Any) -> None:
    try:
        await netlink.rule(
            "del",
            family=rule["family"],
            src=rule.get("src"),
            src_len=rule["src_len"],
            table=rule.get("table"),
            priority=rule.get("priority"),
        )
    except NetlinkError as error:
        if error.code != errno.ENOENT:  # its keeper was faster
            raise
