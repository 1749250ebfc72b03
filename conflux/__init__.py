"""VeilNet Conflux: the kernel. It defines contracts; plugins do the work."""

__version__ = "0.1.0"
