"""Configuration: file, environment, flags."""
