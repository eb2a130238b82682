"""A trained agent as a folder to keep or to give away: `python -m jdqn.export RUN DIR`."""

import argparse
import shlex
import sys

from jdqn.config import ConfigError, Parser, parse_count, parse_value, shown
from jdqn.runs import stopping


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = Parser(
        prog="python -m jdqn.export",
        description="Writes what was trained into a folder: model.safetensors, config.toml, a "
        "README.md and model.onnx.\njdqn.load, python -m jdqn.evaluate and --start-from take "
        "the folder as they take a run.",
        epilog="example: python -m jdqn.export runs/Breakout-dqn-0-20260101-120000 breakout",
    )
    parser.add_argument("run", metavar="RUN", help="run directory of jdqn.train")
    parser.add_argument("folder", metavar="DIR", help="folder to write, new or empty")
    parser.add_argument(
        "--checkpoint", metavar="STEPS", help="agent steps, or best (default: the newest)"
    )
    parser.add_argument("--seed", metavar="N", help="of several seeds (default: the first)")
    parser.add_argument(
        "--dtype",
        metavar="NAME",
        default="float32",
        help="in which parameters are kept: float32 or float16 (default: float32)",
    )
    parser.add_argument(
        "--episodes",
        metavar="N",
        help="full games with what was written; README.md tells their scores (default: none)",
    )
    parser.add_argument("--no-onnx", action="store_true", help="leaves model.onnx out")
    arguments = parser.parse(argv)
    stopping.command(parser.refuse, lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    seed = None if arguments.seed is None else parse_value(arguments.seed)
    if seed is not None and type(seed) is not int:
        raise ConfigError(f"--seed {shown(seed)}: must be an integer")
    episodes = 0
    if arguments.episodes is not None:
        episodes = parse_count("--episodes", arguments.episodes, most=1_000_000)
    from jdqn.tools import exporting

    folder = exporting.export(
        arguments.run,
        arguments.folder,
        checkpoint=arguments.checkpoint,
        seed=seed,
        dtype=arguments.dtype,
        onnx=not arguments.no_onnx,
        episodes=episodes,
    )
    for path in sorted(folder.iterdir()):
        sys.stdout.write(f"{path}  {path.stat().st_size:,} bytes\n")
    for door in ("evaluate", "play"):
        sys.stdout.write(f"  python -m jdqn.{door} {shlex.quote(str(folder))}\n")


if __name__ == "__main__":
    main()
