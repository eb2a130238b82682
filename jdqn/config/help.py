"""What `--help TOPIC` shows: each field with what it accepts, its value and where that is from."""

import shutil
import textwrap
from collections.abc import Mapping
from typing import Any

from jdqn.config.errors import ConfigError
from jdqn.config.naming import suggest
from jdqn.config.schema import Config

MOST_COLUMNS = 100
INDENT = " " * 6


MORE = f"""
Every field of the configuration is an option, --SECTION.FIELD VALUE. More:
  --help replay     a section: {", ".join(Config.model_fields)}, or all
  --env Pong --agent rainbow --help replay
                    its values for these two, and where each is from"""


def topics() -> list[str]:
    """What `--help` explains."""
    return ["all", *Config.model_fields]


def section_help(topic: str, config: Config, sources: Mapping[str, str]) -> str:
    """The fields of a section, of all, or a single field.

    Args:
      topic: `all`, a section such as `replay`, or a field such as `replay.capacity`.
      config: whose values are shown.
      sources: where each value is from, by dotted name.

    Raises:
      ConfigError: no such topic.
    """
    name = topic.removeprefix("--")
    lines = [f"Values of {config.agent.name} on {config.env.name}, and where they are from."]
    found = False
    for section, info in Config.model_fields.items():
        model: Any = info.annotation
        fields = [f for f in model.model_fields if name in ("all", section, f"{section}.{f}")]
        if fields:
            found = True
            lines += ["", f"[{section}] {model.__doc__}"]
        for field in fields:
            lines += _of_field(f"{section}.{field}", config, sources)
    if not found:
        known = topics()
        near = suggest(name, [*known, *sources]) or f" (known: {', '.join(known)}, or a field)"
        raise ConfigError(f"--help {topic}: there is no such section or field{near}")
    return "\n".join(lines)


def _of_field(dotted: str, config: Config, sources: Mapping[str, str]) -> list[str]:
    """A line with the value and where it is from, and what the field is and accepts."""
    section, _, field = dotted.partition(".")
    described = type(config.sections[section]).model_fields[field].description
    value = as_toml(getattr(config.sections[section], field))
    text = f"{described} ({accepted(dotted)})"
    width = min(shutil.get_terminal_size().columns, MOST_COLUMNS) - 1
    wrapped = textwrap.wrap(
        text, width, initial_indent=INDENT, subsequent_indent=INDENT, break_on_hyphens=False
    )
    return [f"{f'  --{dotted} {value}':44}  {sources[dotted]}".rstrip(), *wrapped]


def accepted(dotted: str) -> str:
    """What a field accepts, in a few words."""
    section, _, field = dotted.partition(".")
    model: Any = Config.model_fields[section].annotation
    schema = model.model_json_schema()["properties"][field]
    return " or ".join(_kind(part) for part in schema.get("anyOf", [schema]))


def _kind(schema: Mapping[str, Any]) -> str:
    """A JSON schema in words."""
    if "enum" in schema:
        *others, last = schema["enum"]
        return f"{', '.join(others)} or {last}"
    if "examples" in schema:
        return f"{', '.join(schema['examples'])} or module:name"
    words = {
        "null": "none",
        "boolean": "true or false",
        "array": "list such as [128,128]",
        "string": "name",
    }
    kind: str = schema["type"]
    return words.get(kind, f"{kind}{_limits(schema)}")


def _limits(schema: Mapping[str, Any]) -> str:
    """The limits of a number, such as `, 1 to 1,024`; nothing where it has none."""
    low = schema.get("minimum")
    above = schema.get("exclusiveMinimum")
    if low is None and above is not None and schema["type"] == "integer":
        low = above + 1
    high = schema.get("maximum")
    below = schema.get("exclusiveMaximum")
    starts = f"{low:,.0f}" if low is not None else f"above {above}"
    if high is not None:
        return f", {starts} to {high:,.0f}"
    if below is not None:
        return f", {starts} to below {below:,.0f}"
    if low is not None:
        return f", {starts} or more"
    return "" if above is None else f", {starts}"


def as_toml(value: Any) -> str:
    """A value as it may be typed."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:_}"
    if isinstance(value, tuple):
        return f"[{','.join(map(str, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
