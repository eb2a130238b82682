"""What names look like: one of those known, something of the user's own, an Atari game."""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, NamedTuple

import pydantic


class Known(NamedTuple):
    """Marks a string: one of some names, or `module:name` of a module of the user's."""

    names: tuple[str, ...]

    def __get_pydantic_core_schema__(
        self, source: Any, handler: pydantic.GetCoreSchemaHandler
    ) -> Any:
        """Checks what is a string; whether such a module is there is asked where it is needed."""
        told = pydantic.WithJsonSchema({"type": "string", "examples": list(self.names)})
        check = pydantic.AfterValidator(self._check)
        return handler.generate_schema(Annotated[source, check, told])

    def _check(self, value: str) -> str:
        if value in self.names or is_own(value):
            return value
        known = " or ".join(f"'{name}'" for name in self.names)
        raise ValueError(
            f"must be {known}, or module:name of a module of yours{suggest(value, self.names)}"
        )


def is_own(name: str) -> bool:
    """Whether a name is `module:name`, something in a module of the user's."""
    return bool(re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", name))


def is_atari(env_name: str) -> bool:
    """Whether an environment is called as Atari games are: a word."""
    return env_name.isidentifier()


def fits_in_a_path(name: str) -> str:
    """Raises where a name cannot be a part of that of a run directory."""
    if not re.fullmatch(r"\w[\w.+-]*", name):
        raise ValueError("must be letters, digits and . _ + - alone")
    return name


def suggest(name: str, known: Iterable[str] | Mapping[str, str]) -> str:
    """`; did you mean "X"?`, or nothing where no known name is near.

    Args:
      name: as it was typed.
      known: what there is; of a mapping keys are compared, and X is a value.
    """
    called = known if isinstance(known, Mapping) else {k: k for k in known}
    lower = {k.lower(): v for k, v in called.items()}
    near = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.6)
    return f'; did you mean "{lower[near[0]]}"?' if near else ""
