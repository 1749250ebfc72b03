"""ICE (RFC 8445) by aioice, with candidates, sockets and demultiplexing of our own.

aioice gathers every address of the machine, reads one datagram per turn and tries each as STUN
first. Here an address is offered and bound only if the node may be reached there, datagrams are
told apart by their first byte (RFC 7983), and DTLS goes straight to its receiver.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
import socket
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, cast

from aioice import Candidate, Connection, ConnectionClosed, TransportPolicy, stun
from aioice.candidate import candidate_foundation, candidate_priority
from aioice.ice import CandidatePair, ConnectionEvent, StunProtocol, relayed_candidate

from conflux_tether_webrtc import udp
from conflux_tether_webrtc.adapters import get_adapters
from conflux_tether_webrtc.description import (
    MAX_CANDIDATES,
    CandidateType,
    Endpoint,
    IpAddress,
    is_unicast,
)
from conflux_tether_webrtc.rtc import RTCIceGatherer

MAX_HOST_CANDIDATES = 10
"""The rest of MAX_CANDIDATES is for what STUN and TURN servers add."""

GATHER_S = 2.0
"""The longest that ICE servers are waited for, name lookup included."""

FURTHER_ANSWERS_S = 0.25
"""Once one ICE server has answered, how long the others are waited for."""

CONSENT_INTERVAL_S = 2.5
CONSENT_EXPIRES_S = 10.0
"""RFC 7675 asks for 5 s and 30 s at most."""

CONSENT_RETRANSMISSIONS = 2
"""After 0.5 and 1.5 s: a request is answered within 3.5 s, however long the path's queue is."""

MAX_EARLY_DATAGRAMS = 64
"""DTLS datagrams kept for a handshake that has not begun to read."""

_RANDOM = secrets.SystemRandom()


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A STUN server, or with `turn` a TURN server reached over `transport`."""

    host: str
    port: int
    turn: bool = False
    transport: str = "udp"
    tls: bool = False
    username: str = ""
    credential: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """Which addresses this node uses and talks to, and which servers help it."""

    is_overlay: Callable[[IpAddress], bool]
    allow_loopback: bool = False
    servers: Sequence[Server] = ()

    def permits(self, address: IpAddress) -> bool:
        """Whether *address*, of this machine or of a neighbour, may be part of an underlay."""
        if not is_unicast(address) or self.is_overlay(address):
            return False
        return self.allow_loopback or not address.is_loopback


class Gatherer(RTCIceGatherer):
    """Hands aiortc's transports the connection made here."""

    def __init__(self, connection: IceConnection) -> None:
        # No server: the connection that this constructor makes is replaced before any use.
        super().__init__(iceServers=[])
        self._connection = connection


class IceConnection(Connection):
    """One ICE agent with one component.

    `on_datagram` is handed every DTLS datagram from a peer that passed a connectivity check; until
    it is set they wait for `recv`. `on_lost` is called once, when consent expires or the sockets
    close under it.
    """

    def __init__(self, *, controlling: bool, reach: Reach) -> None:
        super().__init__(
            ice_controlling=controlling,
            local_username=_ice_chars(6),
            local_password=_ice_chars(3 * 8),
            transport_policy=TransportPolicy.ALL,
        )
        self.on_datagram: Callable[[bytes], None] | None = None
        self.on_lost: Callable[[], None] | None = None
        self._reach = reach
        self._peers: set[tuple[str, int]] = set()
        self._is_silent = False

    # Gathering

    async def gather_candidates(self) -> None:
        """Bind host candidates, ask the servers. At most GATHER_S, at once without servers.

        On any error, cancellation too, `close` releases every socket.
        """
        self._local_candidates_start = True
        addresses = host_addresses(self._reach)
        for preference, address in enumerate(reversed(addresses)):
            await self._bind_host(address, preference)
        if self._reach.servers:
            await self._ask_servers()
        del self._local_candidates[MAX_CANDIDATES:]
        self._local_candidates.sort(key=lambda candidate: -candidate.priority)
        self._local_candidates_end = True

    async def _bind_host(self, address: IpAddress, preference: int) -> None:
        try:
            sock = udp.bind(str(address))
        except OSError:
            # Gone or not usable since the interfaces were listed, as during address detection.
            return
        host, port = sock.getsockname()[:2]
        local = Candidate(
            foundation=candidate_foundation("host", "udp", host),
            component=1,
            transport="udp",
            priority=candidate_priority(1, "host", 0xFF00 + preference),
            host=host,
            port=port,
            type="host",
        )
        self._protocols.append(await udp.attach(sock, lambda: _Demultiplexer(self, local)))
        self._local_candidates.append(local)

    async def _ask_servers(self) -> None:
        loop = asyncio.get_running_loop()
        hosts = list(self._protocols)
        with suppress(TimeoutError):
            async with asyncio.timeout(GATHER_S) as deadline, asyncio.TaskGroup() as asking:

                def answered(candidate: Candidate) -> None:
                    self._local_candidates.append(candidate)
                    latest = loop.time() + FURTHER_ANSWERS_S
                    deadline.reschedule(min(deadline.when() or latest, latest))

                for server in self._reach.servers:
                    ask = self._ask_turn if server.turn else self._ask_stun
                    asking.create_task(ask(server, hosts, answered))

    async def _ask_stun(
        self,
        server: Server,
        hosts: Sequence[StunProtocol],
        answered: Callable[[Candidate], None],
    ) -> None:
        """Learn from *server* where each of *hosts* appears to be (RFC 8445 §5.1.1.2)."""
        addresses = {address.version: address for address in await _resolve(server.host)}
        async with asyncio.TaskGroup() as asking:
            for host in hosts:
                address = addresses.get(ip_address(host.local_candidate.host).version)
                if address is not None and self._reach.permits(address):
                    asking.create_task(
                        self._ask_binding(host, (str(address), server.port), answered)
                    )

    async def _ask_binding(
        self,
        host: StunProtocol,
        server: tuple[str, int],
        answered: Callable[[Candidate], None],
    ) -> None:
        request = stun.Message(stun.Method.BINDING, stun.Class.REQUEST)
        try:
            response, _ = await host.request(request, server)
        except stun.TransactionError:
            return
        mapped = response.attributes.get("XOR-MAPPED-ADDRESS")
        if mapped is None or not self._reach.permits(ip_address(mapped[0])) or not mapped[1]:
            return
        base = host.local_candidate
        if (mapped[0], mapped[1]) == (base.host, base.port):
            return  # no NAT in between: the same candidate again (RFC 8445 §5.1.3)
        answered(
            Candidate(
                foundation=candidate_foundation("srflx", "udp", base.host),
                component=1,
                transport="udp",
                priority=candidate_priority(1, "srflx"),
                host=mapped[0],
                port=mapped[1],
                type="srflx",
                related_address=base.host,
                related_port=base.port,
            )
        )

    async def _ask_turn(
        self,
        server: Server,
        hosts: Sequence[StunProtocol],
        answered: Callable[[Candidate], None],
    ) -> None:
        """Allocate a relayed address at *server* (RFC 8656), from an underlay address only."""
        for address in await _resolve(server.host):
            if not self._reach.permits(address) or not self._leaves_by_underlay(address):
                continue
            try:
                candidate, protocol = await relayed_candidate(
                    component=1,
                    hide_related_address=False,
                    protocol_factory=lambda: _Demultiplexer(self),
                    turn_server=(server.host if server.tls else str(address), server.port),
                    turn_username=server.username,
                    turn_password=server.credential,
                    turn_ssl=server.tls,
                    turn_transport=server.transport,
                )
            except (stun.TransactionError, OSError):
                continue
            self._protocols.append(protocol)
            answered(candidate)
            return

    def _leaves_by_underlay(self, server: IpAddress) -> bool:
        """Whether the kernel's route to *server* starts at an address that may be used."""
        family = socket.AF_INET6 if server.version == 6 else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((str(server), 9))  # sends nothing on UDP
            except OSError:
                return False
            return self._reach.permits(ip_address(probe.getsockname()[0]))

    # Checks

    def request_received(
        self, message: stun.Message, addr: tuple[str, int], protocol: StunProtocol
    ) -> None:
        # A source that we would not offer or accept as a candidate must not become one as a
        # peer-reflexive candidate either.
        if self._reach.permits(ip_address(addr[0])):
            super().request_received(message, addr, protocol)

    def check_state(self, pair: CandidatePair, state: CandidatePair.State) -> None:
        super().check_state(pair, state)
        if state is CandidatePair.State.SUCCEEDED:
            self._peers.add(pair.remote_addr)

    async def query_consent(self) -> None:
        """Ask the peer again and again whether it still wants to be sent to (RFC 7675).

        The anchor layer's own probes notice a broken tether sooner; this ends one that nobody
        probes.
        """
        loop = asyncio.get_running_loop()
        heard = loop.time()
        while loop.time() - heard < CONSENT_EXPIRES_S:
            await asyncio.sleep(CONSENT_INTERVAL_S * _RANDOM.uniform(0.8, 1.2))
            for pair in list(self._nominated.values()):
                if await self._consents(pair):
                    heard = loop.time()
        self._query_consent_task = None  # else `close` would cancel and await this very task
        await self.close()

    async def _consents(self, pair: CandidatePair) -> bool:
        request = self.build_request(pair, nominate=False)
        key = (self.remote_password or "").encode()
        try:
            await pair.protocol.request(
                request,
                pair.remote_addr,
                integrity_key=key,
                retransmissions=CONSENT_RETRANSMISSIONS,
            )
        except stun.TransactionError:
            return False
        return True

    # Data

    def dtls_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Take a DTLS datagram; only checked peers get as far as the cryptography."""
        if addr not in self._peers:
            return
        if self.on_datagram is not None:
            self.on_datagram(data)
        elif self._queue.qsize() < MAX_EARLY_DATAGRAMS:
            self._queue.put_nowait((data, 1))

    def data_received(self, data: bytes, component: int) -> None:
        """Drop what aioice found to be neither STUN nor, by its first byte, DTLS."""

    def take_waiting(self) -> list[bytes]:
        """What came before `on_datagram` was set, in order."""
        waiting = []
        while not self._queue.empty():
            item = self._queue.get_nowait()
            if item is not None:
                waiting.append(item[0])
        return waiting

    def send_run(self, data: bytes, size: int) -> None:
        """Send *data* to the selected peer as datagrams of *size* bytes, the last maybe shorter."""
        pair = self._nominated.get(1)
        if pair is not None and not self._is_silent:
            udp.send_run(pair.protocol.transport, data, size, pair.remote_addr)

    async def sendto(self, data: bytes, component: int) -> None:
        if not self._is_silent:
            await super().sendto(data, component)

    def silence(self) -> None:
        """Let no data out any more."""
        self._is_silent = True

    def underlay(self) -> str:
        """The selected pair for people, empty before one is selected."""
        pair = self._nominated.get(1)
        if pair is None:
            return ""
        return f"udp {_show(pair.local_addr)} > {_show(pair.remote_addr)}"

    # Ends

    def protocol_lost(self, protocol: StunProtocol) -> None:
        super().protocol_lost(protocol)
        if any(pair.protocol is protocol for pair in self._nominated.values()):
            self._lose()

    async def get_event(self) -> ConnectionEvent:
        # aioice's None for "closed already" would have aiortc's monitor ask for ever.
        return await super().get_event() or ConnectionClosed()

    async def close(self) -> None:
        self._lose()
        await super().close()

    def _lose(self) -> None:
        lost, self.on_lost = self.on_lost, None
        if lost is not None:
            lost()


class _Demultiplexer(StunProtocol):
    """Tells datagrams apart by their first byte (RFC 7983 §7)."""

    receiver: IceConnection

    def __init__(self, receiver: IceConnection, local: Candidate | None = None) -> None:
        super().__init__(receiver)
        if local is not None:
            self.local_candidate = local

    def datagram_received(self, data: bytes | str, addr: tuple[Any, ...]) -> None:
        first = data[0] if data else None
        if not isinstance(first, int):
            return
        if 20 <= first <= 63:
            self.receiver.dtls_received(cast(bytes, data), (addr[0], addr[1]))
        elif first <= 3:
            # aioice lets errors of hostile STUN attributes through: noise, dropped.
            with suppress(ValueError, LookupError, struct.error):
                super().datagram_received(data, addr)


def host_addresses(reach: Reach) -> list[IpAddress]:
    """This machine's addresses that *reach* permits, at most MAX_HOST_CANDIDATES, best first.

    Link-local IPv4 and the bridges of containers stay: a neighbour may be there. Loopback comes
    last.
    """
    found: list[IpAddress] = []
    for adapter in get_adapters():
        for ip in adapter.ips:
            # A scope means link-local IPv6; without it the address would mean nothing elsewhere.
            if isinstance(ip.ip, tuple) and ip.ip[2]:
                continue
            address = ip_address(ip.ip if isinstance(ip.ip, str) else ip.ip[0])
            if reach.permits(address) and address not in found:
                found.append(address)
    found.sort(key=lambda address: (address.is_loopback, address.is_link_local))
    return found[:MAX_HOST_CANDIDATES]


def local_endpoints(connection: Connection) -> tuple[Endpoint, ...]:
    """The gathered candidates as a description holds them, best first."""
    return tuple(
        Endpoint(_TYPES[local.type], local.priority, ip_address(local.host), local.port)
        for local in connection.local_candidates
    )


def remote_candidates(endpoints: Sequence[Endpoint], reach: Reach) -> list[Candidate]:
    """Those of a neighbour's *endpoints* that *reach* permits."""
    return [
        Candidate(
            foundation=str(index),
            component=1,
            transport="udp",
            priority=endpoint.priority,
            host=str(endpoint.address),
            port=endpoint.port,
            type=_NAMES[endpoint.type],
        )
        for index, endpoint in enumerate(endpoints)
        if reach.permits(endpoint.address)
    ]


_TYPES = {
    "host": CandidateType.HOST,
    "srflx": CandidateType.SERVER_REFLEXIVE,
    "relay": CandidateType.RELAYED,
}
_NAMES = {kind: name for name, kind in _TYPES.items()}


async def _resolve(host: str) -> list[IpAddress]:
    """The addresses of *host*, none if it has none. A name is looked up in the loop's executor."""
    with suppress(ValueError):
        return [ip_address(host)]
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    except OSError:
        return []
    return [ip_address(info[4][0]) for info in found]


def _ice_chars(size: int) -> str:
    """*size* random characters of ice-char (RFC 8839 §5.4), 6 bits each."""
    return base64.b64encode(secrets.token_bytes(size)).decode()[:size]


def _show(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
