"""Writes cli.md and configuration.md from the command line and the table of settings themselves.

.venv/bin/python docs/reference/make.py
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from conflux.api import Kind
from conflux.checks.configuration import VERB_VARIABLES
from conflux.cli import main as command
from conflux.config import PIN_VARIABLE, SETTINGS

FOLDER = Path(__file__).parent
HEAD = "<!-- Made by docs/reference/make.py: change that, or what it reads. -->"


def walk(group: click.Group, words: tuple[str, ...]) -> Iterator[tuple[str, click.Command]]:
    """Every verb that is not a plugin's, and the words that are typed for it."""
    for name in sorted(group.commands):
        found = group.commands[name]
        if isinstance(found, click.Group):
            yield from walk(found, (*words, name))
        else:
            yield " ".join((*words, name)), found


def options(verb: click.Command) -> Iterator[click.Option]:
    return (param for param in verb.params if isinstance(param, click.Option))


def variable_of(option: click.Option) -> str:
    return option.envvar if isinstance(option.envvar, str) else ""


def cli() -> str:
    lines = [
        "# Command line",
        "",
        HEAD,
        "",
        "A variable stands for its option where the option is not given. Every verb has `-h`,",
        "`--help`. [Exit codes](local-api.md#exit-codes-of-the-command-line);",
        "[what errors mean](../troubleshooting.md).",
    ]
    for words, verb in walk(command, ("veilnet-conflux",)):
        context = click.Context(verb, info_name=words)
        usage = verb.get_usage(context).removeprefix("Usage: ")
        lines += ["", f"## `{words}`", "", f"    {' '.join(usage.split())}", ""]
        lines += _paragraphs(verb.help or "")
        rows = [_row(option, context) for option in options(verb)]
        if rows:
            lines += ["", "| option | variable | |", "|---|---|---|", *rows]
    return "\n".join(lines) + "\n"


def _paragraphs(text: str) -> list[str]:
    """click's help: a paragraph that begins with \\b keeps its lines."""
    lines: list[str] = []
    for paragraph in text.strip().split("\n\n"):
        rows = paragraph.split("\n")
        if rows[0].strip() == "\b":
            lines += ["", *(f"    {row}" for row in rows[1:])]
        else:
            lines += ["", " ".join(paragraph.split())]
    return lines[1:]


def _row(option: click.Option, context: click.Context) -> str:
    names, text = option.get_help_record(context) or ("", "")
    variable = variable_of(option)
    return f"| `{names}` | {f'`{variable}`' if variable else ''} | {_cell(text)} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def configuration() -> str:
    lines = [
        "# Configuration",
        "",
        HEAD,
        "",
        "The command line wins over variables, variables over `conflux.toml`, that over defaults.",
        "`veilnet-conflux config show` says of each value where it comes from, `config check` what",
        "is wrong. An empty variable counts as not set. A misspelt key is an error, with line and",
        "column.",
        "",
        "## Where",
        "",
        "| system | folder, of root or the system account |",
        "|---|---|",
        "| Linux | `/root/.config/conflux/` |",
        "| macOS | `/var/root/Library/Application Support/conflux/` |",
        "| Windows | `C:\\Windows\\System32\\config\\systemprofile\\AppData\\Roaming\\conflux\\` |",
        "",
        "Of another user that user's own; with `--config-dir` or `VEILNET_CONFIG_DIR` any other.",
        "`conflux.json` is what `register` saved, `up.json` what `up` did, both for their owner",
        "alone; `conflux.toml` is yours.",
        "",
        "## `conflux.toml`",
        "",
        "| key | variable | default | may be | |",
        "|---|---|---|---|---|",
        *(
            f"| `{s.key}` | `{s.variable}` | {_default(s.default)} | {s.values} | {s.text} |"
            for s in SETTINGS
        ),
        "",
        "`relay.mbit` is the key `mbit` of the table `[relay]`.",
        "",
        "## Drivers",
        "",
        "`[plugins]` pins a driver for a kind; without that the best one that can run is used. Of",
        "tethers several, best first: a list, or in the variable names with commas between them.",
        "",
        "| key | variable |",
        "|---|---|",
        *(f"| `plugins.{kind}` | `{PIN_VARIABLE}{kind.upper()}` |" for kind in Kind),
        "",
        "A driver's own settings stand in `[plugin.KIND.NAME]`; its plugin's README tells them.",
        "",
        "## Variables of verbs",
        "",
        "| variable | option | of |",
        "|---|---|---|",
        *_variables(),
        "",
        "`VEILNET_GUARDIAN`, `VEILNET_CONFLUX_TOKEN` and `VEILNET_CONFLUX_TOKEN_FILE` win over",
        "what is saved, in every verb that reads it. Tokens are best in a file, `--token-file`,",
        "or on standard input, `--token-file -`: what `-t` was given others can see in the process",
        "list, on Linux for a moment.",
    ]
    return "\n".join(lines) + "\n"


def _default(value: object) -> str:
    if value is None:
        return "no limit"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _variables() -> Iterator[str]:
    found: dict[str, tuple[str, list[str]]] = {}
    for words, verb in walk(command, ()):
        for option in options(verb):
            if variable := variable_of(option):
                found.setdefault(variable, (max(option.opts, key=len), []))[1].append(words)
    settings = {setting.variable for setting in SETTINGS}
    for variable in sorted({*found, *VERB_VARIABLES} - settings):
        option, verbs = found.get(variable, ("", ["run"]))
        of = "all that read the folder" if len(verbs) > 6 else ", ".join(f"`{v}`" for v in verbs)
        yield f"| `{variable}` | {f'`{option}`' if option else ''} | {of} |"


def main() -> None:
    (FOLDER / "cli.md").write_text(cli(), encoding="utf-8")
    (FOLDER / "configuration.md").write_text(configuration(), encoding="utf-8")


if __name__ == "__main__":
    main()
