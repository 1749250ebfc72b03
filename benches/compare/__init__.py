"""`make bench`: VeilNet beside other overlay networks, measured in one run on one machine.

Files in the order of a run: `programs` finds or fetches what is run, `worlds` makes hosts and
cables, `products`, `kernel`, `peers`, `conflux` and `channel` build a tunnel on them, `loads` sends
through it, `meters` reads CPU and memory, `jobs` says what is measured of whom, `run` does it in
interleaved rounds; `figures` makes medians, ranges and goals of that, `report` and `picture` show
them.
"""
