"""Full games with saved parameters: `python -m jdqn.evaluate RUN`."""

import pathlib
import sys
from typing import TYPE_CHECKING, Any

from jdqn.config import Config, Parser, parse_count, parse_value, protocol_of
from jdqn.runs import stopping

if TYPE_CHECKING:
    from jdqn.runs.episodes import Evaluation


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = Parser(
        prog="python -m jdqn.evaluate",
        description="Plays full games with a checkpoint of a run, by default the newest.",
        epilog="example: python -m jdqn.evaluate runs/Breakout-dqn-0-20260101-120000",
    )
    parser.add_argument(
        "run", metavar="RUN", help="run directory of jdqn.train, or folder of jdqn.export"
    )
    parser.add_argument("--episodes", metavar="N", default="100", help="full games (default: 100)")
    parser.add_argument(
        "--epsilon", metavar="VALUE", help="exploration (default: the run's agent.epsilon_eval)"
    )
    parser.add_argument(
        "--checkpoint", metavar="STEPS", help="agent steps, or best (default: the newest)"
    )
    arguments = parser.parse(argv)
    overrides = {}
    if arguments.epsilon is not None:
        overrides["agent__epsilon_eval"] = parse_value(arguments.epsilon)

    def run() -> None:
        episodes = parse_count("--episodes", arguments.episodes, most=1_000_000)
        overrides["train__eval_episodes"] = episodes
        evaluate(pathlib.Path(arguments.run), arguments.checkpoint, overrides)

    stopping.command(parser.refuse, run)


def evaluate(run_dir: pathlib.Path, which: str | None, overrides: dict[str, Any]) -> None:
    """Plays with every seed of a run, by every policy, and prints what came of it."""
    from jdqn import compilation, envs
    from jdqn.runs import evaluation, trained

    found = trained.load_run(run_dir, which, **overrides)
    config = found.config
    fields = config.train
    compilation.keep(fields.compilation_cache)
    for damage in found.passed_over:
        sys.stderr.write(f"warning: {damage}; an earlier checkpoint is used\n")
    if limit := envs.says_no_limit(config):
        sys.stdout.write(f"{limit}\n")
    selected = " (selected: the best evaluation of the run; these are fresh games)"
    by = "" if config.env.protocol == "none" else f", protocol {protocol_of(config)}"
    steps = f"{found.steps:,} steps{selected if which == 'best' else ''}"
    play = evaluation.make_evaluator(config, found.agent)
    for seed, state in zip(found.seeds, found.states, strict=True):
        weights = ", mean weights" if config.network.noisy != "none" else ""
        sys.stdout.write(
            f"{config.env.name}, {config.agent.name}{by}, seed {seed}, after {steps}; "
            f"{fields.eval_episodes} full {'games each' if fields.eval_episodes > 1 else 'game'}, "
            f"epsilon {config.agent.epsilon_eval:g}{weights}\n"
        )
        sys.stdout.flush()
        for policy, result in evaluation.by_every_policy(config, play, state, seed):
            sys.stdout.write(_line(config, policy, result))
            sys.stdout.flush()


def _line(config: Config, policy: str, result: "Evaluation") -> str:
    from jdqn.runs.scores import human_normalised

    normalised = human_normalised(config, result.return_mean)
    human = "" if normalised is None else f", human-normalised {100 * normalised:.1f} %"
    several = result.episodes > 1
    error = f" ± {result.return_std_error:.2f} (standard error)" if several else ""
    return (
        f"{policy:8} mean {result.return_mean:.2f}{error}, median {result.return_median:.2f}, "
        f"mean length {result.length_mean:.0f} steps{human}\n"
    )


if __name__ == "__main__":
    main()
