"""Planes, isolated address ranges, and which addresses a conflux gets in one."""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface, ip_network
from uuid import uuid4

from sqlalchemy import ColumnElement, or_, select, true
from sqlalchemy.ext.asyncio import AsyncSession

from veilnet_guardian import names
from veilnet_guardian.errors import Conflict, Forbidden, Invalid
from veilnet_guardian.keys import fresh_key
from veilnet_guardian.lookup import look_up
from veilnet_guardian.models import Conflux, Network, Plane, User

Address = IPv4Address | IPv6Address


def parse_ranges(cidr: str) -> list[Network]:
    """Return the ranges of a new plane: one, or one of each family, parted by a comma.

    Raises Invalid.
    """
    ranges = [_parse_range(part) for part in cidr.split(",")]
    if len({network.version for network in ranges}) < len(ranges):
        raise Invalid(
            f"{cidr[:80]!r} has two ranges of one family: "
            "a plane has one of IPv4, one of IPv6, or one of each"
        )
    return ranges


def _parse_range(cidr: str) -> Network:
    try:
        network = ip_network(cidr.strip())
    except ValueError:
        raise Invalid(
            f"{cidr[:80]!r} is not an address range: write it like 10.8.0.0/24 or fd00:8::/64, "
            "with no bits set behind the prefix"
        ) from None
    if "/" not in cidr:
        raise Invalid(f"{cidr[:80]!r} has no prefix length: write it like 10.8.0.0/24")
    unusable = (
        network.is_multicast
        or network.is_loopback
        or network.is_link_local
        or network.is_unspecified
        or network.prefixlen == 0
    )
    if unusable:
        raise Invalid(f"{network} holds no addresses for hosts: take a private range")
    return network


def parse_wanted(cidr: str, plane: Plane) -> dict[Network, Address]:
    """Return the host addresses that a conflux asks for, by the plane's range that each is of.

    They are parted by a comma, at most one of each range, with or without a prefix length. Raises
    Invalid if there is one that a host of *plane* cannot have.
    """
    wanted: dict[Network, Address] = {}
    for part in cidr.split(",") if cidr else ():
        network, address = _parse_wanted(part, plane)
        if network in wanted:
            raise Invalid(f"{cidr[:80]!r} has two addresses of {network}: ask for one")
        wanted[network] = address
    return wanted


def _parse_wanted(cidr: str, plane: Plane) -> tuple[Network, Address]:
    try:
        address = ip_interface(cidr.strip()).ip
    except ValueError:
        raise Invalid(
            f"{cidr[:80]!r} is not an address: take one of plane {plane.name}, {plane.cidr}"
        ) from None
    network = next((network for network in plane.ranges if address in network), None)
    if network is None:
        raise Invalid(
            f"{address} is outside plane {plane.name}: take an address of {plane.cidr}, or none"
        )
    first, last = _hosts(network)
    if not first <= int(address) <= last:
        raise Invalid(f"{address} is the network or broadcast address of {network}: take another")
    return network, address


def next_free(network: Network, taken: Collection[Address]) -> Address:
    """Return the lowest host address of *network* that is not *taken*. Raises Conflict."""
    candidate, last = _hosts(network)
    for used in sorted(int(address) for address in taken):
        if used > candidate:
            break
        if used == candidate:
            candidate += 1
    if candidate > last:
        raise Conflict(f"every address of {network} is taken: unregister a conflux first")
    return network[candidate - int(network.network_address)]


def _hosts(network: Network) -> tuple[int, int]:
    """The first and last address for hosts: RFC 3021 and RFC 6164 give /31 and /127 both."""
    first, last = int(network.network_address), int(network.broadcast_address)
    if network.num_addresses <= 2:
        return first, last
    if network.version == 6:
        return first + 1, last  # the first is the routers' anycast address, RFC 4291 §2.6.1
    return first + 1, last - 1


async def allocate(session: AsyncSession, plane: Plane, cidr: str) -> dict[int, Address]:
    """Return an address of each of the plane's ranges, by IP version. Inside a write.

    The ones that *cidr* asks for; where it names none, the next free one. Raises Invalid, Conflict.
    """
    wanted = parse_wanted(cidr, plane)
    allotted: dict[int, Address] = {}
    for network in plane.ranges:
        column = Conflux.address4 if network.version == 4 else Conflux.address6
        rows = await session.execute(select(column).where(Conflux.plane_id == plane.id))
        taken = {ip_address(address) for address in rows.scalars() if address}
        address = wanted.get(network) or next_free(network, taken)
        if address in taken:
            raise Conflict(f"{address} is taken in plane {plane.name}: take another, or none")
        allotted[network.version] = address
    return allotted


async def create(
    session: AsyncSession, name: str, cidr: str, *, owner: User | None, now: int
) -> Plane:
    """Add a plane with one range or, parted by a comma, one of each family.

    Without *owner* it is common to all users. Raises Invalid, Conflict.
    """
    name, ranges = names.name(name, of="plane name"), parse_ranges(cidr)
    if (await session.execute(select(Plane.id).where(Plane.name == name, _open_to(owner)))).first():
        raise Conflict(f"plane {name} exists already: take another name")
    plane = Plane(
        id=uuid4(),
        name=name,
        cidr4=next((str(network) for network in ranges if network.version == 4), None),
        cidr6=next((str(network) for network in ranges if network.version == 6), None),
        key=fresh_key(),
        owner_id=None if owner is None else owner.id,
        created_at=now,
    )
    session.add(plane)
    await session.flush()
    return plane


async def get(session: AsyncSession, name: str, *, user: User | None = None) -> Plane:
    """Return a plane that *user* may use, its own or a common one; any for an operator (None).

    *name* may be its id. Raises NotFound, which does not tell whether somebody else has such a
    plane, and Invalid if several are called so.
    """
    visible = true() if user is None else _open_to(user)
    return await look_up(session, Plane, name, visible=visible, user=user)


async def get_for(session: AsyncSession, name: str, user: User) -> Plane:
    """Return the plane that an operator means for *user*: as `get` has it, else anybody's.

    Raises NotFound, Invalid.
    """
    return await look_up(session, Plane, name, visible=true(), user=user)


async def list_for(session: AsyncSession, user: User) -> list[Plane]:
    query = select(Plane).where(_open_to(user)).order_by(Plane.name, Plane.owner_id.is_(None))
    return list((await session.execute(query)).scalars())


def _open_to(user: User | None) -> ColumnElement[bool]:
    """The planes that *user* may use; for None the common ones."""
    common = Plane.owner_id.is_(None)
    return common if user is None else or_(common, Plane.owner_id == user.id)


async def delete(session: AsyncSession, name: str, *, user: User) -> None:
    """Remove an empty plane of *user*'s own. Raises NotFound, Forbidden, Conflict."""
    plane = await get(session, name, user=user)
    if plane.owner_id != user.id:
        raise Forbidden(f"plane {name} is common to all users: only the operator can remove it")
    if (await session.execute(select(Conflux.id).where(Conflux.plane_id == plane.id))).first():
        raise Conflict(f"plane {name} still has conflux: remove them first")
    await session.delete(plane)
