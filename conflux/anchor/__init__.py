"""The Anchor protocol without I/O: time, randomness and transport are arguments."""
