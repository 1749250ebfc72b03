"""REST: what users can do, what they cannot, and what hostile input gets."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

MakeWorld = Callable[..., AbstractAsyncContextManager[Any]]

ENDPOINTS = {
    ("post", "/auth/login"),
    ("post", "/auth/create/registration-token"),
    ("delete", "/auth/revoke/registration-token"),
    ("get", "/auth/list/registration-token"),
    *((verb, path) for verb in ("post", "get", "delete") for path in ("/plane", "/conflux")),
    *((verb, "/org/team") for verb in ("post", "get", "delete")),
    ("get", "/plane/list"),
    ("get", "/conflux/list"),
    ("post", "/conflux/register"),
    ("delete", "/conflux/unregister"),
    ("post", "/conflux/session/login"),
    ("post", "/conflux/session/logout"),
    ("post", "/conflux/team"),
    ("delete", "/conflux/team"),
    ("get", "/conflux/team/list"),
    ("get", "/org/team/list"),
    ("post", "/org/team/invite"),
    ("post", "/org/team/invite/accept"),
    ("delete", "/org/team/member"),
    ("get", "/healthz"),
}


def refused(answer: Any, status: int, reason: str) -> None:
    """The answer is one line that says *reason*."""
    assert answer.status_code == status, answer.text
    detail = answer.json()["detail"]
    assert re.search(reason, detail), detail
    assert "\n" not in detail


async def token_for(world: Any, headers: dict[str, str], plane: str = "home") -> dict[str, str]:
    """Return the headers that register a conflux."""
    made = await world.client.post(
        "/auth/create/registration-token", json={"plane": plane}, headers=headers
    )
    assert made.status_code == 201, made.text
    return {"Authorization": f"Bearer {made.json()['token']}"}


def test_openapi_describes_every_endpoint(world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            paths = (await w.client.get("/openapi.json")).json()["paths"]
            found = {(verb, path) for path, verbs in paths.items() for verb in verbs}
            assert found == ENDPOINTS
            for verb, path in ENDPOINTS:
                assert paths[path][verb]["description"], (verb, path)

    asyncio.run(main())


def test_docs_show_every_endpoint_and_load_nothing(world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            answer = await w.client.get("/docs")
            assert answer.status_code == 200
            assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
            for verb, path in ENDPOINTS:
                assert f"<code>{verb.upper()} {path}</code></h3>" in answer.text
            for shown in (
                "Bearer: Registration token",
                "<code>ignored_teams</code>",
                "Refusals: 401",
            ):
                assert shown in answer.text
            assert set(re.findall(r'(?:src|href)="([^#"]*)', answer.text)) == {"", "openapi.json"}
            assert not re.search(r"//|<script|<img|<link|@import|url\(|on[a-z]+=", answer.text)
            policy = answer.headers["Content-Security-Policy"]
            (style,) = re.findall("<style>(.*)</style>", answer.text, re.DOTALL)
            hashed = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
            assert f"default-src 'none'; style-src 'sha256-{hashed}'" in policy
            assert (await w.client.get("/redoc")).status_code == 404

    asyncio.run(main())


def test_every_endpoint_but_logins_and_health_wants_a_token(world: MakeWorld) -> None:
    bad = ({}, {"Authorization": "Bearer noise"}, {"Authorization": "Basic x"})

    async def main() -> None:
        async with world() as w:
            for verb, path in ENDPOINTS - {("post", "/auth/login"), ("get", "/healthz")}:
                for headers in bad:
                    answer = await w.client.request(verb.upper(), path, headers=headers, json={})
                    refused(answer, 401, "token")
                    assert answer.headers["WWW-Authenticate"] == "Bearer"

    asyncio.run(main())


def test_token_of_one_kind_is_worth_nothing_elsewhere(world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            alice = await w.user("alice@example.com")
            await w.plane("home", "10.8.0.0/24")
            node = await w.node("alice@example.com", "home")
            await node.login(w.client)
            session = {"Authorization": f"Bearer {node.session}"}
            refused(await w.client.get("/plane/list", headers=node.headers), 401, "log in again")
            refused(await w.client.get("/plane/list", headers=session), 401, "log in again")
            for wrong in (alice, session):
                refused(
                    await w.client.delete("/conflux/unregister", headers=wrong), 401, "register"
                )
            for wrong in (alice, node.headers):
                refused(
                    await w.client.post("/conflux/session/logout", headers=wrong), 401, "log in"
                )

    asyncio.run(main())


def test_wrong_password_and_unknown_user_get_the_same_answer(world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            await w.user("alice@example.com")
            answers = [
                await w.client.post("/auth/login", json={"email": email, "password": "wrong wrong"})
                for email in ("alice@example.com", "nobody@example.com")
            ]
            refused(answers[0], 401, "e-mail address or password is wrong")
            assert answers[0].text == answers[1].text

    asyncio.run(main())


def test_guessing_passwords_is_stopped_even_side_by_side(world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            await w.user("alice@example.com")
            guess = {"email": "Alice@example.com", "password": "wrong wrong"}
            answers = await asyncio.gather(
                *(w.client.post("/auth/login", json=guess) for _ in range(8))
            )
            assert sorted(answer.status_code for answer in answers) == [401] * 5 + [429] * 3
            late = await w.client.post("/auth/login", json=guess)
            refused(late, 429, r"wait \d+ s")
            assert int(late.headers["Retry-After"]) > 0
            w.pass_time(61)
            assert (await w.client.post("/auth/login", json=guess)).status_code == 401

    asyncio.run(main())


def test_user_token_ends_after_an_hour(world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            await w.user("alice@example.com")
            login = {"email": " Alice@Example.com", "password": "correct horse battery"}
            answer = await w.client.post("/auth/login", json=login)
            assert answer.json()["expires_at"] == int(w.clock[0]) + 3_600
            alice = {"Authorization": f"Bearer {answer.json()['token']}"}
            assert (await w.client.get("/plane/list", headers=alice)).status_code == 200
            w.pass_time(3_600)
            refused(await w.client.get("/plane/list", headers=alice), 401, "has expired: log in")

    asyncio.run(main())


def test_conflux_registers_with_address_and_teams(world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            alice, bob = await w.user("alice@example.com"), await w.user("bob@example.com")
            await w.plane("home", "10.8.0.0/24")
            for headers, name in ((alice, "dev"), (bob, "secret")):
                made = await w.client.post("/org/team", json={"name": name}, headers=headers)
                assert made.status_code == 201
            token = await token_for(w, alice)
            answer = await w.client.post(
                "/conflux/register",
                headers=token,
                json={
                    "tag": "london",
                    "cidr": "10.8.0.9/24",
                    "teams": ["dev", "secret", "nosuch", "dev"],
                    "portal": False,
                },
            )
            assert answer.status_code == 200, answer.text
            body = answer.json()
            assert body["conflux_token"].count(".") == 2
            assert {key: body[key] for key in ("tag", "plane", "address")} == {
                "tag": "london",
                "plane": "home",
                "address": "10.8.0.9/24",
            }
            assert body["teams"] == ["dev"]
            assert body["ignored_teams"] == ["secret", "nosuch"]
            second = (await w.client.post("/conflux/register", headers=token, json={})).json()
            assert second["address"] == "10.8.0.1/24"
            assert second["tag"].startswith("conflux-")
            listed = (await w.client.get("/conflux/list", headers=alice)).json()
            assert [one["tag"] for one in listed] == [second["tag"], "london"]
            assert (await w.client.get("/conflux/list", headers=bob)).json() == []

    asyncio.run(main())


def test_conflux_in_a_dual_stack_plane_has_an_address_of_each_family(world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            alice = await w.user("alice@example.com")
            wanted = {"name": "both", "cidr": "fd00:8::/64,10.8.0.0/24"}
            made = await w.client.post("/plane", json=wanted, headers=alice)
            assert made.json()["cidr"] == "10.8.0.0/24,fd00:8::/64"
            token = await token_for(w, alice, "both")

            async def register(cidr: str) -> Any:
                return await w.client.post("/conflux/register", headers=token, json={"cidr": cidr})

            first = (await register("")).json()
            assert first["addresses"] == ["10.8.0.1/24", "fd00:8::1/64"]
            assert first["address"] == "10.8.0.1/24"
            second = (await register("fd00:8::9")).json()
            assert second["addresses"] == ["10.8.0.2/24", "fd00:8::9/64"]
            third = (await register("fd00:8::a,10.8.0.10")).json()
            assert third["addresses"] == ["10.8.0.10/24", "fd00:8::a/64"]
            refused(await register("10.8.0.3,fd00:8::9"), 409, "fd00:8::9 is taken in plane both")
            assert (await register("")).json()["addresses"] == ["10.8.0.3/24", "fd00:8::2/64"]
            listed = (await w.client.get("/conflux/list", headers=alice)).json()
            assert first["addresses"] in [one["addresses"] for one in listed]
            node = await w.node("alice@example.com", "both")
            grant = await node.login(w.client)
            addresses = list(map(str, grant.certificate.addresses))
            assert addresses == ["10.8.0.4/24", "fd00:8::3/64"]
            assert len(grant.control.tags) == 3, "its handle, and a tag for each address"

    asyncio.run(main())


def test_impossible_registrations_say_what_to_do(world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            alice = await w.user("alice@example.com")
            await w.plane("home", "10.8.0.0/30")
            token = await token_for(w, alice)

            async def register(**wanted: Any) -> Any:
                return await w.client.post("/conflux/register", headers=token, json=wanted)

            refused(await register(cidr="10.9.0.1"), 422, "outside plane home")
            refused(await register(cidr="10.8.0.0/30"), 422, "network or broadcast")
            refused(await register(cidr="x" * 200), 422, "is not an address")
            refused(await register(tag="two words"), 422, "cannot be used: take")
            refused(await register(portal=True), 422, "portal mode is not available yet")
            refused(await register(team="dev"), 422, "team: Extra inputs")
            assert (await register(cidr="10.8.0.2")).status_code == 200
            refused(await register(cidr="10.8.0.2"), 409, "is taken in plane home: take another")
            assert (await register()).json()["address"] == "10.8.0.1/30"
            refused(await register(), 409, "every address of 10.8.0.0/30 is taken")

    asyncio.run(main())


def test_revoked_and_expired_registration_tokens_are_named_as_such(world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            alice = await w.user("alice@example.com")
            bob = await w.user("bob@example.com")
            await w.plane("home", "10.8.0.0/24")
            token = await token_for(w, alice)
            (listed,) = (await w.client.get("/auth/list/registration-token", headers=alice)).json()
            assert "token" not in listed
            gone = {"id": listed["id"]}
            url = "/auth/revoke/registration-token"
            refused(await w.client.delete(url, params=gone, headers=bob), 404, "no such")
            assert (await w.client.delete(url, params=gone, headers=alice)).status_code == 204
            answer = await w.client.post("/conflux/register", headers=token, json={})
            refused(answer, 401, "was revoked: create a new one")
            token = await token_for(w, alice)
            w.pass_time(30 * 86_400)
            answer = await w.client.post("/conflux/register", headers=token, json={})
            refused(answer, 401, "has expired: create a new one")
            changed = token["Authorization"][:-1] + (
                "A" if token["Authorization"][-1] != "A" else "B"
            )
            answer = await w.client.post(
                "/conflux/register", headers={"Authorization": changed}, json={}
            )
            refused(answer, 401, "registration token is wrong")

    asyncio.run(main())


def test_registration_token_carries_guardians_fingerprint(world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            alice = await w.user("alice@example.com")
            await w.plane("home", "10.8.0.0/24")
            token = (await token_for(w, alice))["Authorization"].removeprefix("Bearer vnr_")
            raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
            assert len(raw) == 64
            assert raw[32:] == w.guardian.keys.fingerprint

    asyncio.run(main())


def test_database_holds_no_token_and_no_password(world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            alice = await w.user("alice@example.com")
            await w.plane("home", "10.8.0.0/24")
            token = (await token_for(w, alice))["Authorization"].removeprefix("Bearer ")
            await w.client.post("/org/team", json={"name": "dev"}, headers=alice)
            invited = await w.client.post(
                "/org/team/invite", json={"team": "dev", "email": "b@c.d"}, headers=alice
            )
            node = await w.node("alice@example.com", "home")
            stored = await w.stored()
            secrets = (token, invited.json()["token"], node.token, "correct horse battery")
            for secret in secrets:
                assert secret.encode() not in stored
            assert b"alice@example.com" in stored
            assert b"$argon2id$" in stored

    asyncio.run(main())


def test_user_sees_only_own_and_common_planes(world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            alice, bob = await w.user("alice@example.com"), await w.user("bob@example.com")
            await w.plane("home", "10.8.0.0/24")
            wanted = {"name": "lab", "cidr": "fd00:8::/64"}
            assert (await w.client.post("/plane", json=wanted, headers=alice)).status_code == 201
            again = await w.client.post("/plane", json=wanted, headers=alice)
            refused(again, 409, "plane lab exists already")
            common = {"name": "home", "cidr": "10.9.0.0/24"}
            again = await w.client.post("/plane", json=common, headers=bob)
            refused(again, 409, "plane home exists already")

            async def names(headers: dict[str, str]) -> list[str]:
                listed = (await w.client.get("/plane/list", headers=headers)).json()
                return [plane["name"] for plane in listed]

            assert await names(alice) == ["home", "lab"]
            assert await names(bob) == ["home"]
            lab = {"params": {"name": "lab"}}
            assert (await w.client.get("/plane", headers=alice, **lab)).json()["own"] is True
            refused(await w.client.get("/plane", headers=bob, **lab), 404, "no plane lab")
            refused(await w.client.delete("/plane", headers=bob, **lab), 404, "no plane lab")
            refused(
                await w.client.post(
                    "/auth/create/registration-token", json={"plane": "lab"}, headers=bob
                ),
                404,
                "no plane lab",
            )
            refused(
                await w.client.delete("/plane", headers=bob, params={"name": "home"}),
                403,
                "only the operator",
            )
            made = await w.client.post("/conflux", json={"plane": "lab"}, headers=alice)
            assert made.json()["address"] == "fd00:8::1/64"
            refused(await w.client.delete("/plane", headers=alice, **lab), 409, "still has conflux")
            gone = {"conflux": made.json()["conflux_id"]}
            assert (await w.client.delete("/conflux", headers=alice, params=gone)).is_success
            assert (await w.client.delete("/plane", headers=alice, **lab)).status_code == 204
            assert await names(alice) == ["home"]

    asyncio.run(main())


def test_names_of_one_user_tell_another_nothing_and_are_free_to_use(world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            alice, bob = await w.user("alice@example.com"), await w.user("bob@example.com")
            made = {}
            for who in (alice, bob):
                plane = {"name": "lab", "cidr": "10.8.0.0/24"}
                for path, wanted in (("/plane", plane), ("/org/team", {"name": "dev"})):
                    answer = await w.client.post(path, json=wanted, headers=who)
                    assert answer.status_code == 201, answer.text
                    made[path, who["Authorization"]] = answer.json()["id"]
            for who in (alice, bob):
                wish = {"plane": "lab", "teams": ["dev"]}
                assert (await w.client.post("/conflux", json=wish, headers=who)).is_success
                for path, name in (("/plane", "lab"), ("/org/team", "dev")):
                    found = (await w.client.get(path, params={"name": name}, headers=who)).json()
                    assert (found["id"], found["own"]) == (made[path, who["Authorization"]], True)
            foreign = {"name": made["/plane", alice["Authorization"]]}
            refused(await w.client.get("/plane", params=foreign, headers=bob), 404, "no plane")

    asyncio.run(main())


def test_team_that_is_called_like_others_is_named_by_its_id(world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            alice, bob = await w.user("alice@example.com"), await w.user("bob@example.com")
            carol = await w.user("carol@example.com")
            await w.plane("home", "10.8.0.0/24")
            ids = []
            for owner in (alice, bob):
                team = await w.client.post("/org/team", json={"name": "dev"}, headers=owner)
                ids.append(team.json()["id"])
                offer = {"team": "dev", "email": "carol@example.com"}
                invited = (
                    await w.client.post("/org/team/invite", json=offer, headers=owner)
                ).json()
                accepted = {"token": invited["token"]}
                url = "/org/team/invite/accept"
                assert (await w.client.post(url, json=accepted, headers=carol)).is_success
            await w.client.post("/conflux", json={"plane": "home", "tag": "rio"}, headers=carol)

            async def attach(team: str) -> Any:
                wanted = {"conflux": "rio", "team": team}
                return await w.client.post("/conflux/team", json=wanted, headers=carol)

            several = await attach("dev")
            refused(several, 422, "several teams are called dev: name one by its id")
            for team_id, email in zip(ids, ("alice@example.com", "bob@example.com"), strict=True):
                assert f"{team_id} of {email}" in several.json()["detail"]
                assert (await attach(team_id)).status_code == 204
            mine = {"conflux": "rio"}
            listed = await w.client.get("/conflux/team/list", params=mine, headers=carol)
            assert listed.json() == ["dev", "dev"]
            # One's own is meant before others'.
            own = await w.client.post("/org/team", json={"name": "dev"}, headers=carol)
            found = await w.client.get("/org/team", params={"name": "dev"}, headers=carol)
            assert found.json()["id"] == own.json()["id"]

    asyncio.run(main())


ATTEMPT = "A" * 43


def test_repeated_registration_returns_the_conflux_that_it_made(world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            alice = await w.user("alice@example.com")
            await w.plane("home", "10.8.0.0/24")
            await w.client.post("/org/team", json={"name": "dev"}, headers=alice)
            token = await token_for(w, alice)
            wanted = {"tag": "london", "teams": ["dev", "nosuch"], "attempt": ATTEMPT}
            first = await w.client.post("/conflux/register", headers=token, json=wanted)
            w.pass_time(600)
            other_token = await token_for(w, alice)
            for headers in (token, other_token):
                again = await w.client.post("/conflux/register", headers=headers, json=wanted)
                assert again.json() == first.json()
            assert first.json()["teams"] == ["dev"]
            listed = (await w.client.get("/conflux/list", headers=alice)).json()
            assert [one["tag"] for one in listed] == ["london"]
            # Its token is one that works.
            bearer = {"Authorization": f"Bearer {again.json()['conflux_token']}"}
            gone = await w.client.delete("/conflux/unregister", headers=bearer)
            assert gone.status_code == 204
            anew = await w.client.post("/conflux/register", headers=token, json=wanted)
            assert anew.json()["conflux_id"] != first.json()["conflux_id"]

    asyncio.run(main())


def test_repeated_registration_that_asks_for_something_else_replaces(world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            alice, bob = await w.user("alice@example.com"), await w.user("bob@example.com")
            await w.plane("home", "10.8.0.0/24")
            tokens = [await token_for(w, who) for who in (alice, alice, bob)]
            made = []
            for token, tag in zip(tokens, ("london", "paris", "paris"), strict=True):
                wanted = {"tag": tag, "attempt": ATTEMPT}
                answer = await w.client.post("/conflux/register", headers=token, json=wanted)
                made.append(answer.json())
            # Bob's is his own, although he says the same.
            assert len({one["conflux_id"] for one in made}) == 3
            listed = (await w.client.get("/conflux/list", headers=alice)).json()
            assert [one["tag"] for one in listed] == ["paris"]
            bearer = {"Authorization": f"Bearer {made[0]['conflux_token']}"}
            refused(await w.client.delete("/conflux/unregister", headers=bearer), 401, "no longer")

    asyncio.run(main())


def test_attempt_that_could_be_guessed_is_refused(world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            alice = await w.user("alice@example.com")
            await w.plane("home", "10.8.0.0/24")
            token = await token_for(w, alice)
            for attempt in ("1", "A" * 21, "A" * 129, "A" * 42 + "\n", "ä" * 43):
                answer = await w.client.post(
                    "/conflux/register", headers=token, json={"attempt": attempt}
                )
                refused(answer, 422, "attempt: ")
                assert attempt not in answer.json()["detail"] or attempt == "1"

    asyncio.run(main())


def test_user_may_have_so_many_conflux_and_no_more(world: MakeWorld) -> None:
    async def main() -> None:
        async with world(max_conflux=2) as w:
            alice, bob = await w.user("alice@example.com"), await w.user("bob@example.com")
            await w.plane("home", "10.8.0.0/24")
            token = await token_for(w, alice)
            wanted = {"tag": "london", "attempt": ATTEMPT}
            first = await w.client.post("/conflux/register", headers=token, json=wanted)
            assert (
                await w.client.post("/conflux", json={"plane": "home"}, headers=alice)
            ).is_success
            for answer in (
                await w.client.post("/conflux/register", headers=token, json={}),
                await w.client.post("/conflux", json={"plane": "home"}, headers=alice),
            ):
                refused(answer, 409, "2 conflux already.*unregister one, or let its operator raise")
            # What is there already is no further one, and neither is what takes its place.
            again = await w.client.post("/conflux/register", headers=token, json=wanted)
            assert again.json() == first.json()
            wanted["tag"] = "paris"
            assert (await w.client.post("/conflux/register", headers=token, json=wanted)).is_success
            assert (await w.client.post("/conflux", json={"plane": "home"}, headers=bob)).is_success
            gone = {"conflux": "paris"}
            assert (await w.client.delete("/conflux", headers=alice, params=gone)).is_success
            assert (await w.client.post("/conflux/register", headers=token, json={})).is_success

    asyncio.run(main())


def test_conflux_of_others_cannot_be_seen_or_changed(world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            alice, bob = await w.user("alice@example.com"), await w.user("bob@example.com")
            await w.plane("home", "10.8.0.0/24")
            wanted = {"plane": "home", "tag": "london"}
            made = (await w.client.post("/conflux", json=wanted, headers=alice)).json()
            await w.client.post("/org/team", json={"name": "bobs"}, headers=bob)
            for name in ("london", made["conflux_id"]):
                query = {"conflux": name}
                shown = await w.client.get("/conflux", headers=alice, params=query)
                assert shown.json()["conflux_id"] == made["conflux_id"]
                assert "conflux_token" not in shown.json()
                attachment = {"conflux": name, "team": "bobs"}
                for answer in (
                    await w.client.get("/conflux", headers=bob, params=query),
                    await w.client.get("/conflux/team/list", headers=bob, params=query),
                    await w.client.delete("/conflux", headers=bob, params=query),
                    await w.client.post("/conflux/team", headers=bob, json=attachment),
                    await w.client.delete("/conflux/team", headers=bob, params=attachment),
                ):
                    refused(answer, 404, "there is no conflux")

    asyncio.run(main())


def test_invited_member_can_attach_the_team_and_loses_it_when_removed(world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            alice, bob = await w.user("alice@example.com"), await w.user("bob@example.com")
            eve = await w.user("eve@example.com")
            await w.plane("home", "10.8.0.0/24")
            await w.client.post("/org/team", json={"name": "dev"}, headers=alice)
            wanted = {"plane": "home", "tag": "tokyo"}
            await w.client.post("/conflux", json=wanted, headers=bob)
            attachment = {"conflux": "tokyo", "team": "dev"}
            attach = await w.client.post("/conflux/team", json=attachment, headers=bob)
            refused(attach, 404, "no team dev")
            offer = {"team": "dev", "email": "Bob@example.com"}
            refused(
                await w.client.post("/org/team/invite", json=offer, headers=bob), 404, "no team dev"
            )
            invitation = (await w.client.post("/org/team/invite", json=offer, headers=alice)).json()
            accepted = {"token": invitation["token"]}
            url = "/org/team/invite/accept"
            refused(await w.client.post(url, json=accepted, headers=eve), 404, "another user")
            joined = await w.client.post(url, json=accepted, headers=bob)
            assert joined.json()["members"] == ["alice@example.com", "bob@example.com"]
            assert joined.json()["own"] is False
            refused(await w.client.post(url, json=accepted, headers=bob), 404, "used")
            assert (
                await w.client.post("/conflux/team", json=attachment, headers=bob)
            ).status_code == 204
            mine = {"conflux": "tokyo"}
            teams = await w.client.get("/conflux/team/list", headers=bob, params=mine)
            assert teams.json() == ["dev"]
            for answer in (
                await w.client.delete("/org/team", headers=bob, params={"name": "dev"}),
                await w.client.post("/org/team/invite", json=offer, headers=bob),
            ):
                refused(answer, 403, "only the owner of team dev")
            before = (await w.client.get("/org/team", headers=alice, params={"name": "dev"})).json()
            member = {"team": "dev", "email": "bob@example.com"}
            gone = await w.client.delete("/org/team/member", headers=alice, params=member)
            assert gone.status_code == 204
            teams = await w.client.get("/conflux/team/list", headers=bob, params=mine)
            assert teams.json() == []
            after = (await w.client.get("/org/team", headers=alice, params={"name": "dev"})).json()
            assert after["epoch"] == before["epoch"] + 1
            assert after["members"] == ["alice@example.com"]
            refused(
                await w.client.get("/org/team", headers=bob, params={"name": "dev"}), 404, "no team"
            )

    asyncio.run(main())


def test_invitation_ends_after_a_week(world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            alice = await w.user("alice@example.com")
            await w.client.post("/org/team", json={"name": "dev"}, headers=alice)
            offer = {"team": "dev", "email": "bob@example.com"}
            made = (await w.client.post("/org/team/invite", json=offer, headers=alice)).json()
            w.pass_time(7 * 86_400)
            bob = await w.user("bob@example.com")
            late = await w.client.post(
                "/org/team/invite/accept", json={"token": made["token"]}, headers=bob
            )
            refused(late, 404, "out of date")

    asyncio.run(main())


def test_member_can_leave_and_owner_cannot(world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            alice, bob = await w.user("alice@example.com"), await w.user("bob@example.com")
            await w.client.post("/org/team", json={"name": "dev"}, headers=alice)
            offer = {"team": "dev", "email": "bob@example.com"}
            token = (await w.client.post("/org/team/invite", json=offer, headers=alice)).json()
            await w.client.post(
                "/org/team/invite/accept", json={"token": token["token"]}, headers=bob
            )

            async def leave(headers: dict[str, str], email: str) -> Any:
                query = {"team": "dev", "email": email}
                return await w.client.delete("/org/team/member", headers=headers, params=query)

            refused(await leave(bob, "alice@example.com"), 403, "only the owner")
            refused(await leave(alice, "alice@example.com"), 422, "delete the team instead")
            refused(await leave(alice, "nobody@example.com"), 404, "is no member")
            assert (await leave(bob, "bob@example.com")).status_code == 204

    asyncio.run(main())


def test_team_owner_takes_the_team_off_a_members_conflux(world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            alice, bob = await w.user("alice@example.com"), await w.user("bob@example.com")
            await w.plane("home", "10.8.0.0/24")
            await w.client.post("/org/team", json={"name": "dev"}, headers=alice)
            offer = {"team": "dev", "email": "bob@example.com"}
            made = (await w.client.post("/org/team/invite", json=offer, headers=alice)).json()
            await w.client.post(
                "/org/team/invite/accept", json={"token": made["token"]}, headers=bob
            )
            wanted = {"plane": "home", "tag": "tokyo", "teams": ["dev"]}
            await w.client.post("/conflux", json=wanted, headers=bob)
            query = {"conflux": "tokyo", "team": "dev"}
            assert (
                await w.client.delete("/conflux/team", headers=alice, params=query)
            ).status_code == 204
            refused(
                await w.client.delete("/conflux/team", headers=alice, params=query),
                404,
                "there is no conflux tokyo",
            )

    asyncio.run(main())


def test_identity_teams_are_nobodys_to_see_or_delete(world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            alice = await w.user("alice@example.com")
            assert (await w.client.get("/org/team/list", headers=alice)).json() == []
            name = {"name": "user:alice@example.com"}
            refused(await w.client.delete("/org/team", headers=alice, params=name), 404, "no team")
            refused(
                await w.client.post("/org/team", json=name, headers=alice), 422, "cannot be used"
            )

    asyncio.run(main())


def test_team_limit_keeps_grants_small(world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("veilnet_guardian.teams.MAX_TEAMS", 2)

    async def main() -> None:
        async with world() as w:
            alice = await w.user("alice@example.com")
            await w.plane("home", "10.8.0.0/24")
            for name in ("a", "b", "c"):
                await w.client.post("/org/team", json={"name": name}, headers=alice)
            wanted = {"plane": "home", "tag": "tokyo", "teams": ["a", "b"]}
            await w.client.post("/conflux", json=wanted, headers=alice)
            third = await w.client.post(
                "/conflux/team", json={"conflux": "tokyo", "team": "c"}, headers=alice
            )
            refused(third, 409, "2 teams attached already: detach one first")

    asyncio.run(main())


def test_health_tells_of_database_and_master(world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            well = await w.client.get("/healthz")
            assert well.json() == {"status": "ok", "database": "ok", "master": "ok"}
            object.__setattr__(w.guardian, "master_up", lambda: False)
            ill = await w.client.get("/healthz")
            assert ill.status_code == 503
            assert ill.json() == {"status": "failing", "database": "ok", "master": "failing"}

    asyncio.run(main())


def test_body_above_64_kib_is_refused_whether_announced_or_not(world: MakeWorld) -> None:
    async def drip() -> AsyncIterator[bytes]:
        for _ in range(80):
            yield b"x" * 1024

    async def main() -> None:
        async with world() as w:
            for content in (b"x" * 65_537, drip()):
                for path in ("/auth/login", "/conflux/session/login", "/nosuch"):
                    answer = await w.client.post(path, content=content)
                    refused(answer, 413, "longer than 65536 bytes")
                    if not isinstance(content, bytes):
                        break

    asyncio.run(main())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b'{"email": "\\ud800@x.y", "password": "p"}',
        b'{"email": ["x"], "password": {}}',
        b'{"email": "a\\u0000@b.c", "password": "\\u0000"}',
        json.dumps({"email": "a@b.c", "password": "p" * 2_000}).encode(),
        json.dumps({"email": "a" * 1_000 + "@b.c", "password": "p"}).encode(),
        b'{"email": "a@b.c", "password": ' + b"9" * 5_000 + b"}",
        b'{"email": "a@b.c", "password": "p", "a\\nb' + b"x" * 50_000 + b'": 1}',
    ],
)
def test_hostile_json_is_refused_in_one_line(world: MakeWorld, content: bytes) -> None:
    async def main() -> None:
        async with world() as w:
            answer = await w.client.post(
                "/auth/login", content=content, headers={"Content-Type": "application/json"}
            )
            assert answer.status_code in (400, 401, 422), answer.text
            assert "\n" not in answer.json()["detail"]
            assert len(answer.text) < 1_000

    asyncio.run(main())


def test_password_never_comes_back_in_an_error(world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            wrong = {"email": 5, "password": ["hunter2hunter2"], "hunter2hunter2": 1}
            answer = await w.client.post("/auth/login", json=wrong)
            assert answer.status_code == 422
            assert "email: " in answer.json()["detail"]
            assert "['hunter2hunter2']" not in answer.text

    asyncio.run(main())


def test_garbage_tokens_are_refused(world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            alice = await w.user("alice@example.com")
            head, claims, mac = alice["Authorization"].removeprefix("Bearer ").split(".")

            @settings(max_examples=60, deadline=None)
            @given(
                st.one_of(
                    st.text(st.characters(min_codepoint=33, max_codepoint=255), max_size=200),
                    st.sampled_from(
                        [
                            f"{head}.{claims}.",
                            f"{head}.{claims}.{mac}x",
                            f"eyJhbGciOiJub25lIn0.{claims}.",
                            f"..{mac}",
                            "a" * 60_000,
                            "vnr_",
                            "vnr_" + "A" * 86,
                        ]
                    ),
                )
            )
            def attempt(token: str) -> None:
                for kind in ("user", "conflux", "session"):
                    with pytest.raises(Exception, match="token is") as refusal:
                        w.guardian.keys.tokens.read(kind, token, now=w.guardian.now())
                    assert type(refusal.value).__name__ == "Unauthorized"

            attempt()
            for token in ("\xff\xfe", "a" * 5_000, "x.y.z", "vnr_\xe4"):
                headers = {b"Authorization": b"Bearer " + token.encode("latin-1")}
                for verb, path in (
                    ("GET", "/plane/list"),
                    ("DELETE", "/conflux/unregister"),
                    ("POST", "/conflux/register"),
                ):
                    body = {} if verb == "POST" else None
                    answer = await w.client.request(verb, path, headers=headers, json=body)
                    assert answer.status_code == 401, (path, answer.text)

    asyncio.run(main())


def test_bug_is_answered_in_one_line_without_its_details(
    world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr("veilnet_guardian.planes.list_for", broken)

    async def main() -> None:
        async with world() as w:
            alice = await w.user("alice@example.com")
            answer = await w.client.get("/plane/list", headers=alice)
            refused(answer, 500, "its log says why")
            assert "secret detail" not in answer.text

    asyncio.run(main())


def test_unknown_names_come_back_on_one_line(world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            alice = await w.user("alice@example.com")
            for path, query in (
                ("/plane", {"name": "a\nb"}),
                ("/org/team", {"name": "a\r\nb"}),
                ("/conflux", {"conflux": "a\x1b[31mb"}),
            ):
                refused(await w.client.get(path, params=query, headers=alice), 404, r"a\?")
            nul = {"conflux": "a\x00b"}
            refused(
                await w.client.get("/conflux", params=nul, headers=alice), 422, "conflux: a NUL"
            )

    asyncio.run(main())


def test_names_that_could_confuse_are_refused(world: MakeWorld) -> None:
    async def main() -> None:
        async with world() as w:
            alice = await w.user("alice@example.com")
            uuid = "3f0c5a52-1f0e-4d0b-8a3c-0a4d5f3b2c11"
            for name in ("", " ", "a b", "../x", "-x", "x" * 64, "ä", "a\x00b", "a\nb", "%s", uuid):
                answer = await w.client.post("/org/team", json={"name": name}, headers=alice)
                refused(answer, 422, "cannot be used: (take 1 to 63|leave it out)")

    asyncio.run(main())
