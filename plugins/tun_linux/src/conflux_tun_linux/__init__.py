"""TUN devices on Linux for VeilNet Conflux."""
