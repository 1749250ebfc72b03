"""A conflux logs in: what it gets, and what a wrong, doubled or forged request gets."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import secrets
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from ipaddress import ip_interface
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from conflux.anchor.identity import (
    address_tag,
    control_prefix,
    login_binding,
    node_tag,
    relay_tag,
)
from conflux.api import WireError
from conflux.wire.credentials import LoginRequest
from veilnet_guardian import planes, teams, users
from veilnet_guardian.models import CertificateRecord, Conflux, Session, Team

MakeWorld = Callable[..., AbstractAsyncContextManager[Any]]


async def peopled(world: Any) -> dict[str, str]:
    """Add user alice and plane home; return alice's headers."""
    alice: dict[str, str] = await world.user("alice@example.com")
    await world.plane("home", "10.8.0.0/24")
    return alice


def refused(answer: Any, status: int, reason: str) -> None:
    assert answer.status_code == status, answer.text
    assert reason in answer.json()["detail"]


def test_grant_holds_all_that_a_node_needs(world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            alice = await peopled(w)
            await w.client.post("/org/team", json={"name": "dev"}, headers=alice)
            node = await w.node("alice@example.com", "home", team_names=("dev",))
            grant = await node.login(w.client)
            certificate = grant.certificate
            assert list(certificate.addresses) == [ip_interface("10.8.0.1/24")]
            assert certificate.not_after - certificate.not_before == 86_400
            assert certificate.sign_public == node.identity.signer.public
            assert (certificate.portal, list(certificate.networks)) == (False, [])
            assert grant.time_ms == int(w.clock[0] * 1000)
            assert grant.plane_name == "home"
            assert [team.name for team in grant.teams] == ["dev", "user:alice@example.com"]
            assert len({team.key for team in grant.teams} | {grant.plane_key}) == 3
            control, key = grant.control, grant.plane_key
            handle = node_tag(key, node.identity.node_id)
            assert control.prefix == control_prefix(key)
            assert control.handle == handle
            assert list(control.tags) == [
                handle,
                address_tag(key, ip_interface("10.8.0.1/24").packed),
            ]
            assert control.shared_tag == relay_tag(key)
            assert list(control.urls) == ["nats://guardian:4222"]
            assert control.seed.startswith("SU")
            assert control.jwt.count(".") == 2

    asyncio.run(main())


def test_conflux_of_one_user_share_its_identity_and_others_do_not(world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            await peopled(w)
            await w.user("bob@example.com")

            async def keys(email: str) -> set[bytes]:
                grant = await (await w.node(email, "home")).login(w.client)
                return {team.key for team in grant.teams}

            first, second = await keys("alice@example.com"), await keys("alice@example.com")
            assert first == second
            assert len(first) == 1
            assert first.isdisjoint(await keys("bob@example.com"))

    asyncio.run(main())


def test_teams_come_from_conflux_user_and_plane(world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            alice = await peopled(w)
            node = await w.node("alice@example.com", "home")
            for name in ("of-conflux", "of-user", "of-plane", "of-nobody"):
                await w.client.post("/org/team", json={"name": name}, headers=alice)
            async with w.guardian.db.write() as session:
                conflux = (await session.execute(select(Conflux))).scalar_one()
                for name, holder in (
                    ("of-conflux", conflux),
                    ("of-user", await users.get(session, "alice@example.com")),
                    ("of-plane", await planes.get(session, "home")),
                ):
                    team = await teams.get(session, name)
                    assert await teams.attach(session, team, holder)
                    assert not await teams.attach(session, team, holder)
            grant = await node.login(w.client)
            assert [team.name for team in grant.teams] == [
                "of-conflux",
                "of-plane",
                "of-user",
                "user:alice@example.com",
            ]

    asyncio.run(main())


def test_ipv6_plane_gives_ipv6_certificates(world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            await w.user("alice@example.com")
            await w.plane("six", "fd00:8::/64")
            grant = await (await w.node("alice@example.com", "six")).login(w.client)
            assert list(grant.certificate.addresses) == [ip_interface("fd00:8::1/64")]

    asyncio.run(main())


def test_request_cannot_be_used_twice(world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            await peopled(w)
            node = await w.node("alice@example.com", "home")
            body = node.request()

            async def send() -> Any:
                return await w.client.post(
                    "/conflux/session/login", content=body, headers=node.headers
                )

            answers = await asyncio.gather(*(send() for _ in range(4)))
            assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409]
            w.pass_time(590)
            refused(await send(), 409, "was used before: make a new one")

    asyncio.run(main())


def test_request_for_another_token_is_refused(world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            await peopled(w)
            mine = await w.node("alice@example.com", "home")
            other = await w.node("alice@example.com", "home")
            answer = await w.client.post(
                "/conflux/session/login", content=other.request(), headers=mine.headers
            )
            refused(answer, 400, "made for another token")

    asyncio.run(main())


def test_request_with_foreign_keys_is_refused(world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            await peopled(w)
            node = await w.node("alice@example.com", "home")
            good = LoginRequest.decode(node.request())
            forged = dataclasses.replace(good, kem_public=secrets.token_bytes(1_216))
            answer = await w.client.post(
                "/conflux/session/login", content=forged.encode(), headers=node.headers
            )
            refused(answer, 400, "not signed by its own key")

    asyncio.run(main())


def test_noise_is_refused_and_changes_nothing(world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            await peopled(w)
            node = await w.node("alice@example.com", "home")
            size = len(node.request())
            samples: list[bytes] = []

            @settings(max_examples=40, deadline=None)
            @given(
                st.one_of(
                    st.binary(max_size=400),
                    st.integers(0, size - 1).map(lambda cut: node.request()[:cut]),
                    st.just(b"\0").map(lambda tail: node.request() + tail),
                    st.binary(min_size=size, max_size=size),
                )
            )
            def collect(sample: bytes) -> None:
                samples.append(sample)

            collect()
            for sample in samples:
                answer = await w.client.post(
                    "/conflux/session/login", content=sample, headers=node.headers
                )
                refused(answer, 400, "login request refused")
            async with w.guardian.db.read() as session:
                assert (await session.execute(select(Session))).first() is None

    asyncio.run(main())


async def serials_revoked(world: Any) -> dict[int, bool]:
    async with world.guardian.db.read() as session:
        records = (await session.execute(select(CertificateRecord))).scalars()
        return {record.serial: record.revoked_at is not None for record in records}


def test_newer_login_wins_and_ends_the_older_session(world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            await peopled(w)
            node = await w.node("alice@example.com", "home")
            other = await w.node("alice@example.com", "home")
            serials = [
                (await one.login(w.client)).certificate.serial for one in (node, other, node)
            ]
            assert serials == [1, 2, 3]
            async with w.guardian.db.read() as session:
                query = select(Session).order_by(Session.serial)
                ended = [s.ended_at is not None for s in (await session.execute(query)).scalars()]
            assert ended == [True, False, False]
            # The same keys: peers that know the first certificate alone go on with them.
            assert await serials_revoked(w) == {1: False, 2: False, 3: False}

    asyncio.run(main())


def test_login_with_other_keys_revokes_what_the_former_ones_got(world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            await peopled(w)
            node = await w.node("alice@example.com", "home")
            await node.login(w.client)
            ends = (await node.login(w.client)).certificate.not_after
            again = type(node)(node.token)
            grant = await again.login(w.client)
            assert grant.certificate.serial == 3
            assert await serials_revoked(w) == {1: True, 2: True, 3: False}
            assert [entry.serial for entry in grant.revoked] == [1, 2]
            assert grant.revoked[1].not_after == ends
            # Whoever had the former keys has nothing to end any more.
            bearer = {"Authorization": f"Bearer {node.session}"}
            await w.client.post("/conflux/session/logout", headers=bearer)
            assert not (await serials_revoked(w))[3]

    asyncio.run(main())


def test_logout_revokes_renewed_certificates_too(world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            await peopled(w)
            node = await w.node("alice@example.com", "home")
            for _ in range(3):
                await node.login(w.client)
            bearer = {"Authorization": f"Bearer {node.session}"}
            await w.client.post("/conflux/session/logout", headers=bearer)
            assert await serials_revoked(w) == {1: True, 2: True, 3: True}

    asyncio.run(main())


def test_grant_holds_revocations_of_its_plane_that_have_not_ended(world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            await peopled(w)
            await w.plane("other", "10.9.0.0/24")
            for plane in ("home", "other", "home"):
                gone = await w.node("alice@example.com", plane)
                await gone.login(w.client)
                await w.client.delete("/conflux/unregister", headers=gone.headers)
                w.pass_time(40_000)
            grant = await (await w.node("alice@example.com", "home")).login(w.client)
            # The first one's certificate has ended by itself.
            assert [entry.serial for entry in grant.revoked] == [3]

    asyncio.run(main())


def test_logout_ends_the_session_once_and_for_all(world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            await peopled(w)
            node = await w.node("alice@example.com", "home")
            await node.login(w.client)
            bearer = {"Authorization": f"Bearer {node.session}"}
            for _ in range(2):
                answer = await w.client.post("/conflux/session/logout", headers=bearer)
                assert answer.status_code == 204
            async with w.guardian.db.read() as session:
                record = (await session.execute(select(CertificateRecord))).scalar_one()
                assert record.revoked_at is not None
            await node.login(w.client)

    asyncio.run(main())


def test_session_token_ends_with_the_certificate(world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            await peopled(w)
            node = await w.node("alice@example.com", "home")
            await node.login(w.client)
            w.pass_time(86_400)
            bearer = {"Authorization": f"Bearer {node.session}"}
            answer = await w.client.post("/conflux/session/logout", headers=bearer)
            refused(answer, 401, "has expired: log in again")

    asyncio.run(main())


def test_unregistered_conflux_is_out_and_its_keys_are_useless(world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            await peopled(w)
            leaver, stayer = [await w.node("alice@example.com", "home") for _ in range(2)]
            before = (await leaver.login(w.client)).teams
            answer = await w.client.delete("/conflux/unregister", headers=leaver.headers)
            assert answer.status_code == 204
            for verb, path in (
                ("DELETE", "/conflux/unregister"),
                ("POST", "/conflux/session/login"),
            ):
                gone = await w.client.request(verb, path, headers=leaver.headers)
                refused(gone, 401, "register this conflux again")
            after = (await stayer.login(w.client)).teams
            assert [team.team_id for team in after] == [team.team_id for team in before]
            assert [team.epoch for team in after] == [team.epoch + 1 for team in before]
            assert {team.key for team in after}.isdisjoint(team.key for team in before)
            again = await w.node("alice@example.com", "home")
            grant = await again.login(w.client)
            assert list(grant.certificate.addresses) == [ip_interface("10.8.0.1/24")]

    asyncio.run(main())


def test_detaching_changes_the_key_and_attaching_does_not(world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            alice = await peopled(w)
            await w.client.post("/org/team", json={"name": "dev"}, headers=alice)
            for tag in ("a", "b"):
                wanted = {"plane": "home", "tag": tag, "teams": ["dev"] if tag == "a" else []}
                await w.client.post("/conflux", json=wanted, headers=alice)

            async def epoch() -> tuple[int, bytes]:
                async with w.guardian.db.read() as session:
                    query = select(Team).where(Team.name == "dev")
                    team = (await session.execute(query)).scalar_one()
                    return team.epoch, team.key

            first = await epoch()
            b = {"conflux": "b", "team": "dev"}
            await w.client.post("/conflux/team", json=b, headers=alice)
            assert await epoch() == first
            await w.client.delete("/conflux/team", params=b, headers=alice)
            second = await epoch()
            assert second[0] == first[0] + 1
            assert second[1] != first[1]

    asyncio.run(main())


def test_grant_of_one_node_is_sealed_from_the_other(world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            await peopled(w)
            mine, other = [await w.node("alice@example.com", "home") for _ in range(2)]
            body = mine.request()
            answer = await w.client.post(
                "/conflux/session/login", content=body, headers=mine.headers
            )
            sealed = base64.b64decode(answer.json()["grant"])
            with pytest.raises(WireError):
                other.open(sealed, binding=login_binding(body))
            mine.open(sealed, binding=login_binding(body))

    asyncio.run(main())


def test_old_records_are_forgotten(world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            await peopled(w)
            node = await w.node("alice@example.com", "home")
            await node.login(w.client)
            w.pass_time(86_400 * 9)
            await node.login(w.client)
            async with w.guardian.db.read() as session:
                query = select(CertificateRecord.serial)
                assert list((await session.execute(query)).scalars()) == [2]
                sessions = select(Session.serial)
                assert list((await session.execute(sessions)).scalars()) == [2]

    asyncio.run(main())
