"""What a node says of itself when asked: it follows the schema, and names what is wrong."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fastjsonschema
import pytest
from rich.console import Console

from conflux.api import NodeId
from conflux.cli.view import view
from conflux.cli.words import as_text
from conflux.hardening import Hardening
from conflux.runtime.problems import problems
from conflux.runtime.status import Surroundings, status
from conflux.runtime.throughput import Meter, Rate
from conflux.testing.simnet import SimNetwork

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((ROOT / "docs" / "reference" / "status.schema.json").read_text())
follows_schema = fastjsonschema.compile(SCHEMA)

SAFE = Hardening(core_dumps=False, memory_locked=True, missing=())


def channel(connected: bool = True, **dropped: int) -> Any:
    return SimpleNamespace(connected=connected, dropped=lambda: dropped)


def asked(state: str, anchor: Any, **around: Any) -> dict[str, Any]:
    around = {"plugins": {"tun": "linux"}, "packet_auth": "strict", "hardening": SAFE, **around}

    async def main() -> dict[str, Any]:
        return status(state, anchor, Surroundings(**around))

    table = asyncio.run(main())
    follows_schema(json.loads(json.dumps(table)))
    return table


@pytest.fixture(scope="module")
def talking() -> dict[str, Any]:
    """The answer of a node that has a peer."""
    network = SimNetwork(seed=1)
    one, other = (network.add_node(name, teams=["ops"]) for name in "ab")
    one.ping(other)
    network.run(2)
    meter, anchor = Meter(), one.anchor
    for seconds in (0.0, 1.0):
        neighbours = anchor.neighbours.all()
        totals = {n.node_id: (int(seconds * 1e6), int(seconds * 5e5)) for n in neighbours}
        meter.look(totals, now=seconds)
    return asked("running", anchor, meter=meter, control=channel())


def test_what_the_control_channel_dropped_stands_among_the_counters() -> None:
    node = SimNetwork(seed=1).add_node("a")
    node.anchor.counters["frame_replayed"] = 2
    table = asked("running", node.anchor, control=channel(oversized=1, unsent=3, bad_subject=0))
    assert table["counters"] == {
        "control_oversized": 1,
        "control_unsent": 3,
        "frame_replayed": 2,
    }


def test_answer_with_peers_follows_the_schema_and_has_no_problems(talking) -> None:
    assert [peer["address"] for peer in talking["peers"]]
    assert talking["neighbours"][0]["sent_bps"] == 8e6
    assert talking["throughput"] == {"sent_bps": 8e6, "received_bps": 4e6}
    assert talking["problems"] == []


def test_schema_describes_every_field_and_requires_it(talking) -> None:
    def fields(schema: Any, value: Any, where: str) -> None:
        if isinstance(value, dict) and "properties" in schema:
            assert value.keys() == schema["properties"].keys() == set(schema["required"]), where
            for name, inner in schema["properties"].items():
                assert inner.get("description"), f"{where}.{name}"
                fields(inner, value[name], f"{where}.{name}")
        elif isinstance(value, list) and value:
            fields(schema["items"], value[0], f"{where}[]")

    # The command line adds how the service is; tests/cli/test_service_verbs.py has seen it.
    service = {"driver": "systemd", "state": "running"}
    required = [*SCHEMA["required"], "service"]
    fields({**SCHEMA, "required": required}, {**talking, "service": service}, "status")


def test_schema_refuses_what_is_none(talking) -> None:
    for change in ({"state": "dancing"}, {"peers": [{}]}, {"tasks": -1}, {"problems": ["x"]}):
        with pytest.raises(fastjsonschema.JsonSchemaException):
            follows_schema({**talking, **change})


def said(table: dict[str, Any], **changes: Any) -> list[str]:
    return [problem["what"] for problem in problems({**table, **changes})]


@pytest.mark.parametrize("who", ["Guardian", "the Master"])
def test_node_that_waits_says_for_whom_why_and_what_to_do(who) -> None:
    table = asked(f"waiting for {who}", None, waiting=f"{who} at h:1 does not answer: start it")
    [problem] = table["problems"]
    assert problem == {
        "what": f"{who} at h:1 does not answer",
        "do": "start it; see `veilnet-conflux netcheck`",
    }
    assert said(asked("starting", None)) == []


def test_every_trouble_is_named_with_what_to_do(talking) -> None:
    peer = talking["peers"][0]
    lossy = [{**peer, "loss": 0.25, "address": "10.0.0.2"}]
    pathless = [{**peer, "path": [], "address": "10.0.0.2"}]
    sworn = {**talking["hardening"], "missing": ["memory is not locked: keys; grant CAP_IPC_LOCK"]}
    expected = [
        ({"master": {"connected": False, "urls": []}}, ("the Master is gone: new peers are found "
         "only over tethers that there are")),
        ({"renewal": "Guardian is away"}, "the certificate is not renewed: Guardian is away"),
        ({"counters": {"security_frame_forged": 2}}, ("2 streams had packets under a stolen key "
         "and were closed")),
        ({"peers": pathless}, "there is no way to 10.0.0.2 right now"),
        ({"peers": lossy}, "25% of probes on the way to 10.0.0.2 are lost"),
        ({"left_out": {"udp": "no socket"}}, "the tether driver udp is left out: no socket"),
        ({"hardening": sworn}, "memory is not locked: keys"),
    ]  # fmt: skip
    for changes, what in expected:
        assert said(talking, **changes) == [what]
    everything = {key: value for changes, _ in expected for key, value in changes.items()}
    for problem in problems({**talking, **everything}):
        assert problem["do"]


def drawn(table: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(view(table))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_people_see_the_same_in_text_and_live(talking) -> None:
    table = {**talking, "renewal": "Guardian is away"}
    table["problems"] = problems(table)
    for shown in (as_text(table), drawn(table)):
        for part in (
            "running", table["plane"], "strict", "tun=linux", "8.0 Mbit/s", "4.0 Mbit/s",
            talking["peers"][0]["address"], "direct", talking["peers"][0]["node_id"][:8],
            "the certificate is not renewed: Guardian is away", "see `veilnet-conflux netcheck`",
        ):  # fmt: skip
            assert part in shown, part


def test_live_view_says_that_the_node_is_gone_and_takes_no_markup() -> None:
    assert drawn({"gone": "no node runs at [red]x"}) == "no node runs at [red]x\n"


NODE, OTHER = NodeId(b"a"), NodeId(b"b")


def test_rates_are_those_between_the_last_two_looks() -> None:
    meter = Meter()
    assert meter.rate(NODE) == meter.total() == Rate()
    meter.look({NODE: (1_000, 10)}, now=10.0)
    assert meter.rate(NODE) == Rate()
    meter.look({NODE: (3_000, 10), OTHER: (9_000, 9_000)}, now=12.0)
    assert meter.rate(NODE) == Rate(8_000, 0)
    assert meter.rate(OTHER) == Rate()
    meter.look({NODE: (3_000, 10), OTHER: (10_000, 9_000)}, now=13.0)
    assert meter.rate(NODE) == Rate()
    assert meter.total() == Rate(8_000, 0)


def test_counter_that_began_anew_is_counted_from_zero() -> None:
    meter = Meter()
    meter.look({NODE: (5_000, 0)}, now=0.0)
    meter.look({NODE: (500, 0)}, now=1.0)
    assert meter.rate(NODE) == Rate(4_000, 0)


def test_looks_that_are_too_near_measure_nothing() -> None:
    meter = Meter()
    meter.look({NODE: (0, 0)}, now=0.0)
    meter.look({NODE: (1_000, 0)}, now=1.0)
    meter.look({NODE: (1_001, 0)}, now=1.0)
    assert meter.rate(NODE) == Rate(8_000, 0)
