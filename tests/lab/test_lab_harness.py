"""The lab itself: hosts, cables, firewalls, and that nothing outlives its owner."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from conflux import lab

pytestmark = pytest.mark.lab

AsNobody = Callable[..., "subprocess.CompletedProcess[str]"]

CONNECT = """
import socket, sys
try: socket.create_connection((sys.argv[1], 9), 0.3)
except OSError as error: print(type(error).__name__)
"""


def reaches(source: lab.Place, target: object) -> bool:
    return source.run(["ping", "-c1", "-W1", str(target)], check=False).returncode == 0


def connecting(source: lab.Place, target: object) -> str:
    """How a TCP connection to a port where nobody listens fails."""
    return source.run([sys.executable, "-c", CONNECT, str(target)]).stdout.strip()


class TestNetwork:
    def test_hosts_reach_each_other_through_the_router(self, internet: lab.Internet) -> None:
        london, tokyo = internet.host("london"), internet.host("tokyo")
        answer = london.run(["ping", "-c1", "-W2", str(tokyo.address)]).stdout
        assert "ttl=63" in answer
        assert connecting(tokyo, london.address) == "ConnectionRefusedError"

    def test_programs_at_the_router_are_reached_by_its_address(
        self, internet: lab.Internet
    ) -> None:
        assert reaches(internet.host("london"), internet.address)

    def test_hosts_see_nothing_but_their_cable(self, internet: lab.Internet) -> None:
        london = internet.host("london")
        links = json.loads(london.run(["ip", "-json", "link"]).stdout)
        assert {link["ifname"] for link in links} == {"lo", "eth0"}
        outside = {
            link["ifname"]
            for link in json.loads(internet.world.run(["ip", "-json", "link"]).stdout)
        }
        assert outside == {"lo", "london"}

    def test_block_silently_separates_two_hosts_and_no_other(self, internet: lab.Internet) -> None:
        london, tokyo, relay = (internet.host(name) for name in ("london", "tokyo", "relay"))
        internet.block(london, tokyo)
        for source, target in ((london, tokyo), (tokyo, london)):
            # A firewall that rejects would say ConnectionRefused or NoRoute.
            assert connecting(source, target.address) == "TimeoutError"
            ping = source.run(["ping", "-c1", "-W1", str(target.address)], check=False)
            assert ping.returncode == 1
            assert "100% packet loss" in ping.stdout
            assert "From " not in ping.stdout
        assert reaches(relay, london.address)
        assert reaches(tokyo, relay.address)
        internet.unblock(tokyo, london)
        assert connecting(london, tokyo.address) == "ConnectionRefusedError"
        assert connecting(tokyo, london.address) == "ConnectionRefusedError"
        with pytest.raises(lab.LabError):
            internet.unblock(london, tokyo)

    def test_hosts_that_were_given_ipv6_reach_each_other_by_it_too(
        self, internet: lab.Internet
    ) -> None:
        london, tokyo, relay = (internet.host(name) for name in ("london", "tokyo", "relay"))
        internet.give_ipv6(london, tokyo)
        assert reaches(london, tokyo.address6)
        assert reaches(tokyo, london.address6)
        assert not reaches(relay, london.address6)
        internet.block(london, tokyo)
        assert not reaches(london, tokyo.address)
        assert reaches(london, tokyo.address6)

    def test_cut_takes_the_carrier_and_mend_brings_it_back(self, internet: lab.Internet) -> None:
        london, tokyo = internet.host("london"), internet.host("tokyo")
        internet.cut(london)
        [cable] = json.loads(london.run(["ip", "-json", "link", "show", "eth0"]).stdout)
        assert "NO-CARRIER" in cable["flags"]
        assert not reaches(london, tokyo.address)
        assert not reaches(tokyo, london.address)
        internet.mend(london)
        lab.until(lambda: reaches(london, tokyo.address), what="the mended cable to carry")

    @pytest.mark.parametrize("name", ["", "London", "lo", "x" * 16, "-a", "a b", "a/b", "london"])
    def test_host_names_are_checked(self, internet: lab.Internet, name: str) -> None:
        internet.host("london")
        with pytest.raises(ValueError, match="each name once"):
            internet.host(name)

    def test_tun_devices_can_be_made_in_a_host(self, internet: lab.Internet) -> None:
        london = internet.host("london")
        london.run(["ip", "tuntap", "add", "dev", "veilnet", "mode", "tun"])
        london.run(["ip", "link", "show", "veilnet"])

    def test_worlds_with_the_same_names_do_not_meet(self, internet: lab.Internet) -> None:
        london = internet.host("london")
        with lab.World() as other_world:
            other = lab.Internet(other_world)
            other.cut(other.host("london"))
            assert reaches(london, internet.address)
        assert reaches(london, internet.address)


class TestPrograms:
    def test_environment_folder_and_input_reach_the_program(self, world: lab.World) -> None:
        script = 'echo "$LAB $PWD"; cat; cat /proc/sys/kernel/ns_last_pid >/dev/null; echo oops >&2'
        done = world.namespace("host").run(
            ["sh", "-c", script], env={"LAB": "rat"}, cwd="/usr", input="cheese"
        )
        assert (done.stdout, done.stderr) == ("rat /usr\ncheese", "oops\n")

    def test_programs_run_in_this_folder_unless_told_otherwise(self, world: lab.World) -> None:
        assert world.run(["pwd"]).stdout == f"{Path.cwd()}\n"

    def test_failure_tells_what_the_program_said(self, world: lab.World) -> None:
        with pytest.raises(lab.LabError, match=r"(?s)exit code 3\n.*why\nbecause"):
            world.run(["sh", "-c", "echo why; echo because >&2; exit 3"])
        assert world.run(["sh", "-c", "exit 3"], check=False).returncode == 3

    def test_program_that_takes_too_long_is_killed(self, world: lab.World) -> None:
        with pytest.raises(lab.LabError, match=r"not done within 0\.2 s"):
            world.run(["sleep", "1000"], timeout_s=0.2)
        assert "sleep" not in world.run(["ps", "-e", "-o", "comm"]).stdout

    def test_world_outlives_programs_whose_parent_has_ended(self, world: lab.World) -> None:
        orphan = world.run(["sh", "-c", "sleep 0.05 >/dev/null 2>&1 & echo $!"]).stdout.strip()
        lab.until(lambda: world.run(["ps", orphan], check=False).returncode, what="its end")
        assert world.run(["ps", "-e", "-o", "stat="]).stdout.count("Z") == 0

    def test_signals_reach_the_program(self, world: lab.World) -> None:
        for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
            process = world.namespace(f"host{sig}").popen(["sleep", "1000"])
            process.send_signal(sig)
            assert process.wait(10) == -sig
            process.send_signal(sig)  # after its end: nothing happens

    def test_program_that_ignores_being_asked_is_stopped_all_the_same(
        self, world: lab.World
    ) -> None:
        script = "trap '' TERM; echo ready; while :; do read _; done"
        process = world.popen(["sh", "-c", script], stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert process.stop(grace_s=0.1) == -signal.SIGKILL

    def test_program_may_end_well_when_the_world_closes(self) -> None:
        script = "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.01; done"
        with lab.World() as world:
            process = world.popen(["sh", "-c", script], stdout=subprocess.PIPE)
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        assert process.returncode == 7

    def test_shell_line_typed_outside_leads_inside(self, internet: lab.Internet) -> None:
        london = internet.host("london")
        typed = subprocess.run(
            ["sh", "-c", london.shell()],
            check=True, input="ip -brief address show eth0\n", capture_output=True, text=True,
        )  # fmt: skip
        assert "10.10.1.2/24" in typed.stdout


OWNER = """
import sys, time
from conflux import lab
with lab.World() as world:
    internet = lab.Internet(world)
    host = internet.host(sys.argv[1])
    host.run(["ip", "tuntap", "add", "dev", "veilnet", "mode", "tun"])
    host.popen(["sleep", "1000"])
    host.run(["setsid", "--fork", "sleep", "1000"])
    host.popen(["sh", "-c", "trap '' TERM HUP INT; while :; do sleep 1000; done"])
    print("ready", flush=True)
    sys.stdin.read()
"""


class TestNothingIsLeft:
    @pytest.fixture
    def mark(self, monkeypatch: pytest.MonkeyPatch) -> str:
        """Marks the environment of every process that the test starts, however remotely."""
        mark = uuid.uuid4().hex
        monkeypatch.setenv("LAB_MARK", mark)
        return mark

    def test_close_ends_every_process_at_once(self, mark: str) -> None:
        before = mounts(), namespaces()
        name = f"h{mark[:8]}"
        with lab.World() as world:
            host = lab.Internet(world).host(name)
            host.popen(["sleep", "1000"])
            host.run(["setsid", "--fork", "sleep", "1000"])
            assert len(marked(mark)) >= 4
            assert (mounts(), namespaces()) == before
            assert name not in interfaces()
        assert marked(mark) == []
        assert (mounts(), namespaces()) == before
        world.close()

    @pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGTERM])
    def test_nothing_outlives_an_owner_that_is_killed(self, mark: str, sig: int) -> None:
        before = mounts(), namespaces()
        name = f"h{mark[:8]}"
        pipe = subprocess.PIPE
        argv = [sys.executable, "-c", OWNER, name]
        with subprocess.Popen(argv, stdin=pipe, stdout=pipe) as owner:
            assert owner.stdout is not None
            assert owner.stdout.readline() == b"ready\n"
            assert len(marked(mark)) >= 6
            owner.send_signal(sig)
            owner.wait()
            lab.until(lambda: not marked(mark), what="every process to end")
        assert (mounts(), namespaces()) == before
        assert name not in interfaces()

    def test_world_ends_with_an_error_inside(self, mark: str) -> None:
        def fail() -> None:
            with lab.World() as world:
                world.popen(["sleep", "1000"])
                raise KeyError("oops")

        with pytest.raises(KeyError, match="oops"):
            fail()
        assert marked(mark) == []

    def test_refused_world_leaves_nothing(self, mark: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lab, "HOLD", "echo no luck >&2; exit 1")
        with pytest.raises(lab.LabError, match="no luck"), lab.World():
            pass
        assert marked(mark) == []

    def test_descriptors_are_given_back(self) -> None:
        before = len(os.listdir("/proc/self/fd"))
        with lab.World() as world:
            world.popen(["sleep", "1000"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        lab.in_private_network(lambda: None)
        assert len(os.listdir("/proc/self/fd")) == before


def marked(mark: str) -> list[str]:
    """The command lines of the processes that bear *mark*, but for this one and the dead."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (
                folder.name != str(os.getpid())
                and mark.encode() in (folder / "environ").read_bytes()
            ):
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # another user's, or ended meanwhile
            continue
    return found


def mounts() -> list[str]:
    return [
        line for line in Path("/proc/self/mountinfo").read_text().splitlines() if "/run" in line
    ]


def namespaces() -> list[str]:
    return sorted(os.listdir("/run/netns")) if Path("/run/netns").exists() else []


def interfaces() -> set[str]:
    return {name for _, name in socket.if_nameindex()}


class TestPrivateNetwork:
    def test_function_runs_alone_with_a_loopback(self) -> None:
        def alone() -> None:
            assert interfaces() == {"lo"}
            with socket.create_server(("127.0.0.1", 0)) as server:
                socket.create_connection(server.getsockname(), 1).close()

        lab.in_private_network(alone)

    def test_what_it_raises_is_told(self) -> None:
        with pytest.raises(lab.LabError, match=r"(?s)Traceback.*ZeroDivisionError"):
            lab.in_private_network(lambda: print(1 / 0))

    def test_early_death_is_no_success(self) -> None:
        with pytest.raises(lab.LabError, match="died without a word"):
            lab.in_private_network(lambda: os.kill(os.getpid(), signal.SIGKILL))

    def test_exit_is_no_success(self) -> None:
        with pytest.raises(lab.LabError, match="SystemExit"):
            lab.in_private_network(sys.exit)

    def test_it_is_killed_at_its_deadline(self) -> None:
        children = Path(f"/proc/self/task/{os.getpid()}/children")
        before = children.read_text()
        with pytest.raises(lab.LabError, match="not done within"):
            lab.in_private_network(lambda: time.sleep(1000), timeout_s=0.1)
        assert children.read_text() == before


class TestWaiting:
    def test_until_gives_what_the_condition_gave(self) -> None:
        answers = iter([0, "", 42])
        assert lab.until(lambda: next(answers)) == 42

    def test_until_names_what_did_not_happen(self) -> None:
        with pytest.raises(lab.LabError, match=r"not within 0\.05 s: rain"):
            lab.until(lambda: False, deadline_s=0.05, what="rain")


MISSING = "from conflux import lab; print(*lab.missing(), sep='\\n')"


class TestMissing:
    def test_nothing_is_missing_where_a_world_can_be_made(self) -> None:
        assert lab.missing() == []

    def test_missing_program_is_named_with_its_package(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lab, "PROGRAMS", {"no-such-program": "no-such-package"})
        [line] = lab.missing()
        assert line == (
            "the program `no-such-program`: install no-such-package "
            "(Debian: apt install no-such-package)"
        )

    def test_missing_tun_device_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lab, "TUN_DEVICE", Path("/nonexistent/tun"))
        assert lab.missing() == ["/nonexistent/tun: load the module with `modprobe tun`"]

    def test_closed_tun_device_is_named_with_the_cure(self, tmp_path: Path) -> None:
        node = tmp_path / "tun"
        node.touch(mode=0)
        script = f"import pathlib; lab.TUN_DEVICE = pathlib.Path({str(node)!r})"
        script = MISSING.replace("; ", f"; {script}; ", 1)
        lacking = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
        said = subprocess.run(
            [*(lacking if os.geteuid() == 0 else []), sys.executable, "-c", script],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        assert said == f"access to {node}: run as root, or once `sudo chmod 666 {node}`\n"

    def test_forbidden_user_namespaces_are_named_with_their_switch(self) -> None:
        # Both hold within the namespace only: none may be made below it, and no right is left.
        script = 'echo 0 >/proc/sys/user/max_user_namespaces; exec "$@"'
        lacking = ["setpriv", "--bounding-set", "-sys_admin", sys.executable, "-c", MISSING]
        said = subprocess.run(
            ["unshare", "-Ur", "sh", "-c", script, "sh", *lacking],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        assert said == (
            "namespaces for ordinary users: run as root, or "
            "`sudo sysctl user.max_user_namespaces=10000`\n"
        )

    def test_other_refusals_are_told_in_the_systems_words(self) -> None:
        script = 'echo 0 >/proc/sys/user/max_net_namespaces; exec "$@"'
        said = subprocess.run(
            ["unshare", "-Ur", "sh", "-c", script, "sh", sys.executable, "-c", MISSING],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        assert said.startswith("private namespaces: run as root; the system said: unshare")


class TestOrdinaryUser:
    """Runs the tests above, and those of the TUN driver, as a user without any right."""

    def test_nobody_is_no_root(self, as_nobody: AsNobody) -> None:
        status = as_nobody(["cat", "/proc/self/uid_map", "/proc/self/status"]).stdout
        if int(status.split()[2]) == 2**32 - 1:  # not within a user namespace already
            assert "CapEff:\t0000000000000000" in status

    @pytest.mark.thorough
    @pytest.mark.parametrize("tests", [__file__, "plugins/tun_linux"], ids=["lab", "tun_linux"])
    def test_everything_works(self, as_nobody: AsNobody, tests: str) -> None:
        if lacking := as_nobody([sys.executable, "-c", MISSING]).stdout.strip():
            pytest.skip(f"an ordinary user lacks here: {lacking}")
        done = as_nobody(
            [sys.executable, "-m", "pytest", "-q", tests, "-k", "not TestOrdinaryUser"]
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "skipped" not in done.stdout
