"""Structures, values and functions against the headers: a compiler for Windows says whether they
agree. Nothing is run."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from conflux_tun_wintun import library, netio

COMPILER = "x86_64-w64-mingw32-gcc"
PACKAGE = library.find("win-amd64").parents[2]

C_NAMES = {
    netio.SockaddrInet: "SOCKADDR_INET",
    netio.IpAddressPrefix: "IP_ADDRESS_PREFIX",
    netio.UnicastIpAddressRow: "MIB_UNICASTIPADDRESS_ROW",
    netio.IpForwardRow2: "MIB_IPFORWARD_ROW2",
    netio.IpInterfaceRow: "MIB_IPINTERFACE_ROW",
    netio.UnicastIpAddressTable: "MIB_UNICASTIPADDRESS_TABLE",
    netio.IpForwardTable2: "MIB_IPFORWARD_TABLE2",
}
FIELDS = {
    "port": "Ipv4.sin_port",
    "ipv4": "Ipv4.sin_addr",
    "ipv6": "Ipv6.sin6_addr",
    "scope_id": "Ipv6.sin6_scope_id",
}
VALUES = {
    "AF_UNSPEC": netio.AF_UNSPEC,
    "AF_INET": netio.AF_INET,
    "AF_INET6": netio.AF_INET6,
    "IpDadStateTentative": netio.IP_DAD_STATE_TENTATIVE,
    "IpDadStateDuplicate": netio.IP_DAD_STATE_DUPLICATE,
    "IpDadStatePreferred": netio.IP_DAD_STATE_PREFERRED,
    "RouterDiscoveryDisabled": netio.ROUTER_DISCOVERY_DISABLED,
    "NO_ERROR": netio.NO_ERROR,
    "ERROR_ACCESS_DENIED": library.ERROR_ACCESS_DENIED,
    "ERROR_NOT_FOUND": netio.ERROR_NOT_FOUND,
    "ERROR_OBJECT_ALREADY_EXISTS": netio.ERROR_OBJECT_ALREADY_EXISTS,
    "ERROR_BUFFER_OVERFLOW": library.ERROR_BUFFER_OVERFLOW,
    "ERROR_HANDLE_EOF": library.ERROR_HANDLE_EOF,
    "ERROR_NO_MORE_ITEMS": library.ERROR_NO_MORE_ITEMS,
    "NDIS_IF_MAX_STRING_SIZE": netio.NDIS_IF_MAX_STRING_SIZE,
    "DUPLICATE_SAME_ACCESS": 2,
    "LOAD_LIBRARY_SEARCH_SYSTEM32": 0x800,
}
BIT_FIELDS = {"TransmitOffload", "ReceiveOffload"}


def claims() -> Iterator[str]:
    for structure, c_name in C_NAMES.items():
        yield f"sizeof({c_name}) == {ctypes.sizeof(structure)}"
        yield f"_Alignof({c_name}) == {ctypes.alignment(structure)}"
        for name, *_ in structure._fields_:
            field = getattr(structure, name)
            member = FIELDS.get(name, name)
            yield f"offsetof({c_name}, {member}) == {field.offset}"
            yield f"sizeof((({c_name} *)0)->{member}) == {field.size}"
    for name, value in VALUES.items():
        yield f"{name} == {value}"
    ring = library.RING_BYTES
    yield f"{ring} >= WINTUN_MIN_RING_CAPACITY && {ring} <= WINTUN_MAX_RING_CAPACITY"
    yield f"!({ring} & ({ring} - 1))"
    for name in {**library.PROTOTYPES, **netio.PROTOTYPES}:
        yield f"sizeof(&{name}) == sizeof(void *)"  # it is declared, under this very name


def functions() -> Iterator[str]:
    """wintun.h gives the types of the functions only: declare those that we call."""
    for name in library.PROTOTYPES:
        words = name.removeprefix("Wintun").replace("LUID", "Luid")
        upper = "".join("_" + c if c.isupper() else c.upper() for c in words)
        yield f"WINTUN{upper}_FUNC {name};"


def compile_windows(source: str, where: Path) -> str:
    if not shutil.which(COMPILER):
        pytest.skip(f"needs {COMPILER} (Debian: gcc-mingw-w64-x86-64-win32)")
    file = where / "claims.c"
    file.write_text(source)
    include = PACKAGE / "include"
    command = [
        COMPILER,
        "-std=gnu11",
        "-fsyntax-only",
        "-D_WIN32_WINNT=0x0A00",
        "-w",
        "-I",
        include,
    ]
    done = subprocess.run([*command, file], check=False, capture_output=True, text=True)
    return done.stderr


def source(*claimed: str) -> str:
    lines = [
        "#include <wintun.h>",
        "#include <iphlpapi.h>",
        "#include <netioapi.h>",
        "#include <stddef.h>",
        *functions(),
        *(f'_Static_assert({claim}, "{claim}");' for claim in claimed),
    ]
    return "\n".join(lines) + "\n"


def test_structures_values_and_functions_are_those_of_the_headers(tmp_path: Path) -> None:
    assert compile_windows(source(*claims()), tmp_path) == ""


@pytest.mark.parametrize(
    ("claim", "objection"),
    [
        ("sizeof(MIB_IPFORWARD_ROW2) == 96", "static assertion failed"),
        ("IpDadStatePreferred == 3", "static assertion failed"),
        ("sizeof(&WintunNoSuchThing) == sizeof(void *)", "undeclared"),
    ],
)
def test_compiler_refuses_a_false_claim(tmp_path: Path, claim: str, objection: str) -> None:
    assert objection in compile_windows(source(claim), tmp_path)


@pytest.mark.parametrize("text", ["10.128.0.7", "fd00:77::7"])
def test_address_comes_back_from_its_structure(text: str) -> None:
    from ipaddress import ip_address

    assert netio.SockaddrInet.of(ip_address(text)).address == ip_address(text)


@pytest.mark.parametrize("text", ["10.128.0.0/16", "::/0", "2001:db8::/32"])
def test_network_comes_back_from_its_structure(text: str) -> None:
    from ipaddress import ip_network

    assert netio.IpAddressPrefix.of(ip_network(text)).network == ip_network(text)
