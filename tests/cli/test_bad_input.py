"""Whatever is wrong: one line on what to do, a non-zero exit code, and saved state as it was."""

from __future__ import annotations

import pytest

USAGE, MACHINE, UNREACHABLE, REFUSED = 2, 3, 4, 5
"""Exit codes, docs/reference/local-api.md."""

NOBODY = "http://127.0.0.1:1"


@pytest.fixture
def machine(machine):
    """A machine whose saved state is compared when the test is over."""
    machine.save("up.json", guardian="https://other.example", conflux_token="other")
    before = machine.snapshot()
    yield machine
    assert machine.snapshot() == before


@pytest.fixture
def register(machine, guardian):
    def register(*words, fate="good", **variables):
        chosen = guardian.tokens.get(fate, fate)
        words = ["register", "-d", "-t", chosen, "-g", guardian.url, *words]
        return machine.quick(*words, **variables)

    return register


class TestRegister:
    @pytest.mark.parametrize(("token", "line"), [
        ("vnr_" + "A" * 86, "registration token is wrong: copy it again or create a new one"),
        ("expired", "registration token has expired: create a new one"),
        ("revoked", "registration token was revoked: create a new one"),
        ("with blank", "the registration token is empty or has characters .*: copy it again"),
    ])  # fmt: skip
    def test_token_that_is_no_good_is_refused(self, register, token, line):
        register(fate=token).refused(USAGE if token == "with blank" else REFUSED, line)

    def test_no_token(self, machine):
        line = "a registration token is needed: --token-file, -t or VEILNET_REGISTRATION_TOKEN"
        machine.quick("register", "-d").refused(USAGE, line)
        machine.quick("register", "-d", VEILNET_REGISTRATION_TOKEN="").refused(USAGE, line)

    def test_address_outside_the_plane(self, register):
        register("--cidr", "10.98.0.7/24").refused(REFUSED, r".*10\.98\.0\.7.*")
        register("--cidr", "nonsense").refused(REFUSED, r".*nonsense.*")

    def test_address_that_is_taken(self, register, machine, guardian):
        taken = guardian.conflux_token("holder")
        assert taken
        register("--cidr", "10.99.0.1/24").refused(REFUSED, r".*10\.99\.0\.1.*")

    def test_guardian_that_does_not_answer(self, machine):
        words = ["register", "-d", "-t", "vnr_x", "-g", NOBODY]
        line = f"Guardian at {NOBODY} does not answer: check the address and that it runs"
        machine.quick(*words).refused(UNREACHABLE, line)
        machine.quick(*words, "--wait", "0.6").refused(UNREACHABLE, line)
        # No answer is no proof that nothing was made: the next try is the same registration.
        (machine.folder / "registering").unlink()

    def test_folder_too_long_for_the_nodes_socket(self, machine):
        words = ["register", "-d", "-t", "vnr_x", "--config-dir", f"/nowhere/{'x' * 120}"]
        machine.quick(*words).refused(USAGE, r".*too long for a socket.*--config-dir")

    @pytest.mark.parametrize("url", ["http://192.0.2.7", "ftp://10.0.0.1", "guardian", "http://"])
    def test_address_to_which_no_token_is_sent(self, machine, url):
        ended = machine.quick("register", "-d", "-t", "vnr_x", "-g", url)
        assert ended.code == USAGE
        assert len(ended.lines) == 1

    def test_machine_that_is_registered_already(self, machine, register):
        machine.save("conflux.json", guardian="https://g.example", conflux_token="x")
        register().refused(USAGE, ".*is registered: start it with `veilnet-conflux run`.*")
        (machine.folder / "conflux.json").unlink()

    @pytest.mark.parametrize(("variables", "code", "line"), [
        ({"VEILNET_PLUGIN_ROUTER": "nosuch"}, USAGE, ".*nosuch.*"),
        ({"VEILNET_PLUGIN_TETHER": "nosuch"}, USAGE, ".*nosuch.*"),
        ({"VEILNET_PLUGIN_CRYPTO": "nosuch"}, USAGE, ".*nosuch.*"),
        ({"VEILNET_PLUGIN_ROUTR": "static"}, USAGE, ".*VEILNET_PLUGIN_ROUTR.*ROUTER.*"),
        ({"VEILNET_TUN": "a name"}, USAGE, "VEILNET_TUN: 'a name' is no interface name.*"),
        ({"VEILNET_TUN": "lo"}, MACHINE, "interface lo is in use: choose .* with --tun-name"),
        ({"VEILNET_MTU": "70"}, USAGE, "VEILNET_MTU: '70' is no MTU.*"),
    ])  # fmt: skip
    def test_what_no_node_could_run_with_registers_nothing(
        self, register, guardian, variables, code, line
    ):
        before = guardian.known()
        ended = register(**variables)
        ended.refused(ended.code, line)
        assert ended.code in (code, MACHINE)
        assert guardian.known() == before


class TestSavedState:
    @pytest.mark.parametrize("verb", [["run"], ["unregister"], ["register", "-d", "-t", "vnr_x"]])
    @pytest.mark.parametrize("content", ["", '{"guardian": "https://g'])
    def test_corrupt_conflux_json(self, machine, verb, content):
        path = machine.folder / "conflux.json"
        path.write_text(content)
        line = rf"{path} is corrupt \(.*\): restore it, or remove it and register again"
        machine.quick(*verb).refused(USAGE, line)
        assert path.read_text() == content
        path.unlink()

    def test_corrupt_up_json(self, machine):
        path = machine.folder / "up.json"
        before = path.read_bytes()
        path.write_text("{")
        machine.quick("up", "-d", "-t", machine.token_of_nobody()).refused(USAGE, ".*is corrupt.*")
        assert path.read_text() == "{"
        path.write_bytes(before)

    def test_corrupt_configuration(self, machine):
        path = machine.folder / "conflux.toml"
        for text, line in (
            ("tun_name = \nmtu_bytes = 1500", ".*conflux.toml:1:12: Invalid value"),
            ('tun_nam = "x"', ".*unknown key tun_nam.*did you mean tun_name.*"),
            ('[plugins]\nrouter = "nosuch"', ".*nosuch.*"),
        ):
            path.write_text(text)
            words = ["register", "-d", "-t", "vnr_x", "-g", NOBODY]
            ended = machine.quick(*words)
            ended.refused(ended.code, line)
            assert ended.code in (USAGE, MACHINE)
        path.unlink()

    def test_nothing_saved(self, machine):
        (machine.folder / "up.json").rename(machine.home / "up.json")
        machine.quick("run").refused(USAGE, "nothing is registered in .*veilnet-conflux register.*")
        machine.quick("unregister").refused(USAGE, "nothing is registered in .*")
        machine.quick("down").refused(USAGE, "nothing is up here.*")
        (machine.home / "up.json").rename(machine.folder / "up.json")


class TestUp:
    @pytest.mark.parametrize(
        "token", ["nonsense", "a.b.c", "e30.eyJna2YiOiJBQUFBIn0.c2ln", "a" * 9000]
    )
    def test_token_that_is_none(self, machine, token):
        line = "the conflux token is not whole: copy it again, in one piece"
        machine.quick("up", "-d", "-t", token, "-g", NOBODY).refused(USAGE, line)

    def test_no_token(self, machine):
        (machine.folder / "up.json").rename(machine.home / "up.json")
        machine.quick("up", "-d").refused(USAGE, ".*-t or VEILNET_CONFLUX_TOKEN")
        (machine.home / "up.json").rename(machine.folder / "up.json")

    def test_token_of_a_conflux_that_is_gone(self, machine, guardian):
        token = guardian.conflux_token("gone", gone=True)
        machine.quick("up", "-d", "-t", token, "-g", guardian.url).refused(REFUSED, ".+")

    def test_token_of_another_guardian(self, machine, guardian, masterless):
        token = masterless.conflux_token("elsewhere")
        machine.quick("up", "-d", "-t", token, "-g", guardian.url).refused(REFUSED, ".+")

    def test_token_that_somebody_changed(self, machine, guardian):
        token = guardian.conflux_token("changed")
        changed = token[:-5] + ("AAAAA" if token[-5:] != "AAAAA" else "BBBBB")
        machine.quick("up", "-d", "-t", changed, "-g", guardian.url).refused(REFUSED, ".+")

    def test_guardian_that_does_not_answer(self, machine):
        token = machine.token_of_nobody()
        line = f"Guardian at {NOBODY} does not answer: check the address and that it runs"
        machine.quick("up", "-d", "-t", token, "-g", NOBODY).refused(UNREACHABLE, line)

    def test_master_that_does_not_answer(self, machine, masterless):
        token = masterless.conflux_token("alone")
        ended = machine.quick("up", "-d", "-t", token, "-g", masterless.url)
        ended.refused(UNREACHABLE, r"the Master at nats://127\.0\.0\.1:1 does not answer .*")

    @pytest.mark.parametrize(
        "variables",
        [{"VEILNET_PLUGIN_ROUTER": "nosuch"}, {"VEILNET_PLUGIN_AUTH": "nosuch"}],
    )
    def test_unknown_plugin(self, machine, variables):
        token = machine.token_of_nobody()
        ended = machine.quick("up", "-d", "-t", token, "-g", NOBODY, **variables)
        ended.refused(ended.code, ".*nosuch.*")
        assert ended.code in (USAGE, MACHINE)


class TestWithoutServiceManager:
    @pytest.mark.parametrize("verb", ["register", "up"])
    def test_service_needs_a_plugin(self, machine, guardian, verb):
        before = guardian.known()
        token = guardian.tokens["good"]
        line = f".*`veilnet-conflux {verb} --foreground` \\(-d\\).*nothing was changed"
        variables = {"VEILNET_PLUGIN_SERVICE": "launchd"}
        machine.quick(verb, "-t", token, "-g", guardian.url, **variables).refused(MACHINE, line)
        assert guardian.known() == before

    @pytest.mark.parametrize("verb", ["register", "up"])
    @pytest.mark.parametrize(("words", "variables"), [
        (["--portal"], {}), (["-p"], {}), ([], {"VEILNET_PORTAL": "true"}),
        (["--foreground", "-p"], {}),
    ])  # fmt: skip
    def test_portal_mode_is_refused(self, machine, verb, words, variables):
        line = "portal mode is not built yet: leave out --portal and VEILNET_PORTAL"
        machine.quick(verb, "-t", "x", *words, **variables).refused(USAGE, line)


class TestNoNode:
    @pytest.mark.parametrize(
        "verb", [["status"], ["info"], ["status", "--json"], ["info", "--json"]]
    )
    def test_asking_nobody(self, machine, verb):
        line = f"no node runs at {machine.folder}/api.sock: start one with `veilnet-conflux run`.*"
        machine.quick(*verb).refused(USAGE, line)

    def test_taking_down_what_was_registered(self, machine):
        (machine.folder / "up.json").rename(machine.home / "up.json")
        machine.save("conflux.json", guardian="https://g.example", conflux_token="x")
        machine.quick("down").refused(USAGE, "this conflux was registered, not brought up.*")
        (machine.folder / "conflux.json").unlink()
        (machine.home / "up.json").rename(machine.folder / "up.json")

    def test_unregistering_what_guardian_does_not_know(self, machine, guardian):
        token = guardian.conflux_token("ghost", gone=True)
        machine.save("conflux.json", guardian=guardian.url, conflux_token=token)
        path = machine.folder / "conflux.json"
        before = path.read_bytes()
        line = f".*; {path} was kept: `veilnet-conflux unregister --force` forgets it on this .*"
        machine.quick("unregister").refused(REFUSED, line)
        assert path.read_bytes() == before
        path.unlink()

    def test_unregistering_while_guardian_does_not_answer(self, machine):
        machine.save("conflux.json", guardian=NOBODY, conflux_token="x")
        before = (machine.folder / "conflux.json").read_bytes()
        machine.quick("unregister").refused(UNREACHABLE, ".* does not answer.*")
        assert (machine.folder / "conflux.json").read_bytes() == before
        (machine.folder / "conflux.json").unlink()
