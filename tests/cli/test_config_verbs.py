"""`config show` and `config check`: what holds, who said so, and what is wrong with it."""

from __future__ import annotations

import json

import pytest


def shown(machine, **variables) -> dict[str, tuple[object, str, str]]:
    ended = machine.quick("config", "show", "--json", **variables)
    assert ended.code == 0, ended.err
    return {
        line["key"]: (line["value"], line["source"], line["place"])
        for line in json.loads(ended.out)
    }


def test_each_value_says_where_it_comes_from(machine):
    machine.save("conflux.json", guardian="https://g.example", conflux_token="t0ken", tag="x")
    toml = machine.folder / "conflux.toml"
    toml.write_text("mtu_bytes = 1400\n[relay]\nmbit = 5\n[plugin.tether.udp]\nport = 4\n")
    found = shown(machine, VEILNET_MTU="1300", VEILNET_GUARDIAN="https://v.example")
    assert found["config_dir"] == (str(machine.folder), "variable", "VEILNET_CONFIG_DIR")
    assert found["guardian"] == ("https://v.example", "variable", "VEILNET_GUARDIAN")
    assert found["tag"] == ("x", "file", f"{machine.folder}/conflux.json:1")
    assert found["mtu_bytes"] == (1300, "variable", "VEILNET_MTU")
    assert found["relay.mbit"] == (5, "file", f"{toml}:3:1")
    assert found["plugin.tether.udp.port"] == (4, "file", f"{toml}:5:1")
    assert found["plugins.tun"] == ("memory", "variable", "VEILNET_PLUGIN_TUN")
    assert found["tun_name"] == ("veilnet", "default", "")


def test_lines_of_saved_files_are_told(machine):
    machine.folder.mkdir(mode=0o700)
    table = {"guardian": "https://g.example", "conflux_token": "t", "tag": "x"}
    (machine.folder / "up.json").write_text(json.dumps(table, indent=2))
    assert shown(machine)["tag"] == ("x", "file", f"{machine.folder}/up.json:4")


def test_secrets_are_hidden(machine):
    machine.save("conflux.json", guardian="https://u:hunter2@g.example", conflux_token="hunter2")
    (machine.folder / "conflux.toml").write_text(
        '[plugin.auth.x]\npassword = "hunter2"\nmore = ["hunter2", {a = "hunter2"}]\n'
    )
    for variables in ({}, {"VEILNET_CONFLUX_TOKEN": "hunter2"}):
        for words in ((), ("--json",)):
            ended = machine.quick("config", "show", *words, **variables)
            assert ended.code == 0
            assert "(hidden)" in ended.out
            assert "hunter2" not in ended.out + ended.err


def test_flag_is_named_as_such(machine):
    ended = machine.quick("config", "show", "--config-dir", str(machine.home / "other"))
    assert ended.out.splitlines()[1].split()[-2:] == [str(machine.home / "other"), "--config-dir"]


def test_good_configuration_is_said_to_be_in_order(machine):
    machine.save("conflux.json", guardian="https://g.example", conflux_token="t")
    (machine.folder / "conflux.toml").write_text("[plugin.tether.udp]\nport = 4\n")
    ended = machine.quick("config", "check")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == f"{machine.folder} is in order\n"


def test_mark_that_editors_of_windows_write_first_is_no_mistake(machine):
    machine.save("conflux.json", guardian="https://g.example", conflux_token="t")
    for path in (machine.folder / "conflux.json", machine.folder / "conflux.toml"):
        text = path.read_text() if path.exists() else "mtu_bytes = 1400\r\n"
        path.write_text(text, encoding="utf-8-sig")
    ended = machine.quick("config", "check")
    assert (ended.code, ended.err) == (0, "")
    assert shown(machine)["mtu_bytes"] == (1400, "file", f"{machine.folder}/conflux.toml:1:1")


@pytest.mark.parametrize(
    ("variable", "digits"),
    [("VEILNET_MTU", 5_000), ("VEILNET_IDLE_STREAM_S", 400), ("VEILNET_RELAY_MBIT", 400)],
)
def test_number_that_is_far_too_large_is_refused(machine, variable, digits):
    ended = machine.quick("config", "check", **{variable: "9" * digits})
    ended.refused(2, f"{variable}: .*9+'? is no .*")


@pytest.mark.parametrize(
    ("toml", "line"),
    [
        ("mtu_byts = 1", "DIR/conflux.toml:1:1: unknown key mtu_byts: did you mean mtu_bytes?"),
        (
            "[plugin.tether.udp]\n prot = 4",
            ("DIR/conflux.toml:2:2: conflux.toml, [plugin.tether.udp]: no setting 'prot', there "
            "are only port and allow_loopback"),
        ),
        (
            "[plugin.tether.upd]\nport = 4",
            "DIR/conflux.toml:1:16: no tether driver upd is installed: did you mean udp?",
        ),
        (
            '[plugins]\nrouter = "statik"',
            ("DIR/conflux.toml:2:1: there is no router driver statik: did you mean static? "
            "(installed: static)"),
        ),
    ],
)  # fmt: skip
def test_mistake_is_named_with_its_place(machine, toml, line):
    machine.folder.mkdir(mode=0o700)
    (machine.folder / "conflux.toml").write_text(toml)
    ended = machine.quick("config", "check")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.replace(str(machine.folder), "DIR") == f"veilnet-conflux: {line}\n"


def test_misspelt_variable_is_found(machine):
    ended = machine.quick("config", "check", VEILNET_GUARDAIN="https://g.example")
    ended.refused(2, r"unknown variable VEILNET_GUARDAIN: did you mean VEILNET_GUARDIAN\?")


def test_token_that_others_can_read_is_found(machine):
    machine.save("conflux.json", guardian="https://g.example", conflux_token="t")
    path = machine.folder / "conflux.json"
    path.chmod(0o644)
    ended = machine.quick("config", "check")
    ended.refused(2, rf"{path} is open to others \(mode 0644\): run `chmod 600 {path}`")
