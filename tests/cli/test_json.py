"""What verbs print with --json is what docs/reference says of it, by real nodes in every state."""

from __future__ import annotations

import copy
import json
import re
from ipaddress import IPv4Address
from pathlib import Path

import fastjsonschema
import pytest

from conflux.api import Kind, Unavailable
from conflux.checks.echo import Echo
from conflux.checks.findings import Verdict

REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "reference"
PAGE = (REFERENCE / "local-api.md").read_text()

TALKING_TUN = """
import asyncio, os
from ipaddress import ip_address
from conflux.api import API_VERSION, DriverInfo, Layout, hookimpl
from conflux.testing import MemoryTunDriver
from conflux.testing.packets import udp_packet

class Talking(MemoryTunDriver):
    async def open(self, config):
        device = await super().open(config)
        packet = udp_packet(config.addresses[0].ip, ip_address(os.environ["TALK_TO"]), b"hello")
        burst = memoryview(len(packet).to_bytes(2, "big") + packet)
        def say():
            if not device.closed:
                self.far[config.name].send(burst, Layout.BARE)
                asyncio.get_running_loop().call_later(0.1, say)
        say()
        return device

@hookimpl
def conflux_tun_driver():
    return DriverInfo(name="memory", target="memory_tun:Talking", api=API_VERSION)
"""


def whole(schema: object) -> object:
    """The schema with every field that it knows required, and no other allowed."""
    schema = copy.deepcopy(schema)
    if isinstance(schema, dict):
        if "properties" in schema:
            schema |= {"required": [*schema["properties"]], "additionalProperties": False}
        return {name: whole(inner) for name, inner in schema.items()}
    return schema


status_follows = fastjsonschema.compile(
    whole(json.loads((REFERENCE / "status.schema.json").read_text()))
)


def fields_of(heading: str) -> set[str]:
    """The fields in the first column of a section's table."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    return {field for row in rows for field in re.findall(r"`(\w+)(?:\[\])?`", row)}


def said_of(verb: str) -> set[str]:
    """The fields of a verb in the table of the others."""
    [row] = re.findall(
        rf"^\| .*`{verb}`.* \| (.*) \|$", PAGE.partition("## JSON of")[2], re.MULTILINE
    )
    return set(re.findall(r"`(\w+)`", row))


def fields(value: object, kinds: set[str] = frozenset()) -> set[str]:
    """The names of all fields, however deep; those of *kinds* are no names but values."""
    if isinstance(value, list):
        return set().union(*(fields(inner, kinds) for inner in value))
    if isinstance(value, dict):
        return set().union(
            value.keys() - kinds, *(fields(inner, kinds) for inner in value.values())
        )
    return set()


def told(machine, verb: str) -> dict:
    ended = machine.quick(verb, "--json")
    assert (ended.code, ended.err) == (0, "")
    table = json.loads(ended.out)
    if verb == "status":
        status_follows(table)
    return table


def test_nodes_that_talk_follow_the_schema_with_every_field(
    machine, other_machine, guardian, until
):  # fmt: skip
    other = other_machine
    (other.home / "plugins" / "memory_tun.py").write_text(TALKING_TUN)
    for place in (machine, other):
        place.folder.mkdir(mode=0o700)
        settings = "[plugin.tether.udp]\nallow_loopback = true\n"
        (place.folder / "conflux.toml").write_text(settings)
    words = ["up", "-d", "-g", guardian.url]
    variables = {"VEILNET_PLUGIN_TETHER": "udp"}
    with machine.node(*words, "-t", guardian.conflux_token("listens"), **variables):
        info = told(machine, "info")
        talk_to = info["address"].partition("/")[0]
        token = guardian.conflux_token("talks")
        with other.node(*words, "-t", token, TALK_TO=talk_to, **variables):
            until(lambda: [p for p in other.status()["peers"] if p["rtt_ms"] is not None])
            until(lambda: machine.status()["peers"])
            for place in (machine, other):
                table = told(place, "status")
                assert table["state"] == "running"
                assert len(table["peers"]) == len(table["neighbours"]) == 1
                assert table["peers"][0]["tether"] == "udp"
    assert info.keys() == fields_of("`info`")


def test_node_that_waits_for_guardian_follows_the_schema(machine):
    token = machine.token_of_nobody()
    machine.save("conflux.json", guardian="http://127.0.0.1:1", conflux_token=token)
    with machine.node("run", state="waiting for Guardian"):
        assert told(machine, "status")["waiting"]
        assert fields_of("`info`") - told(machine, "info").keys() == {
            "certificate_serial", "certificate_not_after"
        }  # fmt: skip


def test_node_that_waits_for_the_master_follows_the_schema(machine, masterless):
    token = masterless.conflux_token("masterless")
    machine.save("conflux.json", guardian=masterless.url, conflux_token=token)
    with machine.node("run", state="waiting for the Master"):
        table = told(machine, "status")
        assert table["master"] == {"connected": False, "urls": ["nats://127.0.0.1:1"]}


def test_findings_have_the_fields_and_verdicts_of_the_page(machine):
    ended = machine.quick("doctor", "--json", VEILNET_GUARDIAN="http://127.0.0.1:1")
    assert ended.code == 1
    found = json.loads(ended.out)
    assert fields(found) == said_of("doctor") == said_of("netcheck")
    quoted = re.findall(r'"(\S+?)"', PAGE.partition("`verdict` (")[2].partition(")")[0])
    assert quoted == [*map(str, Verdict)]
    assert {finding["verdict"] for finding in found} <= set(quoted)


def test_settings_and_plugins_have_the_fields_of_the_page(machine):
    ended = machine.quick("config", "show", "--json")
    assert fields(json.loads(ended.out)) == said_of("config show")
    ended = machine.quick("plugins", "list", "-v", "--json")
    assert fields(json.loads(ended.out), kinds={*map(str, Kind)}) == said_of("plugins list")


def test_answers_to_ping_have_the_fields_of_the_page(machine, stand_in):
    own = {"addresses": ["127.0.0.1/8"]}
    with stand_in(info=own, status={"peers": []}):
        ended = machine.quick("ping", "127.0.0.1", "-c", "2", "-i", "0", "--json")
    if ended.code == 3:
        pytest.skip(ended.err)
    assert ended.code == 0, ended.err
    table = json.loads(ended.out)
    assert fields(table) == said_of("ping")
    assert (table["sent"], table["answered"]) == (2, 2)


def test_question_whose_number_the_header_has_no_room_for_is_answered():
    here = IPv4Address("127.0.0.1")
    try:
        echo = Echo(here, here, 56)
    except Unavailable as error:
        pytest.skip(str(error))
    try:
        assert isinstance(echo.ask(65_536 + 7, 10.0), float)
    finally:
        echo.close()
