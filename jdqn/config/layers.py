"""TOML layers, later wins; defaults live in `configs/agents/dqn.toml` and nowhere else.

`agents/dqn.toml` < the agent < the preset < a file < the protocol < overrides. `--agent` says what
the algorithm is, a preset what the environment needs, a protocol how scores are measured. An agent
in a file of the user's is laid over the preset: what somebody wrote is what runs.
"""

import os
import pathlib
import re
import stat
import sys
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pydantic
import tomli_w

from jdqn.config.errors import ConfigError
from jdqn.config.kinds import plain
from jdqn.config.naming import suggest
from jdqn.config.schema import Config
from jdqn.config.wording import shown

Kind = Literal["agents", "presets", "protocols"]
Layer = dict[str, dict[str, Any]]

# What a run's `config.toml` records beside the configuration.
RECORDS = ("versions", "started_from", "resumed")

LONGEST_FILE = 1_000_000  # bytes

# What an option chooses, and the field that records it.
CHOSEN = {
    "env": "env.name",
    "agent": "agent.name",
    "preset": "env.preset",
    "protocol": "env.protocol",
}

_EPSILON = ("epsilon_start", "epsilon_end", "epsilon_decay_steps")


def config_dir() -> pathlib.Path:
    """The folder of the files that ship: inside the installed package, or the checkout."""
    package = pathlib.Path(__file__).parents[1]
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def names(kind: Kind) -> list[str]:
    """The agents, presets or protocols that ship with jdqn."""
    return sorted(path.stem for path in (config_dir() / kind).glob("*.toml"))


def default_preset(env_name: str) -> str | None:
    """The preset an environment asks for; none for Atari.

    A bare word without a version is a game of Atari's, unless Gymnasium is there and knows it.
    """
    presets = {
        "minatar/": "minatar",
        "bsuite/": "deep_sea",
        "jdqn/Chain": "chain",
        "jax:": "classic",
    }
    for start, preset in presets.items():
        if env_name.startswith(start):
            return preset
    is_of_gymnasium = re.search(r"[:/]|-v\d+$", env_name)
    # Asked where it is imported already, and else nothing can have been registered by hand.
    registry = getattr(sys.modules.get("gymnasium"), "registry", {})
    return "classic" if is_of_gymnasium or env_name in registry else None


def load_config(
    *,
    env: str | None = None,
    agent: str | None = None,
    preset: str | None = None,
    protocol: str | None = None,
    file: str | pathlib.Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Config:
    """Builds a configuration from its layers.

    Args:
      env: environment name; default: that of `file`, else Breakout.
      agent: name of a file under configs/agents, or a TOML file of one's own; default: that of
        `file`, else dqn.
      preset: name of a file under configs/presets, "none", or "auto", what the environment asks
        for; default: that of `file`, else "auto".
      protocol: name of a file under configs/protocols, laid over `file`, or "none"; default: that
        of `file`, which is laid over it.
      file: a TOML file laid over the preset, for instance a run's `config.toml`.
      overrides: values by dotted name (`{"replay.batch_size": 64}`), laid over all else.

    Returns:
      The frozen configuration.

    Raises:
      ConfigError: unknown names, wrong types, values out of range, impossible combinations.
    """
    given = {"env": env, "agent": agent, "preset": preset, "protocol": protocol}
    layers, dotted = _layers(given, file, plain(overrides or {}))
    return _validate(merged([layer for _, layer in layers], dotted))


def provenance(
    *,
    env: str | None = None,
    agent: str | None = None,
    preset: str | None = None,
    protocol: str | None = None,
    file: str | pathlib.Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """The layer that each value of `load_config` is from, by dotted name; same arguments."""
    given = {"env": env, "agent": agent, "preset": preset, "protocol": protocol}
    overrides = plain(overrides or {})
    options = [*overrides, *(CHOSEN[option] for option, name in given.items() if name)]
    layers, _ = _layers(given, file, overrides)
    found = {
        f"{section}.{field}": source
        for source, layer in layers
        for section, fields in layer.items()
        for field in fields
    }
    return found | dict.fromkeys(options, "an option")


def _layers(
    given: Mapping[str, str | None], file: str | pathlib.Path | None, overrides: dict[str, Any]
) -> tuple[list[tuple[str, Layer]], dict[str, Any]]:
    """Where values are from, and the values, later wins; and those by dotted name over them."""
    user, is_record = ({}, False) if file is None else _read_user_file(file)
    asked = {option: _asked(option, name, overrides) for option, name in given.items()}
    chosen = {option: _chosen(option, name, user) for option, name in asked.items()}
    if chosen["preset"] == "auto":
        chosen["preset"] = default_preset(chosen["env"]) or "none"
    agent = chosen["agent"]
    is_own = asked["agent"] is not None and _is_path(agent)
    if is_own:
        chosen["agent"], of_agent = _read_own_agent(agent)
    elif is_record and asked["agent"] is None and agent not in names("agents"):
        of_agent = {}  # it was a file of one's own: the record has all of it
    else:
        of_agent = read_named("agents", agent)
    if is_record:
        _check_record(file, user, chosen)
    upper = [
        (str(file), user),
        (f"protocol {chosen['protocol']}", _read_chosen("protocols", chosen["protocol"])),
    ]
    if asked["protocol"] is None:  # the file says it, and what else it says
        upper.reverse()
    preset = for_agent(of_agent, _read_chosen("presets", chosen["preset"]))
    lower = [(f"{chosen['agent']}.toml", of_agent), (f"preset {chosen['preset']}", preset)]
    if is_own:
        lower.reverse()
    layers = [("dqn.toml", read_named("agents", "dqn")), *lower, *upper]
    return layers, {CHOSEN[option]: name for option, name in chosen.items()} | overrides


def merged(layers: Sequence[Layer], dotted: Mapping[str, Any]) -> Layer:
    """Layers, later wins, and values by dotted name over them."""
    merged: Layer = {}
    for layer in layers:
        for section, fields in layer.items():
            merged.setdefault(section, {}).update(fields)
    for name, value in dotted.items():
        section, _, field = name.partition(".")
        merged.setdefault(section, {})[field] = value
    return merged


def _is_path(agent: str) -> bool:
    """Whether an agent is a file of the user's, and not the name of one that ships with jdqn."""
    return "/" in agent or os.sep in agent or agent.endswith(".toml")


def _read_own_agent(agent: str) -> tuple[str, Layer]:
    """Name and layer of an agent in a file of the user's: its name is the file's, or its own."""
    path = pathlib.Path(agent)
    layer, _ = _read_user_file(path)
    for option, dotted in CHOSEN.items():
        section, _, field = dotted.partition(".")
        if option != "agent" and field in layer.get(section, {}):
            raise ConfigError(
                f"{path}: {dotted} is not an agent's to say; name it with --{option}, or in a file "
                "for --config"
            )
    name = layer.get("agent", {}).get("name", path.stem)
    if name in names("agents"):
        raise ConfigError(
            f"--agent {path}: {name} is the name of an agent that ships with jdqn; give the file "
            "another, or set agent.name in it"
        )
    return name, layer


def _read_chosen(kind: Kind, name: str) -> Layer:
    """The layer of a preset or protocol, which may be none."""
    return {} if name == "none" else read_named(kind, name)


def for_agent(of_agent: Layer, preset: Layer) -> Layer:
    """A preset's layer; to an agent that explores without epsilon it gives none."""
    if of_agent.get("agent", {}).get("epsilon_start") != 0:
        return preset
    rest = {k: v for k, v in preset.get("agent", {}).items() if k not in _EPSILON}
    return preset | {"agent": rest}


def _check_record(file: Any, record: Layer, chosen: Mapping[str, str]) -> None:
    """Refuses what a run's record, which sets every field, would hide."""
    hint = "take what you need of it into a file of your own"
    for option in ("agent", "preset"):
        section, _, field = CHOSEN[option].partition(".")
        recorded = record.get(section, {}).get(field, chosen[option])
        if recorded != chosen[option]:
            raise ConfigError(
                f"{file} records a run with {option} {recorded} and sets every field, which "
                f"leaves nothing of --{option} {chosen[option]}; {hint}"
            )
    env = record.get("env", {}).get("name", chosen["env"])
    before, now = (default_preset(name) or "none" for name in (env, chosen["env"]))
    if before != now:
        raise ConfigError(
            f"{file} records a run on {env} (preset {before}), whose sizes are not those of "
            f"{chosen['env']} (preset {now}); {hint}"
        )


def _read_user_file(file: str | pathlib.Path) -> tuple[Layer, bool]:
    """The layer of a user's file, and whether it is what a run recorded, which is left out."""
    layer = read_file(file)
    is_record = isinstance(layer.get("versions"), dict)
    for record in RECORDS:
        layer.pop(record, None)
    for section, fields in layer.items():
        if not isinstance(fields, dict):
            key = section if re.fullmatch(r"\w+", section) else f'"{section}"'
            raise ConfigError(f"{key} = {shown(fields)}: {_where(section)}")
    _check_alone(file, layer)
    return layer, is_record


def _check_alone(file: str | pathlib.Path, layer: Layer) -> None:
    """Refuses a value that no field accepts, also where another layer is laid over it."""
    try:
        Config.model_validate(merged([read_named("agents", "dqn"), layer], {}))
    except pydantic.ValidationError as error:
        named = list(CHOSEN.values())  # which are looked up where they are read
        of_fields = [
            one
            for one in error.errors()
            if len(one["loc"]) > 1 and ".".join(map(str, one["loc"])) not in named
        ]
        if of_fields:
            raise ConfigError(f"{file}: {_sentence(of_fields[0])}") from None


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


def _asked(option: str, given: str | None, overrides: dict[str, Any]) -> str | None:
    """What was given as an argument or as an override, which is taken out of them."""
    dotted = CHOSEN[option]
    override = overrides.pop(dotted, given)
    if given is not None and override != given:
        raise ConfigError(f"--{option} {given} and --{dotted} {override} differ")
    return override


def _chosen(option: str, asked: str | None, user: Layer) -> str:
    """A name: what was asked for, else what the file says, else the default."""
    section, _, field = CHOSEN[option].partition(".")
    default = read_named("agents", "dqn")[section][field]
    name = user.get(section, {}).get(field, default) if asked is None else asked
    if not isinstance(name, str):
        raise ConfigError(f"{CHOSEN[option]} = {shown(name)}: must be a string")
    return name


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


def read_file(path: str | pathlib.Path) -> Layer:
    """The tables of a TOML file. Raises ConfigError."""
    path = pathlib.Path(path)
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
    """The layer of an agent, preset or protocol that ships with jdqn."""
    if name not in names(kind):
        known = names(kind)
        raise ConfigError(
            f'unknown {kind[:-1]} "{name}"{suggest(name, known)} (known: {", ".join(known)})'
        )
    return read_file(config_dir() / kind / f"{name}.toml")


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
