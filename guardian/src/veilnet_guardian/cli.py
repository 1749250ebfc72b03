"""`veilnet-guardian`: what an operator types. Heavy modules are imported by the verb that needs
them, so that commands answer quickly.

Standard output carries just the token or id that a script wants; everything else goes to standard
error. Whatever goes wrong is one line and a non-zero exit code.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from conflux.api import UsageError
from veilnet_guardian.errors import GuardianError, one_line
from veilnet_guardian.settings import (
    CERTIFICATE_S,
    DEFAULT_MASTER_PORT,
    DEFAULT_PORT,
    EMBEDDED,
    MAX_CERTIFICATE_S,
    MAX_CONFLUX,
    MIN_CERTIFICATE_S,
    HostPort,
    ServeSettings,
    check_master_url,
)

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from veilnet_guardian.keys import Keys
    from veilnet_guardian.teams import Holder

T = TypeVar("T")

log = logging.getLogger("veilnet_guardian")


class OneLineErrors(click.Group):
    """Turns every UsageError into one line and its exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UsageError as error:
            click.echo(f"veilnet-guardian: {one_line(str(error))}", err=True)
            ctx.exit(error.exit_code)


@dataclass(frozen=True)
class Store:
    """Where Guardian's things are."""

    data_dir: Path
    database_url: str


def store_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give *command* the options of every command, as a first argument `store`."""

    @click.option(
        "--data-dir",
        required=True,
        envvar="VEILNET_GUARDIAN_DATA_DIR",
        show_envvar=True,
        type=click.Path(path_type=Path),
        help="Guardian's folder; made if there is none.",
    )
    @click.option(
        "--database-url",
        default="",
        envvar="VEILNET_GUARDIAN_DATABASE_URL",
        show_envvar=True,
        help="SQLAlchemy URL with an async driver. Default: SQLite in the data folder.",
    )
    @functools.wraps(command)
    def wrapped(data_dir: Path, database_url: str, **others: Any) -> Any:
        return command(Store(data_dir, database_url), **others)

    return wrapped


max_conflux_option = click.option(
    "--max-conflux",
    type=click.IntRange(min=1),
    default=MAX_CONFLUX,
    show_default=True,
    envvar="VEILNET_GUARDIAN_MAX_CONFLUX",
    show_envvar=True,
    help="How many conflux a user may have.",
)


@click.group(cls=OneLineErrors, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="veilnet-guardian")
def main() -> None:
    """VeilNet Guardian: admits conflux and grants teams."""


@main.command()
@store_options
@click.option("--listen", default=f"127.0.0.1:{DEFAULT_PORT}", show_default=True)
@click.option("--tls-cert", type=click.Path(path_type=Path), help="PEM file.")
@click.option("--tls-key", type=click.Path(path_type=Path), help="PEM file.")
@click.option(
    "--master",
    default=EMBEDDED,
    show_default=True,
    help="'embedded', or the URL of NATS servers set up with `master export`.",
)
@click.option(
    "--master-listen",
    default="",
    help=f"For the embedded Master. Default: --listen's host, port {DEFAULT_MASTER_PORT}.",
)
@click.option(
    "--public-master-url",
    default="",
    help="What nodes are told. Default: where the Master listens; on every address (0.0.0.0), "
    "the host under which the node reached Guardian.",
)
@click.option(
    "--certificate-lifetime",
    type=click.IntRange(MIN_CERTIFICATE_S, MAX_CERTIFICATE_S),
    default=CERTIFICATE_S,
    show_default=True,
    metavar="SECONDS",
    help="Nodes renew at half of it.",
)
@max_conflux_option
def serve(
    store: Store,
    listen: str,
    tls_cert: Path | None,
    tls_key: Path | None,
    master: str,
    master_listen: str,
    public_master_url: str,
    certificate_lifetime: int,
    max_conflux: int,
) -> None:
    """Serve nodes and users until SIGTERM or Ctrl-C."""
    at = HostPort.parse(listen, option="--listen", port=DEFAULT_PORT)
    master_at = HostPort(at.host, DEFAULT_MASTER_PORT)
    if master_listen:
        master_at = HostPort.parse(
            master_listen, option="--master-listen", port=DEFAULT_MASTER_PORT
        )
    if master != EMBEDDED:
        check_master_url(master, option="--master")
    if public_master_url:
        check_master_url(public_master_url, option="--public-master-url")
    settings = ServeSettings(
        data_dir=store.data_dir,
        listen=at,
        tls_cert=tls_cert,
        tls_key=tls_key,
        master=master,
        master_listen=master_at,
        public_master_url=public_master_url,
        database_url=store.database_url,
        certificate_s=certificate_lifetime,
        max_conflux=max_conflux,
    )
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )
    from conflux.hardening import harden
    from veilnet_guardian.serve import serve as run

    hardening = harden()

    def announce(line: str) -> None:
        click.echo(line)
        for what in hardening.missing:
            log.warning("%s", what)

    asyncio.run(run(settings, announce=announce))


@main.group()
def user() -> None:
    """People."""


@user.command("add")
@store_options
@click.argument("email")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
def user_add(store: Store, email: str, password_stdin: bool) -> None:
    """Add a user and print its id."""
    from veilnet_guardian import names, users

    email = names.email(email)
    password = sys.stdin.readline().rstrip("\r\n") if password_stdin else _ask_password()
    hashed = users.hash_password(password)

    async def work(session: AsyncSession, _keys: Keys) -> str:
        return str((await users.add(session, email, hashed, now=_now())).id)

    click.echo(_write(store, work))
    _say(f"user {email} can log in")


def _ask_password() -> str:
    # Ctrl-C as an exception: before it ends, the terminal gets its echo back.
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return str(click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
    except click.Abort as abort:
        if not isinstance(abort.__context__, KeyboardInterrupt):
            raise
    finally:
        signal.signal(signal.SIGINT, former)
    signal.raise_signal(signal.SIGINT)
    raise click.Abort


@main.group()
def plane() -> None:
    """Isolated address ranges."""


@plane.command("create")
@store_options
@click.argument("name")
@click.argument("cidr", metavar="CIDR[,CIDR]")
@click.option("--owner", default="", metavar="EMAIL", help="Default: common to all users.")
def plane_create(store: Store, name: str, cidr: str, owner: str) -> None:
    """Create plane NAME with the address range CIDR and print its id.

    IPv4, IPv6, or one of each parted by a comma: then each conflux gets an address of both.
    """
    from veilnet_guardian import planes, users

    async def work(session: AsyncSession, _keys: Keys) -> str:
        owned_by = await users.get(session, owner) if owner else None
        return str((await planes.create(session, name, cidr, owner=owned_by, now=_now())).id)

    click.echo(_write(store, work))
    _say(f"plane {name} covers {cidr}")


@main.group()
def team() -> None:
    """Identities that conflux share: two talk only if they have one in common."""


@team.command("create")
@store_options
@click.argument("name")
@click.option("--owner", required=True, metavar="EMAIL")
def team_create(store: Store, name: str, owner: str) -> None:
    """Create team NAME and print its id."""
    from veilnet_guardian import teams, users

    async def work(session: AsyncSession, _keys: Keys) -> str:
        owned_by = await users.get(session, owner)
        return str((await teams.create(session, name, owned_by, now=_now())).id)

    click.echo(_write(store, work))
    _say(f"team {name} belongs to {owner}")


@team.command("add")
@store_options
@click.argument("name")
@click.argument("email")
def team_add(store: Store, name: str, email: str) -> None:
    """Make EMAIL a member of team NAME and print the user's id."""
    from veilnet_guardian import teams, users

    async def work(session: AsyncSession, _keys: Keys) -> tuple[str, bool]:
        found, member = await teams.get(session, name), await users.get(session, email)
        return str(member.id), await teams.add_member(session, found, member)

    user_id, new = _write(store, work)
    click.echo(user_id)
    _say(f"{email} {'can now' if new else 'could already'} attach team {name}")


def holder_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What a team is attached to: a conflux, or everything of a user or plane."""
    for option in (
        click.option("--to-plane", default="", metavar="NAME", help="All conflux of a plane."),
        click.option("--to-user", default="", metavar="EMAIL", help="All conflux of a user."),
        click.argument("conflux", default=""),
    ):
        command = option(command)
    return command


@team.command("attach")
@store_options
@click.argument("name")
@holder_options
def team_attach(store: Store, name: str, conflux: str, to_user: str, to_plane: str) -> None:
    """Attach team NAME to CONFLUX, an id or a tag that no other has, and print its id."""
    from veilnet_guardian import teams

    async def work(session: AsyncSession, _keys: Keys) -> tuple[str, bool]:
        found = await teams.get(session, name)
        holder = await _holder(session, conflux, to_user, to_plane)
        return str(holder.id), await teams.attach(session, found, holder)

    holder_id, new = _write(store, work)
    click.echo(holder_id)
    whom = conflux or to_user or to_plane
    _say(f"team {name} is {'now' if new else 'already'} attached to {whom}")


@team.command("detach")
@store_options
@click.argument("name")
@holder_options
def team_detach(store: Store, name: str, conflux: str, to_user: str, to_plane: str) -> None:
    """Detach team NAME from CONFLUX and print its id. All others get a new key."""
    from veilnet_guardian import teams

    async def work(session: AsyncSession, _keys: Keys) -> str:
        found = await teams.get(session, name)
        holder = await _holder(session, conflux, to_user, to_plane)
        await teams.detach(session, found, holder)
        return str(holder.id)

    click.echo(_write(store, work))
    _say(f"team {name} is detached from {conflux or to_user or to_plane}")


async def _holder(session: AsyncSession, conflux: str, to_user: str, to_plane: str) -> Holder:
    from veilnet_guardian import confluxes, planes, users

    if sum(map(bool, (conflux, to_user, to_plane))) != 1:
        raise UsageError("name one of CONFLUX, --to-user EMAIL and --to-plane NAME")
    if to_user:
        return await users.get(session, to_user)
    if to_plane:
        return await planes.get(session, to_plane)
    return await confluxes.find(session, conflux)


@main.group()
def token() -> None:
    """Registration tokens."""


@token.command("create")
@store_options
@click.option("--user", "email", required=True, metavar="EMAIL")
@click.option("--plane", "plane_name", required=True, metavar="NAME")
@click.option("--days", type=int, default=30, show_default=True)
def token_create(store: Store, email: str, plane_name: str, days: int) -> None:
    """Print a token with which conflux of a user register in a plane."""
    from veilnet_guardian import planes, registration, users

    async def work(session: AsyncSession, keys: Keys) -> str:
        owner = await users.get(session, email)
        where = await planes.get_for(session, plane_name, owner)
        made, _ = await registration.create(
            session, keys.tokens, owner, where, days=days, now=_now()
        )
        return made

    click.echo(_write(store, work))
    _say(f"good for {days} days in plane {plane_name}; it is not shown again")


@main.group()
def conflux() -> None:
    """Nodes."""


@conflux.command("create")
@store_options
@click.option("--user", "email", required=True, metavar="EMAIL")
@click.option("--plane", "plane_name", required=True, metavar="NAME")
@click.option("--tag", default="", help="A name for people.")
@max_conflux_option
def conflux_create(store: Store, email: str, plane_name: str, tag: str, max_conflux: int) -> None:
    """Create a conflux and print its token, for `veilnet-conflux up`."""
    from veilnet_guardian import confluxes, planes, users

    async def work(session: AsyncSession, keys: Keys) -> tuple[str, str]:
        owner = await users.get(session, email)
        where = await planes.get_for(session, plane_name, owner)
        made = await confluxes.create(
            session, keys.tokens, owner, where, tag=tag, limit=max_conflux, now=_now()
        )
        addresses = ", ".join(map(str, made.conflux.addresses_in(made.plane)))
        return made.token, f"conflux {made.conflux.id}, tag {made.conflux.tag}, has {addresses}"

    made, line = _write(store, work)
    click.echo(made)
    _say(line)


@main.group()
def master() -> None:
    """The control channel."""


@master.command("export")
@store_options
def master_export(store: Store) -> None:
    """Print what the configuration of an external nats-server must include."""
    from veilnet_guardian.datadir import DataDir
    from veilnet_guardian.keys import Keys
    from veilnet_guardian.master import exported

    click.echo(exported(Keys(DataDir(store.data_dir)).master, now=_now()), nl=False)


def _write(store: Store, work: Callable[[AsyncSession, Keys], Awaitable[T]]) -> T:
    """Run *work* in one transaction on the database that a server may be using too."""
    from sqlalchemy.exc import DBAPIError

    from veilnet_guardian.database import Database
    from veilnet_guardian.datadir import DataDir
    from veilnet_guardian.keys import Keys

    async def run() -> T:
        data_dir = DataDir(store.data_dir)
        keys = Keys(data_dir)
        db = Database(data_dir, store.database_url)
        try:
            await db.open()
            async with db.write() as session:
                return await work(session, keys)
        finally:
            await db.close()

    try:
        return asyncio.run(run())
    except DBAPIError as error:
        raise GuardianError(
            f"the database does not answer ({error.orig}): "
            "try again, and see whether its disk is full"
        ) from None


def _now() -> int:
    return int(time.time())


def _say(line: str) -> None:
    click.echo(line, err=True)
