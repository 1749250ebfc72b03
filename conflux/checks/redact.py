"""Takes secrets out of text that goes to other people.

Two nets: what this machine's own secrets are, wherever they turn up; and what looks like one.
Public addresses are replaced as well, each by the same word everywhere: who wrote to whom can
still be told.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from conflux.api import UsageError
from conflux.config import FILE_NAME, TomlFile
from conflux.runtime import saved

HIDDEN = "(hidden)"
LEAST = 4
"""A shorter secret is none, and would blot out half of every text."""

_SECRET_WORD = re.compile(
    r"token|secret|passw|passphrase|credential|seed|jwt|api.?key", re.IGNORECASE
)

_USER_INFO = re.compile(r"(?<=://)[^/@\s\"']+(?=@)")
"""user:password of a URL"""

_LOOKS_SECRET = (
    re.compile(
        r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)",
        re.DOTALL,
    ),
    re.compile(r"\be[yw][A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){1,2}"),  # JWT (RFC 7519)
    re.compile(r"\bvn[a-z]_[A-Za-z0-9_.~+/=-]+"),  # Guardian's tokens
    re.compile(r"\bS[ACNOPUX][A-Z2-7]{40,}"),  # seeds of nkeys
    _USER_INFO,
    re.compile(r"(?i)(?<=bearer )\S+|(?<=basic )[A-Za-z0-9+/=]{8,}"),
    re.compile(
        r"(?i)(?<![a-z])(?:[a-z_-]*(?:token|secret|passw(?:or)?d|passphrase|credential|seed|jwt"
        r"|api[_-]?key))[\"']?\s*[=:]\s*[\"']?(?!\(hidden\))(?P<value>[^\s\"',}&]+)"
    ),
    re.compile(  # of a command line
        r"(?i)(?<!\S)--[a-z-]*(?:token|secret|password|passphrase|credential|seed|jwt|api-key)"
        r" +[\"']?(?!\(hidden\)|-)(?P<value>[^\s\"',}]+)"
    ),
    # A key in base64: both cases, else it is a path or a node id, which are public.
    re.compile(
        r"(?<![\w/+=-])(?=[a-z0-9_/+-]*[A-Z])(?=[A-Z0-9_/+-]*[a-z])[A-Za-z0-9_/+-]{40,}={0,2}"
        r"(?![\w/+-])"
    ),
)
_IPV4 = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.]*\d)")
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:.])")


class Redactor:
    """Remembers the words it gave to addresses: use one for a whole archive."""

    def __init__(self, secrets: Iterable[str]) -> None:
        forms = {form for secret in secrets if len(secret) >= LEAST for form in _forms(secret)}
        # Longest first: a secret may be a part of another one.
        self._secrets = sorted(forms, key=lambda form: (-len(form), form))
        self._addresses: dict[str, str] = {}

    def clean(self, text: str) -> str:
        """Return *text* without secrets and public addresses."""
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        for pattern in _LOOKS_SECRET:
            text = pattern.sub(_blotted, text)
        for pattern in (_IPV4, _IPV6):
            text = pattern.sub(self._address, text)
        return text

    def _address(self, match: re.Match[str]) -> str:
        try:
            address = ipaddress.ip_address(match[0])
        except ValueError:
            return match[0]
        if not address.is_global:
            return match[0]
        known = self._addresses
        return known.setdefault(str(address), f"address-{len(known) + 1}")


def secrets_of(folder: Path, environ: Mapping[str, str]) -> Iterator[str]:
    """Every secret that this machine's configuration holds, also in files that are corrupt."""
    for name in (saved.REGISTERED, saved.UP):
        try:
            found = saved.load(folder / name)
        except UsageError:
            found = None
        if found is not None:
            yield found.conflux_token
    yield from _first_line(folder / saved.REGISTERING)
    for name, value in environ.items():
        for user_info in _USER_INFO.findall(value):
            yield from (user_info, user_info.partition(":")[2])
        if _SECRET_WORD.search(name):
            yield value
            if name.endswith("_FILE"):
                yield from _first_line(Path(value))
    try:
        yield from _texts(TomlFile(folder / FILE_NAME).data.get("plugin", {}))
    except UsageError:
        return


def _first_line(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            yield file.readline(16_384).strip()
    except OSError:
        return


def _texts(value: Any) -> Iterator[str]:
    """Every text within *value*, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def _forms(secret: str) -> Iterator[str]:
    """How a secret may be written: as it is, in a URL, in JSON, in base64."""
    yield secret
    yield quote(secret, safe="")
    yield secret.encode("unicode_escape").decode()
    encoded = base64.b64encode(secret.encode("utf-8", "surrogateescape")).decode()
    yield encoded.rstrip("=")
    yield encoded.rstrip("=").translate(str.maketrans("+/", "-_"))


def _blotted(match: re.Match[str]) -> str:
    value = match.groupdict().get("value")
    return match[0].removesuffix(value) + HIDDEN if value else HIDDEN


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What of the environment matters: our own variables and those of proxies."""
    ours = re.compile(r"VEILNET_|(?:HTTPS?|ALL|NO)_PROXY$|LANG$|LC_ALL$|PATH$", re.IGNORECASE)
    return {
        name: HIDDEN if _SECRET_WORD.search(name) and not name.endswith("_FILE") else value
        for name, value in sorted(environ.items())
        if ours.match(name)
    }
