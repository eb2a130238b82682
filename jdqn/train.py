"""Training, from Python and by `python -m jdqn.train --env Breakout`."""

import argparse
import contextlib
import os
import pathlib
import shlex
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jdqn.config import (
    Config,
    ConfigError,
    Parser,
    add_options,
    fields_of,
    from_options,
    layers_of,
    shown,
    with_overrides,
    without_effect,
)
from jdqn.config.wording import one_line
from jdqn.runs import files, stopping

if TYPE_CHECKING:
    from jdqn.runs.run import Result


def train(
    config: Config,
    *,
    run_dir: str | pathlib.Path | None = None,
    make_env: Callable[..., Any] | None = None,
    command: str = "",
    resumes: bool = False,
    start_from: str | pathlib.Path | None = None,
    on_log: Callable[[dict[str, Any]], Any] | None = None,
    on_evaluation: Callable[[dict[str, Any]], Any] | None = None,
    quiet: bool = False,
) -> "Result":
    """Trains an agent and writes a run directory.

    A JAX-native environment is trained by `loops.fused`, any other by `loops.host`.

    Args:
      config: everything the run depends on.
      run_dir: where to write; default `runs/ENV-AGENT-SEED-TIME`. Must be new or empty.
      make_env: how environments are made on the host, for training and evaluation alike; default
        `envs.make_env`.
      command: recorded in `config.toml`.
      resumes: goes on with the run in `run_dir`, whose `config.toml` is `config` but for fields
        that may change, see `runs.resume.CHANGEABLE`.
      start_from: a run directory or a folder of `jdqn.export`, whose parameters a new run begins
        with; all else is new.
      on_log: called at the end of a log period with the row of `metrics.jsonl`, a dict; of several
        seeds once for each. Figures that are not known yet are None or missing. Where it returns
        True the run stops as it would after Ctrl-C: a checkpoint, no last evaluation, and it can
        go on. Where it raises, the exception comes out of `train` after the checkpoint. Nothing it
        does changes what is learned, and its time does not count as training's.
      on_evaluation: the same, called after an evaluation with the row of `evaluations.csv`.
      quiet: says warnings alone, on stderr.

    Returns:
      Where the run lies and how it ended.

    Raises:
      ConfigError: before anything is written.
      RunError: the run could not go on; what could be saved has been, and the sentence says so.
      Exception: what `on_log` or `on_evaluation` has raised.
    """
    is_first = _join(_checked(config))
    if not (quiet := quiet or not is_first):
        _announce(config, run_dir if resumes else None)
    from jdqn import compilation, envs, loops
    from jdqn.runs.hooks import Hooks

    compilation.check_platform()
    compilation.keep(config.train.compilation_cache)
    return loops.train(
        config,
        run_dir=run_dir,
        make_env=make_env or envs.make_env,
        command=command,
        resumes=resumes,
        start_from=start_from,
        hooks=Hooks(on_log, on_evaluation) if is_first else None,
        quiet=quiet,
    )


def _checked(config: Any) -> Config:
    """A configuration as it is. Raises ConfigError of anything else, such as a name."""
    if not isinstance(config, Config):
        raise ConfigError(
            f"config = {shown(config)}: expected a configuration, such as "
            'jdqn.load_config(env="CartPole-v1")'
        )
    return config


def _join(config: Config) -> bool:
    """Joins the processes that the environment names, if any; whether this one is the first."""
    if "JAX_COORDINATOR_ADDRESS" not in os.environ and "jax" not in sys.modules:
        return True
    from jdqn.runs import processes

    processes.join(config)
    return processes.is_first()


def _announce(config: Config, resumed: str | pathlib.Path | None) -> None:
    """Says what is asked for; what is imported then takes seconds."""
    fields = config.train
    last = fields.seed + fields.num_seeds - 1
    seeds = f"seed {last}" if fields.num_seeds == 1 else f"seeds {fields.seed} to {last}"
    start = f"going on with {resumed}: " if resumed else ""
    what = f"{start}{config.agent.name} on {config.env.name}, {seeds}, {fields.steps:,} steps"
    # Which a run that was made longer has by itself, and says.
    own = with_overrides(config, train__schedule_steps=0) if resumed else config
    said = [what, layers_of(own), without_effect(own)]
    if fields.steps <= fields.learning_starts_steps:
        starts = f"train.learning_starts_steps = {fields.learning_starts_steps:,}"
        said.append(f"warning: nothing is learned in {fields.steps:,} steps, with {starts}")
    if (target := config.agent.target_period_steps) < (num_envs := config.env.num_envs):
        after = f"targets are copied every {num_envs} steps, one of each environment"
        said.append(f"agent.target_period_steps = {target}: {after}")
    lines = "".join(f"{one_line(line)}\n" for line in said if line is not None)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # nobody reads, a full disk: the run will find out
            stream.write(lines)
            stream.flush()
            return


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = Parser(
        prog="python -m jdqn.train",
        description="Trains a deep-Q-network agent. Steps are agent steps summed over "
        "environments;\non Atari one step is 4 frames. Values are written as in TOML.",
        epilog="examples:\n"
        "  python -m jdqn.train --env CartPole-v1\n"
        "  python -m jdqn.train --env Pong --agent rainbow --replay.capacity 100_000\n"
        "  python -m jdqn.train --env minatar/Breakout --num-seeds 5 --steps 1_000_000\n"
        "  python -m jdqn.train --resume runs/Pong-rainbow-0-20260101-120000",
    )
    shortcuts = {"steps": "agent steps", "seed": "of all draws", "num_seeds": "seeds side by side"}
    for name, text in shortcuts.items():
        option = "--" + name.replace("_", "-")
        field = f"train.{name}"
        parser.add_argument(option, metavar="N", dest=field, help=f"{text} ({field})")
    parser.add_argument(
        "--run-dir", metavar="DIR", help="where to write (default: runs/ENV-AGENT-SEED-TIME)"
    )
    parser.add_argument("--resume", metavar="RUN", help="go on with a run, from its run directory")
    parser.add_argument(
        "--start-from",
        metavar="RUN",
        help="begin with the parameters of a run or an exported folder, all else new",
    )
    parser.add_argument(
        "--quiet", action="store_true", help="print warnings and errors alone, on stderr"
    )
    add_options(parser)
    arguments = parser.parse(argv)
    given = sys.argv[1:] if argv is None else argv
    command = shlex.join(["python", "-m", "jdqn.train", *given])

    def run() -> int:
        stopping.stop_with_parent()
        config, run_dir = _what_is_asked_for(arguments)
        resumes = arguments.resume is not None
        try:
            result = train(
                config,
                run_dir=run_dir,
                command=command,
                resumes=resumes,
                start_from=arguments.start_from,
                quiet=arguments.quiet,
            )
        except ConfigError as error:
            if fields_of(arguments) or not _is_done(error):
                raise
            return 0
        return 128 + result.stopped_by if result.stopped_by else 0

    stopping.command(parser.refuse, run)


def _is_done(error: ConfigError) -> bool:
    """Whether a run had nothing left to do, which is said: no error for who resumes by rote."""
    from jdqn.runs import resume

    if is_done := isinstance(error, resume.NothingLeftError):
        sys.stderr.write(f"{one_line(str(error))}\n")
    return is_done


def _what_is_asked_for(arguments: argparse.Namespace) -> tuple[Config, str | None]:
    """The configuration and the run directory of the options."""
    if arguments.resume is None:
        return from_options(arguments), arguments.run_dir
    for option in ("run_dir", "config", "preset", "protocol", "start_from"):
        if (value := getattr(arguments, option)) is not None:
            name = option.replace("_", "-")
            raise ConfigError(f"--{name} {value}: a run that goes on with --resume keeps its own")
    path = pathlib.Path(arguments.resume)
    files.check_is_run(path, "--resume")
    arguments.config = str(path / "config.toml")
    return from_options(arguments), arguments.resume


if __name__ == "__main__":
    main()
