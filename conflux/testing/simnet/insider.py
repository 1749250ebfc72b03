"""A member of the plane who runs code of his own: genuine credentials, no limits, no manners."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from conflux.anchor.affinity import make_tags
from conflux.anchor.handshake import PendingAsk, Standing, make_ask
from conflux.anchor.identity import Identity, address_tag
from conflux.anchor.seal import hkdf_expand, hkdf_extract
from conflux.testing.simnet.underlay import TETHER_KIND
from conflux.wire.control import (
    Ask,
    AuthLevel,
    Kind,
    Purpose,
    Target,
    TargetKind,
    envelope,
)
from conflux.wire.credentials import KEY_BYTES, Certificate, Grant

if TYPE_CHECKING:
    from conflux.testing.simnet.network import SimNetwork


class Insider:
    """Made by `SimNetwork.add_insider`. It has no Anchor: it only sends what it is told to."""

    def __init__(self, network: SimNetwork, name: str) -> None:
        self.network = network
        self.identity = Identity(network.crypto, network.entropy)
        grant = network.guardian.admit(name, self.identity)
        self.standing = Standing(
            network.crypto, network.entropy, self.identity, network.guardian.key, grant
        )
        self.heard: list[tuple[float, bytes]] = []
        """(time, payload) of every control message to one of his tags, once he `listen`s."""

    @property
    def handle(self) -> bytes:
        """What the Master puts on everything that he publishes."""
        return self.standing.grant.control.handle

    def takes(self, grant: Grant) -> None:
        """Hold what *grant* gives from now on."""
        self.standing = replace(self.standing, grant=grant)

    def shows(self, certificate: Certificate) -> None:
        """Put *certificate*, which need not be his, into what he makes from now on."""
        self.takes(replace(self.standing.grant, certificate=certificate))

    def listen(self) -> None:
        """Subscribe to his own tags, the shared one left out."""
        network = self.network
        network.channel.listen(
            self.standing.grant.control.tags,
            None,
            lambda tag, _, payload: self.heard.append((network.now(), payload)),
        )

    def tag_of(self, address: bytes) -> bytes:
        """The pseudonym of *address* (4 or 16 bytes), which every member of the plane can make."""
        return address_tag(self.standing.grant.plane_key, address)

    def publish(self, tag: bytes, message: bytes) -> None:
        self.network.channel.publish(self.handle, tag, message)

    def ask(
        self,
        target: Target,
        *,
        purpose: Purpose = Purpose.STREAM,
        auth_level: AuthLevel = AuthLevel.HANDSHAKE,
    ) -> PendingAsk:
        """Make a genuine Ask, as far as `standing` is."""
        return make_ask(
            self.standing,
            target,
            purpose=purpose,
            auth_level=auth_level,
            tether_kinds=(TETHER_KIND,),
            avoid=(),
            wall=self.network.wall(),
        )

    def read_ask(self, message: bytes) -> Ask:
        """What a member of the plane reads in an Ask, whoever it is for."""
        head, sealed = message[: 2 + KEY_BYTES], message[2 + KEY_BYTES :]
        return Ask.decode(self._aead(head).decrypt(bytes(12), sealed, head))

    def seal_ask(self, ask: Ask) -> bytes:
        """Any Ask as a message: under the plane key, which is all that seals it."""
        head = envelope(Kind.ASK, self.network.entropy(KEY_BYTES))
        return head + self._aead(head).encrypt(bytes(12), ask.encode(), head)

    def tagged(self, ask: Ask) -> Ask:
        """*ask* with the tags of his own teams."""
        core_hash = hashlib.sha256(ask.core()).digest()
        tags = make_tags(self.standing.grant.teams, core_hash, self.network.entropy)
        return replace(ask, team_tags=tags)

    def _aead(self, head: bytes) -> AESGCM:
        """docs/protocol/handshake.md §1."""
        secret = hkdf_extract(head[2:], self.standing.grant.plane_key)
        return AESGCM(hkdf_expand(secret, b"VeilNet/1 ask", KEY_BYTES))

    def ask_address(self, address: bytes) -> PendingAsk:
        """Make an Ask for streams and publish it under the pseudonym of *address*."""
        pending = self.ask(Target(TargetKind.ADDRESS, address))
        self.publish(self.tag_of(address), pending.message)
        return pending
