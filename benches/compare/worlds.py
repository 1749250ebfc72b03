"""Hosts and cables: two joined by one veth pair, or several on a bridge of which few may talk.

The link is as a machine's own: an MTU of 1,500 bytes, segmentation offloads on. A lossy one drops
single datagrams by nftables, at both ends and of every protocol; for that the cable must carry
single packets (`gso_max_segs 1`), or a rule would drop a whole batch.
"""

from __future__ import annotations

from dataclasses import dataclass

from conflux.lab import Place, World

MTU_BYTES = 1_500
CABLE = "eth0"
PER_MILLE = 1_000


@dataclass(frozen=True, slots=True)
class Host:
    """A network namespace with one cable, and its underlay address."""

    place: Place
    address: str


@dataclass(frozen=True, slots=True)
class Underlay:
    """What a tunnel is built on: `hosts[0]` and `hosts[-1]` talk, those between may relay."""

    world: World
    hosts: tuple[Host, ...]
    middle: Host
    """Where servers run that both ends reach: the near host itself, or the bridge."""

    @property
    def near(self) -> Host:
        return self.hosts[0]

    @property
    def far(self) -> Host:
        return self.hosts[-1]

    @property
    def relays(self) -> int:
        return len(self.hosts) - 2


def pair(world: World) -> Underlay:
    """Two hosts and one veth pair between them."""
    near, far = (
        Host(world.namespace(name), f"10.77.0.{number}")
        for number, name in enumerate(("near", "far"), start=1)
    )
    _ip(world, f"link add {CABLE} netns near type veth peer name {CABLE} netns far")
    for name, host in (("near", near), ("far", far)):
        _plug_in(world, name, host)
    return Underlay(world, (near, far), middle=near)


def chain(world: World, relays: int) -> Underlay:
    """Hosts on a bridge; each hears only the one before it, the one behind it and the bridge."""
    names = ["near", *(f"relay{number}" for number in range(1, relays + 1)), "far"]
    _ip(world, "link add br0 type bridge")
    _ip(world, "address add 10.77.0.254/24 dev br0")
    _ip(world, "link set br0 up")
    hosts = []
    for number, name in enumerate(names, start=1):
        host = Host(world.namespace(name), f"10.77.0.{number}")
        _ip(world, f"link add {name} master br0 type veth peer name {CABLE} netns {name}")
        _ip(world, f"link set {name} up")
        _plug_in(world, name, host)
        hosts.append(host)
    for at, host in enumerate(hosts):
        strangers = [h.address for i, h in enumerate(hosts) if abs(i - at) > 1]
        if strangers:
            _filter(host, f"ip saddr {{ {', '.join(strangers)} }} drop")
    return Underlay(world, tuple(hosts), middle=Host(world, "10.77.0.254"))


def make_lossy(underlay: Underlay) -> None:
    """Let the cable carry single packets from now on, and drop none yet."""
    for host in (underlay.near, underlay.far):
        host.place.run(["ip", "link", "set", CABLE, "gso_max_segs", "1"])


def lose(underlay: Underlay, share: float) -> None:
    """Drop that *share* of all packets, to thousandths, from now on."""
    rule = f"meta iifname {CABLE} numgen random mod {PER_MILLE} < {round(share * PER_MILLE)} drop"
    for host in (underlay.near, underlay.far):
        _filter(host, rule if share else "")


def _filter(host: Host, rule: str) -> None:
    """Let *rule* alone judge what arrives from now on; an empty one lets all pass."""
    rules = """
        table ip bench
        flush table ip bench
        table ip bench {
            chain arriving {
                type filter hook prerouting priority raw
                RULE
            }
        }
    """
    host.place.run(["nft", "-f", "-"], input=rules.replace("RULE", rule))


def _plug_in(world: World, name: str, host: Host) -> None:
    # No link-local addresses: nothing is sent that no product caused.
    _ip(world, f"-netns {name} link set {CABLE} mtu {MTU_BYTES} addrgenmode none up")
    _ip(world, f"-netns {name} address add {host.address}/24 dev {CABLE}")


def _ip(world: World, arguments: str) -> None:
    world.run(["ip", *arguments.split()])
