"""Speed of each stage and of the whole loop, the floor beside it: `python -m jdqn.bench`."""

import argparse
import csv
import importlib.util
import itertools
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from jdqn.config import Config, ConfigError, Parser, add_options, from_options, parse_count
from jdqn.runs import stopping

if TYPE_CHECKING:
    from jdqn.tools.figures import Row


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = Parser(
        prog="python -m jdqn.bench",
        description="Measures emulators, act, add, sample, update and the whole loop.",
        epilog="example: python -m jdqn.bench --env Breakout --csv bench.csv",
    )
    parser.add_argument("--steps", metavar="N", help="agent steps (10_000; JAX-native: 50_000)")
    parser.add_argument(
        "--peer", metavar="NAME", help="the loop beside that of sb3 or cleanrl=SCRIPT, by turns"
    )
    parser.add_argument("--rounds", metavar="N", help="of a comparison, by turns (5)")
    parser.add_argument(
        "--profile", metavar="DIR", help="only a trace of the loop, for Perfetto and TensorBoard"
    )
    parser.add_argument("--csv", metavar="FILE", help="also write the figures there")
    add_options(parser)
    arguments = parser.parse(argv)
    stopping.command(parser.refuse, lambda: bench(from_options(arguments), arguments))


def bench(config: Config, arguments: argparse.Namespace) -> None:
    """Measures what the options ask for, prints each figure as it comes, and writes the CSV."""
    steps = _check(config, arguments)
    import jax

    from jdqn import compilation, envs

    compilation.check_platform()
    compilation.keep(config.train.compilation_cache)
    steps = steps or (50_000 if envs.is_native(config.env.name) else 10_000)
    title = (
        f"{config.agent.name} on {config.env.name}, {config.env.num_envs} environments, batch "
        f"{config.replay.batch_size} every {config.train.update_period_steps} steps; "
        f"{jax.devices()[0].device_kind}, jax {jax.__version__}\n"
    )
    for i, row in enumerate(_measure(config, steps, arguments)):
        if i == 0:  # what is refused, is refused before the first figure
            sys.stdout.write(title)
        sys.stdout.write(f"{row.stage:26} {row.value:12,.3f} {row.unit:8} {row.note}\n")
        sys.stdout.flush()
        if arguments.csv is not None:  # each at once: a bench that is stopped keeps its figures
            with open(arguments.csv, "a" if i else "w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([row] if i else [row._fields, row])


def _check(config: Config, arguments: argparse.Namespace) -> int | None:
    """Refuses at once what would be refused after minutes; returns `--steps`."""
    if arguments.peer and arguments.profile:
        raise ConfigError(f"--profile {arguments.profile}: not with --peer, which is not traced")
    if arguments.rounds is not None and not arguments.peer:
        raise ConfigError(f"--rounds {arguments.rounds}: only with --peer")
    if arguments.peer:
        _rounds(arguments)
        _check_peer(config, arguments.peer)
    if arguments.profile is not None:
        _check_profile(pathlib.Path(arguments.profile))
    if arguments.csv is not None:
        _check_csv(pathlib.Path(arguments.csv))
    if arguments.steps is None:
        return None
    return parse_count("--steps", arguments.steps, most=1_000_000_000)


def _rounds(arguments: argparse.Namespace) -> int:
    """How many; raises ConfigError."""
    return parse_count("--rounds", arguments.rounds or "5", most=1_000)


def _check_peer(config: Config, peer: str) -> None:
    """Refuses what is unknown or not installed."""
    if peer == "sb3":
        if importlib.util.find_spec("stable_baselines3") is None:
            raise ConfigError("--peer sb3: not installed; pip install -e '.[bench]'")
        return
    name, _, script = peer.partition("=")
    if name != "cleanrl" or not script:
        raise ConfigError(f"--peer {peer}: unknown (known: sb3, cleanrl=SCRIPT)")
    from jdqn.tools import cleanrl

    cleanrl.check(pathlib.Path(script), config)


def _check_profile(path: pathlib.Path) -> None:
    """Refuses what would be traced in vain."""
    if path.exists() and not path.is_dir():
        raise ConfigError(f"--profile {path}: is no folder")
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not os.access(there, os.W_OK):
        raise ConfigError(f"--profile {path}: no permission to write there")


def _check_csv(path: pathlib.Path) -> None:
    """Refuses what cannot be written; makes nothing."""
    folder = path.parent
    if path.is_dir():
        raise ConfigError(f"--csv {path}: is a folder, expected a file")
    if not folder.is_dir():
        raise ConfigError(f"--csv {path}: there is no folder {folder}")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise ConfigError(f"--csv {path}: no permission to write there")


def _measure(config: Config, steps: int, asked: argparse.Namespace) -> "Iterator[Row]":
    from jdqn.tools import profiling, stages, throughput

    if asked.profile is not None:
        return profiling.trace(config, pathlib.Path(asked.profile))
    if asked.peer:
        rounds = _rounds(asked)
        loop = throughput.bench_peer(config, steps=steps, peer=asked.peer, rounds=rounds)
    else:
        loop = throughput.bench_loop(config, steps=steps)
    return itertools.chain(
        loop,  # first: peak memory is that of the process
        stages.bench_stages(config, seconds=5.0),
        throughput.peak_memory("stages too"),
    )


if __name__ == "__main__":
    main()
