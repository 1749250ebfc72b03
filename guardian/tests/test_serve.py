"""`veilnet-guardian serve` as a process: starts, says so, survives its Master, leaves nothing."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from conflux.hardening import undone_afterwards
from conflux.with_parent import with_parent
from veilnet_guardian.cli import main
from veilnet_guardian.master import find_binary

Eventually = Callable[..., None]
Serve = Callable[..., Any]


def health(url: str, **options: Any) -> dict[str, str]:
    try:
        found: dict[str, str] = httpx.get(f"{url}/healthz", **options).json()
    except httpx.TransportError:
        return {}
    return found


def children(pid: int) -> list[int]:
    """The child processes of *pid*, from /proc."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(status.parent.name))
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def failed_start(data_dir: Path, *options: str) -> str:
    """The one line with which a start ends that cannot be."""
    with undone_afterwards():
        done = CliRunner().invoke(main, ["serve", "--data-dir", str(data_dir), *options])
    assert isinstance(done.exception, SystemExit)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    return str(done.stderr)


def test_ready_line_then_taken_folder_and_ports_then_clean_end(
    serve: Serve, tmp_path: Path
) -> None:
    server = serve()
    assert server.url.startswith("http://127.0.0.1:")
    assert server.master_url.startswith("nats://127.0.0.1:")
    assert health(server.url) == {"status": "ok", "database": "ok", "master": "ok"}
    (master,) = children(server.process.pid)
    listen, nats = (url.split("//")[1] for url in (server.url, server.master_url))

    free, other = "127.0.0.1:0", tmp_path / "other"
    assert "another veilnet-guardian serves" in failed_start(server.data_dir, "--listen", free)
    line = failed_start(other, "--listen", listen, "--master-listen", free)
    assert f"cannot listen on {listen} (Address already in use): choose another" in line
    line = failed_start(other, "--listen", free, "--master-listen", nats)
    assert f"the Master cannot listen on {nats}" in line
    assert "--master-listen" in line

    assert health(server.url)["status"] == "ok"
    assert server.stop() == 0
    assert not alive(master)
    assert server.process.stderr.read() == ""


def test_nothing_is_left_of_a_killed_guardian_and_a_killed_master_comes_back(
    serve: Serve, eventually: Eventually
) -> None:
    first = serve()
    node = first.node("alice@example.com", "home", "a")
    before = node.login_now(first.url)
    (master,) = children(first.process.pid)
    first.process.kill()
    first.process.wait(15)
    eventually(lambda: not alive(master))

    second = serve()
    after = node.login_now(second.url)
    assert after.certificate.serial == before.certificate.serial + 1
    assert after.plane_key == before.plane_key
    assert list(after.teams) == list(before.teams)

    (master,) = children(second.process.pid)
    os.kill(master, signal.SIGKILL)
    eventually(lambda: children(second.process.pid) not in ([], [master]))
    eventually(lambda: health(second.url).get("status") == "ok")
    (master,) = children(second.process.pid)
    second.process.send_signal(signal.SIGINT)
    assert second.process.wait(15) == 0
    assert not alive(master)
    log = second.process.stderr.read()
    assert "the Master ended (code -9): starting it again" in log
    assert "Traceback" not in log


def test_server_and_master_of_a_test_run_that_is_killed_die_with_it(
    data_dir: Any, migrated: Path, eventually: Eventually
) -> None:
    """What the fixtures start must not outlive pytest, whatever ends it."""
    shutil.copy(migrated / "guardian.db", data_dir.root)
    script = f"""
import subprocess, sys
from conflux.with_parent import with_parent
sys.path.insert(0, {str(Path(__file__).parent)!r})
from conftest import start_server
print(start_server({str(data_dir.root)!r}).process.pid, flush=True)
sys.stdin.read()
"""
    pipe = subprocess.PIPE
    argv = with_parent([sys.executable, "-c", script])
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True) as run:
        assert run.stdout is not None
        server = int(run.stdout.readline())
        (master,) = children(server)
        run.kill()
    eventually(lambda: not alive(server) and not alive(master))


def test_master_that_cannot_run_ends_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("veilnet_guardian.master.find_binary", lambda: "/bin/false")
    line = failed_start(tmp_path, "--listen", "127.0.0.1:0", "--master-listen", "127.0.0.1:0")
    assert "the Master does not start: see " in line


def test_listening_everywhere_warns_and_tells_nodes_the_host_that_they_used(serve: Serve) -> None:
    everywhere = ("--listen", "0.0.0.0:0", "--master-listen", "0.0.0.0:0")
    server = serve(*everywhere, "--certificate-lifetime", "60")
    assert server.url.startswith("http://0.0.0.0:")
    port, master_port = (url.rsplit(":", 1)[1] for url in (server.url, server.master_url))
    node = server.node("alice@example.com", "home", "a")
    for host in ("127.0.0.1", "localhost"):
        grant = node.login_now(f"http://{host}:{port}")
        assert list(grant.control.urls) == [f"nats://{host}:{master_port}"]
        assert grant.certificate.not_after - grant.certificate.not_before == 60
    assert server.stop() == 0
    assert "plain http on 0.0.0.0:0: anyone on the way" in server.process.stderr.read()


def test_commands_and_requests_write_at_the_same_time(server: Any) -> None:
    server.command("plane", "create", "busy", "10.77.0.0/24")
    where = ("--user", "alice@example.com", "--plane", "busy")
    bearer = {"Authorization": f"Bearer {server.command('token', 'create', *where)}"}
    addresses: list[str] = []

    def register() -> None:
        for _ in range(10):
            answer = httpx.post(f"{server.url}/conflux/register", headers=bearer, json={})
            assert answer.status_code == 200, answer.text
            addresses.append(answer.json()["address"])

    registering = threading.Thread(target=register)
    registering.start()
    tokens = {server.command("conflux", "create", *where) for _ in range(10)}
    registering.join()
    assert len(tokens) == len(set(addresses)) == 10

    login = {"email": "alice@example.com", "password": "correct horse battery"}
    token = httpx.post(f"{server.url}/auth/login", json=login).json()["token"]
    user = {"Authorization": f"Bearer {token}"}
    listed = httpx.get(f"{server.url}/conflux/list", headers=user).json()
    found = {one["address"] for one in listed if one["plane"] == "busy"}
    assert found == {f"10.77.0.{n}/24" for n in range(1, 21)}
    assert found > set(addresses)


@pytest.fixture
def self_signed(tmp_path: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "guardian")])
    now = dt.datetime.now(dt.UTC)
    public = key.public_key()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    cert_path, key_path = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return cert_path, key_path


def test_https_and_a_public_master_url(serve: Serve, self_signed: tuple[Path, Path]) -> None:
    cert, key = self_signed
    public = "tls://master.example.com:4222"
    tls = ("--tls-cert", str(cert), "--tls-key", str(key))
    server = serve(*tls, "--public-master-url", public)
    assert server.url.startswith("https://127.0.0.1:")
    trusting = ssl.create_default_context(cafile=str(cert))
    assert health(server.url, verify=trusting)["status"] == "ok"
    node = server.node("alice@example.com", "home", "a")
    grant = node.login_now(server.url, verify=trusting)
    assert list(grant.control.urls) == [public]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_external_nats_with_the_exported_configuration(
    serve: Serve, tmp_path: Path, eventually: Eventually
) -> None:
    port = free_port()
    # Guardian comes first and says that it waits; the Master may come later.
    server = serve("--master", f"nats://127.0.0.1:{port}")
    assert health(server.url)["master"] == "failing"
    (tmp_path / "veilnet.conf").write_text(server.command("master", "export"))
    (tmp_path / "nats.conf").write_text(f"listen: 127.0.0.1:{port}\ninclude veilnet.conf\n")
    nats_server = subprocess.Popen(
        with_parent([find_binary(), "-c", "nats.conf"]),
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually(lambda: health(server.url).get("master") == "ok")
        assert server.stop() == 0
        assert "the Master does not answer" in server.process.stderr.read()
    finally:
        nats_server.kill()
        nats_server.wait()
