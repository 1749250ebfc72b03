"""What `serve` is told: addresses, URLs, and where nodes find the Master."""

from __future__ import annotations

import pytest

from veilnet_guardian.errors import Invalid, one_line
from veilnet_guardian.settings import HostPort, check_master_url, master_url_for


@pytest.mark.parametrize(
    ("text", "host", "port", "again"),
    [
        ("127.0.0.1:8000", "127.0.0.1", 8000, "127.0.0.1:8000"),
        ("guardian.example.com", "guardian.example.com", 77, "guardian.example.com:77"),
        ("[::1]:8000", "::1", 8000, "[::1]:8000"),
        ("0.0.0.0:0", "0.0.0.0", 0, "0.0.0.0:0"),
    ],
)
def test_listen_addresses_are_read_and_written(text: str, host: str, port: int, again: str) -> None:
    parsed = HostPort.parse(text, option="--listen", port=77)
    assert (parsed.host, parsed.port, str(parsed)) == (host, port, again)


@pytest.mark.parametrize("text", ["", ":80", "::1", "a:b", "a:99999", "a/b", "u@a:80", "a:80?x"])
def test_other_texts_are_no_listen_address(text: str) -> None:
    with pytest.raises(Invalid, match="is not HOST:PORT"):
        HostPort.parse(text, option="--listen", port=77)


@pytest.mark.parametrize(
    ("host", "sheltered"),
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("::1", True),
        ("192.168.4.4", True),
        ("fd00::4", True),
        ("0.0.0.0", False),
        ("::", False),
        ("8.8.8.8", False),
        ("guardian.example.com", False),
    ],
)
def test_plain_http_is_fine_on_loopback_and_private_networks_only(
    host: str, sheltered: bool
) -> None:
    assert HostPort(host, 8000).is_sheltered is sheltered


@pytest.mark.parametrize(
    ("host_header", "url"),
    [
        ("10.0.0.1:8000", "nats://10.0.0.1:4222"),
        ("guardian.example.com", "nats://guardian.example.com:4222"),
        ("[fd00::1]:8000", "nats://[fd00::1]:4222"),
        ("", "nats://127.0.0.1:4222"),
        ("evil/../x", "nats://127.0.0.1:4222"),
        ("user@evil", "nats://127.0.0.1:4222"),
        ("a" * 300, "nats://127.0.0.1:4222"),
        ("a b", "nats://127.0.0.1:4222"),
    ],
)
def test_master_on_every_address_is_found_where_guardian_was(host_header: str, url: str) -> None:
    assert master_url_for(host_header, HostPort("0.0.0.0", 4222)) == url


def test_master_on_one_address_is_found_there_whatever_the_request_says() -> None:
    assert master_url_for("evil.example.com", HostPort("::1", 4222)) == "nats://[::1]:4222"


@pytest.mark.parametrize("url", ["nats://a:4222", "tls://a", "nats://a:1,nats://b:2"])
def test_nats_urls_pass(url: str) -> None:
    assert check_master_url(url, option="--master") == url


@pytest.mark.parametrize(
    "url",
    ["", "http://a", "nats://", "nats://a:x", "nats://a:0", "nats://a,b", "nats://" + "a" * 300],
)
def test_other_urls_do_not(url: str) -> None:
    with pytest.raises(Invalid, match="is not a NATS URL"):
        check_master_url(url, option="--master")


def test_quoted_input_cannot_break_a_line() -> None:
    assert one_line("there is no plane a\nb\x1b[31m\u2028") == "there is no plane a?b?[31m?"
