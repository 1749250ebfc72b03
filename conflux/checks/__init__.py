"""Checks of a machine, its network and its configuration, each with what to do.

configuration  what `config check` finds
machine        what `doctor` finds
network        what `netcheck` finds: servers, nat, portmap, mtu
bugreport      all of it in one archive, without secrets: redact
"""
