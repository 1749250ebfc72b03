"""`make build`: wheels, the executable of this platform and the Debian package, into dist/.

    python tools/release [--into FOLDER] [wheels] [executable] [debian]

All of them if none is named. What this machine cannot build is said, and is an error only if it was
named. What is built goes to dist/ of the folder, what is needed on the way to build/.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import debian_package
import executable
import wheels
from steps import ROOT, CannotBuild

PRODUCTS: dict[str, Callable[[Path, Path], list[Path]]] = {
    "wheels": lambda dist, _: list(wheels.build(dist / "wheels").values()),
    "executable": lambda dist, work: [executable.build(dist, work / "executable")],
    "debian": lambda dist, work: [debian_package.build(dist, work / "debian")],
}


def main() -> int:
    """Build, print the sizes; return the exit code."""
    parser = argparse.ArgumentParser(prog="tools/release")
    parser.add_argument("--into", type=Path, default=ROOT, metavar="FOLDER")
    parser.add_argument("what", nargs="*", metavar="|".join(PRODUCTS), default=[])
    given = parser.parse_args()
    if unknown := set(given.what) - set(PRODUCTS):
        parser.error(f"no such product: {', '.join(sorted(unknown))}")
    into = given.into.resolve()
    for name in given.what or PRODUCTS:
        try:
            made = PRODUCTS[name](into / "dist", into / "build")
        except CannotBuild as reason:
            print(f"no {name}: {reason}", file=sys.stderr)
            if given.what:
                return 1
            continue
        for path in made:
            print(f"{path.stat().st_size / 1e6:8.2f} MB  {path.relative_to(into)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
