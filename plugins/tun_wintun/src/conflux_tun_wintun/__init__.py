"""TUN devices on Windows for VeilNet Conflux."""
