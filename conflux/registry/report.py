"""What became of each plugin, and how a plugin's failure is caught."""

from __future__ import annotations

import enum
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

_T = TypeVar("_T")


class Stage(enum.StrEnum):
    """Where a plugin stands: OK, or the stage at which it failed."""

    OK = "ok"
    DISCOVER = "discover"
    """Its distribution's metadata cannot be read."""
    IMPORT = "import"
    REGISTER = "register"
    """Its hooks are not those of the contract."""
    DESCRIBE = "describe"
    """It does not say, or says wrongly, which drivers it has."""
    CREATE = "create"
    """Its driver was chosen, but cannot be imported or made."""
    OBSERVE = "observe"
    """One of its observer hooks raised; it is told on nevertheless."""


@dataclass(frozen=True, slots=True)
class Report:
    """One line of `veilnet-conflux plugins list`. `details` is a traceback, empty if none."""

    name: str
    dist: str
    stage: Stage
    reason: str = ""
    details: str = ""

    @property
    def failed(self) -> bool:
        return self.stage is not Stage.OK


class PluginFault(Exception):
    """A plugin did something wrong. The message is the reason, in one line."""

    def __init__(self, reason: str, details: str = "") -> None:
        super().__init__(reason)
        self.details = details


def shielded(call: Callable[[], _T]) -> _T:
    """Call into a plugin; whatever it raises becomes PluginFault.

    Plugins raise what they like, SystemExit and their own BaseExceptions included: a `sys.exit()`
    in a module is no reason to stop the node. Ctrl-C is no fault of the plugin and passes.
    """
    try:
        return call()
    except (KeyboardInterrupt, PluginFault):
        raise
    except BaseException as error:
        raise PluginFault(one_line(error), "".join(traceback.format_exception(error))) from error


def one_line(error: BaseException) -> str:
    """Return "TypeName: first line of the message"; never raises, whatever *error* is."""
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error}".splitlines()[0]
    # format_exception_only survives a __str__ that raises.
    text = traceback.format_exception_only(error)[0]
    first = text.strip().splitlines()[0]
    # Exceptions of modules are printed with the module; people need the name and the message.
    return first.removeprefix(f"{type(error).__module__}.")
