"""Frozen, validated configuration; nothing here imports jax, so that `--help` is quick."""

from jdqn.config.effects import without_effect
from jdqn.config.errors import ConfigError, PassingError, RunError
from jdqn.config.layers import (
    RECORDS,
    config_dir,
    default_preset,
    load_config,
    names,
    to_toml,
    with_overrides,
)
from jdqn.config.naming import is_own, suggest
from jdqn.config.options import (
    Parser,
    add_fields,
    add_options,
    fields_of,
    from_options,
    parse_count,
    parse_value,
)
from jdqn.config.schema import Config
from jdqn.config.sources import layers_of, protocol_of
from jdqn.config.wording import shown

__all__ = [
    "RECORDS",
    "Config",
    "ConfigError",
    "Parser",
    "PassingError",
    "RunError",
    "add_fields",
    "add_options",
    "config_dir",
    "default_preset",
    "fields_of",
    "from_options",
    "is_own",
    "layers_of",
    "load_config",
    "names",
    "parse_count",
    "parse_value",
    "protocol_of",
    "shown",
    "suggest",
    "to_toml",
    "with_overrides",
    "without_effect",
]
