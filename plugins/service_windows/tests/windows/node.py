"""Stands for `veilnet-conflux run`: it says that it is up and ends when its input does."""

import os
import sys

assert os.environ["VEILNET_NOTIFY"] == "stdio"
print("READY=1\nSTATUS=running", flush=True)
while os.read(sys.stdin.fileno(), 100):
    pass
