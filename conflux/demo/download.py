"""`python -m conflux.demo.download URL SLOW_AT`: fetch, count, hash; print JSON as it comes.

After SLOW_AT bytes it reads slowly until a line comes on standard input: however fast the network
is, the download is under way when its relay is pulled out. The last line has "sha256". A stalled
server is waited for: the demo judges, not this program.
"""

from __future__ import annotations

import hashlib
import json
import select
import sys
import time
import urllib.request

CHUNK_BYTES = 65_536
SLOW_S = 0.02
"""Between two chunks of a slow download: 3 MB/s."""


def main(url: str, slow_at: int) -> None:
    is_held = True
    digest, got, said = hashlib.sha256(), 0, 0.0
    started = time.monotonic()
    with urllib.request.urlopen(url, timeout=60) as response:  # noqa: S310 - the demo's own URL
        while chunk := response.read(CHUNK_BYTES):
            digest.update(chunk)
            got += len(chunk)
            now = time.monotonic()
            if now - said > 0.1:
                said = now
                print(json.dumps({"bytes": got, "s": round(now - started, 3)}), flush=True)
            if is_held and got >= slow_at:
                released, _, _ = select.select([sys.stdin], [], [], SLOW_S)
                is_held = not released
    took = time.monotonic() - started
    print(json.dumps({"bytes": got, "s": round(took, 3), "sha256": digest.hexdigest()}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
