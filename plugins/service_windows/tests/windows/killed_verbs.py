"""`killed_verbs.py STEP LOG UNIT VERB...` uses the driver, killed before its step STEP."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from conflux.api import ServiceUnit
from conflux.killer import Killer, change_of_file
from conflux_service_windows.advapi import Advapi
from conflux_service_windows.driver import WindowsService
from conflux_service_windows.host import FOLDER

CHANGES = ("Create", "Change", "Start", "Control", "Delete")
step, log, unit, *verbs = sys.argv[1:]
killer = Killer(int(step), Path(log))
repeated = set()


def seen(event: str, arguments: tuple[object, ...]) -> str:
    if event == "winreg.SetValue":
        return f"{event} {arguments[1]}"
    return change_of_file(event, arguments, (str(FOLDER),))


class Watched(Advapi):
    """It tells of each change, of the request to stop, which is repeated, once."""

    def call(self, name, *arguments):
        if name.startswith(CHANGES) and name not in repeated:
            repeated.update({name} & {"ControlService"})
            killer.reached(name)
        return super().call(name, *arguments)


driver = WindowsService({})
driver._api = Watched()
killer.watch(seen)
for verb in verbs:
    driver.install(ServiceUnit(**json.loads(unit))) if verb == "install" else getattr(
        driver, verb
    )()
