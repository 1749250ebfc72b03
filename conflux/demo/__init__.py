"""`veilnet-conflux demo`: two hosts that cannot reach each other talk over VeilNet.

Everything is real (network namespaces, TUN devices, Guardian, NATS, WebRTC, the command line that
users type); only the Internet between the hosts is made up, by `conflux.lab`.
"""

from conflux.demo.scenario import run_demo

__all__ = ["run_demo"]
