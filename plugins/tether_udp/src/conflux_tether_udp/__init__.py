"""Sealed UDP datagrams as tethers for VeilNet Conflux."""
