"""A machine that cannot carry packets: one line, nothing registered, nothing saved or left."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.lab

WITHOUT_TUN = "mount -t tmpfs none /dev/net && exec "
WITHOUT_RIGHTS = "exec setpriv --bounding-set=-net_admin --inh-caps=-net_admin "
FULL_DISK = 'mount -t tmpfs -o size=8k none "$HOME" && exec '
READ_ONLY = 'mount --bind "$HOME" "$HOME" && mount -o remount,ro,bind "$HOME" && exec '


@pytest.fixture(scope="module")
def machine(overlay):
    overlay.start_guardian()
    return overlay.host("london")


@pytest.fixture
def register(overlay, machine, tmp_path):
    """Type `register` with a shell command before it; return the exit code and the line."""

    def register(before, *options):
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)
        before_disk = sorted(home.rglob("*"))
        command = f"{sys.executable} -m conflux register -d --tag bad --config-dir {home}/conflux "
        command += f"-g http://{overlay.internet.address}:8000 {' '.join(options)}"
        ended = machine.host.run(
            ["unshare", "--mount", "sh", "-c", before + command],
            env={"HOME": str(home), "VEILNET_REGISTRATION_TOKEN": overlay.tokens["alice"]},
            check=False,
        )
        assert "Traceback" not in ended.stderr
        assert ended.stdout == ""
        [line] = [line for line in ended.stderr.splitlines() if "without TLS" not in line]
        kept = [path for path in sorted(home.rglob("*")) if path.is_file()]
        assert [path for path in kept if path not in before_disk] == []
        assert "bad" not in Path(overlay.data / "guardian.db").read_bytes().decode("latin-1")
        return ended.returncode, line

    return register


@pytest.mark.parametrize(("before", "code", "line"), [
    (WITHOUT_TUN, 3, r".*/dev/net/tun is missing: load the module with `modprobe tun`.*"),
    (WITHOUT_RIGHTS, 3, r".*run as root or grant CAP_NET_ADMIN.*"),
    (FULL_DISK, 2, r".*/conflux/conflux.json cannot be written: No space left on device"),
    (READ_ONLY, 2, r".*/conflux/conflux.json cannot be written: Read-only file system"),
])  # fmt: skip
def test_what_the_machine_lacks_is_named(register, before, code, line):
    found, said = register(before)
    assert re.fullmatch(f"veilnet-conflux: {line}", said), said
    assert found == code


def test_name_of_the_interface_that_is_taken_is_named(machine, register):
    machine.host.run(["ip", "tuntap", "add", "dev", "veilnet", "mode", "tun"])
    try:
        found, said = register("exec ")
        assert re.fullmatch("veilnet-conflux: interface veilnet is in use: .*--tun-name.*", said)
        assert found == 3
    finally:
        machine.host.run(["ip", "tuntap", "del", "dev", "veilnet", "mode", "tun"])


def test_node_that_finds_its_interface_taken_ends_with_one_line(overlay, machine, tmp_path):
    token = overlay.admin("conflux", "create", "--user", "alice@example.org", "--plane", "home")
    machine.host.run(["ip", "tuntap", "add", "dev", "veilnet", "mode", "tun"])
    try:
        ended = machine.host.run(
            [sys.executable, "-m", "conflux", "up", "-d", "--config-dir", str(tmp_path / "c")],
            env={
                "VEILNET_CONFLUX_TOKEN": token,
                "VEILNET_GUARDIAN": f"http://{overlay.internet.address}:8000",
            },
            check=False,
        )
    finally:
        machine.host.run(["ip", "tuntap", "del", "dev", "veilnet", "mode", "tun"])
    assert ended.returncode == 3
    assert "Traceback" not in ended.stderr
    [line] = [line for line in ended.stderr.splitlines() if "without TLS" not in line]
    assert line.startswith("veilnet-conflux: interface veilnet is in use: choose another name")
    assert list((tmp_path / "c").iterdir()) == []
