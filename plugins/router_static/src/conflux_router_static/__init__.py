"""Lowest measured round-trip time for VeilNet Conflux."""
