"""What the packet loop never waits for: a signature, made or checked, takes up to milliseconds."""

from __future__ import annotations

from collections import Counter

import pytest

from conflux.anchor.stream import REKEY_S
from conflux.testing.fakes import FakeCrypto
from conflux.testing.fakes.crypto import FakeSigner
from conflux.testing.simnet import SimNetwork, SimNode


@pytest.fixture
def calls(monkeypatch):
    """Each signature that was made or checked: how often in the loop, how often aside.

    Guardian's own are not counted: it is another process.
    """
    counted = Counter()
    aside = []

    def defer(self, work, then, failed):
        def marked():
            aside.append(work)
            try:
                return work()
            finally:
                aside.pop()

        return real_defer(self, marked, then, failed)

    def sign(self, message, context):
        if context not in (b"VeilNet/1 certificate", b"VeilNet/1 grant", b"VeilNet/1 revocations"):
            counted["signed", bool(aside)] += 1
        return real_sign(self, message, context)

    def verify(self, *what):
        counted["verified", bool(aside)] += 1
        return real_verify(self, *what)

    real_defer, real_sign, real_verify = SimNode.defer, FakeSigner.sign, FakeCrypto.verify
    monkeypatch.setattr(SimNode, "defer", defer)
    monkeypatch.setattr(FakeSigner, "sign", sign)
    monkeypatch.setattr(FakeCrypto, "verify", verify)
    return counted


def test_every_signature_is_made_and_checked_in_a_thread(calls, packet_auth):
    network = SimNetwork(seed=12, packet_auth=packet_auth)
    left, right = (network.add_node(name, teams=["ops", "dev"]) for name in ("left", "right"))
    network.block(left, right)
    relays = [network.add_node(name) for name in ("one", "two")]
    left.ping(right)
    network.run(5)
    first = calls["signed", True]
    assert first >= 4, "an Answer and an Open each of streams and of relays' tethers"
    for _ in range(int(REKEY_S) + 30):
        left.ping(right)
        network.run(1)
    assert calls["signed", True] > first, "new keys, and checkpoints where there are any"
    network.guardian.attach("left", "more")
    network.guardian.detach("right", "dev")
    network.guardian.renew("right")
    network.guardian.remove(relays[0].name)
    ping = left.ping(right)
    network.run(5)
    assert ping.answers == 1
    assert calls["verified", True] > 0
    assert calls["signed", False] == calls["verified", False] == 0
