"""Our verbs, each imported when it is typed, and whether installed plugins add any.

`--help` and `--version` need none of them: the table has their first sentences.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, MutableMapping

import click

VERBS = {
    "register": "Register this machine with Guardian, save who it is, and run it as a "
    "system service.",
    "unregister": "Unregister this machine from Guardian, remove its service, delete what "
    "was saved.",
    "up": "Run a conflux by its token, without registering, as a system service.",
    "down": "Stop the node that `up` started, remove its service, forget its token.",
    "run": "Run the registered conflux in this terminal, waiting for Guardian as long as it takes.",
    "start": "Start the system service; install it first if it was removed or never made.",
    "stop": "Stop the system service until the next start of the machine, or `start`.",
    "restart": "Start the system service anew, with what its configuration says now.",
    "remove": "Remove the system service; this machine stays registered, and `start` "
    "brings it back.",
    "status": "Show state, peers, paths, round trips, loss, throughput, plugins and "
    "problems of the node.",
    "info": "Show id, tag, address, plane and Guardian of the running node.",
    "ping": "Ask HOST over the overlay; show each answer's round trip and the path in use.",
    "netcheck": "Check UDP, NAT, port mapping, Guardian, Master, their TLS, and the MTU "
    "of the underlay.",
    "doctor": "Check TUN, rights, kernel, clock, DNS, MTU, plugins, files and other nodes.",
    "bugreport": "Gather versions, settings, status, findings and log in an archive that "
    "holds no secret.",
    "config": "Show and check what is configured.",
    "plugins": "Show what is installed and what would be used.",
    "completion": "Print what makes SHELL complete verbs and options with Tab.",
    "demo": "Two hosts that cannot reach each other talk over VeilNet through a relay.",
}
"""What each does, as its own help begins."""

_FILES = dict.fromkeys(("start", "stop", "restart", "remove"), "lifecycle")
"""Of the verbs that share one; every other has the file of its name."""

GROUP = "conflux.commands"
"""The entry-point group by which a distribution says that a plugin of its adds commands."""


class Commands(MutableMapping[str, click.Command]):
    """Commands by verb: ours, imported when they are asked for, and what was put in beside them."""

    def __init__(self) -> None:
        self._made: dict[str, click.Command] = {}

    def __getitem__(self, verb: str) -> click.Command:
        if verb not in self._made and verb in VERBS:
            module = importlib.import_module(f"conflux.cli.{_FILES.get(verb, verb)}")
            self._made[verb] = getattr(module, verb)
        return self._made[verb]

    def __setitem__(self, verb: str, command: click.Command) -> None:
        self._made[verb] = command

    def __delitem__(self, verb: str) -> None:
        del self._made[verb]

    def __iter__(self) -> Iterator[str]:
        return iter({**VERBS, **self._made})

    def __len__(self) -> int:
        return len({**VERBS, **self._made})

    def __contains__(self, verb: object) -> bool:
        return verb in VERBS or verb in self._made


def added_by_plugins() -> bool:
    """Whether an installed distribution says that it adds commands.

    A look into its files, 1 ms: importlib.metadata alone takes as long as all else of `--help`.
    """
    words = f"[{GROUP}]".encode()
    return any(words in text for text in _entry_points())


def _entry_points() -> Iterator[bytes]:
    for folder in sys.path:
        try:
            names = [
                n for n in os.listdir(folder or ".") if n.endswith((".dist-info", ".egg-info"))
            ]
        except OSError:  # missing, or an archive
            continue
        for name in names:
            try:
                with open(os.path.join(folder, name, "entry_points.txt"), "rb") as file:
                    yield file.read()
            except OSError:
                continue  # most have none
