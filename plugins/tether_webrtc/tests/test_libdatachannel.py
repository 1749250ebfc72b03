"""libdatachannel as the far end, whichever side offers: its ICE, DTLS and SCTP, not aiortc's.

It is no dependency and has wheels for CPython 3.12 and later; `tools/far-end` installs it.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from ipaddress import ip_address

import pytest

from conflux.api import TetherConfig
from conflux.lab import in_private_network
from conflux_tether_webrtc import description as wire
from conflux_tether_webrtc.driver import WebRtcTetherDriver

pytestmark = pytest.mark.lab

BOUND_S = 30
SECRET = bytes(32)
CHANNELS = 5
RELIABLE = 4
"""The identifier of the reliable channel; those before it take datagrams."""

SDP = """v=0
o=- 1 1 IN IP4 127.0.0.1
s=-
t=0 0
a=group:BUNDLE 0
m=application 9 UDP/DTLS/SCTP webrtc-datachannel
c=IN IP4 0.0.0.0
a=mid:0
a=setup:{setup}
a=ice-ufrag:{ufrag}
a=ice-pwd:{password}
a=fingerprint:sha-256 {fingerprint}
a=sctp-port:5000
a=max-message-size:262144
"""


def to_sdp(told):
    """What SDP says of the same end (RFC 8839, RFC 8841); the offerer is the DTLS server."""
    text = SDP.format(
        setup="passive" if told.kind is wire.Kind.OFFER else "active",
        ufrag=told.ufrag,
        password=told.password,
        fingerprint=told.fingerprint.hex(":").upper(),
    )
    lines = [
        f"a=candidate:1 1 UDP {c.priority} {c.address} {c.port} typ host" for c in told.candidates
    ]
    return "\r\n".join([*text.split("\n")[:-1], *lines, ""])


def from_sdp(sdp, kind):
    fields = dict(line[2:].split(":", 1) for line in sdp.splitlines() if line[2:].count(":"))
    candidates = [
        line.split()
        for line in sdp.splitlines()
        if line.startswith("a=candidate") and "UDP" in line
    ]
    return wire.Description(
        kind=kind,
        ufrag=fields["ice-ufrag"],
        password=fields["ice-pwd"],
        fingerprint=bytes.fromhex(fields["fingerprint"].split()[1].replace(":", "")),
        candidates=tuple(
            wire.Endpoint(wire.CandidateType.HOST, int(prio), ip_address(where), int(port))
            for _, _, _, prio, where, port, *_ in candidates
        ),
    ).encode()


@pytest.mark.parametrize("size", [1, 1_400, 60_000])
@pytest.mark.parametrize("who_offers", ["we offer", "libdatachannel offers"])
def test_libdatachannel_is_understood(who_offers, size):
    pytest.importorskip(
        "aiolibdatachannel", reason="aiolibdatachannel is not installed: tools/far-end does it"
    )

    def body():
        for arguments in (
            "link add eth9 type veth peer name eth9-far",
            "link set eth9-far up",
            "link set eth9 up",
            "address add 10.77.0.1/24 dev eth9",
        ):
            subprocess.run(["ip", *arguments.split()], check=True)
        asyncio.run(main())

    async def main():
        async with asyncio.timeout(BOUND_S):
            await (we_offer if who_offers == "we offer" else they_offer)(size)

    in_private_network(body)


async def we_offer(size):
    driver = WebRtcTetherDriver({})
    await driver.start(TetherConfig(is_overlay=lambda address: False))
    tether = await driver.offer()
    far, channels = await far_end()
    await far.set_remote_description(
        to_sdp(wire.decode(tether.description, wire.Kind.OFFER)), "offer"
    )
    answer = from_sdp(await gathered(far, "answer"), wire.Kind.ANSWER)
    await exchange(tether, answer, far, channels, size)
    await driver.stop()


async def they_offer(size):
    driver = WebRtcTetherDriver({})
    await driver.start(TetherConfig(is_overlay=lambda address: False))
    far, channels = await far_end()
    tether = await driver.answer(from_sdp(await gathered(far, "offer"), wire.Kind.OFFER))
    await far.set_remote_description(
        to_sdp(wire.decode(tether.description, wire.Kind.ANSWER)), "answer"
    )
    await exchange(tether, None, far, channels, size)
    await driver.stop()


async def far_end():
    from aiolibdatachannel import DataChannelOptions, PeerConnection

    far = PeerConnection()
    options = [
        DataChannelOptions(
            ordered=number == RELIABLE,
            max_retransmits=None if number == RELIABLE else 0,
            negotiated=True,
            stream_id=number,
        )
        for number in range(CHANNELS)
    ]
    return far, [await far.create_data_channel(str(o.stream_id), o) for o in options]


async def gathered(far, kind):
    """Its description, with every candidate in it."""
    from aiolibdatachannel import GatheringState

    await far.set_local_description(kind)
    while far.gathering_state is not GatheringState.COMPLETE:  # noqa: ASYNC110 (it has no event)
        await asyncio.sleep(0.01)
    return far.local_description.sdp


async def exchange(tether, remote, far, channels, size):
    """Messages both ways, on every channel; then the far end closes, and the tether hears it."""
    datagrams, reliable, closed = asyncio.Queue(), asyncio.Queue(), asyncio.Queue()
    tether.attach(
        lambda message: datagrams.put_nowait(bytes(message)),
        lambda message: reliable.put_nowait(bytes(message)),
        closed.put_nowait,
    )
    async with asyncio.TaskGroup() as both:
        both.create_task(tether.connect(SECRET, remote))
        for channel in channels:
            both.create_task(channel.wait_open())
    sent = [os.urandom(size) for _ in range(RELIABLE)]
    assert tether.send(sent) == len(sent)
    received = [await channel.recv() for channel in channels[:RELIABLE]]
    assert sorted(received) == sorted(sent), "one message on each channel"
    for message in (os.urandom(min(size, 16_384)) for _ in range(20)):
        assert tether.send_reliable(message)
        assert await channels[RELIABLE].recv() == message
        await channels[RELIABLE].send(message)
        assert await reliable.get() == message
    for channel, message in zip(channels, sent, strict=False):
        await channel.send(message)
        assert await datagrams.get() == message
    await far.aclose()
    assert await closed.get() == "the far end closed the tether"
