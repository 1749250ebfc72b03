"""veilnet-conflux on a machine that seems to sleep: `drowsy.py FILE WORDS...`.

Its boot clock is ahead by as many seconds as FILE says at that moment.
"""

import sys
from pathlib import Path

from conflux.cli import main
from conflux.runtime.continuity import Clocks

file = Path(sys.argv.pop(1))
genuine = Clocks.boot
Clocks.boot = lambda clocks: genuine(clocks) + float(file.read_text())  # type: ignore[method-assign]
main()
