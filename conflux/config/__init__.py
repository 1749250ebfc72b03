"""Configuration: flags win over variables, variables over `conflux.toml`, that over defaults.

settings   what there is: key, variable, default, what it may be
toml       conflux.toml, and where each key stands in it
load       all of it together: a Config, each value with where it came from
"""

from conflux.config.load import Config, Faults, Origin, default_config_dir, load_config, survey
from conflux.config.settings import (
    DRIVER_NAME,
    LOG_FORMATS,
    MAX_IDLE_S,
    PACKET_AUTH,
    PIN_VARIABLE,
    RELAY_KEYS,
    SETTINGS,
    Setting,
)
from conflux.config.toml import FILE_NAME, TomlFile

__all__ = [
    "Config",
    "DRIVER_NAME",
    "FILE_NAME",
    "Faults",
    "LOG_FORMATS",
    "MAX_IDLE_S",
    "Origin",
    "PACKET_AUTH",
    "PIN_VARIABLE",
    "RELAY_KEYS",
    "SETTINGS",
    "Setting",
    "TomlFile",
    "default_config_dir",
    "load_config",
    "survey",
]
