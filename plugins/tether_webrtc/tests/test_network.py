"""On a network of its own: overlay addresses stay out, and plain WebRTC understands us."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from ipaddress import ip_address, ip_network

import pytest

from conflux.api import TetherConfig
from conflux.lab import in_private_network
from conflux_tether_webrtc import description as wire
from conflux_tether_webrtc.driver import WebRtcTetherDriver

pytestmark = pytest.mark.lab

OVERLAY = ip_network("10.128.0.0/16")


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True)


def add_interface(name, *addresses):
    ip("link", "add", name, "type", "veth", "peer", "name", f"{name}-far")
    ip("link", "set", f"{name}-far", "up")
    ip("link", "set", name, "up")
    for address in addresses:
        # No duplicate address detection: the address is usable at once.
        ip("address", "add", address, "dev", name, *(["nodad"] if ":" in address else []))


def run(main):
    async def bounded():
        async with asyncio.timeout(30):
            await main

    asyncio.run(bounded())


def bound_addresses():
    """Every address that a UDP socket of this process is bound to."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            sock = socket.socket(fileno=os.dup(int(name)))
        except OSError:
            continue
        with sock:
            if sock.family in (socket.AF_INET, socket.AF_INET6):
                found.add(sock.getsockname()[0])
    return found


def test_overlay_addresses_are_neither_offered_nor_bound_nor_tried():
    def body():
        add_interface("eth9", "10.77.0.1/24", "2001:db8::1/64")
        add_interface("veilnet", "10.128.0.1/16", "10.128.0.2/16")
        run(main())

    async def main():
        driver = WebRtcTetherDriver({})
        await driver.start(TetherConfig(is_overlay=lambda address: address in OVERLAY))
        offer = await driver.offer()
        told = wire.decode(offer.description, wire.Kind.OFFER).candidates
        usable = {"10.77.0.1", "2001:db8::1"}
        assert {str(candidate.address) for candidate in told} == usable
        assert bound_addresses() == usable
        # A neighbour that offers its own overlay address, or ours, gets no packet there.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as trap:
            trap.bind(("10.128.0.2", 0))
            trap.settimeout(0)
            port = trap.getsockname()[1]
            hostile = wire.Description(
                kind=wire.Kind.ANSWER,
                ufrag="abcd",
                password="p" * 22,
                fingerprint=bytes(32),
                candidates=(
                    wire.Endpoint(wire.CandidateType.HOST, 9, ip_address("10.128.0.2"), port),
                    wire.Endpoint(wire.CandidateType.HOST, 1, ip_address("10.77.0.1"), 9),
                ),
            )
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await offer.connect(bytes(32), hostile.encode())
            with pytest.raises(BlockingIOError):
                trap.recv(2_000)
        await driver.stop()
        assert bound_addresses() == set()

    in_private_network(body)


def test_machine_with_many_addresses_offers_a_bounded_number():
    def body():
        add_interface("eth9", *(f"10.77.0.{i}/24" for i in range(1, 60)))
        run(main())

    async def main():
        driver = WebRtcTetherDriver({})
        await driver.start(TetherConfig(is_overlay=lambda address: False))
        offer = await driver.offer()
        told = wire.decode(offer.description, wire.Kind.OFFER).candidates
        assert 1 <= len(told) <= wire.MAX_CANDIDATES
        assert len(bound_addresses()) == len(told)
        await driver.stop()

    in_private_network(body)


@pytest.mark.parametrize("size", [1, 1_400, 60_000])
def test_plain_webrtc_peer_with_negotiated_channels_is_understood(size):
    """aiortc's own transports and data channels, as a browser's stand for any other peer."""

    def body():
        add_interface("eth9", "10.77.0.1/24")
        run(main(size))

    in_private_network(body)


async def main(size):
    from aiortc import (
        RTCCertificate,
        RTCDataChannel,
        RTCDataChannelParameters,
        RTCDtlsFingerprint,
        RTCDtlsParameters,
        RTCDtlsTransport,
        RTCIceCandidate,
        RTCIceGatherer,
        RTCIceParameters,
        RTCIceTransport,
        RTCSctpCapabilities,
        RTCSctpTransport,
    )

    driver = WebRtcTetherDriver({})
    await driver.start(TetherConfig(is_overlay=lambda address: False))
    offer = await driver.offer()
    told = wire.decode(offer.description, wire.Kind.OFFER)
    datagrams, reliable, closed = asyncio.Queue(), asyncio.Queue(), asyncio.Queue()
    offer.attach(
        lambda message: datagrams.put_nowait(bytes(message)),
        lambda message: reliable.put_nowait(bytes(message)),
        closed.put_nowait,
    )

    gatherer = RTCIceGatherer(iceServers=[])
    transport = RTCIceTransport(gatherer)
    dtls = RTCDtlsTransport(transport, [RTCCertificate.generateCertificate()])
    sctp = RTCSctpTransport(dtls)
    channels = [
        RTCDataChannel(
            sctp,
            RTCDataChannelParameters(
                negotiated=True,
                id=number,
                ordered=number == 4,
                maxRetransmits=None if number == 4 else 0,
            ),
        )
        for number in range(5)
    ]
    got = [asyncio.Queue() for _ in channels]
    for channel, queue in zip(channels, got, strict=True):
        channel.on("message", queue.put_nowait)
    await gatherer.gather()
    own = gatherer.getLocalParameters()
    print_ = next(f for f in dtls.getLocalParameters().fingerprints if f.algorithm == "sha-256")
    answer = wire.Description(
        kind=wire.Kind.ANSWER,
        ufrag=own.usernameFragment,
        password=own.password,
        fingerprint=bytes.fromhex(print_.value.replace(":", "")),
        candidates=tuple(
            wire.Endpoint(wire.CandidateType.HOST, c.priority, ip_address(c.ip), c.port)
            for c in gatherer.getLocalCandidates()
        ),
    )

    async def connect_plain():
        for c in told.candidates:
            await transport.addRemoteCandidate(
                RTCIceCandidate(1, "1", str(c.address), c.port, c.priority, "udp", "host")
            )
        await transport.addRemoteCandidate(None)
        await transport.start(RTCIceParameters(told.ufrag, told.password))
        fingerprint = RTCDtlsFingerprint("sha-256", told.fingerprint.hex(":"))
        await dtls.start(RTCDtlsParameters([fingerprint]))
        await sctp.start(RTCSctpCapabilities(65_535), 5_000)

    async with asyncio.TaskGroup() as both:
        both.create_task(connect_plain())
        both.create_task(offer.connect(bytes(32), answer.encode()))

    sent = [os.urandom(size) for _ in range(4)]
    assert offer.send(sent) == 4
    received = [await queue.get() for queue in got[:4]]
    assert sorted(received) == sorted(sent), "one message on each channel"
    for message in [os.urandom(min(size, 16_384)) for _ in range(20)]:
        assert offer.send_reliable(message)
        assert await got[4].get() == message
        channels[4].send(message)
        assert await reliable.get() == message
    for channel, message in zip(channels, sent, strict=False):
        channel.send(message)
        assert await datagrams.get() == message
    await sctp.stop()
    assert await closed.get() == "the far end closed the tether"
    await dtls.stop()
    await transport.stop()
    await driver.stop()
