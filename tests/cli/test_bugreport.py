"""`bugreport` holds what helps and no secret, wherever secrets were left."""

from __future__ import annotations

import base64
import json
import tarfile
from pathlib import Path
from urllib.parse import quote

import nkeys
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conflux.checks.redact import HIDDEN, Redactor

SECRETS = {
    "saved": "vnc_SavedConfluxToken0123456789",
    "up": "vnc_UpConfluxToken0123456789",
    "attempt": "A" * 20 + "bc-_" + "D" * 19,
    "variable": "vnr_RegistrationFromVariable",
    "file": "short-but-secret",
    "plugin": "hunter2 with spaces & signs",
    "nested": "correct/horse+battery",
    "proxy": "proxyuser:proxypass",
    "pem": "MHcCAQEEIB8Dd1zAzQ",
    "jwt": "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.c2lnbmF0dXJl",
    "seed": nkeys.encode_seed(bytes(range(32)), nkeys.PREFIX_BYTE_USER).decode(),
    "bearer": "opaque.bearer.value",
    "assigned": "assigned-value-1",
    "argument": "argument-value-1",
    "key": base64.b64encode(bytes(range(32, 64))).decode(),
}
KNOWN = ("saved", "up", "attempt", "variable", "file", "plugin", "nested", "proxy")
"""Those that the configuration holds, and that are found without any word beside them."""
PUBLIC = "93.184.215.14"
PUBLIC6 = "2606:2800:21f:cb07:6820:80da:af6b:8b2c"
NODE_ID = "0123456789abcdef" * 4

LOG = f"""
login with Authorization: Bearer {SECRETS["bearer"]}
password={SECRETS["assigned"]} seed: {SECRETS["seed"]}
ExecStart=/usr/bin/node --proxy-password {SECRETS["argument"]} --token-file /etc/token
jwt {SECRETS["jwt"]} key {SECRETS["key"]}
-----BEGIN EC PRIVATE KEY-----
{SECRETS["pem"]}
-----END EC PRIVATE KEY-----
streams with {NODE_ID} over udp {PUBLIC}:4000 > [{PUBLIC6}]:5000, then {PUBLIC} from 10.99.0.2
again {SECRETS["saved"]} and {quote(SECRETS["plugin"])} {SECRETS["file"]} {SECRETS["nested"]}
"""


def planted(machine, monkeypatch) -> dict[str, str]:
    """Leave every secret somewhere; return the variables."""
    machine.save("conflux.json", guardian="http://127.0.0.1:1", conflux_token=SECRETS["saved"])
    machine.save("up.json", guardian="http://127.0.0.1:1", conflux_token=SECRETS["up"])
    (machine.folder / "registering").write_text(SECRETS["attempt"] + "\n")
    (machine.home / "token").write_text(SECRETS["file"] + "\n")
    toml = f"""
        [plugin.auth.x]
        anything = {json.dumps(SECRETS["plugin"])}
        inner = [{{ a = {json.dumps(SECRETS["nested"])} }}]
    """
    (machine.folder / "conflux.toml").write_text(toml)
    tools = machine.home / "tools"
    tools.mkdir()
    (tools / "log").write_text(LOG + json.dumps({name: SECRETS[name] for name in KNOWN}))
    for name in ("journalctl", "systemctl", "ip"):
        script = f"#!/bin/sh\nexec cat {tools}/log {machine.folder}/* 2>/dev/null\n"
        (tools / name).write_text(script)
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    return {
        "PATH": f"{tools}:/usr/bin:/bin",
        "VEILNET_REGISTRATION_TOKEN": SECRETS["variable"],
        "VEILNET_CONFLUX_TOKEN_FILE": str(machine.home / "token"),
        "HTTPS_PROXY": f"http://{SECRETS['proxy']}@192.0.2.9:8080",
        "no_proxy": "127.0.0.1",
    }


def parts(path: Path) -> dict[str, str]:
    with tarfile.open(path) as archive:
        return {
            member.name.removeprefix("veilnet-bugreport/"): archive.extractfile(member)
            .read()
            .decode()
            for member in archive.getmembers()
        }


def test_secrets_that_are_everywhere_are_nowhere_in_the_report(machine, monkeypatch):
    variables = planted(machine, monkeypatch)
    path = machine.home / "report.tar.gz"
    ended = machine.quick("bugreport", "--no-network", "-o", str(path), **variables)
    assert ended.code == 0, ended.err
    assert path.stat().st_mode & 0o777 == 0o600
    found = parts(path)
    whole = "\n".join(found.values()) + ended.out + ended.err
    for name, secret in SECRETS.items():
        encoded = base64.b64encode(secret.encode()).decode().rstrip("=")
        for form in (secret, quote(secret, safe=""), encoded):
            assert form not in whole, name
    assert "proxypass" not in whole
    assert PUBLIC not in whole
    assert PUBLIC6 not in whole
    assert NODE_ID in found["log.txt"]
    assert "10.99.0.2" in found["log.txt"]
    assert found["log.txt"].count("address-1") >= 2
    assert HIDDEN in found["log.txt"]


def test_what_helps_is_there(machine, monkeypatch):
    variables = planted(machine, monkeypatch)
    path = machine.home / "report.tar.gz"
    machine.quick("bugreport", "--no-network", "-o", str(path), **variables)
    found = parts(path)
    assert found.keys() == {
        "about.json", "environment.json", "node/status.json", "node/info.json", "settings.json",
        "mistakes.json", "plugins.json", "doctor.json", "log.txt", "system/addresses.txt",
        "system/routes.txt", "system/rules.txt", "system/service.txt",
    }  # fmt: skip
    assert "veilnet-conflux" in json.loads(found["about.json"])
    assert found["node/status.json"].startswith("no node runs at")
    settings = {each["key"]: each for each in json.loads(found["settings.json"])}
    assert settings["plugin.auth.x.anything"]["value"] == HIDDEN
    assert {each["check"] for each in json.loads(found["doctor.json"])} >= {"tun", "guardian"}


def test_existing_file_is_left_alone(machine):
    path = machine.home / "report.tar.gz"
    path.write_text("mine")
    ended = machine.quick("bugreport", "--no-network", "-o", str(path))
    ended.refused(2, f"{path} is there already: name another file with --output")
    assert path.read_text() == "mine"


def test_folder_that_is_not_there_is_named(machine):
    path = machine.home / "nowhere" / "report.tar.gz"
    ended = machine.quick("bugreport", "--no-network", "-o", str(path))
    ended.refused(2, f"{path} cannot be written: No such file or directory")


@pytest.mark.parametrize(
    "text",
    [
        "nothing to hide at 10.0.0.1, fd00::1, 127.0.0.1, ::1, 192.168.1.1/24",
        f"node {NODE_ID}",
        "2026-11-25T06:24:01Z version 1.2.3.4.5 of conflux-plugin-tether-webrtc",
        "tun_name = veilnet, mtu_bytes = 1500",
        "run --token-file /etc/veilnet/token --tun-name veilnet",
        "see `veilnet-conflux plugins list`, or /usr/lib/python3/dist-packages/conflux/cli/run.py",
    ],
)
def test_what_is_no_secret_stays(text):
    assert Redactor([]).clean(text) == text


@given(
    st.text(min_size=4, max_size=40).filter(lambda secret: secret.strip() and secret not in HIDDEN),
    st.text(max_size=40),
    st.text(max_size=40),
)
def test_known_secret_is_found_wherever_it_stands(secret, before, behind):
    cleaned = Redactor([secret]).clean(before + secret + behind)
    assert secret not in cleaned.replace(HIDDEN, "\0")


def test_each_public_address_has_one_word():
    redactor = Redactor([])
    assert redactor.clean("8.8.8.8 > 1.1.1.1") == "address-1 > address-2"
    assert redactor.clean("1.1.1.1:53 [2606:4700::1111]") == "address-2:53 [address-3]"
