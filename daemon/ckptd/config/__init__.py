"""The configuration: `config.toml` in, `core.settings.Settings` out."""

from ckptd.config.load import find, load
from ckptd.config.problems import ConfigError
from ckptd.config.schema import json_schema as schema
from ckptd.config.show import as_toml, effective, notes

__all__ = ["ConfigError", "as_toml", "effective", "find", "load", "notes", "schema"]
