"""systemd for VeilNet Conflux."""
