"""The command line: one file a verb. Heavy imports stay inside the verbs, so that --help is quick.

Exit codes: 0 done, 2 usage, 3 this machine lacks something, 4 Guardian or Master unreachable,
5 Guardian refused, 1 anything else.
"""

from __future__ import annotations

import sys

import click

from conflux import __version__
from conflux.api import UsageError
from conflux.cli.bugreport import bugreport
from conflux.cli.completion import completion
from conflux.cli.config import config
from conflux.cli.demo import demo
from conflux.cli.doctor import doctor
from conflux.cli.down import down
from conflux.cli.info import info
from conflux.cli.lifecycle import remove, restart, start, stop
from conflux.cli.netcheck import netcheck
from conflux.cli.ping import ping
from conflux.cli.plugins import plugins
from conflux.cli.register import register
from conflux.cli.run import run
from conflux.cli.status import status
from conflux.cli.unregister import unregister
from conflux.cli.up import up


class Group(click.Group):
    """Turns what the user can mend into one line on standard error and an exit code.

    Commands of plugins come behind our own: they are looked for only if ours do not serve, and
    none can take the name of one of ours.
    """

    _plugins_asked = False

    def list_commands(self, ctx: click.Context) -> list[str]:
        self._ask_plugins()
        return super().list_commands(ctx)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.commands:
            self._ask_plugins()
        return super().get_command(ctx, name)

    def _ask_plugins(self) -> None:
        if self._plugins_asked:
            return
        self._plugins_asked = True
        from conflux.registry import Registry

        registry = Registry()
        registry.load()
        theirs = click.Group()
        registry.notify("conflux_add_commands", group=theirs)
        self.commands = {**theirs.commands, **self.commands}

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except UsageError as error:
            click.echo(f"veilnet-conflux: {error}", err=True)
            sys.exit(error.exit_code)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="veilnet-conflux")
def main() -> None:
    """VeilNet Conflux: a post-quantum overlay network without a coordinator."""


for command in (
    *(register, unregister, up, down, run),
    *(start, stop, restart, remove),
    *(status, info, ping, netcheck, doctor, bugreport, config),
    *(plugins, completion, demo),
):
    main.add_command(command)
