"""Log lines for people and for machines."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conflux.runtime import logs


@pytest.fixture(autouse=True)
def former_logging() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("conflux")
    handlers, level, our_level = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:], root.level, ours.level = handlers, level, our_level
    logging.getLogger().setLevel(level)
    ours.setLevel(our_level)


def test_text_is_one_line_with_level_and_source(capsys):
    logs.set_up("text")
    logging.getLogger("conflux.node").info("running: %s", "10.99.0.1")
    assert capsys.readouterr() == ("", "INFO conflux.node: running: 10.99.0.1\n")


@given(st.text())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_json_is_one_object_a_line_whatever_the_message(capsys, message):
    logs.set_up("json")
    logging.getLogger("conflux.node").warning("%s", message)
    _, err = capsys.readouterr()
    assert err.endswith("\n")
    line = json.loads(err)
    assert err.count("\n") == 1
    assert (line["level"], line["logger"]) == ("warning", "conflux.node")
    assert line["message"] == message
    assert line["time"].endswith("+00:00")


def test_json_holds_the_traceback_of_a_bug(capsys):
    logs.set_up("json")
    try:
        raise ZeroDivisionError("a bug")
    except ZeroDivisionError:
        logging.getLogger("conflux.node").exception("it failed")
    _, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert "ZeroDivisionError: a bug" in json.loads(err)["traceback"]


def test_libraries_speak_up_from_warnings_on(capsys):
    logs.set_up("text")
    logging.getLogger("aioice.ice").info("a detail")
    logging.getLogger("conflux.node").debug("a detail")
    logging.getLogger("aioice.ice").warning("trouble")
    assert capsys.readouterr().err == "WARNING aioice.ice: trouble\n"


def test_setting_up_twice_doubles_no_line(capsys):
    logs.set_up("text")
    logs.set_up("text")
    logging.getLogger("conflux").info("once")
    assert capsys.readouterr().err.count("once") == 1
