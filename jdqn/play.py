"""An agent playing, to look at: `python -m jdqn.play RUN`."""

import argparse
import pathlib

from jdqn.config import (
    Config,
    ConfigError,
    Parser,
    add_fields,
    fields_of,
    load_config,
    parse_count,
    parse_value,
    shown,
)
from jdqn.runs import stopping

LARGEST_SEED = 2_000_000_000
RANDOM = "random"


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = Parser(
        prog="python -m jdqn.play",
        description="Shows an agent playing, with what it thinks of each action: in the terminal, "
        "or as a video.",
        epilog="example: python -m jdqn.play runs/Breakout-dqn-0-20260101-120000 --video game.mp4\n"
        "without a run: python -m jdqn.play --env Breakout --agent random --video random.gif\n"
        "(there --env.FIELD VALUE, too: python -m jdqn.train --help env)",
    )
    parser.add_argument(
        "run",
        metavar="RUN",
        nargs="*",
        help="run directory of jdqn.train, or folder of jdqn.export",
    )
    _add_what(parser)
    _add_how(parser)
    arguments = parser.parse(argv)
    stopping.command(parser.refuse, lambda: _run(arguments))


def _add_what(parser: Parser) -> None:
    """What is played."""
    parser.add_argument("--checkpoint", metavar="STEPS", help="or best (default: the newest)")
    parser.add_argument(
        "--run-seed", metavar="N", help="of a run of several seeds, which (default: the first)"
    )
    parser.add_argument(
        "--policy",
        metavar="NAME",
        help="who acts: vote, mean, one head such as head_3, or head, one drawn for each game "
        "as in training (default: the run's agent.eval_policy)",
    )
    parser.add_argument(
        "--epsilon", metavar="VALUE", help="exploration (default: the run's agent.epsilon_eval)"
    )
    parser.add_argument("--env", metavar="NAME", help="without RUN: any environment of jdqn.train")
    parser.add_argument("--agent", metavar=RANDOM, help="without RUN: random actions")
    add_fields(parser, "env")


def _add_how(parser: Parser) -> None:
    """How much of it, and how it is shown."""
    parser.add_argument("--games", metavar="N", help="one after another (default: 1)")
    parser.add_argument(
        "--best-of", metavar="N", help="plays N games and shows that with the highest return"
    )
    parser.add_argument(
        "--seed",
        metavar="N",
        help="of the first game, the next ones count on (default: that of jdqn.evaluate)",
    )
    parser.add_argument(
        "--video", metavar="FILE", help=".mp4 or .gif to write (default: in the terminal)"
    )
    parser.add_argument(
        "--fps", metavar="N", default="15", help="agent steps shown in a second (default: 15)"
    )
    parser.add_argument(
        "--start", metavar="SECONDS", default="0", help="of a video left out first (default: 0)"
    )
    parser.add_argument(
        "--seconds", metavar="SECONDS", help="of a video at most (default: .gif 30, .mp4 all)"
    )


def _run(arguments: argparse.Namespace) -> None:
    config = _without_run(arguments)
    number = _count_of_games(arguments)
    seed = _seed("--seed", arguments.seed)
    run_seed = _seed("--run-seed", arguments.run_seed)
    fps = _number("--fps", arguments.fps, 1, 60)
    start = _number("--start", arguments.start, 0, 36_000)
    seconds = arguments.seconds and _number("--seconds", arguments.seconds, 0.1, 36_000)
    epsilon = None if arguments.epsilon is None else parse_value(arguments.epsilon)
    path = _video(arguments)
    from jdqn.tools import playing

    asked = playing.Asked(
        games=number,
        is_best=arguments.best_of is not None,
        seed=seed,
        policy=arguments.policy,
        video=path,
        fps=fps,
        start=start,
        seconds=seconds,
    )
    if config is not None:
        cast = playing.at_random(config)
    else:
        cast = playing.of_run(
            pathlib.Path(arguments.run[0]),
            checkpoint=arguments.checkpoint,
            run_seed=run_seed,
            epsilon=epsilon,
        )
    playing.play(cast, asked)


def _without_run(arguments: argparse.Namespace) -> Config | None:
    """The configuration of an environment to play in at random; None: a run plays.

    Raises:
      ConfigError: neither is asked for, or both.
    """
    fields = fields_of(arguments)
    if len(arguments.run) > 1:
        raise ConfigError(f"RUN {arguments.run[1]}: one run plays at a time")
    if arguments.run:
        given = {"env": arguments.env, "agent": arguments.agent, **fields}
        for name, value in given.items():
            if value is not None:
                raise ConfigError(f"--{name} {shown(value)}: RUN {arguments.run[0]} has its own")
        return None
    if arguments.env is None:
        raise ConfigError(
            f"RUN is missing: expected a run directory, or --env NAME --agent {RANDOM}"
        )
    if arguments.agent != RANDOM:
        agent = "is missing" if arguments.agent is None else shown(arguments.agent)
        raise ConfigError(
            f"--agent {agent}: without RUN it must be {RANDOM}; others play from their run "
            "directory"
        )
    for option in ("checkpoint", "run_seed", "policy", "epsilon"):
        if getattr(arguments, option) is not None:
            name = option.replace("_", "-")
            raise ConfigError(f"--{name} {getattr(arguments, option)}: only of a trained agent")
    return load_config(env=arguments.env, overrides=fields)


def _count_of_games(arguments: argparse.Namespace) -> int:
    if arguments.games is not None and arguments.best_of is not None:
        raise ConfigError(
            f"--best-of {arguments.best_of} beside --games {arguments.games}: expected one of them"
        )
    if arguments.best_of is not None:
        return parse_count("--best-of", arguments.best_of, most=10_000)
    return 1 if arguments.games is None else parse_count("--games", arguments.games, most=10_000)


def _video(arguments: argparse.Namespace) -> pathlib.Path | None:
    """Where the video goes; None: a terminal shows the games."""
    if arguments.video is None:
        return None
    from jdqn.tools import video

    path = pathlib.Path(arguments.video)
    video.check_path(path)
    return path


def _seed(option: str, text: str | None) -> int | None:
    if text is None:
        return None
    value = parse_value(text)
    if type(value) is not int or not 0 <= value <= LARGEST_SEED:
        raise ConfigError(f"{option} {shown(value)}: must be an integer from 0 to {LARGEST_SEED:,}")
    return value


def _number(option: str, text: str, least: float, most: float) -> float:
    value = parse_value(text)
    if type(value) not in (int, float) or not least <= value <= most:
        raise ConfigError(f"{option} {shown(value)}: must be a number from {least:g} to {most:,}")
    return float(value)


if __name__ == "__main__":
    main()
