"""`python -m conflux` is `veilnet-conflux`."""

from conflux.cli import main

main()
