"""WebRTC data channels as tethers for VeilNet Conflux."""
