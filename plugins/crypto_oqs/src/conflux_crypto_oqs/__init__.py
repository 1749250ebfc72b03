"""ML-KEM and ML-DSA from liboqs for VeilNet Conflux."""
