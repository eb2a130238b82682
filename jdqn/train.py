"""Training, from Python and by `python -m jdqn.train --env Breakout`."""

import pathlib
import shlex
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jdqn.config import Config, ConfigError, Parser, add_options, from_options

if TYPE_CHECKING:
    from jdqn.runs.run import Result


def train(
    config: Config,
    *,
    run_dir: str | pathlib.Path | None = None,
    make_env: Callable[..., Any] | None = None,
    command: str = "",
) -> "Result":
    """Trains an agent and writes a run directory.

    A JAX-native environment is trained by `loops.fused`, any other by `loops.host`.

    Args:
      config: everything the run depends on.
      run_dir: where to write; default `runs/ENV-AGENT-SEED-TIME`. Must be new or empty.
      make_env: how environments are made on the host, for training and evaluation alike; default
        `envs.make_env`.
      command: recorded in `config.toml`.

    Returns:
      Where the run lies and how it ended.

    Raises:
      ConfigError: before anything is written.
    """
    from jdqn import envs, loops

    make_env = make_env or envs.make_env
    return loops.train(config, run_dir=run_dir, make_env=make_env, command=command)


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = Parser(
        prog="python -m jdqn.train",
        description="Trains a deep-Q-network agent. Steps are agent steps summed over "
        "environments;\non Atari one step is 4 frames. Values are written as in TOML.",
        epilog="example: python -m jdqn.train --env Breakout --steps 1_000_000 "
        "--replay.capacity 100_000",
    )
    shortcuts = {"steps": "agent steps", "seed": "of all draws", "num_seeds": "seeds side by side"}
    for name, text in shortcuts.items():
        option = "--" + name.replace("_", "-")
        field = f"train.{name}"
        parser.add_argument(option, metavar="N", dest=field, help=f"{text} ({field})")
    parser.add_argument(
        "--run-dir", metavar="DIR", help="where to write (default: runs/ENV-AGENT-SEED-TIME)"
    )
    add_options(parser)
    arguments = parser.parse(argv)
    given = sys.argv[1:] if argv is None else argv
    command = shlex.join(["python", "-m", "jdqn.train", *given])
    try:
        result = train(from_options(arguments), run_dir=arguments.run_dir, command=command)
    except ConfigError as error:
        parser.error(str(error))
    if result.stopped_by:
        raise SystemExit(128 + result.stopped_by)


if __name__ == "__main__":
    main()
