"""`veilnet-conflux demo`: see it work on this machine, in a minute, leaving nothing behind."""

from __future__ import annotations

import sys

import click


@click.command()
@click.option("--keep", is_flag=True, help="Leave it running and say how to enter each host.")
@click.option(
    "--megabytes",
    type=click.IntRange(1, 10_000),
    default=100,
    show_default=True,
    help="Size of the download.",
)
def demo(keep: bool, megabytes: int) -> None:
    """Two hosts that cannot reach each other talk over VeilNet through a relay.

    Needs Linux, and root or user namespaces. Exits 0 only if every step held.
    """
    from conflux.demo import run_demo

    sys.exit(0 if run_demo(keep=keep, megabytes=megabytes) else 1)
