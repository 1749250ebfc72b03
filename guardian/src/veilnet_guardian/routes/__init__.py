"""The REST endpoints, one module per first path segment."""
