"""Changes take effect without a restart: whoever's grant changed is sent the new one.

Commands and requests change the database and raise its revision. The pusher looks at the revision
four times a second, and when it moved

    tells every node of a plane which certificates have been revoked in it,
    works out every live session's grant, and sends those that differ from what the node has,
    has the Master turn away whoever must not listen any more.

The control channel may lose a message, so each is sent again; nodes ignore what is not new.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy.exc import DBAPIError

from conflux.anchor.identity import PUSH_BINDING
from conflux.wire.control import Kind, envelope
from conflux.wire.credentials import MAX_REVOKED
from veilnet_guardian import revocations
from veilnet_guardian.database import Database, read_revision
from veilnet_guardian.grants import GrantMaker, Holding, live_holdings, removed_holdings
from veilnet_guardian.link import MasterLink
from veilnet_guardian.master import EmbeddedMaster
from veilnet_guardian.natsjwt import GUARDIAN_HANDLE, MasterKeys
from veilnet_guardian.revocations import News
from veilnet_guardian.sessions import dead_users

log = logging.getLogger("veilnet_guardian.push")

LOOK_S = 0.25
CUT_S = 5.0
"""How often credentials are looked for that end without a change of revision."""
SWEEP_S = 60.0
"""How often all grants are worked out even without one: sessions also end by themselves."""

REPEATS_S = (0.0, 1.0, 5.0)
"""When a changed grant is sent, counted from the change; after that every REMIND_S."""
REMIND_S = 60.0

BATCH = 32
"""Grants sealed per visit to a worker thread."""


@dataclass(slots=True)
class _Entry:
    holding: Holding
    digest: bytes
    due: list[float] = field(default_factory=list)
    pushed: bool = False


class Outbox:
    """What each live session should have, and when it is to be sent. Pure: *now* is an argument."""

    def __init__(self) -> None:
        self._entries: dict[int, _Entry] = {}

    def sweep(self, wanted: Mapping[int, tuple[Holding, bytes]], *, now: float) -> None:
        """Take in every live session, by serial, with its grant's digest; forget the others."""
        for serial in self._entries.keys() - wanted.keys():
            del self._entries[serial]
        for serial, (holding, digest) in wanted.items():
            entry = self._entries.get(serial)
            if entry is None:
                entry = self._entries[serial] = _Entry(holding, holding.answered)
            entry.holding = holding
            if entry.digest != digest:
                entry.digest = digest
                self._schedule(entry, now=now)

    def resend(self, *, now: float) -> None:
        """Begin again with all that was ever sent: the connection broke."""
        for entry in self._entries.values():
            if entry.pushed:
                self._schedule(entry, now=now)

    def holdings(self) -> list[Holding]:
        """Of every live session."""
        return [entry.holding for entry in self._entries.values()]

    def due(self, *, now: float) -> list[tuple[int, Holding]]:
        return [
            (serial, entry.holding)
            for serial, entry in self._entries.items()
            if entry.due and entry.due[0] <= now
        ]

    def sent(self, serial: int, *, now: float) -> None:
        entry = self._entries.get(serial)
        if entry is not None:
            entry.due = [at for at in entry.due if at > now] or [now + REMIND_S]

    def _schedule(self, entry: _Entry, *, now: float) -> None:
        entry.pushed = True
        entry.due = [now + wait for wait in REPEATS_S]


class Pusher:
    """`run` it in a task. *monotonic* and *wall* are clocks in seconds."""

    def __init__(
        self,
        db: Database,
        maker: GrantMaker,
        keys: MasterKeys,
        link: MasterLink,
        master: EmbeddedMaster | None,
        *,
        monotonic: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._db, self._maker, self._keys = db, maker, keys
        self._link, self._master = link, master
        self._monotonic, self._wall = monotonic, wall
        self._outbox = Outbox()
        self._news = News()
        self._revision = -1
        self._next_sweep = self._next_cut = 0.0
        self._generation = link.generation
        self._cut: set[int] = set()

    async def run(self) -> None:
        """Look and send until cancelled. A database that is busy is tried again."""
        while True:
            try:
                await self.tick()
            except DBAPIError as error:
                log.warning("grants cannot be looked up (%s): trying on", error.orig)
            await asyncio.sleep(LOOK_S)

    async def tick(self) -> None:
        """Look once, and send what is due. Raises DBAPIError."""
        now = self._monotonic()
        async with self._db.read() as session:
            revision = await read_revision(session)
        changed = revision != self._revision or now >= self._next_sweep
        if changed:
            await self._sweep()
        if self._link.generation != self._generation:
            self._generation = self._link.generation
            self._cut = set()
            self._outbox.resend(now=now)
            self._news.resend(now=now)
        await self._tell_news()
        due = self._outbox.due(now=now)
        for at in range(0, len(due), BATCH):
            await self._send(due[at : at + BATCH])
        # Last: with a slow Master it takes long, and nobody may wait for it.
        if changed or now >= self._next_cut:
            await self._cut_off()

    async def _sweep(self) -> None:
        """Work out who must have what."""
        async with self._db.read() as session:
            # Grants and their revision must come from one view.
            revision = await read_revision(session)
            holdings = await live_holdings(session, now=int(self._wall()))
            revoked = await revocations.by_plane(session, now=int(self._wall()))
        wanted = await asyncio.to_thread(self._digests, holdings)
        now = self._monotonic()
        self._revision, self._next_sweep = revision, now + SWEEP_S
        self._outbox.sweep(wanted, now=now)
        self._news.sweep(revoked, now=now)

    def _digests(self, holdings: Mapping[int, Holding]) -> dict[int, tuple[Holding, bytes]]:
        return {serial: (held, self._maker.digest(held)) for serial, held in holdings.items()}

    async def _tell_news(self) -> None:
        """Tell all nodes of a plane what was revoked in it: one signature for all of them."""
        if not self._link.up.is_set():
            return
        for plane_id, entries in self._news.due(now=self._monotonic()).items():
            nodes = [
                holding
                for holding in self._outbox.holdings()
                if holding.certificate.plane_id == plane_id
            ]
            for at in range(0, len(entries) if nodes else 0, MAX_REVOKED):
                body = await asyncio.to_thread(
                    self._maker.seal_revocations,
                    entries[at : at + MAX_REVOKED],
                    plane_id=plane_id,
                    plane_key=nodes[0].plane_key,
                )
                for holding in nodes:
                    subject = f"{holding.subject}.{GUARDIAN_HANDLE.hex()}"
                    await self._link.publish(subject, envelope(Kind.REVOCATIONS, body))
            self._news.sent(plane_id, now=self._monotonic())

    async def _send(self, batch: Sequence[tuple[int, Holding]]) -> None:
        if not batch or not self._link.up.is_set():
            return
        time_ms = int(self._wall() * 1000)
        sealed = await asyncio.to_thread(self._seal, batch, time_ms)
        for (serial, holding), body in zip(batch, sealed, strict=True):
            subject = f"{holding.subject}.{GUARDIAN_HANDLE.hex()}"
            if await self._link.publish(subject, envelope(Kind.GRANT, body)):
                self._outbox.sent(serial, now=self._monotonic())

    def _seal(self, batch: Sequence[tuple[int, Holding]], time_ms: int) -> list[bytes]:
        return [
            self._maker.seal(
                self._maker.make(holding, revision=self._revision, time_ms=time_ms),
                binding=PUSH_BINDING,
            )
            for _, holding in batch
        ]

    async def _cut_off(self) -> None:
        """Have the Master turn away whoever must not listen any more."""
        self._next_cut, wall = self._monotonic() + CUT_S, int(self._wall())
        async with self._db.read() as session:
            dead = await dead_users(session, now=wall)
            removed = await removed_holdings(session, dead.keys() - self._cut)
        if dead.keys() == self._cut or not self._link.up.is_set():
            return
        # An honest node that was removed closes its streams at once when it is told.
        await self._send(list(removed.items()))
        await self._link.flush()
        revoked = {self._keys.node_user(serial).public: began for serial, began in dead.items()}
        if self._master is not None:
            self._master.configure(revoked, now=wall)
        if await self._link.update_account(self._keys.account_jwt(revoked, now=wall)):
            self._cut = set(dead)
        else:
            self._next_cut = 0.0
