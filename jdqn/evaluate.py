"""Full games with saved parameters: `python -m jdqn.evaluate RUN`."""

import pathlib
import sys
from typing import TYPE_CHECKING, Any

from jdqn.config import Config, ConfigError, Parser, parse_value

if TYPE_CHECKING:
    from jdqn.runs.episodes import Evaluation


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = Parser(
        prog="python -m jdqn.evaluate",
        description="Plays full games with the newest checkpoint of a run.",
        epilog="example: python -m jdqn.evaluate runs/Breakout-dqn-0-20260101-120000",
    )
    parser.add_argument("run", metavar="RUN", help="run directory of jdqn.train")
    parser.add_argument("--episodes", metavar="N", default="100", help="full games (default: 100)")
    parser.add_argument(
        "--epsilon", metavar="VALUE", help="exploration (default: the run's agent.epsilon_eval)"
    )
    arguments = parser.parse(argv)
    overrides = {"train__eval_episodes": parse_value(arguments.episodes)}
    if arguments.epsilon is not None:
        overrides["agent__epsilon_eval"] = parse_value(arguments.epsilon)
    try:
        evaluate(pathlib.Path(arguments.run), overrides)
    except ConfigError as error:
        parser.error(str(error))


def evaluate(run_dir: pathlib.Path, overrides: dict[str, Any]) -> None:
    """Plays with every seed of a run, by every policy, and prints what came of it."""
    import jax

    from jdqn.runs import evaluation

    config, agent, steps, state = evaluation.load_run(run_dir, **overrides)
    fields = config.train
    if not fields.eval_episodes:
        raise ConfigError("--episodes 0: must be at least 1")
    play = evaluation.make_evaluator(config, agent)
    for i in range(fields.num_seeds):
        one = state if fields.num_seeds == 1 else jax.tree.map(lambda x, i=i: x[i], state)
        weights = ", mean weights" if config.network.noisy != "none" else ""
        sys.stdout.write(
            f"{config.env.name}, {config.agent.name}, seed {fields.seed + i}, after {steps:,} "
            f"steps; {fields.eval_episodes} full games each, epsilon "
            f"{config.agent.epsilon_eval:g}{weights}\n"
        )
        for policy in evaluation.policies(config):
            result = play(one, fields.seed + i + evaluation.COMMAND_SEED_OFFSET, policy)
            sys.stdout.write(_line(config, policy, result))


def _line(config: Config, policy: str, result: "Evaluation") -> str:
    from jdqn.runs.scores import human_normalised

    normalised = human_normalised(config.env.name, result.return_mean)
    human = "" if normalised is None else f", human-normalised {100 * normalised:.1f} %"
    return (
        f"{policy:8} mean {result.return_mean:.2f} ± {result.return_std_error:.2f} "
        f"(standard error), median {result.return_median:.2f}, mean length "
        f"{result.length_mean:.0f} steps{human}\n"
    )


if __name__ == "__main__":
    main()
