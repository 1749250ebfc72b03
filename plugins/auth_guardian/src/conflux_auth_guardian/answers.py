"""What Guardian may answer. Everything is foreign until it has passed here; ValueError says no."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from ipaddress import ip_interface

from conflux.api import LoginAnswer, Registration
from conflux_auth_guardian.text import one_line

_TOKEN = re.compile(r"[\x21-\x7e]{1,8192}")
_MAX_TEAMS = 1_000


def is_token(text: str) -> bool:
    """Say if *text* can stand in an Authorization header."""
    return _TOKEN.fullmatch(text) is not None


def json_object(body: bytes) -> Mapping[str, object]:
    """Parse a JSON object."""
    try:
        value = json.loads(body)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("no JSON object")
    return value


def registration(answer: Mapping[str, object]) -> Registration:
    """Check the answer to POST /conflux/register."""
    address, *others = _addresses(answer)
    return Registration(
        conflux_id=_line(answer, "conflux_id"),
        conflux_token=_token(answer, "conflux_token"),
        tag=_line(answer, "tag", may_be_empty=True),
        plane=_line(answer, "plane"),
        address=address,
        other_addresses=others,
        teams=_lines(answer, "teams"),
        ignored_teams=_lines(answer, "ignored_teams"),
    )


def login(answer: Mapping[str, object]) -> LoginAnswer:
    """Check the answer to POST /conflux/session/login."""
    grant = answer.get("grant")
    if not isinstance(grant, str) or not grant:
        raise ValueError("no 'grant'")
    return LoginAnswer(
        session=_token(answer, "session"), sealed=base64.b64decode(grant, validate=True)
    )


def failing(answer: Mapping[str, object]) -> str:
    """Check the answer to GET /healthz; return what of Guardian fails, empty if nothing does."""
    if answer.get("status") not in ("ok", "failing"):
        raise ValueError("no 'status'")
    parts = [part for part in ("database", "master") if answer.get(part) != "ok"]
    return " and ".join(f"its {part}" for part in parts)


def detail(body: bytes) -> str:
    """Return the one line with which Guardian says no, or an empty one."""
    try:
        reason = json_object(body).get("detail")
    except ValueError:
        return ""
    return one_line(reason) if isinstance(reason, str) else ""


def _token(answer: Mapping[str, object], name: str) -> str:
    value = answer.get(name)
    if not isinstance(value, str) or not is_token(value):
        raise ValueError(f"no {name!r}")
    return value


def _line(answer: Mapping[str, object], name: str, *, may_be_empty: bool = False) -> str:
    value = answer.get(name)
    if not isinstance(value, str) or one_line(value) != value or not (value or may_be_empty):
        raise ValueError(f"{name!r} is no line of text")
    return value


def _addresses(answer: Mapping[str, object]) -> list[str]:
    addresses = _lines(answer, "addresses")
    if not addresses or not all("/" in address for address in addresses):
        raise ValueError("'addresses' without a prefix length, or none")
    return [str(ip_interface(address)) for address in addresses]


def _lines(answer: Mapping[str, object], name: str) -> list[str]:
    values = answer.get(name, [])
    if not isinstance(values, list) or len(values) > _MAX_TEAMS:
        raise ValueError(f"{name!r} is no list")
    for value in values:
        if not isinstance(value, str) or not value or one_line(value) != value:
            raise ValueError(f"{name!r} holds what is no line of text")
    return values
