"""Changes reach running nodes: when a grant is sent (pure), and that it is (a real server)."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

import nats
import nkeys
import pytest
from nats.aio.msg import Msg

from conflux.anchor.identity import Identity
from conflux.wire.credentials import Certificate, Grant, Revoked
from veilnet_guardian.grants import Holding
from veilnet_guardian.keys import crypto_driver
from veilnet_guardian.natsjwt import GUARDIAN_HANDLE
from veilnet_guardian.push import REMIND_S, Outbox
from veilnet_guardian.revocations import News

WITHIN_S = 1.0
WAIT_S = 10


@pytest.fixture(scope="module")
def holding() -> Holding:
    identity = Identity(crypto_driver(), secrets.token_bytes)
    certificate = Certificate(
        serial=7,
        conflux_id=bytes(16),
        plane_id=bytes(16),
        sign_public=identity.signer.public,
        kem_public=identity.kem.public,
        addresses=(),
        not_before=0,
        not_after=1,
    )
    return Holding(
        certificate=certificate,
        plane_name="home",
        plane_key=bytes(32),
        teams=(),
        master_url="nats://127.0.0.1",
        answered=b"login",
    )


def due(outbox: Outbox, now: float) -> list[int]:
    return [serial for serial, _ in outbox.due(now=now)]


def test_node_that_has_its_grant_is_sent_nothing(holding: Holding) -> None:
    outbox = Outbox()
    outbox.sweep({7: (holding, b"login")}, now=0.0)
    outbox.resend(now=1.0)
    assert due(outbox, 1e9) == []


def test_changed_grant_is_sent_at_once_and_again(holding: Holding) -> None:
    outbox = Outbox()
    outbox.sweep({7: (holding, b"login")}, now=0.0)
    outbox.sweep({7: (holding, b"changed")}, now=10.0)
    sent_at = []
    for now in [10.0 + step / 4 for step in range(300)]:
        for serial in due(outbox, now):
            outbox.sent(serial, now=now)
            sent_at.append(now)
    assert sent_at == [10.0, 11.0, 15.0, 15.0 + REMIND_S]


def test_grant_that_changed_while_guardian_was_away_is_sent(holding: Holding) -> None:
    outbox = Outbox()
    outbox.sweep({7: (holding, b"changed")}, now=0.0)
    assert due(outbox, 0.0) == [7]


def test_grant_that_could_not_be_sent_stays_due(holding: Holding) -> None:
    outbox = Outbox()
    outbox.sweep({7: (holding, b"changed")}, now=0.0)
    for now in (0.0, 3.0, 100.0):
        assert due(outbox, now) == [7]
    outbox.sent(7, now=100.0)
    assert due(outbox, 100.0) == []


def test_lost_connection_sends_again(holding: Holding) -> None:
    outbox = Outbox()
    outbox.sweep({7: (holding, b"changed")}, now=0.0)
    outbox.sent(7, now=6.0)
    assert due(outbox, 7.0) == []
    outbox.resend(now=7.0)
    assert due(outbox, 7.0) == [7]


def test_session_that_ended_is_forgotten(holding: Holding) -> None:
    outbox = Outbox()
    outbox.sweep({7: (holding, b"changed")}, now=0.0)
    outbox.sweep({}, now=1.0)
    assert due(outbox, 1e9) == []
    outbox.sent(7, now=3.0)
    outbox.resend(now=4.0)
    assert due(outbox, 1e9) == []


# Revocations: when they are told

PLANE = bytes(16)


def revoked(*serials: int) -> dict[bytes, list[Revoked]]:
    return {PLANE: [Revoked(serial, 1_000_000 + serial) for serial in serials]}


def serials_due(news: News, now: float) -> list[int]:
    return [entry.serial for entry in news.due(now=now).get(PLANE, [])]


def test_revocation_is_told_at_once_and_again_and_then_every_hour() -> None:
    news, told_at = News(), []
    for now in range(10, 20_000):
        news.sweep(revoked(7), now=now)
        if serials_due(news, now):
            news.sent(PLANE, now=now)
            told_at.append(now - 10)
    assert told_at == [0, 1, 5, 60, 300, 1_800, 5_400, 9_000, 12_600, 16_200, 19_800]


def test_only_what_is_new_is_told_when_more_is_revoked() -> None:
    news = News()
    news.sweep(revoked(7), now=0)
    news.sent(PLANE, now=0)
    news.sweep(revoked(9, 7, 5), now=0.5)
    assert serials_due(news, 0.5) == [5, 9]
    news.sent(PLANE, now=0.5)
    assert serials_due(news, 1) == [7]
    assert serials_due(news, 1.5) == [5, 7, 9]


def test_revocation_that_could_not_be_told_stays_due() -> None:
    news = News()
    news.sweep(revoked(7), now=0)
    assert [serials_due(news, now) for now in (0, 100)] == [[7], [7]]


def test_lost_connection_tells_all_revocations_again() -> None:
    news = News()
    news.sweep(revoked(7, 8), now=0)
    news.sent(PLANE, now=400)
    assert serials_due(news, 401) == []
    news.resend(now=401)
    assert serials_due(news, 401) == [7, 8]


def test_revocation_of_a_certificate_that_ended_is_forgotten() -> None:
    news = News()
    news.sweep(revoked(7, 8), now=0)
    news.sweep(revoked(8), now=1)
    assert serials_due(news, 1) == [8]
    news.sweep({}, now=2)
    assert news.due(now=1e9) == {}
    news.sweep(revoked(7), now=3)
    assert serials_due(news, 3) == [7]


class Listener:
    """A node on the control channel, waiting for grants."""

    def __init__(self, node: Any, grant: Grant) -> None:
        self.node, self.grant = node, grant
        self.messages: asyncio.Queue[Msg] = asyncio.Queue()
        self.news: asyncio.Queue[Msg] = asyncio.Queue()
        """Revocations, apart from the grants."""
        self.closed = asyncio.Event()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[Listener]:
        control = self.grant.control
        pair = nkeys.from_seed(bytearray(control.seed.encode()))

        async def on_closed() -> None:
            self.closed.set()

        async def on_error(_error: Exception) -> None:
            return

        client = await nats.connect(
            list(control.urls),
            allow_reconnect=False,
            error_cb=on_error,
            closed_cb=on_closed,
            user_jwt_cb=lambda: bytearray(control.jwt.encode()),
            signature_cb=lambda nonce: base64.b64encode(pair.sign(nonce.encode())),
        )
        for tag in control.tags:
            await client.subscribe(f"{control.prefix}.{tag.hex()}.*", cb=self._take)
        await client.flush()
        try:
            yield self
        finally:
            await client.close()

    async def _take(self, message: Msg) -> None:
        await (self.news if message.data[:2] == bytes([1, 7]) else self.messages).put(message)

    async def revoked(self, serial: int) -> Revoked:
        """Wait until *serial* is revoked, as a node learns of it."""
        own, key = self.grant.certificate, self.node.key
        async with asyncio.timeout(WAIT_S):
            while True:
                message = await self.news.get()
                assert message.subject.endswith(f".{GUARDIAN_HANDLE.hex()}")
                news = key.open_revocations(
                    message.data[2:], plane_id=own.plane_id, plane_key=self.grant.plane_key
                )
                for entry in news.revoked:
                    if entry.serial == serial:
                        return entry

    async def next_grant(self) -> Grant:
        """The next grant that is newer than the last, as a node takes it."""
        async with asyncio.timeout(WAIT_S):
            while True:
                message = await self.messages.get()
                control = self.grant.control
                handle, zeros = control.handle.hex(), GUARDIAN_HANDLE.hex()
                assert message.subject == f"{control.prefix}.{handle}.{zeros}"
                assert message.data[:2] == bytes([1, 4])
                grant, _ = self.node.open(message.data[2:])
                if grant.revision > self.grant.revision:
                    self.grant = grant
                    return grant

    @property
    def team_names(self) -> list[str]:
        return [team.name for team in self.grant.teams]

    def team(self, name: str) -> Any:
        (found,) = [team for team in self.grant.teams if team.name == name]
        return found


def listen(server: Any, email: str, tag: str) -> Listener:
    node = server.node(email, "home", tag)
    return Listener(node, node.login_now(server.url))


async def command(server: Any, *arguments: str) -> float:
    """Run an operator's command; return when it was over."""
    await asyncio.to_thread(server.command, *arguments)
    return time.monotonic()


def test_attached_team_is_pushed_within_a_second(server: Any) -> None:
    a = listen(server, "alice@example.com", "attach-a")
    assert a.team_names == ["user:alice@example.com"]
    server.command("team", "create", "attach", "--owner", "alice@example.com")
    first = a.grant

    async def main() -> None:
        async with a.listening():
            began = await command(server, "team", "attach", "attach", "attach-a")
            grant = await a.next_grant()
            assert time.monotonic() - began < WITHIN_S
            assert a.team_names == ["attach", "user:alice@example.com"]
            assert grant.control == first.control
            assert grant.certificate == first.certificate
            assert grant.time_ms > first.time_ms

    asyncio.run(main())


def test_detached_team_gives_the_others_a_new_key_within_a_second(server: Any) -> None:
    a, b = (listen(server, f"{who}@example.com", f"detach-{who}") for who in ("alice", "bob"))
    server.command("team", "create", "detach", "--owner", "alice@example.com")

    async def main() -> None:
        async with a.listening(), b.listening():
            for tag in ("detach-alice", "detach-bob"):
                await command(server, "team", "attach", "detach", tag)
            await asyncio.gather(a.next_grant(), b.next_grant())
            assert a.team("detach") == b.team("detach")
            old = a.team("detach")
            began = await command(server, "team", "detach", "detach", "detach-bob")
            await asyncio.gather(a.next_grant(), b.next_grant())
            assert time.monotonic() - began < WITHIN_S
            new = a.team("detach")
            assert (new.team_id, new.epoch) == (old.team_id, old.epoch + 1)
            assert new.key != old.key
            assert b.team_names == ["user:bob@example.com"]

    asyncio.run(main())


def test_removed_conflux_is_told_and_cut_off_and_its_keys_are_replaced(server: Any) -> None:
    gone, stays = (listen(server, "alice@example.com", f"remove-{n}") for n in range(2))
    # It has no team in common with the others, but may be their neighbour and relay.
    stranger = listen(server, "bob@example.com", "remove-stranger")

    async def main() -> None:
        import httpx

        async with gone.listening(), stays.listening(), stranger.listening():
            before = stays.team("user:alice@example.com")
            began = time.monotonic()
            answer = await asyncio.to_thread(
                httpx.delete, f"{server.url}/conflux/unregister", headers=gone.node.headers
            )
            assert answer.status_code == 204
            certificate = gone.grant.certificate
            for node in (stays, stranger):
                entry = await node.revoked(certificate.serial)
                assert entry.not_after == certificate.not_after
            assert time.monotonic() - began < WITHIN_S
            farewell = await gone.next_grant()
            assert list(farewell.teams) == []
            async with asyncio.timeout(WAIT_S):
                await gone.closed.wait()
            await stays.next_grant()
            after = stays.team("user:alice@example.com")
            assert after.epoch == before.epoch + 1
            assert after.key != before.key
            assert not stays.closed.is_set()

    asyncio.run(main())


def test_logged_out_session_is_cut_off(server: Any) -> None:
    import httpx

    node = listen(server, "bob@example.com", "logout")

    async def main() -> None:
        async with node.listening():
            bearer = {"Authorization": f"Bearer {node.node.session}"}
            url = f"{server.url}/conflux/session/logout"
            answer = await asyncio.to_thread(httpx.post, url, headers=bearer)
            assert answer.status_code == 204
            async with asyncio.timeout(WAIT_S):
                await node.closed.wait()
        with pytest.raises(nats.errors.Error):
            async with node.listening():
                pytest.fail("credentials of an ended session still open the door")

    asyncio.run(main())


def test_nobody_else_is_sent_anything(server: Any) -> None:
    a, b = (
        listen(server, "alice@example.com", "quiet-a"),
        listen(server, "bob@example.com", "quiet-b"),
    )
    server.command("team", "create", "quiet", "--owner", "alice@example.com")

    async def main() -> None:
        async with a.listening(), b.listening():
            await command(server, "team", "attach", "quiet", "quiet-a")
            await a.next_grant()
            await command(server, "team", "attach", "quiet", "quiet-b")
            await b.next_grant()
            # Of both changes bob's node was told of its own alone.
            assert b.team_names == ["quiet", "user:bob@example.com"]
            assert b.messages.empty()

    asyncio.run(main())
