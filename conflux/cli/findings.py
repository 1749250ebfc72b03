"""How checks are reported: each line as soon as it is known, or all of it as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from conflux.checks.findings import Finding


def report(findings: Iterable[Finding], *, as_json: bool) -> None:
    """Print them; then exit with 1 if one fails."""
    from conflux.checks.findings import any_failed, as_text
    from conflux.checks.findings import as_json as json_values

    seen = []
    for finding in findings:
        seen.append(finding)
        if not as_json:
            click.echo(as_text([finding]))
    if as_json:
        click.echo(json.dumps(json_values(seen), indent=2))
    if any_failed(seen):
        click.get_current_context().exit(1)
