"""The UDP port of a driver: two sockets at most for all tethers, told apart by their ids.

socket ─► Inbox ─► run of one message ─► id ─► tether          (unknown id: silence)
                                          └─ or an answer of a STUN server
"""

from __future__ import annotations

import asyncio
import errno
import secrets
import socket
from collections.abc import Callable, Sequence
from ipaddress import ip_address

from conflux.api import Buffer, Unavailable
from conflux_tether_udp import stun
from conflux_tether_udp.datagram import HEADER_BYTES, ID_BYTES, Cutter
from conflux_tether_udp.description import ID_MARK, Candidate, CandidateType
from conflux_tether_udp.ingress import Take, distribute
from conflux_tether_udp.mapped import Mapped
from conflux_tether_udp.paths import Address, Path
from conflux_tether_udp.reach import Reach, host_addresses
from conflux_tether_udp.sockets import Backlog, Inbox, Sender, UdpSocket

GOODBYE_S = (0.1, 0.4)
"""When a far end is told again that a tether was closed: once may get lost."""

_IP_MTU, _IPV6_MTU = 14, 24
_IP_UDP_BYTES = {4: 28, 6: 48}


class Port:
    """Sockets, ids and addresses of one driver. All calls come from the loop's thread."""

    def __init__(self, reach: Reach, servers: Sequence[stun.StunServer], number: int) -> None:
        """Bind. Raises Unavailable."""
        self.reach = reach
        self.cutter = Cutter()
        self.plain = memoryview(bytearray(65_536))
        """Where an opened message lies while it is handed over."""
        self._loop = asyncio.get_running_loop()
        self._takers: dict[bytes, Take | None] = {}
        self._goodbyes: dict[asyncio.TimerHandle, Callable[[], None]] = {}
        self._sockets: dict[int, UdpSocket] = {}
        self._mapped = Mapped(servers, self._sockets, reach, self.permits)
        self.backlog = Backlog()
        inbox = Inbox()
        for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
            try:
                self._sockets[version] = UdpSocket(
                    family, number, inbox, self.backlog, self._received
                )
            except OSError as error:
                if error.errno in (errno.EADDRINUSE, errno.EACCES):
                    self.close()
                    raise Unavailable(
                        f"UDP port {number} cannot be used ({error.strerror}): choose another one "
                        "in conflux.toml, [plugin.tether.udp]"
                    ) from None
        if not self._sockets:
            raise Unavailable("this machine has neither IPv4 nor IPv6 sockets")

    async def stop(self) -> None:
        """`close`, and wait until no task is left."""
        await self._mapped.stop()
        self.close()

    def close(self) -> None:
        """Release the sockets. What was to be said is said once more before."""
        for handle, say in self._goodbyes.items():
            handle.cancel()
            say()
        self._goodbyes.clear()
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()

    # Tethers

    def new_id(self) -> bytes:
        """A random id that datagrams of one tether carry."""
        while True:
            fresh = bytearray(secrets.token_bytes(ID_BYTES))
            fresh[0] |= ID_MARK
            if bytes(fresh) not in self._takers:
                self._takers[bytes(fresh)] = None
                return bytes(fresh)

    def listen(self, own_id: bytes, take: Take) -> None:
        """Give *take* what comes in under *own_id*."""
        self._takers[own_id] = take

    def forget(self, own_id: bytes) -> None:
        self._takers.pop(own_id, None)

    def goodbye(self, sender: Sender, path: Path, datagram: bytes) -> None:
        """Send *datagram* now, and twice more in a while."""

        def say() -> None:
            self.send(sender, path, [datagram], len(datagram))

        def say_later(after_s: float) -> None:
            def due() -> None:
                del self._goodbyes[handle]
                say()

            handle = self._loop.call_later(after_s, due)
            self._goodbyes[handle] = say

        say()
        for after_s in GOODBYE_S:
            say_later(after_s)

    # Datagrams

    def send(self, sender: Sender, path: Path, parts: Sequence[Buffer], each: int) -> None:
        sock = self._sockets.get(_version(path.remote))
        if sock is not None:
            sock.send(sender, path, parts, each)

    def number(self, path: Path) -> int:
        """The own port that *path* starts at; 0 once closed."""
        sock = self._sockets.get(_version(path.remote))
        return 0 if sock is None else sock.port

    def overflows(self) -> int:
        """How many batches the receive buffers had no room for so far."""
        return sum(sock.overflows() for sock in self._sockets.values())

    def _received(
        self, inbox: Inbox, size: int, each: int, count: int, remote: Address, local: bytes | None
    ) -> None:
        strangers = distribute(
            inbox.headers,
            inbox.pieces,
            size,
            each,
            count,
            Path(remote, local),
            self._loop.time(),
            self._takers,
        )
        if strangers and self._mapped.waits and size == each:
            rest = inbox.pieces[: max(size - HEADER_BYTES, 0)]
            self._mapped.answered(bytes(inbox.headers[:HEADER_BYTES]) + bytes(rest))

    # Addresses

    def permits(self, path: Path) -> bool:
        """Whether the far end's address and the one of this machine may be part of an underlay."""
        if not self.reach.permits(ip_address(path.remote[0])):
            return False
        if path.local is not None:
            return self.reach.permits(ip_address(path.local))
        try:
            with self._towards(path) as probe:
                return self.reach.permits(ip_address(probe.getsockname()[0]))
        except OSError:
            return False  # no route

    def interface(self, path: Path) -> tuple[int, int]:
        """The largest datagram that the interface takes, and the bytes of IP and UDP headers."""
        version = _version(path.remote)
        level, option = (
            (socket.IPPROTO_IP, _IP_MTU) if version == 4 else (socket.IPPROTO_IPV6, _IPV6_MTU)
        )
        headers = _IP_UDP_BYTES[version]
        try:
            with self._towards(path) as probe:
                return probe.getsockopt(level, option) - headers, headers
        except OSError:
            return 0, headers

    def _towards(self, path: Path) -> socket.socket:
        """A socket that the system has routed; nothing is sent. Raises OSError."""
        family = socket.AF_INET if _version(path.remote) == 4 else socket.AF_INET6
        probe = socket.socket(family, socket.SOCK_DGRAM)
        try:
            probe.connect(path.remote)
        except OSError:
            probe.close()
            raise
        return probe

    async def start(self) -> None:
        """Find out where the port is seen from outside. Waits FIRST_ANSWER_S at most."""
        await self._mapped.start()

    def candidates(self) -> list[Candidate]:
        """Where a far end may reach this port, as far as is known now, best first."""
        hosts = host_addresses(self.reach)
        found = [
            Candidate(CandidateType.HOST, address, self._sockets[address.version].port)
            for address in hosts
            if address.version in self._sockets
        ]
        known = {(candidate.address, candidate.port) for candidate in found}
        mapped = self._mapped.candidates(hosts)
        return found + [c for c in mapped if (c.address, c.port) not in known]


def _version(remote: Address) -> int:
    """4 or 6: socket addresses of IPv6 have two fields more."""
    return 4 if len(remote) == 2 else 6
