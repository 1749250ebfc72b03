"""Bytes to values and back, pure. Every decoder raises WireError on anything it does not allow."""
