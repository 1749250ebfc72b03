"""ML-KEM and ML-DSA from OpenSSL for VeilNet Conflux."""
