"""What `bench_scale.py` is made of: peers.py plays all peers, node_plugin.py stands in the node."""
