"""`python -m veilnet_guardian`."""

from veilnet_guardian.cli import main

main()
