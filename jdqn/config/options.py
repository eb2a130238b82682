"""The command line: one option for each field, mistakes answered in one sentence."""

import argparse
import io
import os
import re
import sys
import tomllib
from typing import Any, Literal, NoReturn, get_args, get_origin

import pydantic

from jdqn.config.layers import load_config, names, read_named
from jdqn.config.naming import Known, suggest
from jdqn.config.schema import Config, ConfigError, Section
from jdqn.config.wording import one_line, shown

# What a line of TOML would read past: a comment, another line, nothing that can be typed.
_BEYOND_A_VALUE = re.compile(r"[\x00-\x1f\x7f#]")
_LARGEST_EXACT = 2**53  # of the whole numbers that a float stands for


class _Once(argparse.Action):
    """Stores a value; an empty one is refused, and another one for the same field."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        name = option_string or self.metavar
        if "" in ([values] if isinstance(values, str) else values):
            parser.error(f"{name} is empty: expected a value")
        before = getattr(namespace, self.dest)
        if before not in (self.default, values):
            parser.error(f"{name} {shown(values)}: already given as {shown(before)}")
        setattr(namespace, self.dest, values)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one sentence and exit status 2."""

    def __init__(self, **kwargs: Any):
        super().__init__(
            allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs
        )
        self.register("action", None, _Once)
        # Older Pythons take -1e3 for an option.
        self._negative_number_matcher = re.compile(r"-(\.?\d|inf$|nan$)")

    def parse(self, argv: list[str] | None = None) -> argparse.Namespace:
        """Parses; an unknown option is answered with the nearest known one."""
        if sys.stdout is None:  # closed by the shell
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # a terminal that has no ± or –
        given = sys.argv[1:] if argv is None else argv
        for text in given:
            if re.search("[\0\ud800-\udfff]", text):
                self.error(f"argument {shown(text)}: must be UTF-8 text without NUL")
        arguments, extra = self.parse_known_args(given)
        if extra:
            options = [o for action in self._actions for o in action.option_strings]
            name = extra[0].partition("=")[0]
            kind = "option" if name.startswith("-") else "argument"
            self.error(f'unknown {kind} "{name}"{suggest(name, options) if options else ""}')
        return arguments

    def refuse(self, error: Exception) -> NoReturn:
        """Exits with what an error says; of the system's, the file and why."""
        if isinstance(error, OSError) and error.filename and error.strerror:
            self.error(f"{error.filename}: {error.strerror}")
        self.error(str(error))

    def error(self, message: str) -> NoReturn:
        """Prints the sentence on one line and exits."""
        print(f"error: {one_line(message)}", file=sys.stderr)  # noqa: T201
        raise SystemExit(2)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds `--env`, `--agent`, `--preset`, `--config`, `--protocol`, one option per field."""
    base = read_named("agents", "dqn")
    parser.add_argument("--env", metavar="NAME", help="environment (default: Breakout)")
    parser.add_argument(
        "--agent",
        metavar="NAME",
        help=f"algorithm: {', '.join(names('agents'))}, or a TOML file of yours (default: dqn)",
    )
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help=f"what the environment needs: {', '.join(names('presets'))} "
        "or none (default: by environment, none for Atari)",
    )
    parser.add_argument("--config", metavar="FILE", help="TOML file laid over agent and preset")
    parser.add_argument(
        "--protocol",
        metavar="NAME",
        help=f"how Atari scores are measured: {', '.join(names('protocols'))}, laid over all files "
        "(default: none)",
    )
    for section, info in Config.model_fields.items():
        model = info.annotation
        assert isinstance(model, type)
        assert issubclass(model, Section)
        group = parser.add_argument_group(f"[{section}]")
        for field, field_info in model.model_fields.items():
            default = base[section][field]
            accepted = _choices(field_info)
            one_of = "".join(f"{name}, " for name in accepted).removesuffix(", ")
            of_dqn = f"{one_of}; dqn: {default}" if one_of else f"dqn: {default}"
            help_text = f"{field_info.description} ({of_dqn})".replace("%", "%%")
            group.add_argument(
                f"--{section}.{field}", metavar="VALUE", dest=f"{section}.{field}", help=help_text
            )


def _choices(field: pydantic.fields.FieldInfo) -> tuple[str, ...]:
    """The names that a field accepts; (): it takes other values."""
    if get_origin(field.annotation) is Literal:
        return get_args(field.annotation)
    return next((mark.names for mark in field.metadata if isinstance(mark, Known)), ())


def from_options(arguments: argparse.Namespace) -> Config:
    """The configuration that parsed options ask for."""
    return load_config(
        env=arguments.env,
        agent=arguments.agent,
        preset=arguments.preset,
        protocol=arguments.protocol,
        file=arguments.config,
        overrides={
            k: parse_value(v) for k, v in vars(arguments).items() if "." in k and v is not None
        },
    )


def parse_value(text: str) -> Any:
    """A command-line value, written as in TOML; a bare word is a string, `128,128` a list."""
    if _BEYOND_A_VALUE.search(text):
        return text
    for candidate in (text, f"[{text}]" if "," in text else text):
        try:
            value = tomllib.loads(f"value = {candidate}")["value"]
        except (ValueError, RecursionError):  # of TOML, and of too many digits or brackets
            continue
        if isinstance(value, float) and value.is_integer() and abs(value) <= _LARGEST_EXACT:
            return int(value)
        # No field is a table or a date: as it was typed it is shown best.
        return value if isinstance(value, bool | int | float | str | list) else text
    return text


def parse_count(option: str, text: str, *, most: int) -> int:
    """A whole number above 0 of an option that is no field.

    Raises:
      ConfigError: anything else.
    """
    value = parse_value(text)
    if type(value) is not int or not 0 < value <= most:
        raise ConfigError(f"{option} {shown(value)}: must be an integer from 1 to {most:,}")
    return value
