"""A tether over a TURN server (RFC 8656), where no direct way leads to the far end."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from dataclasses import replace
from ipaddress import ip_address

from aioice import stun

from conflux.api import IceServer, TetherConfig
from conflux_tether_webrtc import description as wire
from conflux_tether_webrtc import ice
from conflux_tether_webrtc.driver import WebRtcTetherDriver

LOOPBACK, ELSEWHERE = "127.0.0.1", "127.0.0.3"
"""The far end's true address, and the one that it has for those who are not the TURN server."""


class TurnServer(asyncio.DatagramProtocol):
    """One client without credentials: Allocate, ChannelBind, Refresh and ChannelData."""

    def __init__(self):
        self.relay = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.relay.bind((LOOPBACK, 0))
        self.relay.settimeout(0)
        self.relayed = 0
        self.lifetimes = []
        self._client = None
        self._channels = {}
        asyncio.get_running_loop().add_reader(self.relay, self._from_peer)

    def connection_made(self, transport):
        self.transport = transport

    def close(self):
        asyncio.get_running_loop().remove_reader(self.relay)
        self.relay.close()
        self.transport.close()

    def datagram_received(self, data, addr):
        if data[0] & 0xC0 == 0x40:
            number, size = struct.unpack_from("!HH", data)
            port = self._channels[number]
            self.relay.sendto(data[4 : 4 + size], (LOOPBACK, port))
            return
        request = stun.parse_message(data)
        answer = stun.Message(
            request.message_method, stun.Class.RESPONSE, transaction_id=request.transaction_id
        )
        if request.message_method == stun.Method.ALLOCATE:
            self._client = addr
            answer.attributes["XOR-RELAYED-ADDRESS"] = self.relay.getsockname()
            answer.attributes["XOR-MAPPED-ADDRESS"] = addr
            answer.attributes["LIFETIME"] = 600
        elif request.message_method == stun.Method.CHANNEL_BIND:
            peer = request.attributes["XOR-PEER-ADDRESS"]
            self._channels[request.attributes["CHANNEL-NUMBER"]] = peer[1]
        else:
            self.lifetimes.append(request.attributes["LIFETIME"])
            answer.attributes["LIFETIME"] = self.lifetimes[-1]
        self.transport.sendto(bytes(answer), addr)

    def _from_peer(self):
        data, (_, port) = self.relay.recvfrom(65_535)
        for number, peer_port in self._channels.items():
            if peer_port == port:
                self.relayed += 1
                self.transport.sendto(struct.pack("!HH", number, len(data)) + data, self._client)


def only(description, kind, candidates):
    return replace(wire.decode(description, kind), candidates=tuple(candidates)).encode()


def test_relayed_candidate_carries_a_tether_and_is_given_back(make_end):
    sent = os.urandom(65_535)

    async def main():
        loop = asyncio.get_running_loop()
        _, server = await loop.create_datagram_endpoint(TurnServer, local_addr=(LOOPBACK, 0))
        port = server.transport.get_extra_info("sockname")[1]
        config = TetherConfig(
            is_overlay=lambda address: str(address) not in (LOOPBACK, ELSEWHERE),
            ice_servers=[IceServer(url=f"turn:{LOOPBACK}:{port}", username="u", credential="c")],
        )
        near, far = (WebRtcTetherDriver({"allow_loopback": True}) for _ in range(2))
        await near.start(config)
        await far.start(replace(config, ice_servers=()))
        offer = await near.offer()
        mine = wire.decode(offer.description, wire.Kind.OFFER).candidates
        relayed = [c for c in mine if c.type is wire.CandidateType.RELAYED]
        assert [(str(c.address), c.port) for c in relayed] == [server.relay.getsockname()]
        assert min(mine, key=lambda c: c.priority) is relayed[0], "the last resort"

        answer = await far.answer(only(offer.description, wire.Kind.OFFER, relayed))
        theirs = wire.decode(answer.description, wire.Kind.ANSWER).candidates
        hidden = [replace(c, address=ip_address(ELSEWHERE)) for c in theirs]
        ends = make_end(offer), make_end(answer)
        async with asyncio.timeout(10), asyncio.TaskGroup() as both:
            told = only(answer.description, wire.Kind.ANSWER, hidden)
            both.create_task(offer.connect(bytes(32), told))
            both.create_task(answer.connect(bytes(32), None))
        for here, there in (ends, ends[::-1]):
            assert here.tether.send([sent]) == 1
            await there.until(lambda there=there: there.datagrams == [sent])
        assert server.relayed > 2 * len(sent) / 1_200 / 2
        await near.stop()
        await far.stop()
        assert server.lifetimes == [0], "the allocation was given back (RFC 8656 §8)"
        server.close()

    asyncio.run(main())


def test_turn_server_that_is_reached_through_the_overlay_is_not_asked():
    async def main():
        loop = asyncio.get_running_loop()
        _, server = await loop.create_datagram_endpoint(TurnServer, local_addr=("127.0.0.2", 0))
        port = server.transport.get_extra_info("sockname")[1]
        # ::1 may be used; the way to the server starts at 127.0.0.1, which may not.
        reach = ice.Reach(
            is_overlay=lambda address: str(address) == LOOPBACK,
            allow_loopback=True,
            servers=[ice.Server(host="127.0.0.2", port=port, turn=True)],
        )
        connection = ice.IceConnection(controlling=True, reach=reach)
        await connection.gather_candidates()
        assert server._client is None
        assert "relay" not in {candidate.type for candidate in connection.local_candidates}
        await connection.close()
        server.close()

    asyncio.run(main())
