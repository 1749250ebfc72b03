"""Kinds of tether side by side: UDP where both ends have it, else WebRTC, else a relay has both."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.lab

MEGABYTE = 1 << 20
UDP_PORT = 4_444


@pytest.fixture(scope="module")
def five(overlay):
    """Three with every kind, one of them firewalled; one with UDP alone, one with WebRTC alone."""
    overlay.start_guardian()
    pins = {"london": "", "tokyo": "", "walled": "", "udp-only": "udp", "webrtc-only": "webrtc"}
    nodes = []
    for name, pin in pins.items():
        node = overlay.host(name)
        node.configure(f"[plugin.tether.udp]\nport = {UDP_PORT}\n")
        variables = {"VEILNET_PLUGIN_TETHER": pin} if pin else {}
        nodes.append(node.register(overlay.tokens["alice"], **variables))
    # What tethers of kind udp come from: whatever goes out from elsewhere passes.
    rule = ["ip", "rule", "add", "ipproto", "udp", "sport", str(UDP_PORT), "prohibit"]
    overlay.confluxes["walled"].host.run(rule)
    return [node.ready() for node in nodes]


def kind_between(source, target):
    """The kind of the tether between two neighbours; empty if they are none."""
    neighbours = source.status()["neighbours"]
    return next((n["tether"] for n in neighbours if n["node_id"] == target.node_id), "")


def meet_directly(overlay, source, target):
    """Have *source* talk to *target* until a tether joins the two; a relay may be first."""
    overlay.until(
        lambda: (
            source.reaches(target) and kind_between(source, target) and kind_between(target, source)
        ),
        "a direct tether",
    )


def transfer(overlay, source, target, megabytes, port):
    end = overlay.serve_stream(source, megabytes * MEGABYTE, port=port)
    got = overlay.fetch_stream(source, target, port=port).wait()
    assert got["bytes"] == megabytes * MEGABYTE
    assert got["sha256"] in overlay.sent_digests()
    end()


def test_two_that_have_every_kind_use_udp(overlay, five):
    london, tokyo, *_ = five
    meet_directly(overlay, london, tokyo)
    assert kind_between(london, tokyo) == kind_between(tokyo, london) == "udp"
    transfer(overlay, london, tokyo, 24, 9001)


def test_udp_alone_reaches_whoever_has_it(overlay, five):
    london, _, _, udp_only, _ = five
    meet_directly(overlay, udp_only, london)
    assert kind_between(udp_only, london) == "udp"
    transfer(overlay, udp_only, london, 24, 9002)


def test_webrtc_alone_reaches_whoever_has_it(overlay, five):
    london, _, _, _, webrtc_only = five
    meet_directly(overlay, london, webrtc_only)
    assert kind_between(london, webrtc_only) == kind_between(webrtc_only, london) == "webrtc"
    transfer(overlay, webrtc_only, london, 8, 9003)
    transfer(overlay, london, webrtc_only, 8, 9004)


def test_where_udp_tethers_are_firewalled_webrtc_takes_over(overlay, five):
    _, tokyo, walled, *_ = five
    assert walled.ping(tokyo, wait_s=20)
    meet_directly(overlay, walled, tokyo)
    assert kind_between(walled, tokyo) == kind_between(tokyo, walled) == "webrtc"
    transfer(overlay, walled, tokyo, 8, 9005)


def test_two_without_a_common_kind_meet_over_one_that_has_both(overlay, five):
    _, _, _, udp_only, webrtc_only = five
    overlay.until(lambda: udp_only.reaches(webrtc_only), "a way over a relay")
    assert {len(path) for path in udp_only.paths_to(webrtc_only)} == {3}
    assert not kind_between(udp_only, webrtc_only)
    transfer(overlay, udp_only, webrtc_only, 8, 9006)


@pytest.mark.usefixtures("needs_nft")
def test_udp_tether_that_falls_silent_gives_way_to_webrtc(overlay, five):
    london, tokyo, *_ = five
    meet_directly(overlay, london, tokyo)
    assert kind_between(london, tokyo) == "udp"
    beats = overlay.beats((london, tokyo))
    overlay.until(beats.all_arrive, "the two to talk")
    rule = f"type filter hook input priority 0; udp dport {UDP_PORT} drop;"
    wall = f"table ip wall {{ chain in {{ {rule} }}; }}"
    for node in (london, tokyo):
        node.host.run(["nft", "-f", "-"], input=wall)
    try:
        overlay.until(
            lambda: kind_between(london, tokyo) == kind_between(tokyo, london) == "webrtc",
            "another direct tether",
            within_s=90,
        )
        transfer(overlay, london, tokyo, 8, 9007)
    finally:
        beats.stop()
        for node in (london, tokyo):
            node.host.run(["nft", "delete", "table", "ip", "wall"])
