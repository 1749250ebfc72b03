"""Structures and values against Apple's headers: a compiler for macOS says whether they agree."""

from __future__ import annotations

import ctypes
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from conflux_tun_utun import darwin

ROOT = Path(__file__).parents[3]
MACOS = ROOT / "tools/macos"
TARGETS = ["x86_64-macos", "aarch64-macos"]

STRUCTURES = {
    darwin.CtlInfo: "struct ctl_info",
    darwin.IfReq: "struct ifreq",
    darwin.SockaddrIn: "struct sockaddr_in",
    darwin.SockaddrIn6: "struct sockaddr_in6",
    darwin.SockaddrDl: "struct sockaddr_dl",
    darwin.IfAliasReq: "struct ifaliasreq",
    darwin.In6AddrLifetime: "struct in6_addrlifetime",
    darwin.In6AliasReq: "struct in6_aliasreq",
    darwin.RtMsghdr: "struct rt_msghdr",
}
FIELDS = {"value": "ifr_ifru.ifru_mtu", "rest": ""}

IN_NO_HEADER_HERE = {
    "SIOCAIFADDR_IN6", "IN6_IFF_NODAD", "ND6_INFINITE_LIFETIME",  # XNU, bsd/netinet6/in6_var.h
    "SYSPROTO_CONTROL",  # sys/sys_domain.h, which this compiler comes without
}  # fmt: skip
VALUES = {
    name: value
    for name, value in vars(darwin).items()
    if name.isupper() and isinstance(value, int) and name not in IN_NO_HEADER_HERE
}

HEADERS = (
    "#include <stddef.h>\n"
    "#include <time.h>\n"
    + "".join(
        f"#include <{name}>\n"
        for name in (
            "sys/types.h", "sys/socket.h", "sys/ioctl.h", "sys/sockio.h", "sys/kern_control.h",
            "net/if.h", "net/if_dl.h", "net/if_utun.h", "net/route.h",
            "netinet/in.h",
        )
    )
    # XNU, bsd/netinet6/in6_var.h: the fields and their types.
    + "struct in6_addrlifetime { time_t ia6t_expire, ia6t_preferred;"
    " u_int32_t ia6t_vltime, ia6t_pltime; };\n"
    "struct in6_aliasreq { char ifra_name[IFNAMSIZ];"
    " struct sockaddr_in6 ifra_addr, ifra_dstaddr, ifra_prefixmask; int ifra_flags;"
    " struct in6_addrlifetime ifra_lifetime; };\n"
)  # fmt: skip


def claims() -> Iterator[str]:
    for structure, c_name in STRUCTURES.items():
        yield f"sizeof({c_name}) == {ctypes.sizeof(structure)}"
        for name, *_ in structure._fields_:
            field = getattr(structure, name)
            if member := FIELDS.get(name, name):
                yield f"offsetof({c_name}, {member}) == {field.offset}"
                yield f"sizeof((({c_name} *)0)->{member}) == {field.size}"
    yield f"offsetof(struct ifreq, ifr_ifru.ifru_flags) == {darwin.IfReq.value.offset}"
    yield "sizeof(((struct ifreq *)0)->ifr_ifru.ifru_flags) == 2"
    for name, value in VALUES.items():
        yield f"(unsigned){name} == {value}u"
    yield f"_IOW('i', 26, struct in6_aliasreq) == {darwin.SIOCAIFADDR_IN6}u"
    yield f'__builtin_strcmp(UTUN_CONTROL_NAME, "{darwin.UTUN_CONTROL_NAME}") == 0'


def compile_macos(target: str, claimed: list[str], where: Path) -> str:
    if not (ROOT / ".venv/macos/.ready").exists():
        pytest.skip("needs a compiler for macOS: `tools/macos make`")
    lines = [f"_Static_assert({claim}, {json.dumps(claim)});" for claim in claimed]
    file = where / "claims.c"
    file.write_text(HEADERS + "\n".join(lines) + "\n")
    command = [MACOS, "-target", target, "-w", "-c", "-o", where / "claims.o", file]
    return subprocess.run(command, check=False, capture_output=True, text=True).stderr


@pytest.mark.parametrize("target", TARGETS)
def test_structures_and_values_are_those_of_the_headers(tmp_path: Path, target: str) -> None:
    assert len(VALUES) >= 25
    assert compile_macos(target, list(claims()), tmp_path) == ""


@pytest.mark.parametrize("claim", ["sizeof(struct rt_msghdr) == 96", "RTM_VERSION == 6u"])
def test_compiler_refuses_a_false_claim(tmp_path: Path, claim: str) -> None:
    said = compile_macos(TARGETS[0], [claim], tmp_path)
    assert "static assertion failed" in said
    assert said.count("error:") == 1
