"""The command line: one file a verb, imported when it is typed, so that --help is quick.

Exit codes: 0 done, 2 usage, 3 this machine lacks something, 4 Guardian or Master unreachable,
5 Guardian refused, 1 anything else.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from conflux import __version__
from conflux.cli.verbs import VERBS, Commands, added_by_plugins

if TYPE_CHECKING:
    from conflux.api import UsageError


class Group(click.Group):
    """Turns what the user can mend into one line on standard error and an exit code.

    Commands of plugins come behind our own: they are looked for only if ours do not serve, and
    none can take the name of one of ours. Listed are those of distributions that say so.
    """

    _plugins_asked = False

    def list_commands(self, ctx: click.Context) -> list[str]:
        if added_by_plugins():
            self._ask_plugins()
        return super().list_commands(ctx)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.commands:
            self._ask_plugins()
        return super().get_command(ctx, name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As click does it, but for importing what it lists."""
        found = {name: self._in_short(name) for name in self.list_commands(ctx)}
        limit = formatter.width - 6 - max(map(len, found))
        with formatter.section("Commands"):
            formatter.write_dl([(n, c.get_short_help_str(limit)) for n, c in found.items()])

    def _in_short(self, name: str) -> click.Command:
        if name in VERBS:
            return click.Command(name, help=VERBS[name])
        return self.commands[name]

    def _ask_plugins(self) -> None:
        if self._plugins_asked:
            return
        self._plugins_asked = True
        from conflux.registry import Registry

        registry = Registry()
        registry.load()
        theirs = click.Group()
        registry.notify("conflux_add_commands", group=theirs)
        for name, command in theirs.commands.items():
            if name not in self.commands:
                self.commands[name] = command

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except click.BadParameter as error:
            _name_variable(error)
            raise
        except _usage_error() as error:
            click.echo(f"veilnet-conflux: {error}", err=True)
            sys.exit(error.exit_code)


def _name_variable(error: click.BadParameter) -> None:
    """Where a variable was wrong, click would blame the option that nobody typed."""
    option, verb = error.param, error.ctx
    if option is None or verb is None or not isinstance(option.envvar, str):
        return
    if verb.get_parameter_source(option.name) is ParameterSource.ENVIRONMENT:
        error.param_hint = f"the variable {option.envvar}"


def _usage_error() -> type[UsageError]:
    """Asked only once something was raised: --help gets by without all of the API."""
    from conflux.api import UsageError

    return UsageError


@click.group(
    cls=Group, commands=Commands(), context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name="veilnet-conflux")
def main() -> None:
    """VeilNet Conflux: a post-quantum overlay network without a coordinator."""
