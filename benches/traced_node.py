"""Runs `veilnet-conflux` with a note of when the node reached each stage of its first contacts.

Not a benchmark by itself: `bench_cold_start.py` runs it. `traced_node.py FILE WORD...` appends a
line "time.monotonic() stage" to FILE each time; the clock is the machine's, so notes of two nodes
on it can be compared. What a node does is not changed: each method is called as it is.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from conflux.anchor.answering import Answering
from conflux.anchor.asking import Asking
from conflux.anchor.egress import Egress
from conflux.anchor.ingress import Ingress
from conflux.anchor.route import Routing
from conflux.anchor.sessions import Sessions

STAGES = {
    "packet from the TUN": (Egress, "take", True),
    "Ask made and sent": (Asking, "ask", False),
    "Ask came": (Answering, "received_ask", True),
    "Answer made and sent": (Answering, "_answered_now", False),
    "Answer came": (Asking, "received", True),
    "Answer verified": (Asking, "_answer_verified", True),
    "Open made and sent": (Asking, "_opened_now", False),
    "Open came": (Answering, "received_open", True),
    "streams open": (Sessions, "established", False),
    "tether up": (Sessions, "through", True),
    "route to the peer": (Routing, "_add", True),
    "frame sent": (Egress, "_seal_and_send", False),
    "packet to the TUN": (Ingress, "deliver", False),
}
"""The method that stands for each stage, and whether its beginning does, or else its end."""


def trace(file: Path) -> None:
    """Have every stage noted in *file*."""
    out = file.open("w", buffering=1)
    for stage, (owner, method, at_begin) in STAGES.items():
        _wrap(out, stage, owner, method, at_begin)


def _wrap(out: Any, stage: str, owner: type, method: str, at_begin: bool) -> None:
    original = getattr(owner, method)

    def noted(*args: Any, **named: Any) -> Any:
        began = time.monotonic()
        result = original(*args, **named)
        out.write(f"{began if at_begin else time.monotonic():.6f} {stage}\n")
        return result

    setattr(owner, method, noted)


if __name__ == "__main__":
    from conflux.__main__ import main

    trace(Path(sys.argv.pop(1)))
    main()
