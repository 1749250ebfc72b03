"""Where tokens may go."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conflux.api import UsageError
from conflux_auth_guardian.url import base_url


@pytest.mark.parametrize(
    "server",
    [
        "https://guardian.veilnet.app",
        "https://203.0.113.7:8443",
        "https://[2001:db8::1]",
        "HTTPS://Guardian.Example/base/",
        " https://guardian.example\n",
        "https://ünïcode.example",
        "http://localhost:8080",
        "http://127.0.0.1",
        "http://127.8.9.10",
        "http://[::1]:8080",
        "http://10.1.2.3",
        "http://172.31.255.255",
        "http://192.168.1.1",
        "http://169.254.1.1",
        "http://100.64.0.1",
        "http://[fd00::1]",
        "http://[fe80::1]",
        "http://[::ffff:10.0.0.1]",
    ],
)
def test_good_address(server):
    assert base_url(server).lower().startswith(server.strip().lower().split("/")[0])


@pytest.mark.parametrize(
    "server",
    [
        "http://guardian.veilnet.app",
        "http://203.0.113.7",
        "http://172.32.0.1",
        "http://100.128.0.1",
        "http://[2001:db8::1]",
        "http://[::ffff:203.0.113.7]",
        "http://localhost.example.com",
        "http://127.0.0.1.example.com",
        "http://127.1",
        "http://2130706433",
    ],
)
def test_plain_http_beyond_private_addresses_is_answered_with_https(server):
    with pytest.raises(UsageError, match=r"use https://"):
        base_url(server)


@pytest.mark.parametrize(
    "server",
    [
        "",
        "guardian.example",
        "guardian.example:8080",
        "ftp://guardian.example",
        "https://",
        "https://exa mple.com",
        "https://guardian.example:0",
        "https://guardian.example:99999",
        "https://guardian.example:port",
        "https://[::1",
        "https://[fe80::1%zöne]",
        "https://[fe80::1%25eth0]",
        "https://a\nb",
        "https://-dash.example",
        "\x1b[2J",
    ],
)
def test_what_is_no_address_says_how_one_looks(server):
    with pytest.raises(UsageError, match=r"give https://HOST") as error:
        base_url(server)
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    "server",
    ["https://user:secret@h.example", "https://h.example?secret", "https://h.example#secret"],
)
def test_address_with_more_than_a_place_is_no_address(server):
    with pytest.raises(UsageError, match="must not carry") as error:
        base_url(server)
    assert "secret" not in str(error.value)


@given(st.text())
def test_any_text_is_an_address_or_a_usage_error(server):
    try:
        shown = base_url(server)
    except UsageError as error:
        shown = str(error)
    assert shown.isprintable()


@given(st.ip_addresses())
def test_plain_http_is_for_no_address_of_the_internet(address):
    host = f"[{address}]" if address.version == 6 else str(address)
    mapped = address.ipv4_mapped if address.version == 6 else None
    try:
        base_url(f"http://{host}")
    except UsageError:
        return
    near = mapped or address
    assert not near.is_global
    assert near not in ipaddress.ip_network("203.0.113.0/24")
