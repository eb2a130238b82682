"""Speed of each stage and of the whole loop, the floor beside it: `python -m jdqn.bench`."""

import argparse
import csv
import itertools
import pathlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from jdqn.config import Config, ConfigError, Parser, add_options, from_options

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
    parser.add_argument("--peer", metavar="NAME", help="sb3: only the loop, beside that library's")
    parser.add_argument("--csv", metavar="FILE", help="also write the figures there")
    add_options(parser)
    arguments = parser.parse(argv)
    try:
        bench(from_options(arguments), arguments)
    except ConfigError as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}")


def bench(config: Config, arguments: argparse.Namespace) -> None:
    """Measures what the options ask for, prints each figure as it comes, and writes the CSV."""
    import jax

    from jdqn import envs
    from jdqn.tools.figures import Row

    default = "50_000" if envs.is_native(config.env.name) else "10_000"
    steps = arguments.steps or default
    if not steps.replace("_", "").isdigit():
        raise ConfigError(f"--steps {steps}: expected a whole number of agent steps")
    if arguments.peer not in (None, "sb3"):
        raise ConfigError(f"--peer {arguments.peer}: unknown library (known: sb3)")
    write = sys.stdout.write
    write(
        f"{config.agent.name} on {config.env.name}, {config.env.num_envs} environments, batch "
        f"{config.replay.batch_size} every {config.train.update_period_steps} steps; "
        f"{jax.devices()[0].device_kind}, jax {jax.__version__}\n"
    )
    if arguments.csv:
        pathlib.Path(arguments.csv).touch()  # refused now, not after minutes
    rows = []
    for row in _measure(config, int(steps), arguments.peer):
        rows.append(row)
        write(f"{row.stage:26} {row.value:12,.3f} {row.unit:8} {row.note}\n")
        sys.stdout.flush()
    if arguments.csv:
        with open(arguments.csv, "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([Row._fields, *rows])


def _measure(config: Config, steps: int, peer: str | None) -> "Iterator[Row]":
    from jdqn.tools import stages, throughput

    if peer:
        return throughput.bench_peer(config, steps=steps)
    return itertools.chain(
        # The loop first: peak memory is that of the process.
        throughput.bench_loop(config, steps=steps),
        stages.bench_stages(config, seconds=5.0),
        throughput.peak_memory("stages too"),
    )


if __name__ == "__main__":
    main()
