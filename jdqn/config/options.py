"""The command line: one option for each field, mistakes answered in one sentence."""

import argparse
import io
import os
import pathlib
import re
import sys
import tomllib
from typing import Any, NoReturn

from jdqn.config import foreign
from jdqn.config.errors import ConfigError
from jdqn.config.help import MORE, accepted, section_help
from jdqn.config.kinds import plain_number
from jdqn.config.layers import default_preset, load_config, names, provenance
from jdqn.config.naming import suggest
from jdqn.config.schema import Config, Section
from jdqn.config.wording import one_line, shown

# What a line of TOML would read past: a comment, another line, nothing that can be typed.
_BEYOND_A_VALUE = re.compile(r"[\x00-\x1f\x7f#]")
_AS_IN_PYTHON = {"True": True, "False": False, "None": "none"}
_NO_VALUE = re.compile(r"argument --(\w+\.\w+): expected one argument")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
TABLES = ("env.kwargs",)  # fields that are tables


class _Once(argparse.Action):
    """Stores a value; an empty one is refused, and another one for the same field."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if values is None:  # an argument that may be left out
            return
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
        self.explains_fields = False
        # Older Pythons take -1e3 for an option.
        self._negative_number_matcher = re.compile(r"-(\.?\d|inf$|nan$)")

    def parse(self, argv: list[str] | None = None) -> argparse.Namespace:
        """Parses; shows help; an unknown option is answered with what was meant."""
        if sys.stdout is None:  # closed by the shell
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # a terminal that has no ± or –
        given = sys.argv[1:] if argv is None else argv
        for text in given:
            if re.search("[\0\ud800-\udfff]", text):
                self.error(f"argument {shown(text)}: must be UTF-8 text without NUL")
        if "--version" in given:
            sys.stdout.write(f"jdqn {sys.modules['jdqn'].__version__}\n")
            raise SystemExit(0)
        for i, text in enumerate(given):
            if text in ("-h", "--help") or text.startswith("--help="):
                self._show_help(given[:i], text, given[i + 1 :])
        arguments, extra = self.parse_known_args(given)
        if extra:
            self._refuse_unknown(extra[0])
        return arguments

    def _show_help(self, before: list[str], text: str, after: list[str]) -> NoReturn:
        """Shows the usage, or with a topic behind `--help` the fields of that topic."""
        topic = text.partition("=")[2]
        if not topic and after and not after[0].startswith("-"):
            topic = after[0]
            after = after[1:]
        if not topic or not self.explains_fields:
            self.print_help()
            raise SystemExit(0)
        layers = asked_for(self.parse([*before, *after]))
        try:
            explained = section_help(topic, load_config(**layers), provenance(**layers))
        except ConfigError as error:
            self.refuse(error)
        sys.stdout.write(f"{explained}\n")
        raise SystemExit(0)

    def _refuse_unknown(self, text: str) -> NoReturn:
        """Refuses an option or an argument; says what it is called here, or where it is one."""
        options = [o for action in self._actions for o in action.option_strings]
        name = text.partition("=")[0]
        if not name.startswith("-"):
            self.error(f'unknown argument "{name}"{_meant(name, options)}')
        if (same := foreign.ours(name, options)) is not None:
            hint = f"; here it is {same}"
        elif (door := foreign.elsewhere(name)) is not None and name not in options:
            hint = f"; it is an option of python -m jdqn.{door}"
        else:
            fields = {f"--{o.partition('.')[2]}": o for o in options if "." in o}
            hint = suggest(name, fields | {o: o for o in options})
        self.error(f'unknown option "{name}"{hint}')

    def refuse(self, error: Exception) -> NoReturn:
        """Exits with what an error says; of the system's, the file and why."""
        if isinstance(error, OSError) and error.filename and error.strerror:
            self.error(f"{error.filename}: {error.strerror}")
        self.error(str(error))

    def error(self, message: str) -> NoReturn:
        """Prints the sentence on one line and exits."""
        if value := _NO_VALUE.fullmatch(message):
            message = f"{message}: {accepted(value[1])}"
        print(f"error: {one_line(message)}", file=sys.stderr)  # noqa: T201
        raise SystemExit(2)


def add_options(parser: Parser) -> None:
    """Adds `--env`, `--agent`, `--preset`, `--config`, `--protocol`, one option per field."""
    parser.explains_fields = True
    parser.epilog = f"{parser.epilog or ''}\n{MORE}".strip()
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
    for section in Config.model_fields:
        add_fields(parser, section)


def add_fields(parser: Parser, section: str) -> None:
    """Adds an option for each field of a section; `--help SECTION` shows them."""
    model = Config.model_fields[section].annotation
    assert isinstance(model, type)
    assert issubclass(model, Section)
    for field in model.model_fields:
        dotted = f"{section}.{field}"
        parser.add_argument(f"--{dotted}", dest=dotted, help=argparse.SUPPRESS)


def _meant(text: str, options: list[str]) -> str:
    """What an argument was meant to be, in a command that has none."""
    if "--env" not in options:
        return ""
    option = None
    if "--resume" in options and (pathlib.Path(text) / "config.toml").is_file():
        option = "--resume"
    elif text.endswith(".toml"):
        option = "--config"
    elif text in names("agents"):
        option = "--agent"
    elif default_preset(text) or (text.isalpha() and text[0].isupper()):
        option = "--env"
    return f'; did you mean "{option} {text}"?' if option else ""


def from_options(arguments: argparse.Namespace) -> Config:
    """The configuration that parsed options ask for."""
    return load_config(**asked_for(arguments))


def asked_for(arguments: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `load_config` that parsed options stand for."""
    return {
        "env": arguments.env,
        "agent": arguments.agent,
        "preset": arguments.preset,
        "protocol": arguments.protocol,
        "file": arguments.config,
        "overrides": fields_of(arguments),
    }


def fields_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields among parsed options, by `section.field`."""
    return {
        k: parse_table(v) if k in TABLES else parse_value(v)
        for k, v in vars(arguments).items()
        if "." in k and v is not None
    }


def parse_value(text: str) -> Any:
    """A command-line value, written as in TOML; a bare word is a string, `128,128` a list."""
    if text in _AS_IN_PYTHON:
        return _AS_IN_PYTHON[text]
    if _BEYOND_A_VALUE.search(text):
        return text
    for candidate in (text, f"[{text}]" if "," in text else text):
        try:
            value = tomllib.loads(f"value = {candidate}")["value"]
        except (ValueError, RecursionError):  # of TOML, and of too many digits or brackets
            continue
        value = plain_number(value)
        # Neither a table nor a date is right here: as it was typed it is shown best.
        return value if isinstance(value, bool | int | float | str | list) else text
    return text


def parse_table(text: str) -> Any:
    """An inline table of TOML, such as `{size = 7}`; what is none, as `parse_value`."""
    if text.strip().startswith("{") and not _CONTROL.search(text):
        try:
            return tomllib.loads(f"value = {text}")["value"]
        except (ValueError, RecursionError):
            pass
    return parse_value(text)


def parse_count(option: str, text: str, *, most: int) -> int:
    """A whole number above 0 of an option that is no field.

    Raises:
      ConfigError: anything else.
    """
    value = parse_value(text)
    if type(value) is not int or not 0 < value <= most:
        raise ConfigError(f"{option} {shown(value)}: must be an integer from 1 to {most:,}")
    return value
