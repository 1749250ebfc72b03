"""What a signature over digests catches that a GCM tag cannot, and what it must not cost."""

from __future__ import annotations

import struct

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from conflux.anchor import sessions
from conflux.anchor.guard import MAX_HELD_BYTES, MAX_UNCOVERED
from conflux.anchor.handshake import StreamKeys
from conflux.anchor.notary import BUSY_S, COVER_S, QUIET_S
from conflux.anchor.stream import REKEY_S, OutStream
from conflux.testing.simnet import SimNetwork
from conflux.wire.checkpoint import AuthKind, Checkpoint, Covered, Digests, Wanted, decode, is_ours
from conflux.wire.control import AuthLevel
from conflux.wire.frame import HEADER_BYTES, IN_STREAM, INNER, OUTER, TAG_BYTES

HANDSHAKE, CHECKPOINT, STRICT = AuthLevel
SIGNED = (CHECKPOINT, STRICT)


def nodes(level, *, relays=0, seed=1):
    network = SimNetwork(seed=seed, packet_auth=level)
    left, right = (network.add_node(name, teams=["ops"]) for name in ("left", "right"))
    if relays:
        network.block(left, right)
    return network, left, right, [network.add_node(f"relay {n}") for n in range(relays)]


def open_session(network, left, right):
    ping = left.ping(right)
    network.run(5)
    assert ping.answers == 1
    return left.anchor.sessions[right.node_id]


def auth_messages(node, kind):
    """From now on, what *node* takes in of packet authentication messages of *kind*."""
    taken, received = [], node.anchor.packet_auth.received

    def note(session, message, now):
        if is_ours(message) and message[1] == kind:
            taken.append((now, decode(message)))
        return received(session, message, now)

    node.anchor.packet_auth.received = note
    return taken


def alarms(node):
    return [event for _, event in node.events if event.startswith("alarm")]


def closures(node, since=0.0):
    return [(when, event) for when, event in node.events if "closed" in event and when >= since]


# Who knows the key


@pytest.fixture
def stolen(monkeypatch):
    """Every stream's keys, by stream id: what an insider reads from a node's memory."""
    keys = {}

    class Leaky(OutStream):
        def __init__(self, stream_keys, *, now):
            # Copies: the node wipes its own.
            key, iv = bytes(stream_keys.key), bytes(stream_keys.iv)
            keys[stream_keys.stream_id] = StreamKeys(key, iv, stream_keys.stream_id)
            super().__init__(stream_keys, now=now)

    monkeypatch.setattr(sessions, "OutStream", Leaky)
    return keys


def times(x: int, y: int) -> int:
    """Multiply in GCM's field (NIST SP 800-38D §6.3): bit 0 is the most significant one."""
    z = 0
    for at in range(127, -1, -1):
        if x >> at & 1:
            z ^= y
        y = y >> 1 ^ (0xE1 << 120 if y & 1 else 0)
    return z


def power(x: int, exponent: int) -> int:
    result = 1 << 127
    while exponent:
        if exponent & 1:
            result = times(result, x)
        x, exponent = times(x, x), exponent >> 1
    return result


def blocks(data: bytes) -> list[int]:
    padded = data + bytes(-len(data) % 16)
    return [int.from_bytes(padded[at : at + 16], "big") for at in range(0, len(padded), 16)]


def with_same_tag(keys, frame: bytes, old: bytes, new: bytes, *, free: int) -> bytes:
    """Return *frame* with *new* for *old* in it, and with its tag: block *free* makes up for it.

    GHASH is a polynomial in H over the blocks, and whoever has the key has H: one free block is
    enough to give the changed polynomial the same value.
    """
    (_, counter) = INNER.unpack_from(frame, OUTER.size)
    sealed, tag = frame[HEADER_BYTES:-TAG_BYTES], frame[-TAG_BYTES:]
    nonce = (int.from_bytes(keys.iv, "big") ^ counter).to_bytes(12, "big")
    plain = AESGCM(keys.key).decrypt(nonce, sealed + tag, frame[OUTER.size : HEADER_BYTES])
    changed = plain.replace(old, new)
    assert len(changed) == len(plain)
    assert changed != plain
    assert plain[16 * free : 16 * free + 16] == bytes(16)
    delta = blocks(bytes(a ^ b for a, b in zip(plain, changed, strict=True)))
    ecb = Cipher(algorithms.AES(keys.key), modes.ECB()).encryptor()  # noqa: S305 (H is defined so)
    h = int.from_bytes(ecb.update(bytes(16)), "big")
    # Block i of m stands before m - i - 1 others and the lengths: its power of H is m - i + 1.
    total = 0
    for at, block in enumerate(delta):
        total ^= times(block, power(h, len(delta) - at + 1))
    inverse = power(power(h, len(delta) - free + 1), 2**128 - 2)
    delta[free] ^= times(total, inverse)
    mask = b"".join(block.to_bytes(16, "big") for block in delta)[: len(sealed)]
    forged = bytes(a ^ b for a, b in zip(sealed, mask, strict=True))
    return frame[:HEADER_BYTES] + forged + tag


PAY = b"pay the baker 10!" + bytes(64)
STEAL = b"pay mallory 9000!"


class Forger:
    """A relay that has the key of *session*'s stream, and swaps each frame that says PAY."""

    def __init__(self, relay, keys):
        self.forged = []
        forward = relay.anchor.relay.forward

        def swap(message, hop_limit, hop, *, now):
            message = bytes(message)
            inner = INNER.unpack_from(message, OUTER.size)
            if inner[0] == keys.stream_id and len(message) == HEADER_BYTES + 31 + 81 + TAG_BYTES:
                swapped = with_same_tag(keys, message, PAY[:17], STEAL, free=4)
                self.forged.append((message, swapped))
                message = swapped
            forward(memoryview(bytearray(message)), hop_limit, hop, now=now)

        relay.anchor.relay.forward = swap


@pytest.mark.parametrize("level", AuthLevel)
def test_frame_forged_under_a_known_key_with_the_same_gcm_tag(level, stolen):
    network, left, right, relays = nodes(level, relays=2)
    session = open_session(network, left, right)
    forgers = [Forger(relay, stolen[session.out.stream_id]) for relay in relays]
    began = network.now()
    left.send_packet(right, PAY)
    network.run(4)
    forged = [pair for forger in forgers for pair in forger.forged]
    # With `strict` the session ends before a report: the frame's copy goes over the other relay.
    assert len(forged) == (2 if level is STRICT else 1)
    assert len({true[OUTER.size :] for true, _ in forged}) == 1
    true, false = forged[0]
    assert true[-TAG_BYTES:] == false[-TAG_BYTES:]
    assert true[:HEADER_BYTES] == false[:HEADER_BYTES]
    assert true != false
    delivered = [payload for payload in right.payloads() if payload.startswith(STEAL)]
    counters = right.anchor.counters
    assert counters["frame_forged"] == 0  # AES-GCM itself has seen nothing
    if level is HANDSHAKE:
        assert delivered
        assert left.node_id in right.anchor.sessions
        return
    assert bool(delivered) is (level is CHECKPOINT)
    assert counters["security_frame_forged"] == 1
    assert len(alarms(right)) == 1
    assert [event for _, event in closures(right, began)] == ["closed left: forged frame"]
    assert PAY not in right.payloads()


@pytest.mark.parametrize("level", SIGNED)
def test_after_a_forged_frame_the_pair_meets_again_with_new_keys(level, stolen):
    network, left, right, relays = nodes(level, relays=1)
    session = open_session(network, left, right)
    forger = Forger(relays[0], stolen[session.out.stream_id])
    left.send_packet(right, PAY)
    network.run(4)
    assert forger.forged
    pings = []
    for _ in range(20):
        pings.append(left.ping(right))
        network.run(1)
    assert all(ping.answers == 1 for ping in pings[-5:])
    assert left.anchor.sessions[right.node_id].out.stream_id != session.out.stream_id


def test_a_late_frame_that_was_forged_is_not_even_delivered_with_checkpoints(stolen):
    network, left, right, _ = nodes(CHECKPOINT)
    session = open_session(network, left, right)
    keys = stolen[session.out.stream_id]
    held = hold_back(left, right, lambda frame: len(frame) == HEADER_BYTES + 31 + 81 + TAG_BYTES)
    left.send_packet(right, PAY)
    left.send_packet(right, b"another")
    network.run(QUIET_S + 1)
    assert len(held.frames) == 1
    held.let_go(with_same_tag(keys, held.frames[0], PAY[:17], STEAL, free=4))
    network.run(0.1)
    assert not [payload for payload in right.payloads() if payload.startswith(STEAL)]
    assert right.anchor.counters["security_frame_forged"] == 1
    assert left.node_id not in right.anchor.sessions


@pytest.mark.parametrize("level", SIGNED)
def test_packets_under_the_counter_of_a_control_message_are_found_out(level, stolen):
    network, left, right, _ = nodes(level)
    session = open_session(network, left, right)
    keys = stolen[session.out.stream_id]
    left.send_packet(right, b"one")
    # A control message between two frames with packets, swallowed on its way; its counter is free.
    seal = memoryview(bytes((IN_STREAM, 1, AuthKind.COVERED)) + bytes(16))
    (_, counter) = INNER.unpack_from(session.out.seal(seal, now=network.now()), OUTER.size)
    left.send_packet(right, b"two")
    twin = OutStream(keys, now=network.now())
    twin._counter = counter - 1
    packet = left.packet(right, STEAL)
    superframe = memoryview(b"\x00" + struct.pack(">H", len(packet)) + packet)
    left.anchor.routing.get(right.node_id).choose(0).send(
        twin.seal(superframe, now=network.now()), now=network.now()
    )
    network.run(QUIET_S + COVER_S + 1)
    assert (STEAL in right.payloads()) is (level is CHECKPOINT)
    counters = right.anchor.counters
    assert counters["security_frame_forged"] + counters["frames_not_vouched_for"] == 1


# Frames that a link keeps


class HeldBack:
    def __init__(self, tether):
        self.frames = []
        self._send = tether._send_datagram

    def let_go(self, frame):
        self._send(bytes(frame))


def hold_back(source, target, which):
    """Keep frames of *source* that *which* chooses away from *target*, until they are let go."""
    tether = source.anchor.neighbours.get(target.node_id).tethers[-1]
    held = HeldBack(tether)

    def send(message):
        if message[0] == 0x10 and which(message):
            held.frames.append(message)
        else:
            held._send(message)

    tether._send_datagram = send
    return held


@pytest.mark.parametrize("level", SIGNED)
@pytest.mark.parametrize("frames", [2, 100], ids=["few", "many"])
def test_a_frame_that_comes_after_its_leaf_is_delivered_if_it_matches(level, frames):
    network, left, right, _ = nodes(level)
    session = open_session(network, left, right)
    first = session.out._counter + 1
    wanted = auth_messages(left, AuthKind.WANTED)
    held = hold_back(left, right, lambda f: INNER.unpack_from(f, OUTER.size)[1] == first)
    for number in range(frames):
        left.send_packet(right, b"%d" % number)
    network.run(QUIET_S + 1)
    asked = bool(wanted)
    # A leaf over few frames brings its digests along, a strict one always does.
    assert asked is (level is CHECKPOINT and frames > 32)
    assert right.payloads()[1:] == [b"%d" % number for number in range(1, frames)]
    assert right.anchor.packet_auth.uncovered == left.anchor.packet_auth.uncovered == 0
    held.let_go(held.frames[0])
    network.run(0.1)
    assert right.payloads()[-1] == b"0"
    network.run(COVER_S + 1)
    assert left.node_id in right.anchor.sessions


@pytest.mark.parametrize("level", SIGNED)
def test_a_leaf_is_repeated_until_it_is_acknowledged(level):
    network, left, right, _ = nodes(level)
    session = open_session(network, left, right)
    leaves, tells = auth_messages(right, AuthKind.CHECKPOINT), []
    tell = right.anchor.packet_auth._tell
    right.anchor.packet_auth._tell = lambda *told: tells.append(told)
    left.send_packet(right, b"x")
    network.run(QUIET_S + 1)
    assert len(leaves) >= 3
    assert len({message.leaf.first for _, message in leaves}) == 1
    assert len(tells) == len(leaves)
    right.anchor.packet_auth._tell = tell
    network.run(0.5)
    count = len(leaves)
    network.run(10)
    assert len(leaves) == count
    assert left.anchor.sessions[right.node_id] is session


# Ends that do not play


@pytest.mark.parametrize("level", SIGNED)
def test_a_peer_that_never_signs_is_closed_after_five_seconds(level):
    network, left, right, _ = nodes(level)
    open_session(network, left, right)
    left.anchor.packet_auth._notary.want = lambda witness, now: None
    began = network.now()
    left.send_packet(right, b"unsigned")
    network.run(COVER_S + 0.5)
    (when, event) = closures(right, began)[0]
    assert event == "closed left: packets not vouched for"
    assert when - began == pytest.approx(COVER_S, abs=0.1)
    assert alarms(right) == []
    assert (b"unsigned" in right.payloads()) is (level is CHECKPOINT)


@pytest.mark.parametrize("level", SIGNED)
def test_a_peer_that_never_acknowledges_is_closed_after_five_seconds(level):
    network, left, right, _ = nodes(level)
    open_session(network, left, right)
    right.anchor.packet_auth._tell = lambda node, message, now: None
    began = network.now()
    left.send_packet(right, b"x")
    network.run(QUIET_S + COVER_S + 1)
    (when, event) = closures(left, began)[0]
    assert event == "closed right: checkpoint not acknowledged"
    assert COVER_S <= when - began <= QUIET_S + COVER_S + 0.5
    assert left.anchor.packet_auth.watched == 0


@pytest.mark.parametrize("level", SIGNED)
def test_frames_that_nobody_signed_before_a_goodbye_are_counted(level):
    network, left, right, _ = nodes(level)
    open_session(network, left, right)
    left.anchor.packet_auth._notary.want = lambda witness, now: None
    left.send_packet(right, b"and gone")
    left.stop()
    network.run(0.1)
    assert left.node_id not in right.anchor.sessions
    assert right.anchor.counters["frames_left_uncovered"] == 1


def test_what_a_strict_receiver_keeps_back_is_bounded():
    network, left, right, _ = nodes(STRICT)
    open_session(network, left, right)
    left.anchor.packet_auth._notary.want = lambda witness, now: None
    for _ in range(400):
        left.send_burst([left.packet(right, bytes(1_300))] * 20)
        network.run(0.01)
    room = right.anchor.packet_auth._room
    assert MAX_HELD_BYTES / 2 < room.held <= MAX_HELD_BYTES
    assert right.anchor.counters["frame_uncovered_over_limit"] > 100
    network.run(COVER_S)
    assert room.held == 0


def test_what_is_known_of_uncovered_frames_is_bounded(monkeypatch):
    monkeypatch.setattr("conflux.anchor.guard.MAX_UNCOVERED", 50)
    network, left, right, _ = nodes(CHECKPOINT)
    open_session(network, left, right)
    before = len(right.payloads())
    for number in range(200):
        left.send_packet(right, b"%d" % number)
    network.run(0.1)
    assert len(right.payloads()) - before == 50
    assert right.anchor.counters["frame_uncovered_over_limit"] == 150
    assert MAX_UNCOVERED == 32_768
    network.run(QUIET_S + 1)
    assert left.node_id in right.anchor.sessions  # what was dropped counts as lost


@pytest.mark.parametrize("level", SIGNED)
def test_noise_under_the_streams_key_harms_nothing(level):
    network, left, right, _ = nodes(level)
    session = open_session(network, left, right)
    noise = network.underlay.chance
    transcript, ours, theirs = (
        session.transcript, session.out.stream_id, session.inbound.stream_id
    )  # fmt: skip
    node = right.node_id
    for number in range(400):
        first = noise.choice([1, 2, 3, 1_000, 2**40])
        counters = [first, first + 1 + noise.randrange(4_000)]
        kind = noise.choice(list(AuthKind))
        stream = noise.choice([ours, theirs, 77])
        message = noise.choice(
            [
                Covered(stream, first).encode(),
                Wanted(stream, first, counters).encode(),
                Digests(stream, first, dict.fromkeys(counters, noise.randbytes(32))).encode(),
                bytes((1, kind)) + noise.randbytes(noise.randrange(600)),
                false_checkpoint(noise, transcript, stream, counters).encode(),
            ]
        )
        left.anchor._tell_node(node, message, network.now())
        if number % 20 == 0:
            network.run(0.01)
    network.run(1)
    assert sum(n for key, n in right.anchor.counters.items() if key.startswith("packet auth")) > 50
    assert alarms(right) == alarms(left) == []
    ping = left.ping(right)
    network.run(COVER_S + 1)
    assert ping.answers == 1
    assert left.anchor.sessions[node] is session


def false_checkpoint(noise, transcript, stream_id, counters):
    from conflux.api import SIGNATURE_BYTES
    from conflux.wire.checkpoint import Leaf

    if noise.random() < 0.2:
        transcript = noise.randbytes(32)
    leaf = Leaf(transcript, stream_id, counters, noise.randbytes(32))
    return Checkpoint(leaf, 0, 1, [], noise.randbytes(SIGNATURE_BYTES))


def test_a_leaf_of_another_nodes_signature_is_counted_and_dropped():
    network, left, right, _ = nodes(CHECKPOINT)
    open_session(network, left, right)
    other = network.add_node("other", teams=["ops"])
    left.anchor.packet_auth._notary._signer = lambda: other.identity.signer
    left.send_packet(right, b"x")
    network.run(QUIET_S + 0.5)
    false = "packet auth: checkpoint with a false signature"
    assert right.anchor.counters[false] >= 1
    network.run(COVER_S)
    assert right.anchor.counters["frames_not_vouched_for"] == 1


# Levels


@pytest.mark.parametrize("one", AuthLevel)
@pytest.mark.parametrize("other", AuthLevel)
def test_the_stricter_end_decides(one, other):
    network = SimNetwork(seed=3)
    left = network.add_node("left", teams=["ops"], packet_auth=one)
    right = network.add_node("right", teams=["ops"], packet_auth=other)
    open_session(network, left, right)
    sessions = left.anchor.sessions[right.node_id], right.anchor.sessions[left.node_id]
    assert {session.auth_level for session in sessions} == {max(one, other)}
    assert {session.inbound.guard is not None for session in sessions} == {max(one, other) > 0}


# When, and how many


def test_a_quiet_stream_is_covered_after_two_seconds_and_a_busy_one_after_a_quarter():
    network, left, right, _ = nodes(CHECKPOINT)
    open_session(network, left, right)
    leaves = auth_messages(right, AuthKind.CHECKPOINT)
    began = network.now()
    left.send_packet(right, b"quiet")
    network.run(QUIET_S + 0.5)
    assert [when - began for when, _ in leaves] == [pytest.approx(QUIET_S, abs=0.05)]
    leaves.clear()
    began = network.now()
    for _ in range(100):
        left.send_packet(right, bytes(1_400))
    network.run(QUIET_S)
    assert leaves[0][0] - began == pytest.approx(BUSY_S, abs=0.05)


def test_a_leaf_covers_at_most_4096_counters_and_is_due_when_it_is_full():
    network, left, right, _ = nodes(CHECKPOINT)
    open_session(network, left, right)
    leaves = auth_messages(right, AuthKind.CHECKPOINT)
    began = network.now()
    for _ in range(9_000):
        left.send_packet(right, b"")
    network.run(0.1)
    assert [len(message.leaf.counters) for _, message in leaves][:2] == [4_096, 4_096]
    assert all(when - began < 0.1 for when, _ in leaves)
    network.run(QUIET_S + 0.5)
    assert sum(len(m.leaf.counters) for m in {m.leaf.first: m for _, m in leaves}.values()) == 9_000


@pytest.mark.parametrize("level", SIGNED)
def test_one_signature_serves_all_streams_of_a_node(level):
    network = SimNetwork(seed=5, packet_auth=level)
    hub = network.add_node("hub", teams=["ops"])
    spokes = [network.add_node(f"spoke {n}", teams=["ops"]) for n in range(12)]
    for spoke in spokes:
        hub.ping(spoke)
    network.run(10)
    leaves = [auth_messages(spoke, AuthKind.CHECKPOINT) for spoke in spokes]
    before = hub.anchor.packet_auth.signatures
    hub.send_burst([hub.packet(spoke, b"to all") for spoke in spokes])
    network.run(QUIET_S + 0.5)
    assert hub.anchor.packet_auth.signatures - before <= 2
    assert all(taken for taken in leaves)
    assert len({message.signature for taken in leaves for _, message in taken}) <= 2
    assert max(message.size for taken in leaves for _, message in taken) >= 11


def test_signing_is_never_waited_for():
    """Deferred work takes a second here; sending does not."""
    network, left, right, _ = nodes(STRICT)
    open_session(network, left, right)
    left.deferred_s = 1.0
    began = network.now()
    for number in range(50):
        left.send_packet(right, b"%d" % number)
    assert network.now() == began
    network.run(0.9)
    assert b"0" not in right.payloads()
    network.run(1.5)
    assert right.payloads()[-50:] == [b"%d" % number for number in range(50)]
    assert left.anchor.packet_auth.signatures <= 4


def test_strict_packets_arrive_in_order_a_signature_later():
    network, left, right, _ = nodes(STRICT)
    open_session(network, left, right)
    delay_s = network.link(left, right).delay_s
    for _ in range(20):
        began = network.now()
        left.send_packet(right, b"now")
        network.run(0.2)
        took_s = right.received[-1].time - began
        assert delay_s < took_s < delay_s + 0.01


# What it must not cost


def talk(network, one, other, *, seconds, every_s):
    sent = []
    for number in range(int(seconds / every_s)):
        sent.append(b"%d" % number)
        one.send_packet(other, sent[-1])
        other.send_packet(one, sent[-1])
        network.run(every_s)
    network.run(COVER_S)
    return sent


@pytest.mark.parametrize("level", AuthLevel)
@pytest.mark.parametrize(
    "fault", ["loss", "reorder", "duplicate", "jitter_s", "all"]
)  # fmt: skip
def test_bad_links_cost_no_session_and_deliver_nothing_twice(level, fault):
    network, left, right, _ = nodes(level, seed=11)
    session = open_session(network, left, right)
    link = network.link(left, right)
    for name in ("loss", "reorder", "duplicate"):
        if fault in (name, "all"):
            setattr(link, name, 0.1)
    if fault in ("jitter_s", "all"):
        link.jitter_s = 0.05
    sent = talk(network, left, right, seconds=20, every_s=0.02)
    assert left.anchor.sessions[right.node_id] is session
    for node in (left, right):
        arrived = [payload for payload in node.payloads() if not payload.startswith(b"p")]
        assert len(arrived) == len(set(arrived))
        assert set(arrived) <= set(sent)
        assert len(arrived) > (0.8 if fault in ("loss", "all") else 0.99) * len(sent)
        assert node.anchor.counters["security_frame_forged"] == 0
        assert node.anchor.counters["frames_not_vouched_for"] == 0
        assert node.anchor.packet_auth.uncovered == 0


@pytest.mark.parametrize("level", SIGNED)
def test_relays_that_die_cost_no_checkpoint(level):
    network, left, right, relays = nodes(level, relays=3, seed=4)
    session = open_session(network, left, right)
    for number in range(300):
        if number == 100:
            route = left.anchor.routing.get(right.node_id).routes[0]
            next(relay for relay in relays if relay.node_id == route.path[1]).crash()
        left.send_packet(right, b"%d" % number)
        network.run(0.05)
    network.run(COVER_S)
    assert left.anchor.sessions[right.node_id] is session
    assert right.anchor.counters["frames_not_vouched_for"] == 0


@pytest.mark.parametrize("level", SIGNED)
def test_streams_that_a_rekey_replaced_are_covered_to_the_last_frame(level):
    network, left, right, _ = nodes(level)
    open_session(network, left, right)
    sent = talk(network, left, right, seconds=2 * REKEY_S, every_s=0.5)
    assert [payload for payload in right.payloads() if not payload.startswith(b"p")] == sent
    for node in (left, right):
        assert node.anchor.packet_auth.uncovered == 0
        assert closures(node) == []
    network.run(15)
    assert left.anchor.packet_auth.watched == right.anchor.packet_auth.watched == 2


@pytest.mark.parametrize("level", SIGNED)
def test_one_way_traffic_is_acknowledged_for_as_long_as_it_lasts(level):
    network, left, right, _ = nodes(level)
    for number in range(300):
        left.send_packet(right, b"%d" % number)
        network.run(1)
    network.run(COVER_S)
    assert right.payloads() == [b"%d" % number for number in range(300)]
    assert closures(left) == closures(right) == []


@pytest.mark.parametrize("level", AuthLevel)
def test_idle_nodes_keep_nothing(level):
    network, left, right, _ = nodes(level)
    open_session(network, left, right)
    network.run(300)
    for node in (left, right):
        assert node.anchor.sessions == {}
        assert node.anchor.packet_auth.watched == node.anchor.packet_auth.uncovered == 0
