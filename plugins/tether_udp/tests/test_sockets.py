"""Sockets that move batches: what goes out as one comes in as one, whatever the system refuses."""

from __future__ import annotations

import asyncio
import errno
import random
import socket
from itertools import pairwise

import pytest

from conflux_tether_udp.datagram import HEADER_BYTES
from conflux_tether_udp.paths import Path
from conflux_tether_udp.sockets import QUEUE_BYTES, READS_PER_TURN, Backlog, Inbox, UdpSocket

LOOPBACK = ("127.0.0.1", "::1")


class Teller:
    """A `sockets.Sender` that remembers what it was told."""

    def __init__(self) -> None:
        self.queued_bytes = 0
        self.too_big: list[int] = []
        self.gone = 0

    def refused(self, datagram_bytes: int) -> None:
        self.too_big.append(datagram_bytes)

    def local_gone(self) -> None:
        self.gone += 1


class Both:
    """A sending and a receiving socket on loopback; `batches` holds what came in."""

    def __init__(self, family: int = socket.AF_INET) -> None:
        self.batches: list[tuple[list[bytes], tuple, bytes | None]] = []
        self.teller = Teller()
        self.backlog = Backlog()
        self.out = UdpSocket(family, 0, Inbox(), self.backlog, lambda *batch: None)
        self.into = UdpSocket(family, 0, Inbox(), self.backlog, self._received)
        host = "127.0.0.1" if family == socket.AF_INET else "::1"
        tail = () if family == socket.AF_INET else (0, 0)
        self.path = Path((host, self.into.port, *tail), None)

    def _received(self, inbox, size, each, count, remote, local) -> None:
        datagrams = []
        piece = each - HEADER_BYTES
        for at in range(count):
            end = min((at + 1) * piece, min(size, count * each) - count * HEADER_BYTES)
            header = bytes(inbox.headers[at * HEADER_BYTES : (at + 1) * HEADER_BYTES])
            datagrams.append(header + bytes(inbox.pieces[at * piece : end]))
        self.batches.append((datagrams, remote, local))

    def send(self, datagrams: list[bytes], path: Path | None = None) -> None:
        parts = []
        for data in datagrams:
            parts += [data[:HEADER_BYTES], data[HEADER_BYTES:]]
        self.out.send(self.teller, path or self.path, parts, len(datagrams[0]))

    @property
    def received(self) -> list[bytes]:
        return [data for datagrams, _, _ in self.batches for data in datagrams]

    async def until(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.received) < count:  # noqa: ASYNC110 (a socket has no event)
                await asyncio.sleep(0.001)

    def close(self) -> None:
        self.out.close()
        self.into.close()


class Refusing:
    """The system's socket, with errors of our choosing in front of `sendmsg`."""

    def __init__(self, sock, refuse) -> None:
        self._sock = sock
        self._refuse = refuse
        self.calls: list[int] = []

    def __getattr__(self, name):
        return getattr(self._sock, name)

    def sendmsg(self, parts, control, flags, remote):
        self.calls.append(len(parts))
        code = self._refuse(parts, control)
        if code == errno.EAGAIN:
            raise BlockingIOError(code, "no room")
        if code:
            raise OSError(code, "refused")
        return self._sock.sendmsg(parts, control, flags, remote)


def run(main) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await main()

    asyncio.run(bounded())


def batch(count: int, each: int, last: int, seed: int = 0) -> list[bytes]:
    chance = random.Random(seed)
    sizes = [each] * (count - 1) + [last]
    return [chance.randbytes(size) for size in sizes]


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_batches_of_every_shape_come_in_as_they_went_out(family):
    """Sizes change all the time, so the place for the next batch is wrong again and again."""

    async def main() -> None:
        both = Both(family)
        chance = random.Random(4)
        sent = []
        for seed in range(200):
            each = chance.choice([40, 300, 1_200, 1_472, 1_472, 1_472, 8_972, 65_000])
            count = chance.choice([1, 1, 2, 7, 64, 90])
            count = min(count, 66_000 // each) or 1
            datagrams = batch(count, each, chance.randrange(17, each + 1), seed)
            both.send(datagrams)
            sent += datagrams
            await both.until(len(sent))
        assert both.received == sent
        assert len(both.batches) < len(sent) / 3, "UDP_GRO joins them"
        assert {local for _, _, local in both.batches} == {
            socket.inet_pton(family, both.path.remote[0])
        }
        both.close()

    run(main)


def test_own_address_is_the_one_that_was_asked_for():
    async def main() -> None:
        both = Both()
        for host in ("127.0.0.5", "127.0.0.6"):
            both.send(batch(3, 1_200, 100), Path(both.path.remote, socket.inet_aton(host)))
        await both.until(6)
        assert {remote[0] for _, remote, _ in both.batches} == {"127.0.0.5", "127.0.0.6"}
        both.close()

    run(main)


@pytest.mark.parametrize("code", [errno.EIO, errno.EINVAL])
def test_batches_go_one_by_one_where_the_system_refuses_them(code):
    async def main() -> None:
        both = Both()
        both.out._sock = refusing = Refusing(
            both.out._sock, lambda parts, control: code if len(parts) > 2 else 0
        )
        first, second = batch(5, 1_200, 100), batch(5, 1_200, 100, 1)
        both.send(first)
        both.send(second)
        await both.until(10)
        assert both.received == first + second
        assert refusing.calls == [10] + [2] * 10, "it is not tried again"
        assert not both.teller.too_big
        both.close()

    run(main)


def test_datagram_too_large_for_the_interface_is_told():
    async def main() -> None:
        both = Both()
        both.out._sock = Refusing(
            both.out._sock,
            lambda parts, control: errno.EMSGSIZE if sum(map(len, parts)) > 1_300 else 0,
        )
        both.send(batch(5, 1_400, 100))
        await both.until(1)
        assert both.teller.too_big == [1_400] * 4
        assert not both.out._plain_only, "smaller batches may well work"
        both.close()

    run(main)


def test_own_address_that_is_gone_is_told():
    async def main() -> None:
        both = Both()
        both.send(batch(1, 100, 100), Path(both.path.remote, bytes([192, 0, 2, 77])))
        both.send(batch(3, 100, 100), Path(both.path.remote, bytes([192, 0, 2, 77])))
        assert both.teller.gone >= 2
        both.close()

    run(main)


def test_what_the_system_has_no_room_for_waits_in_order_and_is_bounded():
    async def main() -> None:
        both = Both()
        has_room = [False]
        both.out._sock = Refusing(
            both.out._sock, lambda parts, control: 0 if has_room[0] else errno.EAGAIN
        )
        sent = [batch(3, 1_400, 50, seed) for seed in range(20)]
        for datagrams in sent:
            both.send(datagrams)
        size = sum(len(data) for datagrams in sent for data in datagrams)
        assert both.teller.queued_bytes == both.backlog.queued_bytes == size
        await asyncio.sleep(0)
        assert both.received == []
        has_room[0] = True
        await both.until(60)
        assert both.received == [data for datagrams in sent for data in datagrams]
        assert both.teller.queued_bytes == both.backlog.queued_bytes == 0
        has_room[0] = False
        for _ in range(2_000):
            both.send(batch(4, 1_400, 1_400))
        assert both.backlog.queued_bytes <= 2 * QUEUE_BYTES
        both.close()

    run(main)


def test_room_that_ends_in_the_middle_of_a_batch_loses_and_doubles_nothing():
    async def main() -> None:
        both = Both()
        calls = [0]

        def refuse(parts, control):
            calls[0] += 1
            if len(parts) > 2:
                return errno.EIO
            return errno.EAGAIN if calls[0] % 3 == 0 else 0

        both.out._sock = Refusing(both.out._sock, refuse)
        sent = [batch(6, 1_200, 60, seed) for seed in range(6)]
        for datagrams in sent:
            both.send(datagrams)
        await both.until(36)
        assert both.received == [data for datagrams in sent for data in datagrams]
        both.close()

    run(main)


def test_firewall_and_missing_route_are_losses_like_others():
    async def main() -> None:
        both = Both()
        both.out._sock = Refusing(both.out._sock, lambda parts, control: errno.EPERM)
        both.send(batch(3, 1_200, 100))
        assert both.teller.queued_bytes == 0
        assert not both.teller.too_big
        both.close()

    run(main)


def test_overflow_of_the_receive_buffer_is_counted():
    async def main() -> None:
        both = Both()
        both.into._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        assert both.into.overflows() == 0
        for _ in range(200):
            both.send(batch(20, 1_200, 1_200))
        assert both.into.overflows() > 0
        both.close()

    run(main)


def test_full_socket_leaves_others_their_turn():
    async def main() -> None:
        both = Both()
        for number in range(40):
            both.send(batch(1, 0, 100 + number, number))  # of many sizes, so that none are joined
        counts = [0]

        def turn() -> None:
            counts.append(len(both.batches))
            if len(both.batches) < 40:
                asyncio.get_running_loop().call_soon(turn)

        turn()
        await both.until(40)
        assert max(after - before for before, after in pairwise(counts)) <= READS_PER_TURN
        both.close()

    run(main)


def test_closed_socket_sends_nothing_and_closing_twice_is_fine():
    async def main() -> None:
        both = Both()
        both.out.close()
        both.send(batch(3, 1_200, 100))
        both.out.close()
        both.close()

    run(main)
