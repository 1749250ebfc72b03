"""`killed_verbs.py STEP LOG HOME UNIT VERB...` uses the driver, killed before its step STEP."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from conflux.api import ServiceUnit
from conflux.killer import Killer, change_of_file
from conflux_service_launchd.driver import LaunchdService

step, log, home, unit, *verbs = sys.argv[1:]
folder, service_log = Path(home, "LaunchDaemons"), Path(home, "log")


def seen(event: str, arguments: tuple[object, ...]) -> str:
    if event == "subprocess.Popen" and isinstance(arguments[1], list):
        words = [str(word) for word in arguments[1][1:]]
        return "" if words[0] == "print" else " ".join(words)
    change = change_of_file(event, arguments, (str(folder), str(service_log)))
    return change.partition("/.org")[0]  # a file that is not whole has another name each time


driver = LaunchdService(
    {}, folder=folder, log=service_log, launchctl=str(Path(home, "launchctl")), steady_s=0.1
)
Killer(int(step), Path(log)).watch(seen)
for verb in verbs:
    driver.install(ServiceUnit(**json.loads(unit))) if verb == "install" else getattr(
        driver, verb
    )()
