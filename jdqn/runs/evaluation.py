"""Full games with given parameters: how a run measures its agent."""

import contextlib
import itertools
import time
from collections.abc import Callable, Generator, Iterable

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jdqn import envs, learning
from jdqn.config import Config
from jdqn.envs.guard import EnvError, guard, problem, said
from jdqn.learning import ActorState, Agent, AgentState
from jdqn.records import Timestep
from jdqn.runs import episodes, progress, stopping
from jdqn.runs.episodes import Episode, Episodes, Evaluation, Standing

# Far from the training seeds, and apart from each other: what picks the best evaluation of a run
# must not also be what scores it.
TRAINING_SEED_OFFSET = 10_000
COMMAND_SEED_OFFSET = 20_000
MAX_PARALLEL_GAMES = 32
TICKS_PER_CALL = 64
WATCH_SECONDS = 0.2  # between two calls of who watches

MakeEnv = Callable[..., envs.VectorEnv]
Watch = Callable[[Standing], None]
# Of AgentState, seed of the run, what the games' seed is apart, policy, and a Watch or nothing.
Evaluator = Callable[..., Evaluation]
Player = Callable[[AgentState, ActorState, int, int], Generator[Timestep]]


def make_evaluator(
    config: Config,
    agent: Agent,
    make_env: MakeEnv = envs.make_env,
    stop: stopping.Stop | None = None,
) -> Evaluator:
    """Builds the function that plays `train.eval_episodes` full games.

    It makes its own environments, and consumes no training key. Every environment plays a fixed
    number of games: taking the first n to finish would favour short ones.

    Args:
      config: uses `env`, `train.eval_episodes`, `agent.epsilon_eval`.
      agent: whose `act_in_evaluation` plays.
      make_env: how environments are made.
      stop: breaks an evaluation off; the function raises `stopping.Interrupted` then.

    Returns:
      A function of the agent's state, the seed of its run, what the seed of the games is apart
      from it, and the policy: `vote`, `mean` or one head such as `head_3`; and where somebody
      watches, of what is told how far it is, at the start and several times a second. It raises
      `EnvError` where an environment goes wrong.
    """
    num_episodes = config.train.eval_episodes
    num_envs = min(num_episodes, MAX_PARALLEL_GAMES)
    if envs.is_native(config.env.name):
        play = _player_of_native(config, agent, num_envs, stop)
    else:
        play = _player_on_host(config, agent, num_envs, make_env, stop)

    most = config.env.max_episode_steps

    def evaluate(
        state: AgentState, run_seed: int, offset: int, policy: str, watch: Watch | None = None
    ) -> Evaluation:
        seed = envs.first_seed(config.env.name, run_seed) + offset
        actor = start_actor(agent, seed, num_envs, policy)
        try:
            with contextlib.closing(play(state, actor, seed, run_seed)) as games:
                tell = _Teller(watch, num_episodes, most).tell if watch else None
                return summary(_finished(games, num_envs, num_episodes, stop, tell))
        except EnvError as error:
            raise EnvError(f"in evaluation, {error}") from error

    return evaluate


def by_every_policy(
    config: Config, play: Evaluator, state: AgentState, seed: int
) -> Generator[tuple[str, Evaluation]]:
    """Games apart from those of training, by each of `policies`; stderr shows how far they are.

    Args:
      config: of the agent.
      play: what `make_evaluator` has built.
      state: of the agent.
      seed: of its run.
    """
    stop = stopping.Stop()  # of who reads how far it is: nobody need
    for policy in policies(config):
        with contextlib.closing(progress.Line(stop, stderr=True)) as line:
            result = play(state, seed, COMMAND_SEED_OFFSET, policy, line.evaluating)
        yield policy, result


def start_actor(agent: Agent, seed: int, num_envs: int, policy: str) -> ActorState:
    """The actor before the first tick of games with a seed."""
    # Apart from the environments' key of the same seed.
    key = jax.random.fold_in(jax.random.key(seed), np.uint32(2**31 + 1))
    actor = agent.init_actor(key, num_envs)
    return actor.replace(head=jnp.full_like(actor.head, head_of(policy)))


def head_of(policy: str) -> int:
    """What an actor's `head` is for a policy: `vote`, `mean` or one head such as `head_3`."""
    if policy == "vote":
        return learning.ALL_VOTE
    if policy == "mean":
        return learning.ALL_MEAN
    return int(policy.removeprefix("head_"))


def _finished(
    games: Iterable[Timestep],
    num_envs: int,
    num_episodes: int,
    stop: stopping.Stop | None,
    tell: Callable[[Episodes, np.ndarray, list[Episode]], None] | None,
) -> list[Episode]:
    """The first episodes of each environment, their numbers fixed beforehand."""
    tracked = episodes.start(num_envs)
    left = np.full(num_envs, num_episodes // num_envs)
    left[: num_episodes % num_envs] += 1
    finished: list[Episode] = []
    for timestep in games:
        if stop is not None:
            stop.check()
        tracked, ended = episodes.track(tracked, timestep)
        for episode in ended:
            if left[episode.env]:
                left[episode.env] -= 1
                finished.append(episode)
        if not left.any():
            break
        if tell is not None:
            tell(tracked, left, finished)
    return finished


class _Teller:
    """Tells who watches, not too often, how far an evaluation is."""

    def __init__(self, watch: Watch, num_episodes: int, most: int):
        """`most` agent steps has a game."""
        self._watch = watch
        self._episodes = num_episodes
        self._most = most
        self._ticks = 0
        self._began = 0.0
        self._told_at = time.monotonic()
        watch(Standing(0, num_episodes, 0, None, False))

    def tell(self, tracked: Episodes, left: np.ndarray, finished: list[Episode]) -> None:
        """After a tick; `left` are the games that each environment still has to end, `[E]`."""
        now = time.monotonic()
        self._ticks += 1
        if self._ticks <= 2:  # what acts was compiled between the first two
            self._began = now
        if self._ticks <= 2 or now - self._told_at < WATCH_SECONDS:
            return
        self._told_at = now
        lengths = [episode.length for episode in finished]
        ticks, is_bound = ticks_left(tracked.length, left, lengths, self._most)
        self._watch(
            Standing(
                finished=len(finished),
                episodes=self._episodes,
                steps=sum(lengths) + int(tracked.length[left > 0].sum()),
                seconds_left=ticks * (now - self._began) / (self._ticks - 2),
                is_bound=is_bound,
            )
        )


def ticks_left(
    length: np.ndarray, left: np.ndarray, finished: list[int], most: int
) -> tuple[float, bool]:
    """How many ticks an evaluation still needs, by the mean length of the games that ended.

    Args:
      length: `[E]`, agent steps of the games that are going on.
      left: `[E]`, games that each environment still has to end.
      finished: lengths of the games that ended.
      most: agent steps of a game.

    Returns:
      The ticks, and whether they are a bound: a game may take `most` steps where none has ended,
      or where it is longer than the mean already.
    """
    expected = float(np.mean(finished)) if finished else float(most)
    is_long = (length >= expected) | (not finished)
    now = np.where(is_long, most - length, expected - length)
    ticks = np.where(left > 0, now + (left - 1) * (expected + 1), 0)
    last = int(np.argmax(ticks))
    return float(ticks[last]), bool(is_long[last])


def _player_on_host(
    config: Config, agent: Agent, num_envs: int, make_env: MakeEnv, stop: stopping.Stop | None
) -> Player:
    act = stopping.Compiled(jax.jit(agent.act_in_evaluation, donate_argnums=1), stop)

    def play(state: AgentState, actor: ActorState, seed: int, _: int) -> Generator[Timestep]:
        with contextlib.closing(_made(make_env, config, num_envs, seed)) as env:
            timestep = env.reset()
            for tick in itertools.count():
                yield timestep
                action, actor = act(state, actor, timestep, tick)
                env.send(np.asarray(action))
                timestep = env.recv()

    return play


def _made(make_env: MakeEnv, config: Config, num_envs: int, seed: int) -> envs.VectorEnv:
    """Environments to play in; the training has its own, so that these may fail to be made."""
    try:
        env = make_env(config, num_envs=num_envs, seed=seed)
    except Exception as error:
        raise problem(f"cannot be made: {said(error)}", config.env.name) from error
    return guard(env, config.env.name, num_envs)


def _player_of_native(
    config: Config, agent: Agent, num_envs: int, stop: stopping.Stop | None
) -> Player:
    env = envs.make_native_env(config, num_envs=num_envs)

    def many_ticks(state: AgentState, carry: tuple, first: chex.Numeric) -> tuple:
        """`TICKS_PER_CALL` ticks in one call, and their timesteps without frames."""

        def body(carry: tuple, tick: chex.Numeric) -> tuple[tuple, Timestep]:
            actor, env_state, timestep = carry
            action, actor = agent.act_in_evaluation(state, actor, timestep, tick)
            env_state, following = env.step(env_state, action, tick)
            return (actor, env_state, following), timestep._replace(frame=None)

        return jax.lax.scan(body, carry, first + jnp.arange(TICKS_PER_CALL))

    play_on = stopping.Compiled(jax.jit(many_ticks), stop)

    def play(state: AgentState, actor: ActorState, seed: int, run_seed: int) -> Generator[Timestep]:
        carry = (actor, *env.init(envs.env_key(seed), envs.world_key(run_seed)))
        for first in itertools.count(step=TICKS_PER_CALL):
            carry, seen = play_on(state, carry, first)
            seen = jax.device_get(seen)
            for i in range(TICKS_PER_CALL):
                yield jax.tree.map(lambda x, i=i: x[i], seen)

    return play


def summary(finished: list[Episode]) -> Evaluation:
    """Mean, median and standard error of some episodes."""
    returns = np.array([episode.episode_return for episode in finished])
    spread = float(returns.std(ddof=1) / np.sqrt(len(returns))) if len(returns) > 1 else 0.0
    return Evaluation(
        episodes=len(returns),
        return_mean=float(returns.mean()),
        return_median=float(np.median(returns)),
        return_std_error=spread,
        length_mean=float(np.mean([episode.length for episode in finished])),
    )


def policies(config: Config) -> list[str]:
    """Who may act in evaluation: every head, their mean and their vote, `eval_policy` last."""
    if config.network.heads == 1:
        return [config.agent.eval_policy]
    heads = [f"head_{k}" for k in range(config.network.heads)]
    return sorted([*heads, "mean", "vote"], key=lambda name: name == config.agent.eval_policy)
