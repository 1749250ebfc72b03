"""Where STUN servers see the port: asked from the start on, so that no description waits for them.

start ──► asked ──answer──► known ──20 s──► asked again, which keeps the NAT's mapping, too
            └──none──► asked again after 5, 10, ... 60 s, or once the machine has other addresses
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from ipaddress import ip_address

from conflux.api import WireError
from conflux_tether_udp import stun
from conflux_tether_udp.description import Candidate, CandidateType, IpAddress
from conflux_tether_udp.paths import Address, Path
from conflux_tether_udp.reach import Reach, socket_address
from conflux_tether_udp.sockets import UdpSocket

FIRST_ANSWER_S = 0.25
"""The longest that a start waits for an answer, name lookup included."""
GATHER_S = 1.0
"""The longest that servers are asked one time: lost requests and slow names included."""
ASK_AGAIN_S = 0.08
"""RFC 8489 §6.2.1 has 0.5 s, for long ways. Doubled each time, as there."""
MAPPED_FRESH_S = 20.0
"""Between questions while there are answers. No NAT that heeds RFC 4787 forgets a mapping so soon,
and most others keep it for 30 s."""
UNMAPPED_S = (5.0, 60.0)
"""The same where nobody answers, the first time and at most."""
MAX_MAPPED = 4


class Mapped:
    """What servers said of the sockets of one port, the latest time that they were asked.

    All tethers share the port, so they share its mappings. Runs on the loop's thread.
    """

    def __init__(
        self,
        servers: Sequence[stun.StunServer],
        sockets: Mapping[int, UdpSocket],
        reach: Reach,
        permits: Callable[[Path], bool],
    ) -> None:
        """*sockets* by IP version; *permits* tells of a path whether it may be used."""
        self._reach = reach
        self._loop = asyncio.get_running_loop()
        self._servers = servers
        self._sockets = sockets
        self._permits = permits
        self._transactions: dict[bytes, asyncio.Future[tuple[IpAddress, int]]] = {}
        self._found: list[Candidate] = []
        self._hosts: list[IpAddress] | None = None
        """The machine's own addresses when servers were asked."""
        self._ask_now = asyncio.Event()
        self._known = asyncio.Event()
        self._asking: asyncio.Task[None] | None = None

    @property
    def waits(self) -> bool:
        """Whether an answer is awaited right now."""
        return bool(self._transactions)

    async def start(self) -> None:
        """Begin to ask; return with the first answer, or without one after FIRST_ANSWER_S."""
        if not self._servers:
            return
        self._asking = self._loop.create_task(self._keep_asking())
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_ANSWER_S):
                await self._known.wait()

    async def stop(self) -> None:
        """Ask no more. Returns once no task is left."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait({self._asking})

    def candidates(self, hosts: list[IpAddress]) -> list[Candidate]:
        """What is known right now. *hosts* are the machine's own addresses.

        With other ones than before the mappings are others, too: servers are asked anew.
        """
        if self._hosts is None:
            self._hosts = hosts
        elif hosts != self._hosts:
            self._hosts = hosts
            self._found = []
            self._ask_now.set()
        return self._found

    def answered(self, datagram: bytes) -> None:
        """Take in what may be an answer. Raises nothing."""
        answer = self._transactions.get(stun.transaction_of(datagram) or b"")
        if answer is None or answer.done():
            return
        with suppress(WireError):
            answer.set_result(stun.mapped_address(datagram))

    async def _keep_asking(self) -> None:
        pause_s, longest_s = UNMAPPED_S
        while True:
            self._ask_now.clear()
            self._found = await self._ask_all()
            wait_s = MAPPED_FRESH_S if self._found else pause_s
            pause_s = UNMAPPED_S[0] if self._found else min(2 * pause_s, longest_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._ask_now.wait()

    async def _ask_all(self) -> list[Candidate]:
        """Ask every server once; what comes counts from the moment when it comes."""
        found: list[Candidate] = []

        def answered(address: IpAddress, number: int) -> None:
            candidate = Candidate(CandidateType.SERVER_REFLEXIVE, address, number)
            is_usable = number and self._reach.permits(address)
            if is_usable and candidate not in found and len(found) < MAX_MAPPED:
                found.append(candidate)
            if not self._found:
                self._found = found  # no need to wait for the others
            self._known.set()

        with suppress(TimeoutError):
            async with asyncio.timeout(GATHER_S), asyncio.TaskGroup() as asking:
                for server in self._servers:
                    asking.create_task(self._ask(server, answered))
        return found

    async def _ask(
        self, server: stun.StunServer, answered: Callable[[IpAddress, int], None]
    ) -> None:
        """Ask *server* from every socket that reaches it, until the caller has waited enough."""
        one_each = {address.version: address for address in reversed(await _resolve(server.host))}
        async with asyncio.TaskGroup() as asking:
            for version, address in one_each.items():
                remote = socket_address(address, server.port)
                if version in self._sockets and self._permits(Path(remote, None)):
                    asking.create_task(self._ask_from(version, remote, answered))

    async def _ask_from(
        self, version: int, remote: Address, answered: Callable[[IpAddress, int], None]
    ) -> None:
        transaction = secrets.token_bytes(stun.TRANSACTION_BYTES)
        answer: asyncio.Future[tuple[IpAddress, int]] = self._loop.create_future()
        self._transactions[transaction] = answer
        wait_s = ASK_AGAIN_S
        try:
            while version in self._sockets:
                self._sockets[version].send_plain(stun.request(transaction), remote)
                done, _ = await asyncio.wait({answer}, timeout=wait_s)
                if done:
                    answered(*answer.result())
                    return
                wait_s *= 2
        finally:
            del self._transactions[transaction]


async def _resolve(host: str) -> list[IpAddress]:
    """The addresses of *host*, none if it has none. A name is looked up in the loop's executor."""
    with suppress(ValueError):
        return [ip_address(host)]
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    except OSError:
        return []
    return [ip_address(info[4][0]) for info in found]
