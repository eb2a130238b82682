"""What may stand in a sweep file: tables, fields, ranges; mistakes are one sentence."""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from jdqn.config import Config, ConfigError, shown, suggest

Settings = dict[str, Any]  # values by dotted name
# What a sweep says in its own words, and where.
SAID_ELSEWHERE = {
    "env.name": "sweep.games",
    "agent.name": "sweep.agents",
    "train.seed": "sweep.seeds",
    "env.preset": "sweep.preset",
    "env.protocol": "sweep.protocol",
}
# Where pydantic's own words are of one kind of value only.
ACCEPTED = {
    "sweep.games": 'must be a list of names, such as ["minatar/Breakout"]',
    "sweep.agents": 'must be a list of names, such as ["dqn", "double"]',
    "sweep.seeds": "must be how many seeds, 1 or more, or a list of seeds from 0 on: [0, 3]",
    "resources.gpus": 'must be "auto", or how many GPUs a trial gets, 0 or more',
}
# And where they speak of Python.
OF_PYTHON = {
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "list_type": "must be a list, such as [1, 3]",
    "string_type": 'must be text, such as "a"',
    "string_too_short": "must not be empty",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
}
_TAG = re.compile(r"float|int|.*[^\w.].*")  # which kind of several was tried
Name = Annotated[str, Field(min_length=1)]
Names = Annotated[list[Name], Field(min_length=1)]
Count = Annotated[int, Field(ge=0, le=1_000)]


class _Table(pydantic.BaseModel):
    """A table of the file; what it does not know is refused."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True)


class Sweep(_Table):
    """What is trained on what."""

    games: Names
    agents: Names = ["dqn"]
    seeds: Annotated[int, Field(ge=1, le=100_000)] | list[Annotated[int, Field(ge=0)]] = 1
    preset: Name | None = None
    protocol: Name | None = None
    config: Name | None = None  # a TOML file laid over agent and preset
    directory: Name | None = None
    max_retries: Count = 2


class Resources(_Table):
    """What a trial gets."""

    at_once: Count = 0  # 0: as many as fit
    cores: Annotated[int, Field(ge=1, le=1_000)] = 1
    memory_gb: Annotated[float, Field(ge=0)] = 0.0  # 0: estimated
    gpus: Annotated[float, Field(ge=0, le=64)] | Literal["auto"] = "auto"


class Range(_Table):
    """Numbers or choices that a search draws from."""

    low: float | int | None = None
    high: float | int | None = None
    log: bool = False
    step: float | int | None = None
    choices: list[Any] | None = None


class Search(_Table):
    """Settings that are looked for, for each game and agent apart."""

    method: Literal["random", "tpe"] = "tpe"
    settings: Annotated[int, Field(ge=1, le=10_000)]
    batch: Annotated[int, Field(ge=1, le=1_000)] = 8
    seed: Annotated[int, Field(ge=0, le=2**31)] = 0
    halving_factor: Annotated[int, Field(ge=2, le=100)] | None = None
    first_steps: Annotated[int, Field(ge=1)] | None = None
    fields: dict[str, Any]


class File(_Table):
    """The whole file."""

    sweep: Sweep
    resources: Resources = Resources()
    fields: dict[str, Any] = {}
    grid: dict[str, Any] = {}
    search: Search | None = None


def validate(tables: Mapping[str, Any]) -> File:
    """The file's tables, checked one by one. Raises ConfigError."""
    try:
        return File.model_validate(tables)
    except pydantic.ValidationError as error:
        raise ConfigError(_sentence(error.errors()[0])) from None


def _sentence(error: Any) -> str:
    """One pydantic error as one sentence."""
    location = [str(part) for part in error["loc"] if not _TAG.fullmatch(str(part))]
    dotted = ".".join(location)
    if error["type"] == "extra_forbidden":
        homes = {name: info.annotation for name, info in File.model_fields.items()}
        homes["search"] = Search
        model: Any = homes.get(location[0]) if len(location) > 1 else File
        if location[:2] == ["search", "fields"]:
            model = Range
        known = list(model.model_fields)
        near = suggest(location[-1], known) or f" (known: {', '.join(known)})"
        return f'unknown {"field" if len(location) > 1 else "table"} "{dotted}"{near}'
    if error["type"] == "missing":
        return f"{dotted}: is missing"
    message = error["msg"][0].lower() + error["msg"][1:]
    message = ACCEPTED.get(".".join(location[:2])) or OF_PYTHON.get(error["type"]) or message
    message = message.replace("input should be", "must be")
    return f"{dotted} = {shown(error['input'])}: {message}"


def flat(table: str, fields: Mapping[str, Any]) -> Settings:
    """Values by `section.field`. Raises ConfigError where a value has no section."""
    found: Settings = {}
    for section, inside in fields.items():
        if "." in section:
            found[section] = inside
        elif isinstance(inside, Mapping):
            found |= {f"{section}.{field}": value for field, value in inside.items()}
        else:
            raise ConfigError(
                f"{table}.{section} = {shown(inside)}: expected a field with its section, such as "
                "replay.n_step = 3"
            )
    known = [f"{section}.{field}" for section, field in _known_fields()]
    for name in found:
        if name in SAID_ELSEWHERE:
            raise ConfigError(f"{table}.{name}: is said by {SAID_ELSEWHERE[name]}")
        if name not in known:
            near = suggest(name, known)
            raise ConfigError(f'unknown field "{name}" in [{table}]{near}')
    return found


def _known_fields() -> Iterator[tuple[str, str]]:
    for section, info in Config.model_fields.items():
        for field in getattr(info.annotation, "model_fields", {}):
            yield section, field


def values_of(name: str, values: Any) -> list[Any]:
    """The values of a field of the grid."""
    if not isinstance(values, list) or not values:
        raise ConfigError(
            f"grid.{name} = {shown(values)}: must be a list of values, such as [1, 3]"
        )
    if any(value in values[:i] for i, value in enumerate(values)):  # 1.0 is 1
        raise ConfigError(f"grid.{name} = {shown(values)}: has a value twice")
    return values


def ranges_of(search: Search) -> dict[str, Range]:
    """What a search draws from, by dotted name."""
    given: Settings = {}
    for section, inside in search.fields.items():
        if isinstance(inside, Mapping) and not inside.keys() & Range.model_fields.keys():
            given |= {f"{section}.{field}": value for field, value in inside.items()}
        else:
            given[section] = inside
    given = flat("search.fields", given)
    if not given:
        raise ConfigError("search.fields: names no field to look for")
    found = {}
    for name, value in given.items():
        if not isinstance(value, Mapping):
            raise ConfigError(
                f"search.fields.{name} = {shown(value)}: must be {{low = 1, high = 5}}, or "
                "{choices = [1, 3]}, with values of yours"
            )
        try:
            found[name] = Range.model_validate(value)
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            first["loc"] = ("search", "fields", name, *first["loc"])
            raise ConfigError(_sentence(first)) from None
        _check_range(f"search.fields.{name}", found[name])
    return found


def _check_range(name: str, range_: Range) -> None:
    """Raises ConfigError where nothing can be drawn from a range."""
    told = shown(range_.model_dump(exclude_none=True, exclude_defaults=True))
    if range_.choices is not None:
        if len(range_.choices) < 2 or range_.low is not None or range_.high is not None:
            raise ConfigError(f"{name} = {told}: expected two choices or more, and no low or high")
        return
    if range_.low is None or range_.high is None or not range_.low < range_.high:
        raise ConfigError(f"{name} = {told}: expected low below high, or choices")
    if range_.log and (range_.low <= 0 or range_.step is not None):
        raise ConfigError(f"{name} = {told}: log needs low above 0, and no step")
    if range_.step is not None and not 0 < range_.step <= range_.high - range_.low:
        raise ConfigError(f"{name} = {told}: step must be above 0 and fit between low and high")
