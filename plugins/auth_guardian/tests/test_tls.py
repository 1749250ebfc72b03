"""GuardianAuth over TLS, with certificates that the test makes."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import ssl
import sys

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from conflux.api import Refused, Unreachable, UsageError
from conflux_auth_guardian.driver import GuardianAuth

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


@pytest.fixture
def make_tls(tmp_path):
    """Make a server's TLS for 127.0.0.1 and the file of the certificate, which is its own CA."""

    def make(*, days=1):
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "guardian")])
        now = dt.datetime.now(dt.UTC)
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        public_key = key.public_key()
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=2))
            .not_valid_after(now + dt.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(
                x509.KeyUsage(
                    **dict.fromkeys(KEY_USAGES, False)
                    | {"digital_signature": True, "key_cert_sign": True}
                ),
                critical=True,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(x509.SubjectAlternativeName([address]), critical=False)
            .sign(key, hashes.SHA256())
        )
        certificate_file = tmp_path / "guardian.crt"
        key_file = tmp_path / "guardian.key"
        certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate_file, key_file)
        return context, certificate_file

    return make


def log_out(stage, settings, *, tls, host="127.0.0.1", url=None):
    async def main():
        async with stage.open(tls=tls, host=host):
            auth = GuardianAuth(settings)
            try:
                await auth.logout(url or stage.url, session="vns_secret")
            finally:
                await auth.close()

    asyncio.run(main())


def test_guardian_with_a_ca_of_its_own_is_trusted_through_ca_file(stage, make_tls, caplog):
    tls, certificate_file = make_tls()
    stage.answers(200, {})
    log_out(stage, {"ca_file": str(certificate_file)}, tls=tls)
    assert len(stage.requests) == 1
    assert caplog.records == []


def test_untrusted_certificate_is_refused_with_what_to_do_and_gets_no_token(stage, make_tls):
    tls, _ = make_tls()
    with pytest.raises(Refused, match=r"is not trusted .*name its CA in ca_file"):
        log_out(stage, {}, tls=tls)
    assert stage.requests == []


def test_certificate_of_another_name_is_refused(stage, make_tls):
    tls, certificate_file = make_tls()
    with pytest.raises(Refused, match="is not trusted"):
        log_out(stage, {"ca_file": str(certificate_file)}, tls=tls, host="localhost")
    assert stage.requests == []


def test_expired_certificate_is_refused(stage, make_tls):
    tls, certificate_file = make_tls(days=-1)
    with pytest.raises(Refused, match="expired"):
        log_out(stage, {"ca_file": str(certificate_file)}, tls=tls)
    assert stage.requests == []


@pytest.mark.parametrize(
    ("greeting", "outcome", "words"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", Refused, "does not speak TLS"),
        (b"", Unreachable, "does not answer"),
    ],
    ids=["speaks plain HTTP", "hangs up"],
)
def test_handshake_with_what_has_no_tls(greeting, outcome, words):
    async def answer(reader, writer):
        await reader.read(1)
        writer.write(greeting)
        await writer.drain()
        writer.close()

    async def main():
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            auth = GuardianAuth({})
            try:
                await auth.logout(f"https://127.0.0.1:{port}", session="vns_secret")
            finally:
                await auth.close()

    with pytest.raises(outcome, match=words):
        asyncio.run(main())


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_ca_file_that_is_none_is_a_usage_error(stage, tmp_path, content):
    ca_file = tmp_path / "ca.pem"
    if content:
        ca_file.write_text(content)
    with pytest.raises(UsageError, match="give a PEM file"):
        log_out(stage, {"ca_file": str(ca_file)}, tls=None, url="https://127.0.0.1:1")


def test_check_says_which_tls(stage, make_tls):
    context, certificate_file = make_tls()
    stage.answers(200, {"status": "ok", "database": "ok", "master": "ok"})

    async def main():
        async with stage.open(tls=context):
            auth = GuardianAuth({"ca_file": str(certificate_file)})
            try:
                return await auth.check(stage.url)
            finally:
                await auth.close()

    assert asyncio.run(main()).spoken == "HTTP/1.1, TLSv1.3"


def trusted(**settings):
    """How many authorities a driver trusts that were loaded at once."""
    context = GuardianAuth(settings)._tls_context()
    return context.cert_store_stats()["x509_ca"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows' own store is no folder of files")
@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_where_the_system_says_whom_it_trusts_nobody_else_is_trusted(
    make_tls, tmp_path, monkeypatch, variable
):
    _, certificate_file = make_tls()
    nowhere = tmp_path / "nowhere"
    monkeypatch.setenv("SSL_CERT_FILE", str(nowhere))
    monkeypatch.setenv("SSL_CERT_DIR", str(nowhere))
    assert trusted() > 100  # Mozilla's list
    folder = variable.endswith("DIR")
    monkeypatch.setenv(variable, str(tmp_path if folder else certificate_file))
    assert trusted() == (0 if folder else 1)  # what is in a folder is read when it is needed
    assert trusted(ca_file=str(certificate_file)) == 1
