"""Hosts as network namespaces, for tests on real TUN devices and for `veilnet-conflux demo`.

    with World() as world:
        internet = Internet(world)
        london, tokyo = internet.host("london"), internet.host("tokyo")
        internet.block(london, tokyo)
        server = tokyo.popen(["python3", "-m", "http.server"])

A *world* is a private set of namespaces (network, mount, PID; for an ordinary user a user
namespace too) held by one *holder* process, PID 1 within. Names under /run and every process,
interface and mount live in there. The holder ends when its standard input does, so when the owner
closes the world or dies of anything, SIGKILL included; then the kernel kills every process within
and frees the rest. Nothing is ever written where it could be left behind.

Standard library, iproute2 and util-linux only. Everything here waits: it is no code for a loop.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar

Result = TypeVar("Result")

TUN_DEVICE = Path("/dev/net/tun")


class LabError(Exception):
    """The lab cannot be made, or a command in it failed. The message holds what it printed."""


def missing() -> list[str]:
    """Say what this machine lacks to make a world with TUN devices: a line each, none if nothing.

    Takes about 0.1 s: in the end it makes one and looks.
    """
    if sys.platform != "linux":
        return ["network namespaces: they are a thing of Linux"]
    lines = [
        f"the program `{program}`: install {package} (Debian: apt install {package})"
        for program, package in PROGRAMS.items()
        if _which(program) is None
    ]
    lines += _missing_tun()
    if lines:
        return lines
    try:
        with World() as world:
            world.namespace("probe").run(["ip", "tuntap", "add", "dev", "probe", "mode", "tun"])
    except LabError as error:
        return [_explain_refusal(str(error))]
    return []


PROGRAMS = {"ip": "iproute2", "unshare": "util-linux", "nsenter": "util-linux"}


def _missing_tun() -> Iterator[str]:
    if not TUN_DEVICE.exists():
        yield f"{TUN_DEVICE}: load the module with `modprobe tun`"
        return
    try:
        os.close(os.open(TUN_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except PermissionError:
        yield f"access to {TUN_DEVICE}: run as root, or once `sudo chmod 666 {TUN_DEVICE}`"
    except OSError as error:
        yield f"{TUN_DEVICE} ({error.strerror}): load the module with `modprobe tun`"


def _explain_refusal(refusal: str) -> str:
    """Name the switch that keeps an ordinary user from making namespaces, if it is a known one."""
    for switch, forbidding, remedy in USER_NAMESPACE_SWITCHES:
        with contextlib.suppress(OSError):
            if Path("/proc/sys", switch).read_text().strip() == forbidding:
                name = switch.replace("/", ".")
                return (
                    f"namespaces for ordinary users: run as root, or `sudo sysctl {name}={remedy}`"
                )
    return f"private namespaces: run as root; the system said: {refusal}"


USER_NAMESPACE_SWITCHES = [
    ("kernel/apparmor_restrict_unprivileged_userns", "1", "0"),  # Ubuntu from 23.10 on
    ("kernel/unprivileged_userns_clone", "0", "1"),  # older Debian
    ("user/max_user_namespaces", "0", "10000"),
]


def until(condition: Callable[[], Result], *, deadline_s: float = 10.0, what: str = "") -> Result:
    """Wait until *condition* returns something true; return that. Raises LabError at the deadline.

    *condition* is asked every 10 ms and may raise nothing.
    """
    ends = time.monotonic() + deadline_s
    while not (result := condition()):
        if time.monotonic() > ends:
            raise LabError(f"not within {deadline_s} s: {what or condition}")
        time.sleep(0.01)
    return result


class Process(subprocess.Popen[str]):
    """A program that runs in a world. What Popen promises holds, signals included.

    The direct child is nsenter, which waits outside the world: `send_signal`, `terminate` and
    `kill` go to the program itself, and `returncode` is the program's.
    """

    @property
    def program(self) -> int:
        """The program's own process id as the owner sees it; 0 once it has ended."""
        found = until(lambda: self.poll() is not None or _child_of(self.pid), what="nsenter")
        return 0 if found is True else found

    def send_signal(self, sig: int) -> None:
        """Signal the program; does nothing once it has ended."""
        if program := self.program:
            with contextlib.suppress(ProcessLookupError):
                os.kill(program, sig)

    def stop(self, *, grace_s: float = 5.0) -> int:
        """End the program by SIGTERM, after *grace_s* by SIGKILL; return its exit code."""
        self.terminate()
        try:
            return self.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.wait()


class Place:
    """Somewhere in a world where programs run: a network namespace."""

    def __init__(self, world: World, name: str | None) -> None:
        self.world = world
        self.name = name

    def command(
        self, argv: Sequence[str], *, cwd: str | os.PathLike[str] | None = None
    ) -> list[str]:
        """The command line that runs *argv* here when it is run outside, in *cwd* if given."""
        folder = os.fspath(cwd if cwd is not None else Path.cwd())
        within = ["sh", "-c", 'cd "$0" && exec "$@"', folder, *argv]
        if self.name is not None:
            within = ["ip", "netns", "exec", self.name, *within]
        return [*self.world.nsenter, *within]

    def shell(self) -> str:
        """What a person types outside to get a shell here, as the user who made the world."""
        return shlex.join(self.command([os.environ.get("SHELL", "/bin/sh")]))

    def run(
        self,
        argv: Sequence[str],
        *,
        check: bool = True,
        timeout_s: float = 30.0,
        input: str = "",  # noqa: A002 - the name that subprocess.run has for it
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run *argv* here and wait. *env* comes on top of this process's environment.

        Raises LabError with all that it printed if it fails and *check* is set, and in any case
        after *timeout_s*, when it is killed.
        """
        # Files, not pipes: a daemon that *argv* leaves behind would hold a pipe open.
        with contextlib.ExitStack() as files:
            told, out, err = (files.enter_context(TemporaryFile("w+")) for _ in range(3))
            told.write(input)
            told.seek(0)
            process = self.popen(argv, env=env, cwd=cwd, stdin=told, stdout=out, stderr=err)
            try:
                process.wait(timeout_s)
                problem = f"exit code {process.returncode}" if process.returncode else ""
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                check, problem = True, f"not done within {timeout_s} s"
            finally:
                self.world.processes.remove(process)
            out.seek(0)
            err.seek(0)
            done = subprocess.CompletedProcess(
                list(argv), process.returncode, out.read(), err.read()
            )
        if check and problem:
            raise LabError(f"{shlex.join(argv)}: {problem}\n{done.stdout}{done.stderr}")
        return done

    def popen(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        **streams: Any,
    ) -> Process:
        """Start *argv* here. It ends with the world at the latest.

        *env* comes on top of this process's environment; *streams* are Popen's stdin, stdout and
        stderr, in text mode; standard input is empty unless given. A session of its own keeps a
        Ctrl-C at the terminal from it: that is the owner's to act on.
        """
        streams.setdefault("stdin", subprocess.DEVNULL)
        process = Process(
            self.command(argv, cwd=cwd),
            env={**os.environ, **(env or {}), "PATH": _path(env)},
            text=True,
            start_new_session=True,
            **streams,
        )
        self.world.processes.append(process)
        return process


class World(Place):
    """A private set of namespaces; as a place, its own network namespace. Use it with `with`.

    Made on entry, by the threads' common rights: for root with what root may do, for others in a
    user namespace where they are root. Raises LabError if the system refuses.
    """

    def __init__(self) -> None:
        super().__init__(self, None)
        self.processes: list[Process] = []
        self.nsenter: list[str] = []
        self._holder: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        user = [] if _may_make_namespaces() else ["--map-root-user"]
        holder = subprocess.Popen(
            [
                *[_need("unshare"), *user, "--mount", "--net", "--pid", "--fork"],
                *["--kill-child", "--mount-proc", "sh", "-c", HOLD],
            ],
            env={**os.environ, "PATH": _path()},
            text=True,
            cwd="/",
            start_new_session=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._holder = holder
        assert holder.stdout is not None
        assert holder.stderr is not None
        try:
            if holder.stdout.readline() != "ready\n":
                raise LabError(holder.stderr.read().strip() or "the world's holder ended")
            init = _child_of(holder.pid)
            enter = ["--user", "--preserve-credentials"] if user else []
            self.nsenter = [
                *[_need("nsenter"), "--target", str(init), *enter],
                *["--mount", "--net", "--pid", "--"],
            ]
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def namespace(self, name: str) -> Place:
        """Add a network namespace with nothing in it but its loopback, which is up."""
        self.run(["ip", "netns", "add", name])
        self.run(["ip", "-netns", name, "link", "set", "lo", "up"])
        return Place(self, name)

    def close(self, *, grace_s: float = 5.0) -> None:
        """End every program by SIGTERM, after *grace_s* by SIGKILL, and drop the namespaces.

        Returns when all of them have ended. Closing twice is fine.
        """
        try:
            for process in self.processes:
                process.terminate()
            with contextlib.suppress(LabError):
                until(lambda: all(p.poll() is not None for p in self.processes), deadline_s=grace_s)
        finally:
            holder, self._holder = self._holder, None
            if holder is not None:
                # Its input ends, so the holder ends, and with PID 1 the kernel kills all the rest.
                holder.communicate()
        for process in self.processes:
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        self.processes.clear()


HOLD = """
mount -t tmpfs -o mode=755 lab /run && ip link set lo up || exit
echo ready
# Until the owner closes the other end; programs whose parent has ended are reaped by the kernel.
# Not the shell's own read and trap: some shells wake up when such a program ends.
exec env --ignore-signal=CHLD cat >/dev/null
"""


class Host(Place):
    """A computer on the Internet of the lab: one cable, `eth0`, and one underlay address.

    With `Internet.give_ipv6` two.
    """

    def __init__(self, world: World, name: str, number: int) -> None:
        super().__init__(world, name)
        self.address = IPv4Address(f"10.10.{number}.2")
        self.gateway = IPv4Address(f"10.10.{number}.1")
        self.address6 = IPv6Address(f"fd10:{number:x}::2")
        """Once `Internet.give_ipv6` was called."""
        self.gateway6 = IPv6Address(f"fd10:{number:x}::1")


class Internet:
    """The router between all hosts: the world's own network namespace, 10.10.0.0/16, fd10::/16.

    Programs may run at the router too, as servers in the middle of the network: their address is
    `address`. Use other networks for overlays.
    """

    address = IPv4Address("10.10.0.1")

    def __init__(self, world: World) -> None:
        self.world = world
        self.hosts: dict[str, Host] = {}
        world.run(["ip", "address", "add", f"{self.address}/32", "dev", "lo"])
        world.run(["sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"])

    def host(self, name: str) -> Host:
        """Attach a new host. *name* is its namespace's and its cable's at the router."""
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,14}", name) or name in self.hosts or name == "lo":
            raise ValueError(f"{name!r}: up to 15 lower-case letters, digits, '-'; each name once")
        host = Host(self.world, name, len(self.hosts) + 1)
        self.world.namespace(name)
        self._ip(f"link add name {name} type veth peer name eth0 netns {name}")
        for inside, device, address in (
            ("", name, host.gateway),
            (f"-netns {name} ", "eth0", host.address),
        ):
            # No link-local addresses: nothing is sent that the test did not cause.
            self._ip(f"{inside}link set dev {device} addrgenmode none up")
            self._ip(f"{inside}address add {address}/24 dev {device}")
        self._ip(f"-netns {name} route add default via {host.gateway}")
        self.hosts[name] = host
        return host

    def give_ipv6(self, *hosts: Host) -> None:
        """Give *hosts* an IPv6 address each, besides the other one, and a way to those that have.

        Firewalls and `cut` are for IPv4: a host whose cable was cut has no way by IPv6 after.
        """
        self.world.run(["sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/all/forwarding"])
        for host in hosts:
            for inside, device, addresses in (
                ("", host.name, ("fe80::1", host.gateway6)),
                (f"-netns {host.name} ", "eth0", ("fe80::2", host.address6)),
            ):
                for address in addresses:
                    # Routers look for neighbours from a link-local address (RFC 4861 §7.2.2).
                    # No duplicate detection: it takes a second and finds nothing.
                    self._ip(f"{inside}address add {address}/64 dev {device} nodad")
            self._ip(f"-netns {host.name} route add default via {host.gateway6}")

    def block(self, one: Host, other: Host) -> None:
        """Firewall two hosts from each other: what one sends to the other silently disappears."""
        self._firewall("add", one, other)

    def unblock(self, one: Host, other: Host) -> None:
        """Undo `block`. Raises LabError if the two are not blocked."""
        self._firewall("delete", one, other)

    def _firewall(self, verb: str, one: Host, other: Host) -> None:
        # A policy rule needs no packet filter in the kernel, and "blackhole" sends no ICMP.
        for source, target in ((one, other), (other, one)):
            self._ip(f"rule {verb} from {source.address} to {target.address} blackhole")

    def cut(self, host: Host) -> None:
        """Pull the host's cable: its eth0 loses the carrier."""
        self._ip(f"link set dev {host.name} down")

    def mend(self, host: Host) -> None:
        """Plug the cable back in."""
        self._ip(f"link set dev {host.name} up")

    def _ip(self, arguments: str) -> None:
        self.world.run(["ip", *arguments.split()])


def in_private_network(function: Callable[[], None], *, timeout_s: float = 60.0) -> None:
    """Call *function* in a fork of this process, in a network namespace of its own with a loopback.

    For in-process tests of drivers: what *function* opens lives in that namespace and is gone with
    the fork. Programs that it starts are in there too. An ordinary user is root in there. Raises
    LabError with the traceback if *function* raises, and after *timeout_s*, when it is killed.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    source, sink = os.pipe()
    with warnings.catch_warnings():
        # A worker of pytest-xdist has a second thread, which only waits (docs/decisions/0064).
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        os.close(source)
        _be_the_fork(function, sink)
    os.close(sink)
    try:
        report = _read_all(source, timeout_s)
    finally:
        os.close(source)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if report is None:
        raise LabError(f"not done within {timeout_s} s in its private network")
    if report != DONE:
        raise LabError(report.decode(errors="replace") or "the fork died without a word")


DONE = b"done"


def _be_the_fork(function: Callable[[], None], sink: int) -> NoReturn:
    """Run in the child. Never returns into the parent's program: its cleanup is the parent's."""
    report = DONE
    try:
        _ask_kernel("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        _unshare_network()
        subprocess.run([_need("ip"), "link", "set", "lo", "up"], check=True)
        function()
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is told to the parent
        report = "".join(traceback.format_exception(error)).encode()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
            while report:
                report = report[os.write(sink, report) :]
        os._exit(0)


PR_SET_PDEATHSIG = 1  # prctl(2)
CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x00020000, 0x10000000, 0x40000000  # unshare(2)


def _unshare_network() -> None:
    user, group = os.geteuid(), os.getegid()
    if _may_make_namespaces():
        _ask_kernel("unshare", CLONE_NEWNET | CLONE_NEWNS)
        return
    _ask_kernel("unshare", CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWNS)
    # user_namespaces(7): without this the kernel refuses gid_map to an ordinary user.
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")


def _ask_kernel(call: str, *arguments: int) -> None:
    """Call a function of the C library that os lacks (unshare: before Python 3.12)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, call)(*arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{call}: {os.strerror(code)}")


def _read_all(source: int, timeout_s: float) -> bytes | None:
    """Read until the far end closes; None if that takes longer than *timeout_s*."""
    ends = time.monotonic() + timeout_s
    report = b""
    while True:
        ready, _, _ = select.select([source], [], [], max(0.0, ends - time.monotonic()))
        if not ready:
            return None
        piece = os.read(source, 65_536)
        if not piece:
            return report
        report += piece


def _may_make_namespaces() -> bool:
    """Whether this process holds CAP_SYS_ADMIN and CAP_NET_ADMIN where it is (capabilities(7))."""
    status = Path("/proc/self/status").read_text()
    effective = re.search(r"^CapEff:\s*(\w+)$", status, re.MULTILINE)
    assert effective is not None
    wanted = 1 << 21 | 1 << 12
    return int(effective[1], 16) & wanted == wanted


def _child_of(pid: int) -> int:
    """The first child of a process with one thread, 0 if it has none (proc(5))."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0
    return int(children[0]) if children else 0


def _need(program: str) -> str:
    if (path := _which(program)) is None:
        raise LabError(f"no program `{program}`: install {PROGRAMS[program]}")
    return path


def _which(program: str) -> str | None:
    return shutil.which(program, path=_path())


def _path(env: Mapping[str, str] | None = None) -> str:
    """PATH with the folders where ordinary users of Debian have no `ip`."""
    path = {**os.environ, **(env or {})}.get("PATH", os.defpath)
    return f"{path}:/usr/sbin:/sbin"
