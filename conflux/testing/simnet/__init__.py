"""A simulated network on a virtual clock: the real protocol core of every node, nothing else real.

    network = SimNetwork(seed=1)
    london = network.add_node("london", teams=["ops"])
    tokyo = network.add_node("tokyo", teams=["ops"])
    network.add_node("relay")
    network.link(london, tokyo).blocked = True
    ping = london.ping(tokyo)
    network.run(3)
    assert ping.rtt_s is not None

The same seed and the same calls make the same run, byte for byte: see `SimNetwork.fingerprint`.
Nothing waits: hours of virtual time pass as fast as the events in them can be worked off.
"""

from conflux.testing.simnet.bulk import EVERY_S, Bulk
from conflux.testing.simnet.channel import ControlMessage, SimChannel
from conflux.testing.simnet.clock import Clock
from conflux.testing.simnet.guardian import SimGuardian
from conflux.testing.simnet.insider import Insider
from conflux.testing.simnet.network import SimNetwork
from conflux.testing.simnet.node import Arrival, Ping, SimNode
from conflux.testing.simnet.topology import Ladder, chain, ladder
from conflux.testing.simnet.underlay import Link, SimTether, Underlay

__all__ = [
    "Arrival",
    "Bulk",
    "Clock",
    "ControlMessage",
    "EVERY_S",
    "Insider",
    "Ladder",
    "Link",
    "Ping",
    "SimChannel",
    "SimGuardian",
    "SimNetwork",
    "SimNode",
    "SimTether",
    "Underlay",
    "chain",
    "ladder",
]
