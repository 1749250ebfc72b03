"""What a product is to the benchmark: something that makes a tunnel on an underlay."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from benches.compare.worlds import Host, Underlay
from conflux.lab import LabError, Process, until

START_S = 40.0


@dataclass(slots=True)
class Tunnel:
    """A way between the near and the far host, ready to take a first packet."""

    near_address: str
    far_address: str
    nodes: list[Process] = field(default_factory=list)
    """One for each host: what a node of the product is. Empty if the kernel does it."""
    helpers: list[Process] = field(default_factory=list)
    """Servers that the product needs beside its nodes."""
    settle: Callable[[], None] = lambda: None
    """Waits until packets go the way that is to be measured, once one has gone at all. Raises
    LabError if they do not.
    """

    @property
    def processes(self) -> list[Process]:
        return [*self.nodes, *self.helpers]


class Product(Protocol):
    """A way to join two hosts, and how much of it is measured."""

    name: str
    """As ONLY= has it: lower-case letters, digits, "-"."""
    label: str
    """As the table has it."""

    def prepare(self) -> str:
        """Find or fetch what is needed; return its version. Raises Missing with the reason."""
        ...

    def start(self, underlay: Underlay, folder: Path) -> Tunnel:
        """Start it; files go to *folder*. Raises LabError."""
        ...


def start_program(
    host: Host, argv: Iterable[str], log: Path, env: dict[str, str] | None = None
) -> Process:
    """Start *argv* on *host*; all that it prints goes to *log*."""
    with log.open("a") as file:
        return host.place.popen(list(argv), env=env, stdout=file, stderr=file)


def await_device(host: Host, device: str, process: Process, log: Path) -> None:
    """Wait until *device* is up on *host*. Raises LabError at the deadline or if *process* ends."""

    def is_up() -> bool:
        return ",UP" in host.place.run(["ip", "link", "show", device], check=False).stdout

    await_sign(is_up, device, process, log)


def await_words(words: str, process: Process, log: Path) -> None:
    """Wait until *process* has logged *words*. Raises LabError at the deadline or if it ends."""
    await_sign(lambda: words in log.read_text(errors="replace"), repr(words), process, log)


def await_sign(sign: Callable[[], bool], what: str, process: Process, log: Path) -> None:
    """Wait until *sign* is true. Raises LabError at the deadline or if *process* ends."""
    try:
        until(lambda: sign() or process.poll() is not None, deadline_s=START_S, what=what)
    except LabError as error:
        raise LabError(f"{error}: {_tail(log)}") from None
    if (code := process.poll()) is not None:
        raise LabError(f"ended with exit code {code}: {_tail(log)}")


def _tail(log: Path) -> str:
    return " ".join(log.read_text(errors="replace").split())[-600:]
