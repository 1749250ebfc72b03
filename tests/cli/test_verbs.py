"""What each verb does when all is well, on a machine whose TUN is in memory."""

from __future__ import annotations

import json
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from conflux.api import UsageError
from conflux.cli import main
from conflux.cli.options import DEFAULT_GUARDIAN
from conflux.cli.verbs import VERBS as LISTED
from conflux.runtime import saved

SEED_OPTIONS = [
    # verb, option, variable: of the product as its users know it
    ("register", "-t", "VEILNET_REGISTRATION_TOKEN"),
    ("register", "--token", "VEILNET_REGISTRATION_TOKEN"),
    ("up", "-t", "VEILNET_CONFLUX_TOKEN"),
    ("up", "--token", "VEILNET_CONFLUX_TOKEN"),
    ("register", "--tag", "VEILNET_CONFLUX_TAG"),
    ("register", "--cidr", "VEILNET_CONFLUX_CIDR"),
    ("register", "--teams", "VEILNET_CONFLUX_TEAMS"),
    *(
        (verb, option, variable)
        for verb in ("register", "up")
        for option, variable in (
            ("-g", "VEILNET_GUARDIAN"),
            ("--guardian", "VEILNET_GUARDIAN"),
            ("-p", "VEILNET_PORTAL"),
            ("--portal", "VEILNET_PORTAL"),
            ("-d", None),
            ("--foreground", None),
        )
    ),
    *((v, "--config-dir", "VEILNET_CONFIG_DIR") for v in (
        "register", "unregister", "up", "down", "run", "status", "info"
    )),
    *((verb, "--tun-name", "VEILNET_TUN") for verb in ("register", "up", "run")),
    *((verb, "--log-format", "VEILNET_LOG_FORMAT") for verb in ("register", "up", "run")),
    *((verb, "--json", None) for verb in ("status", "info")),
]  # fmt: skip

VERBS = (
    "register", "unregister", "up", "down", "run", "start", "stop", "restart",
    "remove", "status", "info", "config", "netcheck",
    "doctor", "bugreport", "ping", "plugins", "completion", "demo",
)  # fmt: skip

HEAVY = {
    "aiortc", "aioice", "nats", "httpx", "pyroute2", "cryptography", "asyncio", "ssl",
    "stevedore", "importlib.metadata", "email.message", "pluggy", "rich",
}  # fmt: skip


def modules_of(machine, words: list[str], **variables: str) -> set[str]:
    """What the program has imported when it ends, typed with *words*."""
    script = (
        "import atexit, sys; from conflux.__main__ import main; sys.argv[0] = 'veilnet-conflux';"
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr)); main()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, *words],
        env=machine.environment(variables), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ended.stdout
    return set(ended.stderr.split())


class TestHelp:
    @pytest.mark.parametrize(("verb", "option", "variable"), SEED_OPTIONS)
    def test_options_and_variables_that_users_know_are_there(self, verb, option, variable):
        [found] = [p for p in main.commands[verb].params if option in p.opts]
        assert found.envvar == variable

    def test_guardian_of_the_product_is_the_default(self):
        assert DEFAULT_GUARDIAN == "https://guardian.veilnet.app"
        for verb in ("register", "up"):
            context = click.Context(main.commands[verb])
            assert DEFAULT_GUARDIAN in main.commands[verb].get_help(context)

    @pytest.mark.parametrize("verb", VERBS)
    def test_every_verb_and_option_explains_itself(self, verb):
        command = main.commands[verb]
        assert command.help
        unexplained = [p.opts for p in command.params if isinstance(p, click.Option) and not p.help]
        assert unexplained == []

    def test_there_are_no_other_verbs(self):
        assert set(main.commands) == set(VERBS)

    @pytest.mark.parametrize("words", [["--help"], ["-h"], ["register", "--help"], ["run", "-h"]])
    def test_help_is_printed(self, machine, words):
        ended = machine.cli(*words)
        assert (ended.code, ended.err) == (0, "")
        assert ended.out.startswith("Usage: ")

    @pytest.mark.parametrize("words", [["--help"], ["--version"]])
    def test_help_imports_none_of_what_a_node_needs(self, machine, words):
        found = modules_of(machine, words)
        ours = {name for name in found if name.startswith("conflux")}
        assert ours == {"conflux", "conflux.__main__", "conflux.cli", "conflux.cli.verbs"}
        assert HEAVY.isdisjoint(found), HEAVY & found

    def test_help_of_a_verb_imports_that_one(self, machine):
        found = modules_of(machine, ["ping", "--help"])
        assert "conflux.cli.ping" in found
        assert {"conflux.cli.up", "conflux.runtime.node", "stevedore", "asyncio"}.isdisjoint(found)

    def test_completion_imports_what_it_completes(self, machine):
        variables = {
            "_VEILNET_CONFLUX_COMPLETE": "bash_complete",
            "COMP_WORDS": "veilnet-conflux netch",
            "COMP_CWORD": "1",
        }
        found = modules_of(machine, [], **variables)
        assert {"click.shell_completion", "conflux.cli.netcheck"} <= found
        assert (HEAVY - {"pluggy"}).isdisjoint(found)

    @pytest.mark.parametrize("verb", VERBS)
    def test_list_of_verbs_says_what_their_own_help_says(self, verb):
        words = " ".join(main.commands[verb].help.split())
        assert words.startswith(LISTED[verb])
        assert LISTED[verb].endswith(".")

    def test_version_is_printed(self, machine):
        assert machine.cli("--version").out.startswith("veilnet-conflux, version ")


class TestRegistered:
    def test_register_saves_and_runs_until_told_to_end(self, machine, guardian):
        variables = {
            "VEILNET_REGISTRATION_TOKEN": guardian.tokens["good"],
            "VEILNET_GUARDIAN": guardian.url,
            "VEILNET_CONFLUX_TAG": "london",
            "VEILNET_CONFLUX_CIDR": "10.99.0.77/24",
        }
        with machine.node("register", "-d", **variables) as node:
            kept = machine.saved()
            assert kept["tag"] == "london"
            assert kept["address"] == "10.99.0.77/24"
            assert kept["guardian"] == guardian.url
            assert (machine.folder / "conflux.json").stat().st_mode & 0o777 == 0o600
            assert machine.folder.stat().st_mode & 0o777 == 0o700
            before = machine.snapshot()

            info = json.loads(machine.cli("info", "--json").out)
            assert {"id", "tag", "node_id", "address", "plane", "guardian"} <= info.keys()
            assert (info["id"], info["tag"]) == (kept["conflux_id"], "london")
            assert (info["address"], info["plane"]) == ("10.99.0.77/24", "home")
            assert len(bytes.fromhex(info["node_id"])) == 32

            status = json.loads(machine.cli("status", "--json").out)
            promised = {"state", "peers", "packet_auth", "cipher_suite", "plugins"}
            assert promised <= status.keys()
            assert (status["state"], status["packet_auth"]) == ("running", "checkpoint")
            assert status["hardening"].keys() == {"core_dumps", "memory_locked", "missing"}
            assert status["hardening"]["core_dumps"] is False
            assert status["plugins"] == {
                "tun": "memory", "tether": "udp, webrtc", "crypto": "openssl",
                "router": "static", "auth": "guardian", "control": "nats",
            }  # fmt: skip

            again = machine.cli("run")
            again.refused(2, "a node is running already on .*--config-dir")
            assert machine.snapshot() == before
        ended = node.finish()
        assert ended.code == 0, ended.err
        assert ended.out == "registered london as 10.99.0.77/24\n"
        assert kept["conflux_token"] not in ended.out + ended.err
        assert guardian.tokens["good"] not in ended.out + ended.err
        assert machine.snapshot() == before
        assert not (machine.folder / "api.sock").exists()

        # The level of an option counts, not that of a variable.
        with machine.node("run", "--packet-auth=strict", VEILNET_PACKET_AUTH="handshake") as node:
            assert json.loads(machine.cli("status", "--json").out)["packet_auth"] == "strict"
        assert node.finish().code == 0

        with machine.node("run", VEILNET_PACKET_AUTH="handshake") as node:
            assert json.loads(machine.cli("status", "--json").out)["packet_auth"] == "handshake"
            assert json.loads(machine.cli("info", "--json").out)["id"] == kept["conflux_id"]
            ended = machine.cli("unregister")
            assert (ended.code, ended.out) == (0, "unregistered london\n")
            assert node.finish().code == 0
        assert machine.snapshot() == {}
        assert "london" not in guardian.known()

    def test_unknown_team_is_ignored_with_a_warning(self, machine, guardian):
        words = ["register", "-d", "-t", guardian.tokens["good"], "-g", guardian.url]
        with machine.node(*words, "--teams", "nosuch, ,other", "--tag", "teamless") as node:
            assert machine.saved()["tag"] == "teamless"
        ended = node.finish()
        assert ended.code == 0
        [warning] = [line for line in ended.lines if line.startswith("warning: ")]
        assert warning == "warning: not a member of these teams, ignored: nosuch, other"

    def test_variables_win_over_what_is_saved(self, machine, guardian):
        token = guardian.conflux_token("variable")
        machine.save("conflux.json", guardian="http://127.0.0.1:1", conflux_token="saved", tag="x")
        before = machine.snapshot()
        variables = {"VEILNET_GUARDIAN": guardian.url, "VEILNET_CONFLUX_TOKEN": token}
        with machine.node("run", **variables):
            info = json.loads(machine.cli("info", "--json").out)
            assert info["guardian"] == guardian.url
        assert machine.snapshot() == before

    def test_node_that_waits_for_guardian_ends_when_told_to(self, machine):
        token = machine.token_of_nobody()
        machine.save("conflux.json", guardian="http://127.0.0.1:1", conflux_token=token)
        before = machine.snapshot()
        with machine.node("run", state="waiting for Guardian") as node:
            info = json.loads(machine.cli("info", "--json").out)
            assert (info["node_id"], info["guardian"]) == ("", "http://127.0.0.1:1")
        ended = node.finish()
        assert ended.code == 0
        [line] = ended.lines
        assert line.startswith("WARNING conflux.node: waiting for Guardian: Guardian at http")
        assert machine.snapshot() == before

    def test_what_cannot_be_saved_is_given_back_to_guardian(self, machine, guardian, monkeypatch):
        def fail(path, membership):
            raise UsageError(f"{path} cannot be written: No space left on device")

        monkeypatch.setattr(saved, "save", fail)
        monkeypatch.syspath_prepend(machine.home / "plugins")
        words = ["-t", guardian.tokens["good"], "-g", guardian.url, "--tag", "unlucky"]
        ended = CliRunner().invoke(main, ["register", "-d", *words], env=machine.environment({}))
        assert (ended.exit_code, ended.stdout) == (2, "")
        assert "No space left on device" in ended.stderr
        assert "unlucky" not in guardian.known()

    def test_log_lines_are_json_where_asked_for(self, machine, guardian):
        token = guardian.conflux_token("logger")
        words = ["up", "-t", token, "-d", "-g", guardian.url, "--log-format", "json"]
        with machine.node(*words) as node:
            pass
        messages = [json.loads(line)["message"] for line in node.finish().err.splitlines()]
        assert any(message.startswith("running: 10.99.0.") for message in messages)
        assert token not in str(messages)


class TestUp:
    def test_up_saves_once_it_runs_and_down_forgets(self, machine, guardian):
        token = guardian.conflux_token("upper")
        with machine.node("up", "-d", VEILNET_CONFLUX_TOKEN=token, VEILNET_GUARDIAN=guardian.url):
            kept = machine.saved("up.json")
            assert (kept["conflux_token"], kept["guardian"]) == (token, guardian.url)
            assert (machine.folder / "up.json").stat().st_mode & 0o777 == 0o600
        with machine.node("up", "-d") as node:
            ended = machine.cli("down")
            assert (ended.code, ended.out) == (0, "down\n")
            assert node.finish().code == 0
        assert machine.snapshot() == {}

    def test_down_forgets_a_node_that_ended_by_itself(self, machine):
        machine.save("up.json", guardian="https://g.example", conflux_token="x")
        assert machine.cli("down").out == "down\n"
        assert machine.snapshot() == {}
