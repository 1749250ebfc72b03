"""Runs every test marked `lab` in a fork with a network namespace of its own.

So no test sees the machine's interfaces, and none can leave one behind. It needs root, or a user
namespace where an ordinary user is root: `conflux.lab` takes what there is.
"""

from __future__ import annotations

import functools

import pytest

from conflux import lab


@functools.cache
def _missing() -> str:
    return "; ".join(lab.missing())


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("lab") and _missing():
        pytest.skip(f"the lab needs {_missing()}")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if pyfuncitem.get_closest_marker("lab") is None:
        return None
    names = pyfuncitem._fixtureinfo.argnames
    test = functools.partial(pyfuncitem.obj, **{name: pyfuncitem.funcargs[name] for name in names})
    failure = None
    try:
        lab.in_private_network(test)
    except lab.LabError as error:
        failure = str(error)
    if failure is not None:
        pytest.fail(failure, pytrace=False)
    return True
