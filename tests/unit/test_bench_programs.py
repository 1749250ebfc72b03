"""Where `make bench` takes other products' packages from."""

from __future__ import annotations

import pytest

from benches.compare.programs import to_trixie

STANZAS = """\
Types: deb
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""
SECURITY = """\
Types: deb
URIs: http://mirror.example/debian-security/
Suites: bookworm-security
Components: main
"""
LINE = "deb [signed-by=/k.gpg] http://mirror.example/debian/ bookworm main contrib\n"


@pytest.mark.parametrize("sources", [STANZAS, SECURITY, LINE])
def test_the_systems_own_source_is_kept_but_for_the_suite(sources):
    assert to_trixie(sources, "bookworm") == sources.replace("bookworm", "trixie")


def test_every_stanza_of_a_file_is_looked_at():
    taken = to_trixie(f"{STANZAS}\n\n{SECURITY}", "bookworm")
    assert taken.count("Types: deb") == 2
    assert "trixie-security" in taken
    assert "bookworm" not in taken


@pytest.mark.parametrize("sources", [
    STANZAS.replace("/debian\n", "/linux/debian-docker\n"),
    "deb http://vendor.example/apt bookworm stable\n",
    f"# {LINE}",
    f"deb-src{LINE[3:]}",
    LINE.replace("bookworm", "bullseye"),
    "",
])  # fmt: skip
def test_sources_of_others_and_what_is_commented_out_are_left_out(sources):
    assert to_trixie(sources, "bookworm") == ""
