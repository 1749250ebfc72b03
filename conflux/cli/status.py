"""`veilnet-conflux status`: what the running node does right now."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click

from conflux.api import UsageError
from conflux.cli import words
from conflux.cli.options import Seconds, api_socket, config_dir_option, json_option

ENDING = (signal.SIGINT, signal.SIGTERM)
"""Signals that end the live view once the terminal is as it was."""


@click.command()
@click.option("-w", "--watch", is_flag=True, help="Show it anew all the time, until Ctrl-C.")
@click.option(
    "--interval",
    "interval_s",
    type=Seconds(min=0.1),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Of --watch.",
)
@config_dir_option
@json_option
def status(config_dir: Path | None, as_json: bool, watch: bool, interval_s: float) -> None:
    """Show state, peers, paths, round trips, loss, throughput, plugins and problems of the node.

    With --watch and --json, one JSON object a line. Where standard output is no terminal that can
    be drawn on, --watch prints one text after the other.
    """
    from conflux.runtime import localapi

    def ask() -> dict[str, Any]:
        table: dict[str, Any] = localapi.call(api_socket(config_dir), "status")
        return table

    source = click.get_current_context().get_parameter_source("interval_s")
    if not watch and source is not click.core.ParameterSource.DEFAULT:
        raise UsageError("--interval is of --watch: add that, or leave it out")
    if not watch:
        table = _beside_service(config_dir, ask)
        click.echo(json.dumps(table, indent=2) if as_json else words.as_text(table))
    elif as_json:
        _each(ask, interval_s, lambda table: click.echo(json.dumps(table)))
    elif _can_be_drawn_on():
        _live(ask, interval_s)
    else:
        _each(ask, interval_s, lambda table: click.echo(words.as_text(table) + "\n"))


def _can_be_drawn_on() -> bool:
    """Whether standard output, which may be closed, is a terminal that knows a cursor."""
    if sys.stdout is None or not sys.stdout.isatty():
        return False
    return os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


def _beside_service(config_dir: Path | None, ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What the node says and how its service is. Raises UsageError: nobody answers."""
    from conflux.cli.service import Service

    try:
        service = Service(config_dir)
        state = str(service.state()) if service.is_ours() else "absent"
    except UsageError:
        table = ask()
        table["service"] = {"driver": "", "state": "absent"}
        return table
    try:
        table = ask()
        table["service"] = {"driver": service.name, "state": state}
        return table
    except UsageError as error:
        if state == "absent":
            raise
        raise UsageError(
            f"{error}; the service is {state}: start it with `veilnet-conflux start`"
        ) from None


def _live(ask: Callable[[], Mapping[str, Any]], interval_s: float) -> None:
    try:
        from rich.console import Console
        from rich.live import Live
    except ImportError:
        raise UsageError(
            "rich is not installed, which --watch needs: run `pip install rich`, "
            "or leave out --watch"
        ) from None
    from conflux.cli.view import view

    # By an exception the terminal gets its former picture back; then the signal ends us as always.
    former = {number: signal.getsignal(number) for number in ENDING}
    try:
        for number, handler in former.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, _end)
        with Live(console=Console(), screen=True, auto_refresh=False) as live:
            _each(ask, interval_s, lambda table: live.update(view(table), refresh=True))
    except _Ended as ended:
        signal.signal(ended.number, former[ended.number])
        signal.raise_signal(ended.number)


class _Ended(BaseException):
    """A signal has come."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number


def _end(number: int, _: FrameType | None) -> NoReturn:
    raise _Ended(signal.Signals(number))


def _each(
    ask: Callable[[], Mapping[str, Any]],
    interval_s: float,
    show: Callable[[Mapping[str, Any]], None],
) -> NoReturn:
    """Show each answer. Raises UsageError if there is no node at first; later one may come back."""
    table = ask()
    while True:
        show(table)
        time.sleep(interval_s)
        try:
            table = ask()
        except UsageError as error:
            table = {"gone": str(error)}
