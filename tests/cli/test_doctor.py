"""`doctor` names what is wrong with a machine, and how to mend it."""

from __future__ import annotations

import json
import os
import socket

NOBODY = "http://127.0.0.1:1"


def found(machine, **variables) -> dict[str, list[dict[str, str]]]:
    """What it finds, by check; that nobody is Guardian here is left out."""
    ended = machine.quick("doctor", "--json", VEILNET_GUARDIAN=NOBODY, **variables)
    findings = json.loads(ended.out)
    assert all(f["do"] for f in findings if f["verdict"] in ("warn", "fail"))
    failed = any(f["verdict"] == "fail" for f in findings)
    assert ended.code == (1 if failed else 0)
    by_check: dict[str, list[dict[str, str]]] = {}
    for finding in findings:
        by_check.setdefault(finding["check"], []).append(finding)
    return by_check


def only(findings: list[dict[str, str]], verdict: str) -> dict[str, str]:
    [finding] = findings
    assert finding["verdict"] == verdict, finding
    return finding


def test_good_machine_has_every_driver(machine):
    by_check = found(machine)
    assert only(by_check["tun"], "ok")["what"] == "memory"
    assert only(by_check["tether"], "ok")["what"] == "udp, webrtc"
    for check in ("plugins", "configuration", "files", "dns", "other nodes"):
        only(by_check[check], "ok")
    assert only(by_check["guardian"], "fail")["do"] == "check the address and that it runs"


def test_each_line_stands_for_itself_in_text(machine):
    ended = machine.quick("doctor", VEILNET_GUARDIAN=NOBODY)
    assert ended.code == 1
    lines = ended.out.splitlines()
    at = lines.index(f"fail  guardian      Guardian at {NOBODY} does not answer")
    assert lines[at + 1].strip() == "check the address and that it runs"


def test_broken_plugin_is_named(machine):
    (machine.home / "plugins" / "memory_tun.py").write_text("import nosuch\n")
    by_check = found(machine)
    finding = only(by_check["plugins"], "fail")
    assert "memory_tun" in finding["what"]
    assert "No module named 'nosuch'" in finding["what"]
    assert "plugins list -v" in finding["do"]
    assert only(by_check["tun"], "fail")["what"].startswith("there is no tun driver memory")


def test_every_mistake_of_the_configuration_is_a_finding(machine):
    machine.save("conflux.json", guardian="https://g.example", conflux_token="t")
    (machine.folder / "conflux.json").chmod(0o640)
    (machine.folder / "conflux.toml").write_text("mtu_bytes = 1\nx = 2\n")
    whats = [finding["what"] for finding in found(machine)["configuration"]]
    assert len(whats) == 3
    assert f"{machine.folder}/conflux.toml:1:1: 1 is no MTU" in whats[1]
    assert "(mode 0640)" in whats[2]


def test_corrupt_registration_is_a_finding_and_hides_nothing(machine):
    machine.folder.mkdir(mode=0o700)
    (machine.folder / "conflux.json").write_text("{")
    by_check = found(machine)
    assert "is corrupt" in by_check["configuration"][0]["what"]
    assert "guardian" in by_check


def test_folder_that_cannot_be_written_is_a_finding(machine, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "cannot be written" in only(found(machine)["files"], "fail")["what"]


def test_interface_of_the_same_name_is_a_finding(machine):
    name = socket.if_nameindex()[0][1]
    finding = only(found(machine, VEILNET_TUN=name)["other nodes"], "fail")
    assert finding["what"].startswith(f"interface {name} is in use")


def test_name_without_an_address_is_a_finding(machine, monkeypatch):
    def nowhere(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    ended = machine.quick("doctor", "--json", VEILNET_GUARDIAN="https://guardian.invalid")
    findings = {finding["check"]: finding for finding in json.loads(ended.out)}
    assert findings["dns"]["verdict"] == "fail"
    assert findings["dns"]["what"].startswith("guardian.invalid has no address")
