"""Foreign text for the terminal of a person."""

from __future__ import annotations

MAX_CHARACTERS = 200


def one_line(text: str) -> str:
    """Return *text* as one line of at most MAX_CHARACTERS printable characters.

    Control characters, terminal escapes and marks that turn the reading direction become spaces.
    """
    printable = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(printable.split())[:MAX_CHARACTERS]
