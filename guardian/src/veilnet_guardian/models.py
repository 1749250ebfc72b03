"""What Guardian remembers. Times are Unix seconds; ids are UUIDs; keys are 32 random bytes.

    users ─┬─ teams (owner; one hidden identity team each) ─┬─ team_members   may attach it
           ├─ registration_tokens ── planes                 ├─ team_conflux   ┐
           └─ conflux ── planes                             ├─ team_users     ├ hold its key
                └─ certificates ── sessions                 └─ team_planes    ┘

A conflux holds its own teams, its plane's, its user's, and the identity team of its user. Of a
team's key only the present epoch is kept: an old one would serve nobody but a thief.
"""

from __future__ import annotations

from ipaddress import (
    IPv4Interface,
    IPv4Network,
    IPv6Interface,
    IPv6Network,
    ip_interface,
    ip_network,
)
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Index,
    LargeBinary,
    String,
    Table,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

Network = IPv4Network | IPv6Network
Interface = IPv4Interface | IPv6Interface

NAMING = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    pass


Base.metadata.naming_convention = NAMING


class State(Base):
    """One row. `revision` grows with each change that can alter a grant, `serial` with each
    certificate."""

    __tablename__ = "guardian_state"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    revision: Mapped[int] = mapped_column(BigInteger)
    serial: Mapped[int] = mapped_column(BigInteger)


class User(Base):
    __tablename__ = "users"

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    email: Mapped[str] = mapped_column(String(200), unique=True)
    """In lower case."""
    password_hash: Mapped[str] = mapped_column(String(255))
    """PHC string of argon2id (RFC 9106)."""
    created_at: Mapped[int] = mapped_column(BigInteger)


class Plane(Base):
    """An isolated address range, or one of each family; at least one is there.

    Without an owner it is common to all users of this Guardian.
    """

    __tablename__ = "planes"
    __table_args__ = (
        UniqueConstraint("owner_id", "name"),
        # NULL differs from NULL in a constraint.
        Index(
            "ix_planes_common_name",
            "name",
            unique=True,
            sqlite_where=text("owner_id IS NULL"),
            postgresql_where=text("owner_id IS NULL"),
        ),
    )

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    name: Mapped[str] = mapped_column(String(63))
    cidr4: Mapped[str | None] = mapped_column(String(18))
    cidr6: Mapped[str | None] = mapped_column(String(43))
    key: Mapped[bytes] = mapped_column(LargeBinary(32))
    owner_id: Mapped[UUID | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[int] = mapped_column(BigInteger)

    @property
    def ranges(self) -> list[Network]:
        """IPv4 first."""
        return [ip_network(cidr) for cidr in (self.cidr4, self.cidr6) if cidr]

    @property
    def cidr(self) -> str:
        """All ranges, parted by a comma, as `planes.parse_ranges` takes them."""
        return ",".join(map(str, self.ranges))


class Team(Base):
    """An identity that conflux can share. `identity` marks the hidden one of a user's own."""

    __tablename__ = "teams"
    __table_args__ = (
        UniqueConstraint("owner_id", "name"),
        Index("ix_teams_owner_id", "owner_id", "identity"),
    )

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    name: Mapped[str] = mapped_column(String(210))
    owner_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    identity: Mapped[bool]
    epoch: Mapped[int] = mapped_column(BigInteger)
    key: Mapped[bytes] = mapped_column(LargeBinary(32))
    created_at: Mapped[int] = mapped_column(BigInteger)


def _pair(name: str, other: str, target: str) -> Table:
    return Table(
        name,
        Base.metadata,
        Column("team_id", Uuid, ForeignKey("teams.id", ondelete="CASCADE"), primary_key=True),
        Column(other, Uuid, ForeignKey(target, ondelete="CASCADE"), primary_key=True, index=True),
    )


team_members = _pair("team_members", "user_id", "users.id")
team_conflux = _pair("team_conflux", "conflux_id", "conflux.id")
team_users = _pair("team_users", "user_id", "users.id")
team_planes = _pair("team_planes", "plane_id", "planes.id")


class Invitation(Base):
    """A pending offer of membership to whoever has this e-mail address and the token."""

    __tablename__ = "invitations"

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    team_id: Mapped[UUID] = mapped_column(ForeignKey("teams.id", ondelete="CASCADE"), index=True)
    email: Mapped[str] = mapped_column(String(200))
    token_hash: Mapped[bytes] = mapped_column(LargeBinary(32), unique=True)
    expires_at: Mapped[int] = mapped_column(BigInteger)


class RegistrationToken(Base):
    """Lets its bearer register conflux of `user_id` in `plane_id`, any number, until it ends."""

    __tablename__ = "registration_tokens"

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    token_hash: Mapped[bytes] = mapped_column(LargeBinary(32), unique=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"), index=True)
    plane_id: Mapped[UUID] = mapped_column(ForeignKey("planes.id", ondelete="CASCADE"))
    created_at: Mapped[int] = mapped_column(BigInteger)
    expires_at: Mapped[int] = mapped_column(BigInteger)
    revoked_at: Mapped[int | None] = mapped_column(BigInteger)


class Conflux(Base):
    """A registered node. `token_id` is the `jti` of the one conflux token that is good for it.

    It has an address in each range of its plane, without a prefix length, in the canonical form of
    its family.
    """

    __tablename__ = "conflux"
    __table_args__ = (
        UniqueConstraint("address4", "plane_id"),
        UniqueConstraint("address6", "plane_id"),
        UniqueConstraint("user_id", "attempt"),
    )

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    tag: Mapped[str] = mapped_column(String(63), index=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"), index=True)
    plane_id: Mapped[UUID] = mapped_column(ForeignKey("planes.id"))
    address4: Mapped[str | None] = mapped_column(String(15))
    address6: Mapped[str | None] = mapped_column(String(39))
    token_id: Mapped[UUID] = mapped_column(Uuid)
    created_at: Mapped[int] = mapped_column(BigInteger)
    attempt: Mapped[bytes | None] = mapped_column(LargeBinary(32))
    """SHA-256 of the random value by which its maker recognises the request that made it."""
    asked: Mapped[bytes | None] = mapped_column(LargeBinary(32))
    """SHA-256 of what that request asked for."""

    def addresses_in(self, plane: Plane) -> list[Interface]:
        """Its addresses with the prefix length of *plane*, which is its own; IPv4 first."""
        found = {4: self.address4, 6: self.address6}
        return [
            ip_interface(f"{found[network.version]}/{network.prefixlen}")
            for network in plane.ranges
        ]


class CertificateRecord(Base):
    """A certificate that was given out. It outlives its conflux until `not_after`."""

    __tablename__ = "certificates"

    serial: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    conflux_id: Mapped[UUID] = mapped_column(Uuid, index=True)
    plane_id: Mapped[UUID] = mapped_column(Uuid)
    encoded: Mapped[bytes] = mapped_column(LargeBinary)
    not_before: Mapped[int] = mapped_column(BigInteger)
    not_after: Mapped[int] = mapped_column(BigInteger, index=True)
    revoked_at: Mapped[int | None] = mapped_column(BigInteger)
    """Set, it is published until `not_after`: peers drop whoever shows it."""


class Session(Base):
    """A login, alive until its certificate ends or `ended_at` is set.

    From `cut_at` on the Master turns the session's credentials away. A session that a newer one
    replaced has a minute until then, so that a node renews without a gap.
    """

    __tablename__ = "sessions"

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    conflux_id: Mapped[UUID] = mapped_column(Uuid, index=True)
    serial: Mapped[int] = mapped_column(
        ForeignKey("certificates.serial", ondelete="CASCADE"), unique=True
    )
    master_url: Mapped[str] = mapped_column(String(300))
    grant_digest: Mapped[bytes] = mapped_column(LargeBinary(32))
    """Of what the login was answered with: a later grant that differs has to be pushed."""
    started_at: Mapped[int] = mapped_column(BigInteger)
    ended_at: Mapped[int | None] = mapped_column(BigInteger)
    cut_at: Mapped[int | None] = mapped_column(BigInteger, index=True)


class LoginNonce(Base):
    """The random bytes of a login request, kept ten minutes against replay."""

    __tablename__ = "login_nonces"

    nonce: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)
    seen_at: Mapped[int] = mapped_column(BigInteger, index=True)
