"""Other user-space overlays, each with its own defaults, between two hosts that know each other.

None of them is tuned, neither by size of packets nor by cipher. Keys are made for each start.
"""

from __future__ import annotations

import base64
import datetime as dt
import os
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.hazmat.primitives.serialization import PublicFormat as Public
from cryptography.x509.oid import NameOID

from benches.compare import programs
from benches.compare.products import Tunnel, await_device, await_sign, await_words, start_program
from benches.compare.worlds import Host, Underlay
from conflux.lab import Process

NEAR, FAR = ADDRESSES = ("10.88.0.1", "10.88.0.2")


def _ends(underlay: Underlay) -> Iterator[tuple[int, Host, Host]]:
    """(0, near, far) and (1, far, near)."""
    yield 0, underlay.near, underlay.far
    yield 1, underlay.far, underlay.near


def _bring_up(host: Host, device: str, number: int, *options: str) -> None:
    host.place.run(["ip", "address", "add", f"{ADDRESSES[number]}/24", "dev", device])
    host.place.run(["ip", "link", "set", device, *options, "up"])


class WireguardGo:
    """WireGuard in user space; of the system is taken `wg`, which configures it."""

    name = "wireguard-go"
    label = "wireguard-go"

    def prepare(self) -> str:
        self._daemon = programs.find("wireguard-go", "wireguard-go", trixie=True)
        self._tool = programs.find("wg", "wireguard-tools")
        return self._daemon.version

    def start(self, underlay: Underlay, folder: Path) -> Tunnel:
        keys = [X25519PrivateKey.generate() for _ in ADDRESSES]
        nodes = []
        for number, here, there in _ends(underlay):
            # Hosts of one world share /run, where the device's socket lies by its name.
            device, log = f"wg{number}", folder / f"wireguard{number}.log"
            env = {**self._daemon.env, "LOG_LEVEL": "error"}
            nodes.append(start_program(here, [self._daemon.path, "-f", device], log, env))
            settings = folder / f"{device}.conf"
            settings.write_text(
                f"[Interface]\nListenPort = 51820\nPrivateKey = {_private(keys[number])}\n"
                f"[Peer]\nPublicKey = {_public(keys[1 - number])}\n"
                f"Endpoint = {there.address}:51820\nAllowedIPs = {ADDRESSES[1 - number]}/32\n"
            )
            self._configure(here, device, settings, nodes[-1], log)
            _bring_up(here, device, number, "mtu", "1420")  # as wg-quick(8) has it
        return Tunnel(NEAR, FAR, nodes)

    def _configure(
        self, host: Host, device: str, settings: Path, process: Process, log: Path
    ) -> None:
        argv = [self._tool.path, "setconf", device, str(settings)]

        def is_set() -> bool:
            return host.place.run(argv, check=False, env=self._tool.env).returncode == 0

        await_sign(is_set, f"wg setconf {device}", process, log)


def _private(key: X25519PrivateKey) -> str:
    return base64.b64encode(key.private_bytes_raw()).decode()


def _public(key: X25519PrivateKey) -> str:
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()


class Nebula:
    """Both ends in each other's static host map: no lighthouse is asked."""

    name = "nebula"
    label = "nebula"

    def prepare(self) -> str:
        self._daemon = programs.find("nebula", "nebula", trixie=True)
        self._cert = programs.find("nebula-cert", "nebula", trixie=True)
        return self._daemon.version

    def start(self, underlay: Underlay, folder: Path) -> Tunnel:
        def cert(*words: str) -> None:
            underlay.near.place.run([self._cert.path, *words], cwd=folder, env=self._cert.env)

        cert("ca", "-name", "bench", "-duration", "24h")
        nodes = []
        for number, here, there in _ends(underlay):
            cert("sign", "-name", f"n{number}", "-ip", f"{ADDRESSES[number]}/24")
            log, settings = folder / f"nebula{number}.log", folder / f"n{number}.yml"
            settings.write_text(f"""\
pki: {{ca: {folder}/ca.crt, cert: {folder}/n{number}.crt, key: {folder}/n{number}.key}}
static_host_map: {{"{ADDRESSES[1 - number]}": ["{there.address}:4242"]}}
lighthouse: {{am_lighthouse: false}}
listen: {{host: 0.0.0.0, port: 4242}}
tun: {{dev: nebula0}}
firewall:
  outbound: [{{port: any, proto: any, host: any}}]
  inbound: [{{port: any, proto: any, host: any}}]
""")
            argv = [self._daemon.path, "-config", str(settings)]
            nodes.append(start_program(here, argv, log, self._daemon.env))
            await_device(here, "nebula0", nodes[-1], log)
        return Tunnel(NEAR, FAR, nodes)


class Tinc:
    """Routing mode; the near end dials."""

    name = "tinc"
    label = "tinc"

    def prepare(self) -> str:
        self._daemon = programs.find("tincd", "tinc")
        return self._daemon.version

    def start(self, underlay: Underlay, folder: Path) -> Tunnel:
        keys = [rsa.generate_private_key(65_537, 2_048) for _ in ADDRESSES]
        nodes = []
        for number, here, _ in _ends(underlay):
            conf = folder / f"tinc{number}"
            (conf / "hosts").mkdir(parents=True)
            dials = "" if number else "ConnectTo = n1\n"
            (conf / "tinc.conf").write_text(f"Name = n{number}\nInterface = tinc0\n{dials}")
            private = (Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
            (conf / "rsa_key.priv").write_bytes(keys[number].private_bytes(*private))
            (conf / "rsa_key.priv").chmod(0o600)
            for i, host in enumerate((underlay.near, underlay.far)):
                public = keys[i].public_key().public_bytes(Encoding.PEM, Public.PKCS1).decode()
                (conf / "hosts" / f"n{i}").write_text(
                    f"Address = {host.address}\nSubnet = {ADDRESSES[i]}/32\n{public}"
                )
            log = folder / f"tinc{number}.log"
            argv = [self._daemon.path, "-c", str(conf), "-D", f"--pidfile={conf}/pid", "-d2"]
            nodes.append(start_program(here, argv, log, self._daemon.env))
            await_words("Ready", nodes[-1], log)
            _bring_up(here, "tinc0", number)
        await_words("activated", nodes[0], folder / "tinc0.log")
        return Tunnel(NEAR, FAR, nodes)


class Openvpn:
    """TLS over UDP between two ends that know each other's certificate; not the kernel's DCO."""

    name = "openvpn"
    label = "openvpn (UDP)"

    def prepare(self) -> str:
        self._daemon = programs.find("openvpn", "openvpn")
        return self._daemon.version

    def start(self, underlay: Underlay, folder: Path) -> Tunnel:
        prints = [_self_signed(folder / f"openvpn{number}") for number in (0, 1)]
        nodes, logs = [], []
        for number, here, there in _ends(underlay):
            log = folder / f"openvpn{number}.log"
            argv = [
                *(self._daemon.path, "--dev", "ovpn0", "--dev-type", "tun", "--proto", "udp"),
                *("--local", here.address, "--remote", there.address, "--disable-dco"),
                *("--ifconfig", ADDRESSES[number], ADDRESSES[1 - number]),
                *(["--tls-client"] if number else ["--tls-server", "--dh", "none"]),
                *("--cert", str(folder / f"openvpn{number}.crt")),
                *("--key", str(folder / f"openvpn{number}.key")),
                *("--peer-fingerprint", prints[1 - number]),
            ]
            nodes.append(start_program(here, argv, log, self._daemon.env))
            logs.append(log)
        for node, log in zip(nodes, logs, strict=True):
            await_words("Initialization Sequence Completed", node, log)
        return Tunnel(NEAR, FAR, nodes)


def _self_signed(path: Path) -> str:
    """Write *path*.key and *path*.crt; return the certificate's SHA-256 as openvpn writes it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, path.name)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.with_suffix(".key").write_bytes(private)
    path.with_suffix(".key").chmod(0o600)
    path.with_suffix(".crt").write_bytes(certificate.public_bytes(Encoding.PEM))
    return certificate.fingerprint(hashes.SHA256()).hex(":").upper()


class N2n:
    """Two edges that find each other by a supernode, which runs on the near host."""

    name = "n2n"
    label = "n2n"
    PORT = 7_654

    def prepare(self) -> str:
        self._edge = programs.find("edge", "n2n")
        self._supernode = programs.find("supernode", "n2n")
        return self._edge.version

    def start(self, underlay: Underlay, folder: Path) -> Tunnel:
        middle, log = underlay.middle, folder / "supernode.log"
        argv = [self._supernode.path, "-l", str(self.PORT)]
        helper = start_program(middle, argv, log, self._supernode.env)
        secret = os.urandom(16).hex()
        nodes = []
        for number, here, _ in _ends(underlay):
            log = folder / f"edge{number}.log"
            argv = [
                *(self._edge.path, "-d", "n2n0", "-a", ADDRESSES[number], "-c", "bench"),
                *("-l", f"{middle.address}:{self.PORT}"),
            ]
            # By its variable: arguments are seen by everyone.
            env = {**self._edge.env, "N2N_KEY": secret}
            nodes.append(start_program(here, argv, log, env))
            await_device(here, "n2n0", nodes[-1], log)
        return Tunnel(NEAR, FAR, nodes, [helper])
