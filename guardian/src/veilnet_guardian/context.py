"""What the REST endpoints share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from veilnet_guardian.database import Database
from veilnet_guardian.keys import Keys
from veilnet_guardian.limiter import Limiter
from veilnet_guardian.sessions import Logins
from veilnet_guardian.settings import MAX_CONFLUX
from veilnet_guardian.users import PasswordCheck


@dataclass(frozen=True, kw_only=True)
class Guardian:
    """A running Guardian. *wall* and *monotonic* are clocks in seconds.

    *master_url* tells, from a request's Host header, where its sender finds the Master;
    *master_up* whether Guardian itself is connected to it.
    """

    db: Database
    keys: Keys
    logins: Logins
    wall: Callable[[], float]
    monotonic: Callable[[], float]
    master_url: Callable[[str], str]
    master_up: Callable[[], bool]
    max_conflux: int = MAX_CONFLUX
    passwords: PasswordCheck = field(default_factory=PasswordCheck)
    limiter: Limiter = field(default_factory=Limiter)

    def now(self) -> int:
        """Unix seconds."""
        return int(self.wall())
