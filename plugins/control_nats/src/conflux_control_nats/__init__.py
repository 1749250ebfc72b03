"""NATS as the control channel of VeilNet Conflux."""
