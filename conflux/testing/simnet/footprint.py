"""What an object keeps: the size of every container within reach, by the way to it.

For tests that nothing is left behind. A list of the tables to look at would rot; this one walks
whatever is there: attributes, containers, what a pending call holds on to.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterator, Mapping
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

_LEAVES = (
    str, bytes, bytearray, memoryview, int, float, complex, type, ModuleType, BuiltinFunctionType
)  # fmt: skip


def footprint(root: object, *, beyond: tuple[type, ...] = ()) -> Counter[str]:
    """Items of containers, and bytes, that *root* leads to, without what it shares with *beyond*.

    The ways are those of the program, such as ".egress._egressers[]": what lies in one container
    is counted together. Objects of the classes *beyond* are not entered, nor is what belongs to
    other packages.
    """
    sizes: Counter[str] = Counter()
    seen: set[int] = set()
    waiting: deque[tuple[str, Any]] = deque([("", root)])
    while waiting:
        way, thing = waiting.popleft()
        if isinstance(thing, bytes | bytearray | memoryview):
            sizes[way] += len(thing)
        if thing is None or isinstance(thing, (*_LEAVES, *beyond)) or id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, Collection):
            sizes[way] += len(thing)
        waiting.extend((way + step, part) for step, part in _parts(thing))
    return +sizes


def _parts(thing: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(thing, MethodType):
        yield "()", thing.__self__
        yield "()", thing.__func__
    elif isinstance(thing, FunctionType):
        for cell in thing.__closure__ or ():
            yield "()", cell.cell_contents
        yield from (("()", default) for default in thing.__defaults__ or ())
    elif str(type(thing).__module__).startswith("conflux."):
        yield from _attributes(thing)
    elif isinstance(thing, Mapping):
        for key, value in thing.items():
            yield "{}", key
            yield "[]", value
    elif isinstance(thing, Collection):
        yield from (("[]", item) for item in thing)


def _attributes(thing: Any) -> Iterator[tuple[str, Any]]:
    names = {name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())}
    names.update(getattr(thing, "__dict__", ()))
    yield from (
        (f".{name}", getattr(thing, name)) for name in sorted(names) if hasattr(thing, name)
    )
