"""The network: a clock, an underlay, a control channel, a Guardian, nodes."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Collection, Sequence

from conflux.anchor.idle import IdleTimes
from conflux.anchor.quota import Relaying
from conflux.api import CryptoDriver, Gso, NodeId, Router
from conflux.testing.fakes import EqualRouter, FakeCrypto
from conflux.testing.simnet.channel import ControlMessage, SimChannel
from conflux.testing.simnet.clock import Clock
from conflux.testing.simnet.guardian import HANDLE, SimGuardian
from conflux.testing.simnet.insider import Insider
from conflux.testing.simnet.node import SimNode
from conflux.testing.simnet.underlay import TETHER_KIND, Link, Underlay
from conflux.wire.control import AuthLevel
from conflux.wire.features import DEFAULT_MTU_BYTES

EPOCH_S = 1_800_000_000
"""Guardian's clock, Unix seconds, when the virtual one says 0."""


class SimNetwork:
    """Everything hangs on *seed*: keys, losses, delays, the draw of relays.

    *crypto* is the insecure but repeatable FakeCrypto unless a real driver is handed in, with
    which no two runs are alike.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        crypto: CryptoDriver | None = None,
        packet_auth: AuthLevel = AuthLevel.CHECKPOINT,
        idle: IdleTimes = IdleTimes(),  # noqa: B008 (frozen)
    ) -> None:
        chance = random.Random(seed)
        self.clock = Clock()
        self.packet_auth = packet_auth
        """What nodes offer unless `add_node` says otherwise."""
        self.idle = idle
        """The idle times of nodes that start from now on."""
        self.entropy = random.Random(chance.random()).randbytes
        self.crypto = crypto or FakeCrypto({"seed": seed})
        self.underlay = Underlay(
            self.clock, random.Random(chance.random()), self._crossed, self._crossed_reliably
        )
        self.channel = SimChannel(self.clock, random.Random(chance.random()))
        self.guardian = SimGuardian(
            self.crypto,
            self.entropy,
            self.wall,
            lambda tag, payload: self.channel.publish(HANDLE, tag, payload),
        )
        self.nodes: dict[str, SimNode] = {}
        self.insiders: list[Insider] = []
        self.on_datagram: Callable[[str, str, bytes], None] | None = None
        """Sees (from, to, message) of each datagram that arrives, before its receiver does."""
        self.on_reliable: Callable[[str, str, bytes], None] | None = None
        """The same of each message of a reliable lane: in-band messages."""
        self._trace = hashlib.sha256()
        self._names: dict[NodeId, str] = {}

    def add_node(
        self,
        name: str,
        *,
        teams: Sequence[str] = (),
        address: str | Sequence[str] = (),
        router: Callable[[], Router] = EqualRouter,
        packet_auth: AuthLevel | None = None,
        tether_kinds: Sequence[str] = (TETHER_KIND,),
        mtu_bytes: int = DEFAULT_MTU_BYTES,
        relaying: Relaying = Relaying(),  # noqa: B008 (frozen)
        gso: Collection[Gso] = (),
    ) -> SimNode:
        """Add and start a node. Without *address* it gets the next ones of 10.77/16 and fd77::/64.

        An address comes with its plane's prefix length: "10.77.0.9/16". *gso* is what its TUN
        device takes in layout VIRTIO; without it has no offload.
        """
        if name in self.nodes:
            raise ValueError(f"there is a node {name} already")
        number = len(self.nodes) + 1
        given = [address] if isinstance(address, str) else list(address)
        low = divmod(number, 250)
        addresses = given or [f"10.77.{low[0]}.{low[1] + 1}/16", f"fd77::{number:x}/64"]
        self.guardian.enrol(name, addresses=addresses, teams=teams)
        node = self.nodes[name] = SimNode(
            self,
            name,
            addresses,
            router,
            self.packet_auth if packet_auth is None else packet_auth,
            tether_kinds,
            mtu_bytes,
            relaying,
            gso,
        )
        return node

    def add_insider(self, name: str, *, teams: Sequence[str] = ()) -> Insider:
        """Add a member that runs code of his own. It gets an address behind those of nodes."""
        number = len(self.insiders) + 1
        high, low = divmod(number, 250)
        self.guardian.enrol(name, addresses=[f"10.77.{128 + high}.{low + 1}/16"], teams=teams)
        insider = Insider(self, name)
        self.insiders.append(insider)
        return insider

    def link(self, one: SimNode, other: SimNode) -> Link:
        """The link between two nodes, to be changed in place."""
        return self.underlay.link(one.name, other.name)

    def block(self, one: SimNode, *others: SimNode) -> None:
        """Cut *one* off from each of *others*."""
        for other in others:
            self.link(one, other).blocked = True

    def unblock(self, one: SimNode, *others: SimNode) -> None:
        for other in others:
            self.link(one, other).blocked = False

    def replay(self, message: ControlMessage) -> None:
        """Carry a recorded control message once more, as whoever runs the Master could."""
        self.channel.carry(message)

    # Time

    def now(self) -> float:
        return self.clock.now()

    def wall(self) -> float:
        """Guardian's clock, Unix seconds."""
        return EPOCH_S + self.clock.now()

    def run(self, seconds: float) -> None:
        """Let virtual time pass."""
        self.clock.run_until(lambda: False, self.now() + seconds)

    def run_until(self, predicate: Callable[[], bool], deadline_s: float) -> bool:
        """Let time pass until *predicate* holds; False if it does not within *deadline_s*."""
        return self.clock.run_until(predicate, self.now() + deadline_s)

    # What happened

    def name_of(self, node: NodeId) -> str:
        """The name of a node, also of one that has gone; its first bytes in hex if unknown."""
        for name, member in self.nodes.items():
            self._names[member.node_id] = name
        return self._names.get(node, node.hex()[:8])

    def fingerprint(self) -> str:
        """A hash over every datagram and every control message so far, with its time."""
        whole = self._trace.copy()
        for message in self.channel.messages:
            whole.update(repr((message.time, message.sender, message.tag)).encode())
            whole.update(message.payload)
        return whole.hexdigest()

    def _crossed(self, source: str, destination: str, message: bytes) -> None:
        self._trace.update(f"{self.now()!r} {source} {destination} {len(message)} ".encode())
        self._trace.update(message)
        if self.on_datagram is not None:
            self.on_datagram(source, destination, message)

    def _crossed_reliably(self, source: str, destination: str, message: bytes) -> None:
        if self.on_reliable is not None:
            self.on_reliable(source, destination, message)
