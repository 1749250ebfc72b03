"""`python verbs.py STEP LOG HOME VERB...` uses the driver, killed before its step number STEP."""

from __future__ import annotations

import sys
from pathlib import Path

from conflux.api import ServiceUnit
from conflux.testing.killed import Killer, change_of_file
from conflux_service_launchd.driver import LaunchdService

SLEEPS = [sys.executable, "-c", "import time; time.sleep(600)"]
UNIT = ServiceUnit(command=SLEEPS, description="It comes up", environment={"VEILNET_TUN": "t"})


def driver_of(home: Path) -> LaunchdService:
    """A driver whose launchd is a stand-in that keeps its state in *home*."""
    return LaunchdService(
        {}, folder=home / "LaunchDaemons", log=home / "log", launchctl=str(home / "launchctl"),
        steady_s=0.2,
    )  # fmt: skip


def main(step: int, log: Path, home: Path, verbs: list[str]) -> None:
    own = (str(home / "LaunchDaemons"), str(home / "log"))

    def seen(event: str, arguments: tuple[object, ...]) -> str:
        if event == "subprocess.Popen" and isinstance(arguments[1], list):
            words = [str(word) for word in arguments[1][1:]]
            return "" if words[0] == "print" else f"launchctl {' '.join(words)}"
        # A torn file has another name each time.
        return change_of_file(event, arguments, own).partition("/.org")[0]

    driver = driver_of(home)
    Killer(step, log).watch(seen)
    for verb in verbs:
        driver.install(UNIT) if verb == "install" else getattr(driver, verb)()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
