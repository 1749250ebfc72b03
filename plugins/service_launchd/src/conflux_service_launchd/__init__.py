"""launchd for VeilNet Conflux."""
