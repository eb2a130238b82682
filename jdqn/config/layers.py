"""TOML layers, later wins: `agents/dqn.toml` < the agent < the preset < a file < overrides.

`--agent` says what the algorithm is, a preset says what the environment needs. Defaults live in
`configs/agents/dqn.toml` and nowhere else.
"""

import pathlib
import re
import stat
import tomllib
from collections.abc import Mapping
from typing import Any, Literal

import pydantic
import tomli_w

from jdqn.config.schema import Config, ConfigError, suggest
from jdqn.config.wording import shown

Kind = Literal["agents", "presets"]
Layer = dict[str, dict[str, Any]]

LONGEST_FILE = 1_000_000  # bytes


def config_dir() -> pathlib.Path:
    """The folder with `agents` and `presets`: inside the installed package or the checkout."""
    package = pathlib.Path(__file__).parents[1]
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def names(kind: Kind) -> list[str]:
    """The agents or presets that ship with jdqn."""
    return sorted(path.stem for path in (config_dir() / kind).glob("*.toml"))


def default_preset(env_name: str) -> str | None:
    """The preset an environment asks for; none for Atari."""
    presets = {
        "minatar/": "minatar",
        "bsuite/": "deep_sea",
        "jdqn/Chain": "chain",
        "jax:": "classic",
    }
    for start, preset in presets.items():
        if env_name.startswith(start):
            return preset
    return "classic" if re.search(r"-v\d+$", env_name) else None


def load_config(
    *,
    env: str | None = None,
    agent: str | None = None,
    preset: str | None = None,
    file: str | pathlib.Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Config:
    """Builds a configuration from its layers.

    Args:
      env: environment name; default: that of `file`, else Breakout.
      agent: name of a file under configs/agents; default: that of `file`, else dqn.
      preset: name of a file under configs/presets; default: what the environment asks for.
      file: a TOML file laid over the preset, for instance a run's `config.toml`.
      overrides: values by dotted name (`{"replay.batch_size": 64}`), laid over all else.

    Returns:
      The frozen configuration.

    Raises:
      ConfigError: unknown names, wrong types, values out of range, impossible combinations.
    """
    overrides = dict(overrides or {})
    user = _read_user_file(file)
    env = _name_of("env", env, user, overrides, default="Breakout")
    agent = _name_of("agent", agent, user, overrides, default="dqn")
    preset = default_preset(env) if preset is None else preset
    layers = [read_named("agents", "dqn"), read_named("agents", agent)]
    if preset is not None:
        layers.append(read_named("presets", preset))
    layers += [user, {"env": {"name": env}, "agent": {"name": agent}}]
    merged: Layer = {}
    for layer in layers:
        for section, fields in layer.items():
            merged.setdefault(section, {}).update(fields)
    for dotted, value in overrides.items():
        section, _, field = dotted.partition(".")
        merged.setdefault(section, {})[field] = value
    return _validate(merged)


def _read_user_file(file: str | pathlib.Path | None) -> Layer:
    """The layer of a user's file, without what a run records beside its configuration."""
    layer = _read(pathlib.Path(file)) if file is not None else {}
    for record in ("versions", "resumed"):
        layer.pop(record, None)
    for section, fields in layer.items():
        if not isinstance(fields, dict):
            key = section if re.fullmatch(r"\w+", section) else f'"{section}"'
            raise ConfigError(f"{key} = {shown(fields)}: {_where(section)}")
    return layer


def _where(name: str) -> str:
    """What to say of a value outside all sections."""
    sections = Config.model_fields
    if name in sections:
        return f"expected a section [{name}]"
    section, _, field = name.partition(".")
    if section in sections:
        return f"write it without quotes, or {field} under [{section}]"
    homes = [s for s, info in sections.items() if name in _fields_of(info.annotation)]
    under = " or ".join(f"[{home}]" for home in homes or sections)
    return f"must stand in a section, {under}"


def _name_of(
    section: str, given: str | None, user: Layer, overrides: dict[str, Any], *, default: str
) -> str:
    """A name given as an argument or as an override (taken out of them), else in the file."""
    override = overrides.pop(f"{section}.name", given)
    if given is not None and override != given:
        raise ConfigError(f"--{section} {given} and --{section}.name {override} differ")
    chosen = user.get(section, {}).get("name", default) if override is None else override
    if not isinstance(chosen, str):
        raise ConfigError(f"{section}.name = {shown(chosen)}: must be a string")
    return chosen


def with_overrides(config: Config, **overrides: Any) -> Config:
    """A copy with fields changed and everything checked again; `section__field=value`."""
    merged = {name: section.model_dump() for name, section in config.sections.items()}
    for dotted, value in overrides.items():
        section, _, field = dotted.partition("__")
        merged.setdefault(section, {})[field] = value
    return _validate(merged)


def to_toml(config: Config, **extra: Mapping[str, Any]) -> str:
    """The resolved configuration as TOML, with further sections appended."""
    layer = {
        name: {k: "none" if v is None else v for k, v in section.model_dump().items()}
        for name, section in config.sections.items()
    }
    return tomli_w.dumps({**layer, **extra})


def _read(path: pathlib.Path) -> Layer:
    """The sections of a TOML file."""
    text = _text(path)
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    except ValueError:
        raise ConfigError(f"{path} is not valid TOML: a number has too many digits") from None
    except RecursionError:
        raise ConfigError(f"{path} is not valid TOML: its brackets are too deep") from None


def _text(path: pathlib.Path) -> str:
    """A file's text. Only of a regular file: reading a pipe may wait for ever."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            with path.open("rb") as file:
                content = file.read(LONGEST_FILE + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:  # a NUL byte
        raise ConfigError(f"cannot read {path}: {error}") from None
    if stat.S_ISDIR(mode):
        inside = path / "config.toml"
        hint = f"; did you mean {inside}?" if inside.is_file() else ""
        raise ConfigError(f"cannot read {path}: it is a folder, expected a TOML file{hint}")
    if not stat.S_ISREG(mode):
        raise ConfigError(f"cannot read {path}: not a regular file, expected a TOML file")
    if len(content) > LONGEST_FILE:
        raise ConfigError(f"cannot read {path}: has more than {LONGEST_FILE:,} bytes")
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not valid TOML: it is not UTF-8") from None


def read_named(kind: Kind, name: str) -> Layer:
    """The layer of an agent or preset that ships with jdqn."""
    if name not in names(kind):
        known = names(kind)
        raise ConfigError(
            f'unknown {kind[:-1]} "{name}"{suggest(name, known)} (known: {", ".join(known)})'
        )
    return _read(config_dir() / kind / f"{name}.toml")


def _validate(merged: Layer) -> Config:
    try:
        return Config.model_validate(merged)
    except pydantic.ValidationError as error:
        raise ConfigError(_sentence(error.errors()[0])) from None


def _fields_of(section: Any) -> list[str]:
    """The names of a section's fields."""
    return list(getattr(section, "model_fields", {}))


def _sentence(error: Any) -> str:
    """One pydantic error as one sentence naming field, value and what is accepted."""
    location = [str(part) for part in error["loc"]]
    dotted = ".".join(location)
    start = f"{dotted} = {shown(error['input'])}:" if location else ""
    if error["type"] == "value_error":
        return f"{start} {error['ctx']['error']}".strip()
    if error["type"] == "extra_forbidden":
        if len(location) == 1:
            known = list(Config.model_fields)
            near = suggest(dotted, known) or f" (known: {', '.join(known)})"
            return f'unknown section "{dotted}"{near}'
        names_in_section = _fields_of(Config.model_fields[location[0]].annotation)
        known = [f"{location[0]}.{field}" for field in names_in_section]
        near = suggest(dotted, known) or f" (known: {', '.join(names_in_section)})"
        return f'unknown field "{dotted}"{near}'
    if error["type"] == "tuple_type":
        return f"{start} must be a list such as 128,128"
    if error["type"] == "too_long":
        return f"{start} must have at most {error['ctx']['max_length']} entries"
    if error["type"] == "bool_type":
        return f"{start} must be a boolean, true or false"
    message = error["msg"][0].lower() + error["msg"][1:]
    return f"{start} {message.replace('input should be', 'must be')}"
