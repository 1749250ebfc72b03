"""veilnet-conflux, patched: it takes no grant and no revocation after its login. Same words.

Whoever was removed from a team and does not want to know of it runs this.
"""

from conflux.anchor.grants import Grants
from conflux.cli import main


def ignore(self: Grants, body: bytes) -> None: ...


Grants.pushed = Grants.pushed_revocations = ignore  # type: ignore[method-assign]
main()
