"""The page /docs: what /openapi.json says, for people.

Plain HTML. It loads nothing, from this server or from elsewhere, and runs no script, which its
Content-Security-Policy forbids besides: people type passwords for this origin.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from html import escape
from typing import Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

Json = Mapping[str, Any]

STYLE = """
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; font: 1rem/1.5 sans-serif; }
code { font-size: 0.95em; }
h3 { margin: 2.5rem 0 0.5rem; border-top: 1px solid #ccc; padding-top: 1rem; }
table { border-collapse: collapse; margin: 0.5rem 0 1rem; }
td, th { text-align: left; vertical-align: top; padding: 0.15rem 1.5rem 0.15rem 0; }
th { font-weight: normal; color: #666; }
"""


def add_docs(app: FastAPI) -> None:
    """Serve the page. Its text is made once, when it is first asked for."""

    @cache
    def page() -> str:
        return render(app.openapi())

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        return HTMLResponse(page(), headers={"Content-Security-Policy": POLICY})


_STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def render(openapi: Json) -> str:
    """Return the page for an OpenAPI 3.1 document as FastAPI makes it."""
    info, schemas = openapi["info"], openapi["components"]["schemas"]
    title = f"{info['title']} {info['version']}"
    operations = [
        (f"{verb.upper()} {path}", operation)
        for path, verbs in openapi["paths"].items()
        for verb, operation in verbs.items()
    ]
    lines = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>',
        f"<style>{STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        *(f"<p>{_text(part)}</p>" for part in info["description"].split("\n\n")),
        '<p>For programs: <a href="openapi.json"><code>openapi.json</code></a>.</p>',
        "<ul>",
        *(f'<li><a href="#{_anchor(name)}">{escape(name)}</a></li>' for name, _ in operations),
        "</ul>",
    ]
    for name, operation in operations:
        lines += _operation(name, operation, schemas)
    return "\n".join([*lines, "</body></html>", ""])


def _operation(name: str, operation: Json, schemas: Json) -> Iterator[str]:
    yield f'<h3 id="{_anchor(name)}"><code>{escape(name)}</code></h3>'
    yield f"<p>{_text(operation.get('description', ''))}</p>"
    for requirement in operation.get("security", []):
        yield f"<p>Bearer: {escape(', '.join(requirement))}</p>"
    if parameters := operation.get("parameters"):
        rows = ((p["name"], p["schema"], p.get("required", False)) for p in parameters)
        yield from _table("query", rows)
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        yield from _body(f"body, {kind}", content.get("schema", {}), schemas)
    for status, answer in operation["responses"].items():
        if status.startswith("2"):
            schema = answer.get("content", {}).get("application/json", {}).get("schema", {})
            yield from _body(f"answer {status}", schema, schemas)
    refusals = [status for status in operation["responses"] if not status.startswith("2")]
    if refusals:
        yield f"<p>Refusals: {', '.join(refusals)}</p>"


def _body(heading: str, schema: Json, schemas: Json) -> Iterator[str]:
    """The fields of an object or of each object in a list; nothing else has fields."""
    target = schema.get("items", schema)
    name = target.get("$ref", "").rpartition("/")[2]
    if not name:
        kind = f": {_type(schema)}" if schema else ""
        yield f"<p>{escape(heading + kind)}</p>"
        return
    fields = schemas[name]
    heading += ", a list of" if "items" in schema else ""
    needed = fields.get("required", [])
    rows = ((field, about, field in needed) for field, about in fields["properties"].items())
    yield from _table(heading, rows)


def _table(heading: str, rows: Iterable[tuple[str, Json, bool]]) -> Iterator[str]:
    yield f'<table><tr><th colspan="3">{escape(heading)}</th></tr>'
    for name, schema, needed in rows:
        default = (
            ""
            if needed or "default" not in schema
            else f", by default {json.dumps(schema['default'])}"
        )
        yield (
            f"<tr><td><code>{escape(name)}</code></td>"
            f"<td>{escape(_type(schema) + default)}</td>"
            f"<td>{_text(schema.get('description', ''))}</td></tr>"
        )
    yield "</table>"


def _type(schema: Json) -> str:
    if choices := schema.get("anyOf"):
        return " or ".join(map(_type, choices))
    if "items" in schema:
        return f"list of {_type(schema['items'])}"
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "enum" in schema:
        return " or ".join(map(repr, schema["enum"]))
    return str(schema.get("format") or schema.get("type", "anything"))


def _text(text: str) -> str:
    """Docstrings' one mark-up: code between backticks."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _anchor(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
