"""Full games with saved parameters: `python -m jdqn.evaluate RUN`."""

import contextlib
import itertools
import pathlib
import sys
from collections.abc import Callable, Generator, Iterable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jdqn import checkpoint, envs
from jdqn.agent import ALL_MEAN, ALL_VOTE, ActorState, Agent, AgentState, make_agent
from jdqn.config import Config, ConfigError, Parser, load_config, parse_value, with_overrides
from jdqn.metrics import Episode, EpisodeTracker, Evaluation, human_normalised
from jdqn.records import Timestep
from jdqn.replay import make_replay

# Far from the training seeds, and apart from each other: what picks the best evaluation of a run
# must not also be what scores it.
TRAINING_SEED_OFFSET = 10_000
COMMAND_SEED_OFFSET = 20_000
MAX_PARALLEL_GAMES = 32
TICKS_PER_CALL = 64


MakeEnv = Callable[..., envs.VectorEnv]
Evaluator = Callable[[AgentState, int, str], Evaluation]


def make_evaluator(config: Config, agent: Agent, make_env: MakeEnv = envs.make_env) -> Evaluator:
    """Builds the function that plays `train.eval_episodes` full games.

    It makes its own environments, and consumes no training key. Every environment plays a fixed
    number of games: taking the first n to finish would favour short ones.

    Args:
      config: uses `env`, `train.eval_episodes`, `agent.epsilon_eval`.
      agent: whose `act_in_evaluation` plays.
      make_env: how environments are made.

    Returns:
      A function of the agent's state, the environments' first seed and the policy: `vote`, `mean`
      or one head such as `head_3`.
    """
    act = jax.jit(agent.act_in_evaluation, donate_argnums=1)
    episodes = config.train.eval_episodes
    num_envs = min(episodes, MAX_PARALLEL_GAMES)
    is_native = envs.is_native(config.env.name)

    def evaluate(state: AgentState, seed: int, policy: str) -> Evaluation:
        # Apart from the environments' key of the same seed.
        key = jax.random.fold_in(jax.random.key(seed), np.uint32(2**31 + 1))
        actor = agent.init_actor(key, num_envs)
        head = {"vote": ALL_VOTE, "mean": ALL_MEAN}.get(policy)
        head = int(policy.removeprefix("head_")) if head is None else head
        actor = actor.replace(head=jnp.full_like(actor.head, head))
        games = play_native(state, actor, seed) if is_native else play(state, actor, seed)
        with contextlib.closing(games):
            return summary(finished_in(games))

    def finished_in(timesteps: Iterable[Timestep]) -> list[Episode]:
        tracker = EpisodeTracker(num_envs)
        left = np.full(num_envs, episodes // num_envs)
        left[: episodes % num_envs] += 1
        finished: list[Episode] = []
        for timestep in timesteps:
            for episode in tracker.add(timestep):
                if left[episode.env]:
                    left[episode.env] -= 1
                    finished.append(episode)
            if not left.any():
                break
        return finished

    def play(state: AgentState, actor: ActorState, seed: int) -> Generator[Timestep]:
        with contextlib.closing(make_env(config, num_envs=num_envs, seed=seed)) as env:
            timestep = env.reset()
            for tick in itertools.count():
                yield timestep
                action, actor = act(state, actor, timestep, tick)
                env.send(np.asarray(action))
                timestep = env.recv()

    if is_native:
        env = envs.make_native_env(config, num_envs=num_envs)

        @jax.jit
        def many_ticks(state: AgentState, carry: tuple, first: chex.Numeric) -> tuple:
            """`TICKS_PER_CALL` ticks in one call, and their timesteps without frames."""

            def body(carry: tuple, tick: chex.Numeric) -> tuple[tuple, Timestep]:
                actor, env_state, timestep = carry
                action, actor = agent.act_in_evaluation(state, actor, timestep, tick)
                env_state, following = env.step(env_state, action, tick)
                return (actor, env_state, following), timestep._replace(frame=None)

            return jax.lax.scan(body, carry, first + jnp.arange(TICKS_PER_CALL))

    def play_native(state: AgentState, actor: ActorState, seed: int) -> Generator[Timestep]:
        carry = (actor, *env.init(envs.env_key(seed)))
        for first in itertools.count(step=TICKS_PER_CALL):
            carry, seen = many_ticks(state, carry, first)
            seen = jax.device_get(seen)
            for i in range(TICKS_PER_CALL):
                yield jax.tree.map(lambda x, i=i: x[i], seen)

    def summary(finished: list[Episode]) -> Evaluation:
        returns = np.array([episode.episode_return for episode in finished])
        return Evaluation(
            len(returns),
            float(returns.mean()),
            float(np.median(returns)),
            float(returns.std(ddof=1) / np.sqrt(len(returns))) if len(returns) > 1 else 0.0,
            float(np.mean([episode.length for episode in finished])),
        )

    return evaluate


def load_run(run_dir: pathlib.Path, **overrides: Any) -> tuple[Config, Agent, int, Any]:
    """Loads a run: its configuration (with overrides), agent, agent steps and agent state.

    The leaves of the state have a leading axis where the run has several seeds.
    """
    path = run_dir / "config.toml"
    if not path.is_file():
        raise ConfigError(f"{run_dir} is not a run directory: it has no config.toml")
    config = with_overrides(load_config(file=path), **overrides)
    env = envs.make_env(config, num_envs=1)
    spec = env.spec
    env.close()
    agent = make_agent(config, spec, make_replay(config, spec))
    key, num_seeds = jax.random.key(0), config.train.num_seeds

    def init(key: chex.PRNGKey) -> AgentState:
        return agent.init(key)[0]

    if num_seeds > 1:
        init, key = jax.vmap(init), jax.random.split(key, num_seeds)
    like = jax.eval_shape(init, key)
    steps, state = checkpoint.restore(run_dir, like)
    return config, agent, steps, state


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
        config, agent, steps, state = load_run(pathlib.Path(arguments.run), **overrides)
        if not config.train.eval_episodes:
            raise ConfigError("--episodes 0: must be at least 1")
    except ConfigError as error:
        parser.error(str(error))
    evaluate = make_evaluator(config, agent)
    fields, is_noisy = config.train, config.network.noisy != "none"
    for i in range(fields.num_seeds):
        one = state if fields.num_seeds == 1 else jax.tree.map(lambda x, i=i: x[i], state)
        sys.stdout.write(
            f"{config.env.name}, {config.agent.name}, seed {fields.seed + i}, after {steps:,} "
            f"steps; {fields.eval_episodes} full games each, epsilon "
            f"{config.agent.epsilon_eval:g}{', mean weights' * is_noisy}\n"
        )
        for policy in policies(config):
            result = evaluate(one, fields.seed + i + COMMAND_SEED_OFFSET, policy)
            normalised = human_normalised(config.env.name, result.return_mean)
            human = "" if normalised is None else f", human-normalised {100 * normalised:.1f} %"
            sys.stdout.write(
                f"{policy:8} mean {result.return_mean:.2f} ± {result.return_std_error:.2f} "
                f"(standard error), median {result.return_median:.2f}, mean length "
                f"{result.length_mean:.0f} steps{human}\n"
            )


def policies(config: Config) -> list[str]:
    """Who may act in evaluation: every head, their mean and their vote, `eval_policy` last."""
    if config.network.heads == 1:
        return [config.agent.eval_policy]
    heads = [f"head_{k}" for k in range(config.network.heads)]
    return sorted([*heads, "mean", "vote"], key=lambda name: name == config.agent.eval_policy)


if __name__ == "__main__":
    main()
