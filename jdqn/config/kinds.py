"""Kinds of values that fields of a configuration have, with their limits."""

from collections.abc import Mapping
from typing import Annotated, Any

import pydantic
from pydantic import Field

from jdqn.config.errors import ConfigError
from jdqn.config.tables import Table, table

# TOML has no null.
none = pydantic.BeforeValidator(lambda value: None if value == "none" else value)
Width = Annotated[int, Field(gt=0, le=65_536)]
# Steps are counted in int32 on the device.
PositiveSteps = Annotated[int, Field(gt=0, le=2_000_000_000)]
Steps = Annotated[int, Field(ge=0, le=2_000_000_000)]
Count = Annotated[int, Field(ge=0, le=1_000_000)]
LARGEST_LIST = 65_536
EXACT = 2**53  # the largest whole number up to which a float stands for one alone
Widths = Annotated[
    tuple[Width, ...],
    Field(strict=False, max_length=32),
    pydantic.BeforeValidator(lambda value: [value] if type(value) is int else value),
]


def _fits_float32(value: float) -> float:
    """Raises where the device would make 0 or infinity of a number."""
    if value and not 1e-37 <= value <= 1e37:
        raise ValueError("must be between 1e-37 and 1e37")
    return value


def _observation_scale(value: Any) -> Any:
    """`none`, `bounds`, a number, or a tuple of one for each entry. Raises ValueError."""
    if isinstance(value, str) and value in ("none", "bounds"):
        return value
    numbers = value if isinstance(value, list | tuple) else [value]
    fits = all(type(n) in (int, float) and 1e-37 <= n <= 1e37 for n in numbers)
    if not fits or not 0 < len(numbers) <= LARGEST_LIST:
        raise ValueError(
            'must be "none", "bounds", a number from 1e-37 to 1e37, or a list of such numbers, one '
            "for each entry of the observation"
        )
    return float(value) if numbers is not value else tuple(float(n) for n in numbers)


def _num_devices(value: Any) -> Any:
    """`all`, or a number. Raises ValueError."""
    if value == "all" or (type(value) is int and 0 < value <= 65_536):
        return value
    raise ValueError('must be "all" or a number from 1 to 65,536')


Probability = Annotated[float, Field(ge=0, le=1)]
PositiveFloat = Annotated[float, Field(gt=0), pydantic.AfterValidator(_fits_float32)]
NonNegative = Annotated[float, Field(ge=0), pydantic.AfterValidator(_fits_float32)]
Scale = Annotated[
    str | float | tuple[float, ...],
    pydantic.PlainValidator(_observation_scale),
    pydantic.WithJsonSchema({"type": "none, bounds, number above 0 or list of them"}),
]
Kwargs = Annotated[
    Table,
    pydantic.PlainValidator(table),
    pydantic.PlainSerializer(lambda value: value.plain()),
    pydantic.WithJsonSchema({"type": "table such as {size = 7}"}),
]
NumDevices = Annotated[
    int | str,
    pydantic.PlainValidator(_num_devices),
    pydantic.WithJsonSchema({"type": "all or number above 0"}),
]


def plain(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Values by dotted name, whole numbers as Python's integers: NumPy's, and 1e4.

    Raises:
      ConfigError: tables in tables.
    """
    for name, value in overrides.items():
        if isinstance(value, Mapping) and "." not in name:
            inside = next(iter(value), "FIELD")
            raise ConfigError(f'overrides: expected dotted names, such as "{name}.{inside}"')
    return {name: plain_number(value) for name, value in overrides.items()}


def plain_number(value: Any) -> Any:
    """A whole number as an integer, what is NumPy's as Python's; anything else as it is."""
    if callable(tolist := getattr(value, "tolist", None)):
        value = tolist()
    if isinstance(value, list | tuple):
        return [plain_number(one) for one in value]
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) <= EXACT
    return int(value) if is_whole else value
