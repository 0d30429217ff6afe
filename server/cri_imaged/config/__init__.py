"""The daemon's configuration: its options, how they are read from TOML, and their defaults.

`options` says what can be set, `values` how single values are written, `load` reads a file,
`render` writes the defaults and the table of docs/configuration.md.
"""

from cri_imaged.config.load import default_config, default_config_file, load_config
from cri_imaged.config.options import (
    Config,
    DebugOptions,
    GrpcOptions,
    ImageOptions,
    MetricsOptions,
    RuntimePlatform,
)
from cri_imaged.config.values import ByteSize, Duration, ListenAddress

__all__ = [
    "ByteSize",
    "Config",
    "DebugOptions",
    "Duration",
    "GrpcOptions",
    "ImageOptions",
    "ListenAddress",
    "MetricsOptions",
    "RuntimePlatform",
    "default_config",
    "default_config_file",
    "load_config",
]
