"""TUN devices on macOS for VeilNet Conflux."""
