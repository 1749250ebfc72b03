"""The channel over TLS, with a CA that the test makes."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import re
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from conflux.api import MAX_CONTROL_BYTES, Refused, Unreachable
from conflux_control_nats.driver import NatsControlDriver

ALICE = bytes([0xA1]) * 16
KEY_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


@dataclass(frozen=True)
class Authority:
    """A CA in PEM, and the lines with which nats-server uses a certificate of it."""

    ca_pem: str
    config: str


@pytest.fixture
def make_authority(tmp_path):
    def make(name="authority", host="127.0.0.1"):
        ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        ca = _certificate(ca_name, ca_name, ca_key.public_key(), ca_key, ca=True)
        leaf_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        leaf = _certificate(leaf_name, ca_name, key.public_key(), ca_key, host=host)
        certificate_file = tmp_path / f"{name}.crt"
        key_file = tmp_path / f"{name}.key"
        certificate_file.write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return Authority(
            ca_pem=ca.public_bytes(serialization.Encoding.PEM).decode(),
            config=f'tls {{ cert_file: "{certificate_file}", key_file: "{key_file}" }}',
        )

    return make


def _certificate(subject, issuer, public_key, signing_key, *, ca=False, host=""):
    now = dt.datetime.now(dt.UTC)
    usage = dict.fromkeys(KEY_USAGES, False)
    usage |= {"key_cert_sign": True} if ca else {"digital_signature": True}
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()),
            critical=False,
        )
    )
    if host:
        names = [x509.IPAddress(ipaddress.ip_address(host))]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(signing_key, hashes.SHA256())


@asynccontextmanager
async def joined(credentials, inbox, *, ping_s=4.0):
    channel = await NatsControlDriver({"ping_s": ping_s}).connect(
        credentials, inbox.on_message, inbox.on_connected
    )
    try:
        yield channel
    finally:
        await channel.close()


@pytest.mark.parametrize("fill", [False, True], ids=["idle", "with full buffers"])
def test_hanging_tls_server_is_left_in_bounded_time(make_master, make_authority, make_inbox, fill):
    async def main():
        authority = make_authority()
        master = make_master(authority.config, scheme="tls")
        voice = make_inbox()
        credentials = master.credentials(ALICE, ca_pem=authority.ca_pem)
        async with joined(credentials, voice, ping_s=0.2) as alice:
            assert alice.publish(ALICE, b"encrypted")
            master.freeze()
            started = time.monotonic()
            while fill and voice.states == [] and time.monotonic() < started + 5:
                while alice.publish(ALICE, bytes(MAX_CONTROL_BYTES)):
                    pass
                await asyncio.sleep(0)
            await voice.until(lambda v: v.states == [False], within_s=5)
            master.thaw()
            await voice.until(lambda v: v.states == [False, True])

    asyncio.run(main())


def test_certificate_of_another_authority_is_refused(make_master, make_authority, make_inbox):
    async def main():
        master = make_master(make_authority("theirs").config, scheme="tls")
        credentials = master.credentials(ALICE, ca_pem=make_authority("ours").ca_pem)
        with pytest.raises(Refused, match="certificate that is not trusted"):
            async with joined(credentials, make_inbox()):
                pass

    asyncio.run(main())


def test_certificate_of_another_host_is_refused(make_master, make_authority, make_inbox):
    async def main():
        authority = make_authority(host="192.0.2.1")
        master = make_master(authority.config, scheme="tls")
        with pytest.raises(Refused, match="certificate that is not trusted"):
            async with joined(master.credentials(ALICE, ca_pem=authority.ca_pem), make_inbox()):
                pass

    asyncio.run(main())


@pytest.mark.parametrize("authenticates", [True, False])
def test_tls_url_is_not_served_in_the_clear(make_master, make_inbox, authenticates):
    async def main():
        master = make_master(authenticates=authenticates)
        credentials = master.credentials(ALICE)
        tls = [url.replace("nats://", "tls://") for url in credentials.urls]
        with pytest.raises(Refused, match="offers no TLS"):
            async with joined(replace(credentials, urls=tls), make_inbox()):
                pass

    asyncio.run(main())


def check(url, ca_pem=""):
    return asyncio.run(NatsControlDriver({}).check(url, ca_pem=ca_pem)).spoken


def test_check_says_what_is_spoken(make_master, make_authority):
    authority = make_authority()
    plain, encrypted = make_master(), make_master(authority.config, scheme="tls")
    assert re.fullmatch(r"NATS 2\.\d+\.\d+, without TLS", check(plain.url))
    assert re.fullmatch(r"NATS 2\.\d+\.\d+, TLSv1\.3", check(encrypted.url, authority.ca_pem))
    # A server that wants TLS gets it, whatever its URL says.
    assert check(f"nats://127.0.0.1:{encrypted.port}", authority.ca_pem).endswith(", TLSv1.3")


def test_check_refuses_what_a_node_would_refuse(make_master, make_authority):
    ours, theirs = make_authority("ours"), make_authority("theirs")
    with pytest.raises(Refused, match="certificate that is not trusted"):
        check(make_master(theirs.config, scheme="tls").url, ours.ca_pem)
    with pytest.raises(Refused, match="offers no TLS, which its URL asks for"):
        check(make_master(scheme="tls").url, ours.ca_pem)
    with pytest.raises(Refused, match="must be nats://HOST:PORT"):
        check("https://127.0.0.1")


@pytest.mark.parametrize(
    "said",
    [b"", b"SSH-2.0\r\n", b"INFO []\r\n", b"INFO \xff\r\n", b"INFO " + b"[" * 60_000 + b"\r\n",
     b"INFO " + b"x" * 70_000],
)  # fmt: skip
def test_check_finds_that_it_is_no_master(said):
    async def main():
        async def answer(reader, writer):
            writer.write(said)
            writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(Unreachable, match="does not answer as a NATS server does"):
                await NatsControlDriver({}).check(f"nats://127.0.0.1:{port}")

    asyncio.run(main())


def test_check_of_nobody_is_unreachable():
    with pytest.raises(Unreachable, match=r"the Master at nats://127.0.0.1:1 does not answer"):
        check("nats://127.0.0.1:1")
