"""The lines of docs/troubleshooting.md, provoked: what is printed is the page's, so is the code.

tests/docs/test_troubleshooting.py holds all of them to the source; here are those that take neither
another machine nor root.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "troubleshooting.md").read_text()
ROWS = re.findall(r"^\| (`{1,2}) ?(.+?) ?\1 \| (\d?) \| (.+) \|$", PAGE, re.MULTILINE)
NOBODY = "http://127.0.0.1:1"


class Provoked:
    """What each way of provoking is given: a machine, servers, and what is undone afterwards."""

    def __init__(self, machine, monkeypatch, stand_in, request) -> None:
        self.machine = machine
        self.patch = monkeypatch
        self.stand_in = stand_in
        self.request = request

    def quick(self, words: str, **variables: str):
        return self.machine.quick(*words.split(), **variables)

    @property
    def token(self) -> str:
        return self.machine.token_of_nobody()

    def registered(self) -> None:
        self.machine.save("conflux.json", guardian=NOBODY, conflux_token=self.token)


WAYS: dict[str, Callable[[Provoked], object]] = {}


def way(begins: str):
    """Mark what provokes the line that begins with *begins*."""

    def mark(provoke):
        WAYS[begins] = provoke
        return provoke

    return mark


@pytest.fixture
def provoked(machine, monkeypatch, stand_in, request) -> Provoked:
    return Provoked(machine, monkeypatch, stand_in, request)


def row_of(begins: str) -> tuple[str, int, str]:
    [(_, line, code, why)] = [row for row in ROWS if row[1].startswith(begins)]
    return line, int(code or 0), why


@pytest.mark.parametrize("begins", WAYS)
def test_line_is_printed_as_the_page_quotes_it(provoked, begins):
    line, code, why = row_of(begins)
    ended = WAYS[begins](provoked)
    assert ended.code == code, ended
    [printed] = [text for text in ended.lines if not text.startswith("warning: ")]
    pattern = ".+".join(map(re.escape, re.split(r"<\w+>", line)))
    before = "(the .+ driver .+ cannot be used here: )?" if "efore it" in why else ""
    behind = ".*" if "ehind it stands" in why else ""
    assert re.fullmatch(f"veilnet-conflux: {before}{pattern}{behind}", printed), printed


def test_ways_are_of_different_lines():
    assert len({row_of(begins)[0] for begins in WAYS}) == len(WAYS)
    assert len(WAYS) >= 20


def tun_from(provoked: Provoked, path: str) -> None:
    plugin = pytest.importorskip("conflux_tun_linux.plugin")
    provoked.patch.setattr(plugin.open_tun, "__defaults__", (Path(path),))


@way("<path> is missing: load the module")
def _(provoked):
    tun_from(provoked, "/nonexistent/tun")
    return provoked.quick(f"up -d -g {NOBODY} -t {provoked.token}", VEILNET_PLUGIN_TUN="linux")


@way("no right to make network interfaces")
def _(provoked):
    tun_from(provoked, os.devnull)
    provoked.patch.setattr("conflux_tun_linux.plugin._has_net_admin", lambda _: False)
    return provoked.quick(f"up -d -g {NOBODY} -t {provoked.token}", VEILNET_PLUGIN_TUN="linux")


@way("interface <name> is in use")
def _(provoked):
    name = socket.if_nameindex()[0][1]
    return provoked.quick(f"register -d -g {NOBODY} -t vnr_x --tun-name {name}")


@way("<path> cannot be written")
def _(provoked):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    provoked.patch.setattr("conflux.runtime.saved.tempfile.TemporaryFile", full)
    return provoked.quick(f"register -d -g {NOBODY} -t vnr_x")


@way("no right to send ICMP")
def _(provoked):
    def refuse(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    with provoked.stand_in(info={"addresses": ["127.0.0.1/8"]}, status={"peers": []}):
        provoked.patch.setattr("conflux.checks.echo.socket", type("Without", (), {
            "AF_INET": socket.AF_INET, "AF_INET6": socket.AF_INET6,
            "SOCK_DGRAM": socket.SOCK_DGRAM, "SOCK_RAW": socket.SOCK_RAW,
            "IPPROTO_ICMP": socket.IPPROTO_ICMP, "IPPROTO_ICMPV6": socket.IPPROTO_ICMPV6,
            "socket": staticmethod(refuse),
        }))  # fmt: skip
        return provoked.quick("ping 127.0.0.1")


@way("Guardian at <url> does not answer")
def _(provoked):
    return provoked.quick(f"register -d -g {NOBODY} -t vnr_x")


class Busy(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (its name there)
        """Say nothing."""


@way("Guardian at <url> has trouble")
def _(provoked):
    with ThreadingHTTPServer(("127.0.0.1", 0), Busy) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_address[1]}"
            return provoked.quick(f"register -d -g {url} -t vnr_x")
        finally:
            server.shutdown()
            thread.join()


@way("<master> does not answer")
def _(provoked):
    masterless = provoked.request.getfixturevalue("masterless")
    token = masterless.conflux_token("unheard")
    return provoked.quick(f"up -d -g {masterless.url} -t {token}")


@way("the conflux token is not whole")
def _(provoked):
    return provoked.quick(f"up -d -g {NOBODY} -t nonsense")


@way("a registration token is needed")
def _(provoked):
    return provoked.quick("register -d")


@way("<file> says that this machine is registered")
def _(provoked):
    provoked.registered()
    return provoked.quick("register -d -t vnr_x")


@way("a registration was cut short")
def _(provoked):
    provoked.quick(f"register -d -g {NOBODY} -t vnr_x")
    return provoked.quick("unregister")


@way("no node runs at <socket>")
def _(provoked):
    return provoked.quick("info")


@way("a node is running already on <socket>")
def _(provoked):
    with provoked.stand_in(status={}):
        return provoked.quick("register -d -t vnr_x")


@way("the node at <socket> does not answer")
def _(provoked):
    provoked.machine.folder.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(provoked.machine.folder / "api.sock"))
        mute.listen()
        provoked.patch.setattr("conflux.runtime.localapi.REPLY_S", 0.1)
        return provoked.quick("info")


@way("the node at <socket> is of another version")
def _(provoked):
    with provoked.stand_in(status={}):
        return provoked.quick("info")


@way("<file> is corrupt")
def _(provoked):
    provoked.machine.save("conflux.json")
    return provoked.quick("run")


def settings(provoked: Provoked, text: str) -> None:
    provoked.machine.folder.mkdir(mode=0o700)
    (provoked.machine.folder / "conflux.toml").write_text(text)


@way("<place>: unknown <what>")
def _(provoked):
    settings(provoked, "tun_nam = 'x'")
    return provoked.quick("plugins list")


@way("there is no <kind> driver <name>")
def _(provoked):
    return provoked.quick(f"up -d -g {NOBODY} -t {provoked.token}", VEILNET_PLUGIN_ROUTER="nosuch")


@way("the <kind> driver <name> cannot be used here")
def _(provoked):
    tun_from(provoked, "/nonexistent/tun")
    return provoked.quick(f"up -d -g {NOBODY} -t {provoked.token}", VEILNET_PLUGIN_TUN="linux")


@way("the <kind> driver <name> of <distribution> is broken")
def _(provoked):
    plugin = provoked.machine.home / "plugins" / "memory_tun.py"
    plugin.write_text(plugin.read_text().replace("MemoryTunDriver", "NoSuchDriver"))
    return provoked.quick(f"up -d -g {NOBODY} -t {provoked.token}")


@way("<file> is open to others")
def _(provoked):
    provoked.registered()
    (provoked.machine.folder / "conflux.json").chmod(0o644)
    return provoked.quick("config check")
