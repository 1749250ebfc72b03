"""`veilnet-conflux completion`: what a shell reads to complete verbs and options."""

from __future__ import annotations

import click

PROGRAM = "veilnet-conflux"
VARIABLE = "_VEILNET_CONFLUX_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what makes SHELL complete verbs and options with Tab.

    \b
    bash  source <(veilnet-conflux completion bash)            in ~/.bashrc
    zsh   source <(veilnet-conflux completion zsh)             in ~/.zshrc, after compinit
    fish  veilnet-conflux completion fish | source             in ~/.config/fish/config.fish
    """
    from click.shell_completion import BashComplete, FishComplete, ZshComplete

    # Not by click's own choice: bash's class would run bash to learn its version.
    kind = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}[shell]
    found = kind(context.find_root().command, {}, PROGRAM, VARIABLE)
    script = found.source_template % found.source_vars()
    # The one for fish would end each explanation at its first comma.
    click.echo(script.replace('(string split ","', '(string split --max 1 ","'))
