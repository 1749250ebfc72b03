"""A stand-in for launchctl and launchd: one daemon, its state in the folder of FAKE_LAUNCHD.

It reads the property list as launchd.plist(5) says, starts the program, and prints what `launchctl
print` prints. What was asked is recorded in `calls`.
"""

import json
import os
import plistlib
import signal
import subprocess
import sys
import time
from pathlib import Path

LABEL = "org.veilnet.conflux"
HOME = Path(os.environ["FAKE_LAUNCHD"])
LOADED = HOME / "loaded"


def main(words):
    with (HOME / "calls").open("a") as calls:
        calls.write(" ".join(words) + "\n")
    broken = HOME / "broken"
    if broken.exists() and words[0] == broken.read_text():
        sys.exit(f"{words[0]}: Input/output error")
    match words:
        case ["enable", target] if target == f"system/{LABEL}":
            pass
        case ["bootstrap", "system", path]:
            bootstrap(Path(path))
        case ["bootout", target] if target == f"system/{LABEL}":
            bootout()
        case ["print", target] if target == f"system/{LABEL}":
            show()
        case _:
            sys.exit(f"unrecognized: {words}")


def bootstrap(path):
    if LOADED.exists():
        sys.exit("Bootstrap failed: 5: Input/output error")
    job = plistlib.loads(path.read_bytes())
    assert job["Label"] == LABEL == path.stem
    assert path.stat().st_mode & 0o022 == 0, "launchd refuses what others can write"
    if job["RunAtLoad"]:
        with open(job["StandardErrorPath"], "a") as log:
            process = subprocess.Popen(
                job["ProgramArguments"], env={**os.environ, **job["EnvironmentVariables"]},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        time.sleep(0.3)
        LOADED.write_text(json.dumps([process.pid, process.poll()]))
        process.returncode = 0


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def bootout():
    if not LOADED.exists():
        sys.exit("Boot-out failed: 3: No such process")
    pid, _ = json.loads(LOADED.read_text())
    if alive(pid):
        os.kill(pid, signal.SIGTERM)
    while alive(pid):
        time.sleep(0.02)
    LOADED.unlink()


def show():
    if not LOADED.exists():
        print(f'Could not find service "{LABEL}" in domain for system', file=sys.stderr)
        sys.exit(113)
    pid, code = json.loads(LOADED.read_text())
    print(f"system/{LABEL} = {{\n\tactive count = 1\n\ttype = LaunchDaemon")
    if alive(pid):
        print(f"\tstate = running\n\n\tpid = {pid}\n\tlast exit code = (never exited)")
    else:
        print(f"\tstate = not running\n\n\tlast exit code = {code}: some meaning")
    print("\tendpoints = {\n\t\tstate = active\n\t}\n}")


main(sys.argv[1:])
