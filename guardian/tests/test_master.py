"""The Master, for real: a nats-server with Guardian's trust chain, and what each may do there."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import os
import secrets
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from ipaddress import IPv4Interface
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from conflux.anchor.identity import (
    Identity,
    address_tag,
    control_prefix,
    node_id,
    node_tag,
    relay_tag,
)
from conflux.wire.credentials import Certificate
from veilnet_guardian.datadir import DataDir
from veilnet_guardian.errors import GuardianError
from veilnet_guardian.keys import Keys, crypto_driver
from veilnet_guardian.link import MasterLink
from veilnet_guardian.master import EmbeddedMaster, exported
from veilnet_guardian.natsjwt import GUARDIAN_HANDLE, MasterKeys, NKey
from veilnet_guardian.settings import HostPort

LOOPBACK = HostPort("127.0.0.1", 0)
WAIT_S = 10
NOW = 1_700_000_000
FOREVER = 4_000_000_000
PLANE, OTHER_PLANE = secrets.token_bytes(32), secrets.token_bytes(32)


class Peer:
    """A connected node (or prober), and what came to it."""

    client: Client

    def __init__(self, certificate: Certificate, plane_key: bytes) -> None:
        self.plane_key = plane_key
        self.prefix = control_prefix(plane_key)
        self.handle = node_tag(plane_key, node_id(certificate.sign_public)).hex()
        self.address_tag = address_tag(plane_key, certificate.addresses[0].packed).hex()
        self.received: asyncio.Queue[Msg] = asyncio.Queue()
        self.errors: asyncio.Queue[str] = asyncio.Queue()

    async def listen(self, subject: str, queue: str = "") -> None:
        await self.client.subscribe(subject, queue=queue, cb=self.received.put)
        await self.client.flush()

    async def listen_to_own(self) -> None:
        for tag in (self.handle, self.address_tag):
            await self.listen(f"{self.prefix}.{tag}.*")
        await self.listen(f"{self.prefix}.{relay_tag(self.plane_key).hex()}.*", queue="relay")

    async def say(self, tag: str, payload: bytes, *, sender: str = "") -> None:
        await self.client.publish(f"{self.prefix}.{tag}.{sender or self.handle}", payload)
        await self.client.flush()

    async def hears(self) -> bytes:
        async with asyncio.timeout(WAIT_S):
            return bytes((await self.received.get()).data)

    async def is_told_off(self) -> str:
        async with asyncio.timeout(WAIT_S):
            return await self.errors.get()


@dataclass
class Hub:
    """A running Master with Guardian's link to it."""

    keys: MasterKeys
    master: EmbeddedMaster
    link: MasterLink
    serial: int = 0

    def certificate(self, address: str, *, not_after: int = FOREVER) -> Certificate:
        self.serial += 1
        identity = Identity(crypto_driver(), secrets.token_bytes)
        return Certificate(
            serial=self.serial,
            conflux_id=secrets.token_bytes(16),
            plane_id=secrets.token_bytes(16),
            sign_public=identity.signer.public,
            kem_public=identity.kem.public,
            addresses=(IPv4Interface(address),),
            not_before=NOW,
            not_after=not_after,
        )

    async def join(self, address: str, plane_key: bytes = PLANE, **more: Any) -> Peer:
        certificate = self.certificate(address, **more)
        user = self.keys.node_user(certificate.serial)
        peer = Peer(certificate, plane_key)

        async def note(error: Exception) -> None:
            peer.errors.put_nowait(str(error))

        jwt = self.keys.node_jwt(certificate, plane_key)
        peer.client = await connect(self.master.url, user, jwt, note)
        return peer


async def connect(url: str, user: NKey, jwt: str, note: Any) -> Client:
    return await nats.connect(
        url,
        allow_reconnect=False,
        connect_timeout=2,
        error_cb=note,
        user_jwt_cb=lambda: bytearray(jwt.encode()),
        signature_cb=lambda nonce: base64.b64encode(user.sign(nonce.encode())),
    )


MakeHub = Callable[[], AbstractAsyncContextManager[Hub]]


@pytest.fixture
def hub(data_dir: DataDir) -> MakeHub:
    @contextlib.asynccontextmanager
    async def make() -> AsyncIterator[Hub]:
        keys = Keys(data_dir).master
        master = EmbeddedMaster(data_dir.subfolder("master"), keys, LOOPBACK)
        master.configure({}, now=NOW)
        link = MasterLink([master.url], keys)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(master.run()), group.create_task(link.run())]
            try:
                async with asyncio.timeout(WAIT_S):
                    await link.up.wait()
                yield Hub(keys, master, link)
            finally:
                for task in reversed(tasks):
                    task.cancel()

    return make


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not holds():  # noqa: ASYNC110  # what it looks at has no event
            await asyncio.sleep(0.01)


def run(hub: MakeHub, scenario: Callable[[Hub], Any]) -> None:
    async def main() -> None:
        async with hub() as h:
            await scenario(h)

    asyncio.run(main())


def test_nodes_of_a_plane_reach_each_others_own_tags(hub: MakeHub) -> None:
    async def scenario(h: Hub) -> None:
        a, b = await h.join("10.8.0.1/24"), await h.join("10.8.0.2/24")
        await b.listen_to_own()
        await a.say(b.address_tag, b"ask")
        assert await b.hears() == b"ask"
        await a.say(b.handle, b"open")
        assert await b.hears() == b"open"
        await a.say(relay_tag(PLANE).hex(), b"relay, anyone")
        assert await b.hears() == b"relay, anyone"
        assert b.errors.empty()
        for peer in (a, b):
            await peer.client.close()

    run(hub, scenario)


def test_relay_tag_reaches_one_of_many(hub: MakeHub) -> None:
    async def scenario(h: Hub) -> None:
        relays = [await h.join(f"10.8.0.{n}/24") for n in range(1, 4)]
        for relay in relays:
            await relay.listen_to_own()
        asker = await h.join("10.8.0.9/24")
        for n in range(20):
            await asker.say(relay_tag(PLANE).hex(), bytes([n]))
        for relay in relays:
            await relay.client.flush()
        heard = []
        for relay in relays:
            while not relay.received.empty():
                heard.append(relay.received.get_nowait().data[0])
        assert sorted(heard) == list(range(20))
        for peer in (asker, *relays):
            await peer.client.close()

    run(hub, scenario)


def forbidden_subscriptions(a: Peer, b: Peer, foreign: Peer) -> list[tuple[str, str]]:
    relay = relay_tag(PLANE).hex()
    return [
        (f"{a.prefix}.{b.handle}.*", ""),
        (f"{a.prefix}.{b.address_tag}.*", ""),
        (f"{a.prefix}.*.*", ""),
        (f"{a.prefix}.>", ""),
        (f"{a.prefix}.*.{a.handle}", ""),
        ("v1.>", ""),
        (">", ""),
        # Outside the queue group a relay would hear what is meant for another.
        (f"{a.prefix}.{relay}.*", ""),
        (f"{a.prefix}.{relay}.*", "another"),
        (f"{foreign.prefix}.{foreign.handle}.*", ""),
        (f"{foreign.prefix}.{relay_tag(OTHER_PLANE).hex()}.*", "relay"),
        ("_INBOX.>", ""),
        ("_INBOX.x.y", ""),
        ("$SYS.>", ""),
        ("$JS.API.>", ""),
    ]


def test_node_hears_nothing_but_its_own(hub: MakeHub) -> None:
    async def scenario(h: Hub) -> None:
        a, b = await h.join("10.8.0.1/24"), await h.join("10.8.0.2/24")
        foreign = await h.join("10.8.0.1/24", OTHER_PLANE)
        for subject, queue in forbidden_subscriptions(a, b, foreign):
            await a.listen(subject, queue)
            told = (await a.is_told_off()).lower()
            assert "permissions violation for subscription" in told, (subject, queue)
        # Still connected, and deaf to what it asked for.
        await b.say(b.address_tag, b"not for a")
        await foreign.say(relay_tag(OTHER_PLANE).hex(), b"not for a")
        await a.listen_to_own()
        await b.say(a.handle, b"for a")
        assert await a.hears() == b"for a"
        assert a.received.empty()
        for peer in (a, b, foreign):
            await peer.client.close()

    run(hub, scenario)


def test_node_speaks_only_as_itself_and_in_its_plane(hub: MakeHub) -> None:
    async def scenario(h: Hub) -> None:
        a, b = await h.join("10.8.0.1/24"), await h.join("10.8.0.2/24")
        foreign = await h.join("10.8.0.1/24", OTHER_PLANE)
        await b.listen_to_own()
        await foreign.listen_to_own()
        for subject in (
            f"{a.prefix}.{b.handle}.{b.handle}",
            f"{a.prefix}.{b.handle}.{GUARDIAN_HANDLE.hex()}",
            f"{a.prefix}.{b.handle}.{a.handle}.x",
            f"{a.prefix}.{b.handle}",
            f"{foreign.prefix}.{foreign.handle}.{a.handle}",
            f"{foreign.prefix}.{foreign.handle}.{foreign.handle}",
            "_INBOX.x",
            "$SYS.REQ.SERVER.PING",
            f"$SYS.REQ.ACCOUNT.{h.keys.account.public}.CLAIMS.UPDATE",
        ):
            await a.client.publish(subject, b"forged")
            await a.client.flush()
            assert "permissions violation for publish" in (await a.is_told_off()).lower(), subject
        await a.say(b.handle, b"honest")
        assert await b.hears() == b"honest"
        assert b.received.empty()
        assert foreign.received.empty()
        for peer in (a, b, foreign):
            await peer.client.close()

    run(hub, scenario)


def test_unknown_and_known_tags_look_the_same_to_a_prober(hub: MakeHub) -> None:
    async def scenario(h: Hub) -> None:
        prober, known = await h.join("10.8.0.1/24"), await h.join("10.8.0.2/24")
        await known.listen_to_own()
        await prober.listen_to_own()
        unknown = address_tag(PLANE, bytes([10, 8, 0, 77])).hex()
        reply = f"{prober.prefix}.{prober.handle}.{'ab' * 16}"
        for tag in (unknown, known.address_tag):
            subject = f"{prober.prefix}.{tag}.{prober.handle}"
            await prober.client.publish(subject, b"anyone?", reply=reply)
            await prober.client.flush()
        # A "no responders" status would have come before this.
        await known.say(prober.handle, b"the first to come")
        assert await prober.hears() == b"the first to come"
        assert prober.received.empty()
        assert prober.errors.empty()
        for peer in (prober, known):
            await peer.client.close()

    run(hub, scenario)


def test_without_the_sink_a_prober_would_be_told(hub: MakeHub) -> None:
    """The test above can fail: this is what NATS does by itself."""

    async def scenario(h: Hub) -> None:
        user = h.keys.guardian_user()

        async def note(_error: Exception) -> None:
            return

        jwt = h.keys.guardian_jwt(now=NOW)
        client = await connect(h.master.url, user, jwt, note)
        received: asyncio.Queue[Msg] = asyncio.Queue()
        await client.subscribe("v1.reply.>", cb=received.put)
        zeros = GUARDIAN_HANDLE.hex()
        await client.flush()
        assert h.link._client is not None
        await h.link._client._subs[1].unsubscribe()
        await h.link.flush()
        await client.publish(f"v1.aa.bb.{zeros}", b"?", reply="v1.reply.x")
        async with asyncio.timeout(WAIT_S):
            answer = await received.get()
        assert answer.headers is not None
        assert answer.headers["Status"] == "503"
        await client.close()

    run(hub, scenario)


def test_credentials_end_with_the_certificate(hub: MakeHub) -> None:
    async def scenario(h: Hub) -> None:
        with pytest.raises(nats.errors.Error):
            await h.join("10.8.0.1/24", not_after=NOW + 1)

    run(hub, scenario)


def test_only_guardians_own_jwts_open_the_door(hub: MakeHub, tmp_path: Any) -> None:
    async def scenario(h: Hub) -> None:
        stranger = Keys(DataDir(tmp_path / "stranger")).master
        certificate = h.certificate("10.8.0.1/24")
        user = h.keys.node_user(certificate.serial)
        good = h.keys.node_jwt(certificate, PLANE)
        head, claims, signature = good.split(".")
        widened = base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)).replace(
            b'"subs":32', b'"subs":99'
        )
        forged = base64.urlsafe_b64encode(widened).rstrip(b"=").decode()

        async def note(_error: Exception) -> None:
            return

        for key, jwt in (
            (stranger.node_user(1), stranger.node_jwt(certificate, PLANE)),
            (stranger.node_user(1), good),
            (user, f"{head}.{forged}.{signature}"),
            (user, ""),
        ):
            with pytest.raises(nats.errors.Error):
                await connect(h.master.url, key, jwt, note)
        client = await connect(h.master.url, user, good, note)
        await client.close()

    run(hub, scenario)


def test_revoked_node_is_cut_off_and_others_stay(hub: MakeHub) -> None:
    async def scenario(h: Hub) -> None:
        gone, stays = await h.join("10.8.0.1/24"), await h.join("10.8.0.2/24")
        revoked = {h.keys.node_user(1).public: NOW}
        assert await h.link.update_account(h.keys.account_jwt(revoked, now=NOW + 5))
        await until(lambda: gone.client.is_closed)
        await stays.listen_to_own()
        await stays.say(stays.handle, b"still here")
        assert await stays.hears() == b"still here"
        assert h.link.up.is_set()
        await stays.client.close()

    run(hub, scenario)


def test_master_that_dies_is_started_again(hub: MakeHub) -> None:
    async def scenario(h: Hub) -> None:
        first, generation = h.master.pid, h.link.generation
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await until(lambda: h.link.generation > generation and h.link.up.is_set())
        assert h.master.pid not in (None, first)
        peer = await h.join("10.8.0.1/24")
        await peer.client.close()

    run(hub, scenario)


def test_master_that_hangs_is_killed_and_started_again(
    hub: MakeHub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("veilnet_guardian.master.PROBE_S", 0.2)
    monkeypatch.setattr("veilnet_guardian.master.PATIENCE_S", 0.5)

    async def scenario(h: Hub) -> None:
        first, generation = h.master.pid, h.link.generation
        assert first is not None
        os.kill(first, signal.SIGSTOP)
        await until(lambda: h.link.generation > generation and h.link.up.is_set())
        assert h.master.pid not in (None, first)
        peer = await h.join("10.8.0.1/24")
        await peer.client.close()

    run(hub, scenario)
    assert "the Master hangs: killing it" in caplog.text


def test_master_that_is_slow_for_a_moment_is_left_alone(
    data_dir: DataDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two greetings in a row that do not come, again and again, are not yet a hang."""
    monkeypatch.setattr("veilnet_guardian.master.PROBE_S", 0.01)
    monkeypatch.setattr("veilnet_guardian.master.PATIENCE_S", 0.1)
    greeted: asyncio.Queue[bool] = asyncio.Queue()

    async def main() -> None:
        master = EmbeddedMaster(data_dir.subfolder("master"), Keys(data_dir).master, LOOPBACK)
        asked = itertools.count(1)

        async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            speaks = next(asked) % 3 == 0
            if speaks:
                writer.write(b'INFO {"server_id":"x"}\r\n')
            greeted.put_nowait(speaks)
            await _reader.read()
            writer.close()

        listen = master.listen
        async with (
            await asyncio.start_server(answer, listen.host, listen.port),
            asyncio.TaskGroup() as group,
        ):
            process = await asyncio.create_subprocess_exec("sleep", "60")
            watch = group.create_task(master._watch(process))
            async with asyncio.timeout(WAIT_S):
                heard = [await greeted.get() for _ in range(12)]
            assert heard.count(True) == 4
            assert process.returncode is None
            watch.cancel()
            process.kill()
            await process.wait()

    asyncio.run(main())


def test_first_start_that_fails_says_why(data_dir: DataDir) -> None:
    async def main() -> None:
        keys = Keys(data_dir).master
        master = EmbeddedMaster(data_dir.subfolder("master"), keys, LOOPBACK)
        master.configure({}, now=NOW)
        listen = master.listen
        blocker = await asyncio.start_server(lambda *_: None, listen.host, listen.port)
        async with blocker:
            with pytest.raises(GuardianError, match=r"does not start: .*address already in use"):
                await master.run()

    asyncio.run(main())


def test_configuration_is_private(data_dir: DataDir) -> None:
    keys = Keys(data_dir).master
    master = EmbeddedMaster(data_dir.subfolder("master"), keys, LOOPBACK)
    master.configure({}, now=NOW)
    master.configure({"U": 1}, now=NOW)
    (config,) = (data_dir.root / "master").iterdir()
    assert config.stat().st_mode & 0o777 == 0o600
    assert keys.operator.seed not in config.read_text()


def test_same_certificate_gives_the_same_credentials(data_dir: DataDir) -> None:
    keys = Keys(data_dir).master
    certificate = Hub(keys, None, None).certificate("10.8.0.1/24")  # type: ignore[arg-type]  # neither is used
    first = keys.node_jwt(certificate, PLANE)
    again = Keys(DataDir(data_dir.root)).master
    assert again.node_jwt(certificate, PLANE) == first
    assert again.node_user(1).seed == keys.node_user(1).seed
    assert again.node_user(2).seed != keys.node_user(1).seed
    assert again.node_jwt(replace(certificate, serial=2), PLANE) != first


def test_export_has_no_seed(data_dir: DataDir) -> None:
    keys = Keys(data_dir).master
    text = exported(keys, now=NOW)
    assert keys.operator_jwt(now=NOW) in text
    for key in (keys.operator, keys.account, keys.account_signer, keys.system):
        assert key.seed not in text
