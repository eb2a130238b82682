"""The command line: one option for each field, mistakes answered in one sentence."""

import argparse
import sys
import tomllib
from typing import Any, NoReturn

from jdqn.config.layers import load_config, names, read_named
from jdqn.config.schema import Config, Section, suggest


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one sentence and exit status 2."""

    def __init__(self, **kwargs: Any):
        super().__init__(
            allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs
        )

    def parse(self, argv: list[str] | None = None) -> argparse.Namespace:
        """Parses; an unknown option is answered with the nearest known one."""
        arguments, extra = self.parse_known_args(argv)
        if extra:
            options = [o for action in self._actions for o in action.option_strings]
            name = extra[0].partition("=")[0]
            kind = "option" if name.startswith("-") else "argument"
            self.error(f'unknown {kind} "{name}"{suggest(name, options) if options else ""}')
        return arguments

    def error(self, message: str) -> NoReturn:
        """Prints the sentence and exits."""
        print(f"error: {' '.join(message.split())}", file=sys.stderr)  # noqa: T201
        raise SystemExit(2)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds `--env`, `--agent`, `--preset`, `--config` and one option per field."""
    base = read_named("agents", "dqn")
    parser.add_argument("--env", metavar="NAME", help="environment (default: Breakout)")
    parser.add_argument(
        "--agent", metavar="NAME", help=f"algorithm: {', '.join(names('agents'))} (default: dqn)"
    )
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help=f"what the environment needs: {', '.join(names('presets'))} "
        "(default: by environment, none for Atari)",
    )
    parser.add_argument("--config", metavar="FILE", help="TOML file laid over agent and preset")
    for section, info in Config.model_fields.items():
        model = info.annotation
        assert isinstance(model, type)
        assert issubclass(model, Section)
        group = parser.add_argument_group(f"[{section}]")
        for field, field_info in model.model_fields.items():
            default = base[section][field]
            help_text = f"{field_info.description} (dqn: {default})".replace("%", "%%")
            group.add_argument(
                f"--{section}.{field}", metavar="VALUE", dest=f"{section}.{field}", help=help_text
            )


def from_options(arguments: argparse.Namespace) -> Config:
    """The configuration that parsed options ask for."""
    return load_config(
        env=arguments.env,
        agent=arguments.agent,
        preset=arguments.preset,
        file=arguments.config,
        overrides={
            k: parse_value(v) for k, v in vars(arguments).items() if "." in k and v is not None
        },
    )


def parse_value(text: str) -> Any:
    """A command-line value, written as in TOML; a bare word is a string, `128,128` a list."""
    for candidate in (text, f"[{text}]" if "," in text else text):
        try:
            value = tomllib.loads(f"value = {candidate}")["value"]
        except tomllib.TOMLDecodeError:
            continue
        return int(value) if isinstance(value, float) and value.is_integer() else value
    return text
