"""GuardianAuth against a real HTTP server that plays good and hostile answers."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import time
from contextlib import asynccontextmanager

import pytest

from conflux.api import Closed, Refused, RegistrationRequest, Unreachable, UsageError
from conflux_auth_guardian.driver import MAX_ANSWER_BYTES, GuardianAuth

REGISTRATION = "vnr_registration-secret"
CONFLUX = "vnc_conflux-secret"
SESSION = "vns_session-secret"
REGISTERED = {
    "conflux_id": "c1",
    "conflux_token": CONFLUX,
    "tag": "london",
    "plane": "home",
    "addresses": ["10.9.0.7/16", "fd09::7/64"],
    "teams": ["dev"],
    "ignored_teams": ["ops"],
}
SEALED = bytes(range(256))
LOGGED_IN = {"session": SESSION, "grant": base64.b64encode(SEALED).decode()}


@asynccontextmanager
async def guardian(settings=None):
    auth = GuardianAuth(settings or {})
    try:
        yield auth
    finally:
        await auth.close()


def on_stage(stage, act, settings=None, **options):
    """Run *act(auth, url)* while the stage is open."""

    async def main():
        async with stage.open(**options), guardian(settings) as auth:
            return await act(auth, stage.url)

    return asyncio.run(main())


def log_in(auth, url):
    return auth.login(url, conflux_token=CONFLUX, request=b"\x00\xffrequest")


def log_out(auth, url):
    return auth.logout(url, session=SESSION)


def unregister(auth, url):
    return auth.unregister(url, conflux_token=CONFLUX)


def register(auth, url):
    request = RegistrationRequest(
        token=REGISTRATION, tag="london", cidr="10.9.0.7/16", teams=["dev", "ops"], attempt="A" * 43
    )
    return auth.register(url, request)


def test_registration_sends_the_wish_and_returns_the_grant(stage):
    stage.answers(200, REGISTERED)
    granted = on_stage(stage, register)
    assert [granted.address, *granted.other_addresses] == REGISTERED["addresses"]
    for name in REGISTERED.keys() - {"addresses"}:
        assert getattr(granted, name) == REGISTERED[name]
    head, _, body = stage.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /conflux/register HTTP/1.1\r\n")
    assert f"Authorization: Bearer {REGISTRATION}".encode() in head
    assert json.loads(body) == {
        "tag": "london",
        "cidr": "10.9.0.7/16",
        "teams": ["dev", "ops"],
        "portal": False,
        "attempt": "A" * 43,
    }


def test_login_sends_raw_octets_and_returns_session_and_sealed_grant(stage):
    stage.answers(200, LOGGED_IN)
    answer = on_stage(stage, log_in)
    assert (answer.session, answer.sealed) == (SESSION, SEALED)
    head, _, body = stage.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /conflux/session/login HTTP/1.1\r\n")
    assert b"Content-Type: application/octet-stream" in head
    assert f"Authorization: Bearer {CONFLUX}".encode() in head
    assert body == b"\x00\xffrequest"


@pytest.mark.parametrize("answer", [b"HTTP/1.1 204 No Content\r\n\r\n", None])
@pytest.mark.parametrize(
    ("act", "line", "token"),
    [
        (unregister, b"DELETE /conflux/unregister HTTP/1.1\r\n", CONFLUX),
        (log_out, b"POST /conflux/session/logout HTTP/1.1\r\n", SESSION),
    ],
)
def test_leaving_takes_an_empty_answer_or_json(stage, answer, act, line, token):
    if answer:
        stage.plays(answer)
    else:
        stage.answers(200, {})
    assert on_stage(stage, act) is None
    assert stage.requests[0].startswith(line)
    assert f"Authorization: Bearer {token}".encode() in stage.requests[0]


def test_base_url_may_have_a_path(stage):
    async def act(auth, url):
        await log_out(auth, f"{url}/guardian/")

    stage.answers(200, {})
    on_stage(stage, act)
    assert stage.requests[0].startswith(b"POST /guardian/conflux/session/logout ")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422])
def test_a_no_is_told_in_guardians_own_words(stage, status):
    stage.answers(status, {"detail": "the registration token has expired: make another"})
    with pytest.raises(Refused) as refusal:
        on_stage(stage, register)
    assert str(refusal.value) == "the registration token has expired: make another"


def test_words_of_a_hostile_server_cannot_play_with_the_terminal(stage):
    stage.answers(403, {"detail": "one\r\ntwo\x1b[2J\x00 \u202ethree\x9b" + "x" * 10_000})
    with pytest.raises(Refused) as refusal:
        on_stage(stage, register)
    text = str(refusal.value)
    assert text.startswith("one two [2J three xxx")
    assert text.isprintable()
    assert len(text) == 200


@pytest.mark.parametrize("body", [b"<html>", b"", b"[]", {"detail": [{"msg": "field"}]}, {}])
def test_a_no_without_words_names_status_and_address(stage, body):
    stage.answers(404, body)
    with pytest.raises(Refused, match=r"http://127\.0\.0\.1:\d+ says 404"):
        on_stage(stage, register)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_trouble_of_the_server_is_passing(stage, status):
    stage.answers(status, {"detail": "x"})
    with pytest.raises(Unreachable, match=rf"has trouble \({status}\): try again later"):
        on_stage(stage, log_in)


def test_redirect_is_not_followed(stage):
    stage.answers(307, {}, headers="Location: http://127.0.0.1:1/\r\n")
    with pytest.raises(Refused, match="redirects"):
        on_stage(stage, log_in)
    assert len(stage.requests) == 1


@pytest.mark.parametrize(
    "value",
    [
        b"<html>Welcome to the hotel</html>",
        b"",
        b"null",
        b"[" * 100_000,
        b"\xff\xfe",
        {**LOGGED_IN, "grant": "no base64!"},
        {**LOGGED_IN, "grant": ""},
        {**LOGGED_IN, "grant": 7},
        {**LOGGED_IN, "session": "two\nlines"},
        {**LOGGED_IN, "session": ""},
        {**LOGGED_IN, "session": "x" * 9_000},
    ],
)
def test_malformed_login_answer_is_refused(stage, value):
    stage.answers(200, value)
    with pytest.raises(Refused, match="does not speak as a Guardian does") as refusal:
        on_stage(stage, log_in)
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("conflux_id", None),
        ("conflux_id", ""),
        ("conflux_token", "with space"),
        ("conflux_token", ["x"]),
        ("tag", "two\nlines"),
        ("plane", 7),
        ("addresses", ["10.9.0.7"]),
        ("addresses", ["10.9.0.7/33"]),
        ("addresses", ["10.9.0.7/16", "nowhere/16"]),
        ("addresses", []),
        ("addresses", None),
        ("addresses", "10.9.0.7/16"),
        ("teams", "dev"),
        ("teams", [7]),
        ("teams", ["\x1b[2J"]),
        ("ignored_teams", ["x"] * 1_001),
    ],
)
def test_malformed_registration_is_refused(stage, field, value):
    stage.answers(200, {**REGISTERED, field: value})
    with pytest.raises(Refused, match="does not speak as a Guardian does"):
        on_stage(stage, register)


@pytest.mark.parametrize("act", [unregister, log_out])
def test_leaving_is_not_believed_to_a_page_of_html(stage, act):
    stage.answers(200, b"<html>Welcome to the hotel</html>")
    with pytest.raises(Refused, match="does not speak as a Guardian does"):
        on_stage(stage, act)


def test_huge_answer_is_cut_off(stage):
    stage.answers(200, b" " * (MAX_ANSWER_BYTES + 1))
    with pytest.raises(Refused, match="more than 2048 KiB"):
        on_stage(stage, log_in)


def test_endless_answer_is_cut_off(stage):
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    stage.plays(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * 64)
    with pytest.raises(Refused, match="more than 2048 KiB"):
        on_stage(stage, log_in)


def test_compressed_answer_is_not_unpacked(stage):
    stage.answers(200, b"\x1f\x8b", headers="Content-Encoding: gzip\r\n")
    with pytest.raises(Refused, match="compresses"):
        on_stage(stage, log_in)


def test_slow_drip_ends_with_the_whole_calls_timeout(stage):
    stage.plays(b"HTTP/1.1 200 OK\r\nX-Drip: " + b"x" * 10_000, drip_s=0.02)
    started = time.monotonic()
    with pytest.raises(Unreachable, match="does not answer: check the address"):
        on_stage(stage, log_in, {"timeout_s": 0.5})
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"])
def test_connection_that_breaks_off_is_passing(stage, answer):
    stage.plays(answer)
    with pytest.raises(Unreachable, match="does not answer"):
        on_stage(stage, log_in)


def test_what_speaks_no_http_is_refused(stage):
    stage.plays(b"220 mail.example ESMTP\r\n\r\n")
    with pytest.raises(Refused, match="does not speak HTTP"):
        on_stage(stage, log_in)


def test_nobody_there_is_unreachable(stage):
    async def main():
        async with stage.open():
            pass
        async with guardian() as auth:
            with pytest.raises(Unreachable, match=f"{stage.url} does not answer: check the addr"):
                await log_in(auth, stage.url)

    asyncio.run(main())


@pytest.mark.parametrize("token", ["", "two\nlines", "with space", "ünïcode", "x" * 9_000])
def test_token_that_is_none_is_a_usage_error_and_not_sent(stage, token):
    with pytest.raises(UsageError, match="copy it again") as error:
        on_stage(stage, lambda auth, url: auth.unregister(url, conflux_token=token))
    assert not token or token not in str(error.value)
    assert stage.requests == []


def test_no_token_reaches_a_log_or_a_message(stage, caplog):
    for status, value in ((200, REGISTERED), (403, {"detail": "no"}), (503, {}), (200, b"junk")):
        stage.answers(status, value)
        with caplog.at_level(logging.DEBUG):
            try:
                outcome = on_stage(stage, register)
            except UsageError as error:
                outcome = error
            assert "secret" not in repr(outcome)
    assert caplog.records
    assert not [r for r in caplog.records if "secret" in r.getMessage()]


def test_plain_http_is_warned_of_once(stage, caplog):
    async def act(auth, url):
        for _ in range(3):
            await log_out(auth, url)

    stage.answers(200, {})
    with caplog.at_level(logging.WARNING, "conflux.auth"):
        on_stage(stage, act)
    assert ["without TLS" in r.getMessage() for r in caplog.records] == [True]


def test_plain_http_goes_past_every_proxy(stage, monkeypatch):
    for name in ("HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    stage.answers(200, {})
    on_stage(stage, log_out)
    assert len(stage.requests) == 1


def test_https_goes_through_the_proxy_which_sees_no_token(stage, monkeypatch):
    async def act(auth, url):
        monkeypatch.setenv("HTTPS_PROXY", url)
        with pytest.raises(Unreachable, match="proxy on the way"):
            await log_out(auth, "https://guardian.example")

    stage.answers(403, {})
    on_stage(stage, act)
    assert stage.requests[0].startswith(b"CONNECT guardian.example:443 ")
    assert b"secret" not in stage.requests[0]


def test_proxy_that_cannot_be_used_is_a_usage_error(monkeypatch):
    async def main():
        async with guardian() as auth:
            await log_out(auth, "https://guardian.example")

    monkeypatch.setenv("HTTPS_PROXY", "gopher://127.0.0.1:1")
    with pytest.raises(UsageError, match="HTTPS_PROXY"):
        asyncio.run(main())


def test_closed_driver_says_so_and_closes_twice(stage):
    async def act(auth, url):
        await log_out(auth, url)
        await auth.close()
        await auth.close()
        with pytest.raises(Closed):
            await log_out(auth, url)

    stage.answers(200, {})
    on_stage(stage, act)


@pytest.mark.parametrize(
    "settings",
    [{"timeout_s": 0}, {"timeout_s": "9"}, {"timeout_s": True}, {"ca_file": 1}, {"x": 1}],
)
def test_wrong_setting_is_a_usage_error(settings):
    with pytest.raises(UsageError, match=r"\[plugin.auth.guardian\]"):
        GuardianAuth(settings)


WELL = {"status": "ok", "database": "ok", "master": "ok"}


def check(auth, url):
    return auth.check(url)


def test_check_asks_without_a_token_and_says_what_is_spoken(stage):
    stage.answers(200, WELL, headers="Date: Tue, 15 Nov 1994 08:12:31 GMT\r\n")
    found = on_stage(stage, check)
    assert (found.spoken, found.clock_s) == ("HTTP/1.1, without TLS", 784887151.0)
    [request] = stage.requests
    assert request.startswith(b"GET /healthz HTTP/1.1\r\n")
    assert b"authorization" not in request.lower()


@pytest.mark.parametrize("date", ["", "Date: never\r\n"])
def test_check_does_without_a_clock(stage, date):
    stage.answers(200, WELL, headers=date)
    assert on_stage(stage, check).clock_s is None


def test_check_says_what_fails(stage):
    stage.answers(503, {**WELL, "status": "failing", "master": "failing"})
    with pytest.raises(Unreachable, match="has trouble with its master: try again later"):
        on_stage(stage, check)


@pytest.mark.parametrize("answer", [b"<html>", {}, {"status": "fine"}, []])
def test_check_finds_that_it_is_no_guardian(stage, answer):
    stage.answers(200, answer)
    with pytest.raises(Refused, match="says 200: check that it is a Guardian"):
        on_stage(stage, check)
