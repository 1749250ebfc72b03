"""ML-KEM and ML-DSA from pqcrypto for VeilNet Conflux."""
