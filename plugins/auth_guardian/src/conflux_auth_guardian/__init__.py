"""VeilNet Guardian as the auth server of VeilNet Conflux."""
