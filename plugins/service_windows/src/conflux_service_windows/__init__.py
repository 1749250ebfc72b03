"""Windows services for VeilNet Conflux."""
