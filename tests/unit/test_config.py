"""Flags win over variables, variables over the file, the file over defaults; mistakes are named."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from pathlib import Path

import pytest

from conflux.anchor.idle import IdleTimes
from conflux.anchor.quota import Relaying
from conflux.api import Kind, UsageError
from conflux.config import (
    MAX_IDLE_S,
    RELAY_KEYS,
    SETTINGS,
    Config,
    Origin,
    Setting,
    default_config_dir,
    load_config,
    survey,
)


def write(folder: Path, text: str) -> Path:
    (folder / "conflux.toml").write_text(text)
    return folder


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(UsageError) as caught:
        load_config(write(folder, text), {})
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(str(folder), "DIR")


def test_nothing_said_gives_the_defaults(tmp_path: Path) -> None:
    folder = tmp_path / "not made yet"
    assert load_config(folder, {}) == Config(config_dir=folder)
    assert not folder.exists()


def test_each_source_wins_over_the_one_below(tmp_path: Path) -> None:
    write(tmp_path, 'tun_name = "file"\n[plugins]\nrouter = "file"\n')
    variables = {"VEILNET_TUN": "variable", "VEILNET_PLUGIN_ROUTER": "variable"}
    flags: dict[str, object] = {"tun_name": "flag", "pins": {"router": "flag"}}
    cases: list[tuple[dict[str, str], dict[str, object], str]] = [
        ({}, {}, "file"),
        (variables, {}, "variable"),
        (variables, flags, "flag"),
        (variables, {"tun_name": None, "pins": None}, "variable"),
    ]
    for environ, given, expected in cases:
        config = load_config(tmp_path, environ, given)
        assert config.tun_name == expected
        assert config.pins == {Kind.ROUTER: (expected,)}


def test_several_tethers_can_be_pinned_in_order(tmp_path: Path) -> None:
    from_file = load_config(write(tmp_path, '[plugins]\ntether = ["udp", "webrtc"]\n'), {})
    assert from_file.pins == {Kind.TETHER: ("udp", "webrtc")}
    config = load_config(tmp_path, {"VEILNET_PLUGIN_TETHER": "webrtc, udp"})
    assert config.pins == {Kind.TETHER: ("webrtc", "udp")}
    assert config.pin(Kind.TETHER) == "webrtc"
    assert config.pin(Kind.ROUTER) is None


@pytest.mark.parametrize("value", ["[]", '["udp", 1]', '["udp", "udp"]', '"udp,"', "1"])
def test_tethers_that_are_no_names_are_refused(tmp_path: Path, value: str) -> None:
    assert "DIR/conflux.toml:2:1: " in refusal(tmp_path, f"[plugins]\ntether = {value}\n")


def test_of_other_kinds_only_one_driver_can_be_pinned(tmp_path: Path) -> None:
    assert "no driver name" in refusal(tmp_path, '[plugins]\nrouter = ["one", "two"]\n')


def test_every_option_can_come_from_the_file_and_from_a_variable(tmp_path: Path) -> None:
    from_file = load_config(
        write(
            tmp_path,
            'tun_name = "v0"\nmtu_bytes = 9000\nlog_format = "json"\npacket_auth = "strict"\n',
        ),
        {},
    )
    assert from_file.packet_auth == "strict"
    assert (from_file.tun_name, from_file.mtu_bytes, from_file.log_format) == ("v0", 9000, "json")
    environ = {
        "VEILNET_TUN": "v1",
        "VEILNET_MTU": "1280",
        "VEILNET_LOG_FORMAT": "text",
        "VEILNET_PACKET_AUTH": "handshake",
    }
    config = load_config(tmp_path, environ)
    assert config.packet_auth == "handshake"
    assert (config.tun_name, config.mtu_bytes, config.log_format) == ("v1", 1280, "text")


def test_idle_times_are_taken_as_the_protocol_names_them(tmp_path: Path) -> None:
    given = "[idle]\nstream_s = 1\nroute_s = 2.5\ntether_s = 2400\n"
    config = load_config(write(tmp_path, given), {})
    assert IdleTimes(**config.idle) == IdleTimes(stream_s=1, route_s=2.5, tether_s=2400)
    assert {field.name for field in fields(IdleTimes)} == MAX_IDLE_S.keys()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("stream_s = 0.5", "stream_s = 0.5 is no idle time: use 1 to 110 seconds"),
        ("stream_s = 111", "stream_s = 111 is no idle time: use 1 to 110 seconds"),
        ("stream_s = true", "stream_s = True is no idle time: use 1 to 110 seconds"),
        ('route_s = "60"', "route_s = '60' is no idle time: use 1 to 2400 seconds"),
        ("tether_s = nan", "tether_s = nan is no idle time: use 1 to 2400 seconds"),
        ("tether_s = inf", "tether_s = inf is no idle time: use 1 to 2400 seconds"),
        ("tehter_s = 9", "unknown key tehter_s in [idle]: did you mean tether_s?"),
    ],
)
def test_wrong_idle_time_is_named_with_its_place(tmp_path: Path, line: str, expected: str) -> None:
    assert refusal(tmp_path, f"# none\n[idle]\n{line}\n") == f"DIR/conflux.toml:3:1: {expected}"


def test_empty_variables_count_as_unset(tmp_path: Path) -> None:
    environ = {"VEILNET_TUN": "", "VEILNET_PLUGIN_ROUTER": "", "VEILNET_MTU": ""}
    assert load_config(tmp_path, environ) == Config(config_dir=tmp_path)


def test_each_driver_gets_its_own_table(tmp_path: Path) -> None:
    config = load_config(
        write(
            tmp_path,
            "[plugin.router.static]\ntolerance_s = 0.01\n"
            '[plugin.tether.webrtc]\nchannels = 4\nnested = {a = [1, "x"]}\n',
        ),
        {},
    )
    assert config.settings(Kind.ROUTER, "static") == {"tolerance_s": 0.01}
    assert config.settings(Kind.TETHER, "webrtc") == {"channels": 4, "nested": {"a": [1, "x"]}}
    assert config.settings(Kind.TETHER, "static") == {}
    assert config.settings(Kind.TUN, "linux") == {}


def test_plugin_settings_are_not_shown(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, '[plugin.auth.x]\npassword = "hunter2"\n'), {})
    assert "hunter2" not in repr(config)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'tun_name = "a"\ntun_name = \n',
            "DIR/conflux.toml:2:12: Invalid value",
        ),
        (
            'log_format = "text"\n  tun_nam = "a"\n',
            "DIR/conflux.toml:2:3: unknown key tun_nam: did you mean tun_name?",
        ),
        (
            '[plugins]\nrouter = "static"\nroutr = "static"\n',
            "DIR/conflux.toml:3:1: unknown key routr in [plugins]: did you mean router?",
        ),
        (
            "[plugin.teter.webrtc]\nx = 1\n",
            "DIR/conflux.toml:1:9: unknown key teter in [plugin]: did you mean tether?",
        ),
        (
            "[plgins]\n",
            "DIR/conflux.toml:1:2: unknown key plgins: did you mean plugins?",
        ),
        (
            "mtu_bytes = 100\n",
            "DIR/conflux.toml:1:1: 100 is no MTU: use 1280 to 65492 bytes",
        ),
        (
            "mtu_bytes = true\n",
            "DIR/conflux.toml:1:1: True is no MTU: use 1280 to 65492 bytes",
        ),
        (
            'tun_name = "not/a/name"\n',
            (
                "DIR/conflux.toml:1:1: 'not/a/name' is no interface name: "
                "use 1 to 15 letters, digits, - . or _"
            ),
        ),
        (
            'packet_auth = "lax"\n',
            (
                "DIR/conflux.toml:1:1: 'lax' is no level of packet authentication: "
                "use handshake, checkpoint or strict"
            ),
        ),
        (
            'log_format = "xml"\n',
            "DIR/conflux.toml:1:1: 'xml' is no log format: use text or json",
        ),
        (
            "[plugins]\nrouter = 3\n",
            "DIR/conflux.toml:2:1: 3 is no driver name: see `veilnet-conflux plugins list`",
        ),
        ("plugins = 3\n", "DIR/conflux.toml:1:1: plugins must be a table, [plugins]"),
        (
            "[plugin.router]\nstatic = 3\n",
            "DIR/conflux.toml:2:1: plugin.router.static must be a table, [plugin.router.static]",
        ),
    ],
)
def test_mistakes_in_the_file_say_where_and_what(tmp_path: Path, text: str, message: str) -> None:
    assert refusal(tmp_path, text) == message


def test_file_that_is_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a = " + "[" * 2_000)
    with pytest.raises(UsageError, match="nested too deeply"):
        load_config(tmp_path, {})


def test_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "conflux.toml").write_bytes(b'tun_name = "\xff"\n')
    with pytest.raises(UsageError, match="not UTF-8 at byte 12"):
        load_config(tmp_path, {})


def test_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "conflux.toml").mkdir()
    with pytest.raises(UsageError, match=r"conflux\.toml cannot be read: Is a directory"):
        load_config(tmp_path, {})


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"VEILNET_MTU": "big"}, "VEILNET_MTU: 'big' is no MTU: use 1280 to 65492 bytes"),
        (
            {"VEILNET_PLUGIN_ROUTR": "x"},
            "unknown variable VEILNET_PLUGIN_ROUTR: did you mean VEILNET_PLUGIN_ROUTER?",
        ),
        (
            {"VEILNET_PLUGIN_TUN": "../x"},
            "VEILNET_PLUGIN_TUN: '../x' is no driver name: see `veilnet-conflux plugins list`",
        ),
    ],
)
def test_mistakes_in_variables_say_which(
    tmp_path: Path, environ: dict[str, str], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        load_config(tmp_path, environ)
    assert str(caught.value) == message


def test_folder_comes_from_flag_then_variable_then_system(tmp_path: Path) -> None:
    environ = {"VEILNET_CONFIG_DIR": str(tmp_path / "variable"), "HOME": "/root"}
    assert load_config(tmp_path, environ).config_dir == tmp_path
    assert load_config(None, environ).config_dir == tmp_path / "variable"


@pytest.mark.parametrize(
    ("platform", "environ", "folder"),
    [
        ("linux", {"HOME": "/root"}, "/root/.config/conflux"),
        ("linux", {"HOME": "/root", "XDG_CONFIG_HOME": "/etc/xdg"}, "/etc/xdg/conflux"),
        ("darwin", {"HOME": "/var/root"}, "/var/root/Library/Application Support/conflux"),
        ("win32", {"HOME": "C:/u", "APPDATA": "C:/u/Roaming"}, "C:/u/Roaming/conflux"),
    ],
)  # fmt: skip
def test_folder_is_where_the_system_keeps_such_things(
    platform: str, environ: dict[str, str], folder: str
) -> None:
    assert default_config_dir(platform, environ) == Path(folder)


def test_mistakes_in_flags_say_which(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^--tun-name: 'a b' is no interface name"):
        load_config(tmp_path, {}, {"tun_name": "a b"})
    with pytest.raises(TypeError, match="no such flags: tun"):
        load_config(tmp_path, {}, {"tun": "a"})


def test_what_a_node_does_for_others_is_taken_as_the_protocol_names_it(tmp_path: Path) -> None:
    given = "[relay]\nenabled = false\nmbit = 500\nneighbour_mbit = 2.5\n"
    config = load_config(write(tmp_path, given), {})
    assert Relaying(**config.relay) == Relaying(enabled=False, mbit=500, neighbour_mbit=2.5)
    assert Relaying(**load_config(tmp_path / "none", {}).relay) == Relaying()
    assert {field.name for field in fields(Relaying)} == set(RELAY_KEYS)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("enabled = 0", "enabled = 0: use true or false"),
        ("mbit = 0", "mbit = 0 is no rate: use 1 to 1000000 Mbit/s, or leave it out for no limit"),
        (
            "mbit = inf",
            "mbit = inf is no rate: use 1 to 1000000 Mbit/s, or leave it out for no limit",
        ),
        ("mbits = 9", "unknown key mbits in [relay]: did you mean mbit?"),
    ],
)
def test_wrong_setting_of_a_relay_is_named_with_its_place(
    tmp_path: Path, line: str, expected: str
) -> None:
    assert refusal(tmp_path, f"# none\n[relay]\n{line}\n") == f"DIR/conflux.toml:3:1: {expected}"


def test_every_setting_has_a_default_that_the_protocol_has_too() -> None:
    idle, relaying, config = IdleTimes(), Relaying(), Config(config_dir=Path("/"))
    for setting in SETTINGS:
        where: object = {"": config, "idle": idle, "relay": relaying}[setting.table]
        expected = getattr(where, setting.name)
        assert setting.default == (None if expected == math.inf else expected), setting.key


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.key)
def test_every_setting_says_who_said_it(tmp_path: Path, setting: Setting) -> None:
    spoken = {
        "tun_name": ("file", "variable"),
        "mtu_bytes": (1400, "1300"),
        "log_format": ("json", "text"),
        "packet_auth": ("strict", "handshake"),
        "awake_us": (150, "60"),
        "relay.enabled": (False, "true"),
    }
    in_file, in_variable = spoken.get(setting.key, (7.5, "2.5"))
    head = f"[{setting.table}]" if setting.table else "# none"
    write(tmp_path, f"{head}\n  {setting.name} = {json.dumps(in_file)}\n")
    config = load_config(tmp_path, {})
    assert config.value(setting) == in_file
    assert config.origins[setting.key] == Origin("file", f"{tmp_path}/conflux.toml:2:3")
    config = load_config(tmp_path, {setting.variable: in_variable})
    assert str(config.value(setting)).lower() == in_variable
    assert config.origins[setting.key] == Origin("variable", setting.variable)
    assert setting.key not in load_config(tmp_path / "none", {}).origins


def test_one_mistake_does_not_hide_the_next(tmp_path: Path) -> None:
    write(tmp_path, "mtu_bytes = 1\nx = 1\n[idle]\nstream_s = 0\n[plugins]\ntun = 1\n")
    config, faults = survey(tmp_path, {"VEILNET_LOG_FORMAT": "xml", "VEILNET_TUN": "good"})
    places = [
        str(fault).removeprefix(f"{tmp_path}/conflux.toml").split(": ")[0] for fault in faults
    ]
    assert places == [":2:1", ":1:1", ":4:1", ":6:1", "VEILNET_LOG_FORMAT"]
    assert config.tun_name == "good"


@pytest.mark.parametrize("value", ["0", "x", "111", "true", "nan"])
def test_wrong_numbers_in_variables_are_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(UsageError, match=r"^VEILNET_IDLE_STREAM_S: stream_s = .* is no idle time"):
        load_config(tmp_path, {"VEILNET_IDLE_STREAM_S": value})
