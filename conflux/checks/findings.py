"""What checks find, and how it is shown."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass


class Verdict(enum.StrEnum):
    OK = "ok"
    WARN = "warn"
    """It works, but worse than it could."""
    FAIL = "fail"
    """A node cannot work like that."""
    UNKNOWN = "?"
    """It could not be found out; `do` says what for."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `do`, one line: how to mend it, empty if all is well."""

    check: str
    verdict: Verdict
    what: str
    do: str = ""


def ok(check: str, what: str) -> Finding:
    return Finding(check, Verdict.OK, what)


def warn(check: str, what: str, do: str) -> Finding:
    return Finding(check, Verdict.WARN, what, do)


def fail(check: str, what: str, do: str) -> Finding:
    return Finding(check, Verdict.FAIL, what, do)


def unknown(check: str, what: str, do: str) -> Finding:
    return Finding(check, Verdict.UNKNOWN, what, do)


def refused(check: str, error: Exception) -> Finding:
    """Of an error whose line says what to do itself, behind a colon."""
    what, colon, do = str(error).rpartition(": ")
    return (
        fail(check, what, do) if colon else fail(check, str(error), "see docs/troubleshooting.md")
    )


def as_text(findings: Iterable[Finding]) -> str:
    lines = []
    for finding in findings:
        lines.append(f"{finding.verdict:<5} {finding.check:<13} {finding.what}".rstrip())
        if finding.do:
            lines.append(f"{'':<20}{finding.do}")
    return "\n".join(lines)


def as_json(findings: Sequence[Finding]) -> list[dict[str, str]]:
    return [asdict(finding) for finding in findings]


def any_failed(findings: Iterable[Finding]) -> bool:
    return any(finding.verdict is Verdict.FAIL for finding in findings)
