"""How long each stage of training takes: emulators, act, add, sample, update."""

import contextlib
import functools
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdqn import clock, envs, kernels, learning
from jdqn.config import Config, with_overrides
from jdqn.loops import shared
from jdqn.records import EnvSpec, Timestep
from jdqn.replay import Replay, ReplayState, make_replay, priorities
from jdqn.tools import floor
from jdqn.tools.figures import Row, median_ms

KEPT_TIMESTEPS = 256  # real frames, over and over


class Played(NamedTuple):
    """What emulators gave."""

    spec: EnvSpec
    timesteps: list[Timestep]
    steps_per_second: float


def bench_stages(config: Config, *, seconds: float) -> Iterator[Row]:
    """Measures every stage on real frames; the last rows are the update and its floor.

    Args:
      config: what is trained.
      seconds: how long the emulators are measured.

    Yields:
      One row for each figure, as soon as it is there.
    """
    config = with_overrides(config, train__num_devices=1)  # of one device
    with contextlib.closing(envs.make_env(config)) as env:
        parts = shared.build(config, env.spec)  # a replay that does not fit is refused at once
        played = play_randomly(config, env, seconds=seconds)
    yield Row("emulators, random actions", played.steps_per_second, "steps/s")
    stages = Stages(config, *parts, played)
    num_envs = config.env.num_envs
    yield Row("act", median_ms(stages.act, 50), "ms/tick", f"{num_envs} environments")
    yield Row("add", median_ms(stages.add, 200), "ms/tick", f"one row of {num_envs} frames")
    note = f"batch of {config.replay.batch_size}"
    yield Row("sample", median_ms(stages.sample, 100), "ms", note)
    if config.replay.prioritization == "rank":
        stages.spread_errors()
        refresh_ms = median_ms(stages.refresh, 5)
        period = config.replay.rank_refresh_updates
        note = f"once in {period} updates: {refresh_ms / period:.3f} ms each"
        yield Row("refresh of ranks", refresh_ms, "ms", note)
    yield Row("draw + priority update", median_ms(stages.draw_and_update, 100), "ms")

    began = time.perf_counter()
    jax.block_until_ready(stages.learn(0))
    yield Row("learn, first call", time.perf_counter() - began, "s", "compilation included")
    updates = clock.updates_per_call(config)
    update_ms = median_ms(stages.learn, max(80 // updates, 5)) / updates
    yield Row("update", update_ms, "ms", f"{updates} in one call")
    if len(played.spec.frame_shape) > 1:
        yield from floor.convolutions(config, played.spec)
    yield from floor.floor_of_an_update(config, played.spec, stages.params, update_ms)


def play_randomly(config: Config, env: envs.VectorEnv, *, seconds: float) -> Played:
    """Random actions for so long, and at least until `KEPT_TIMESTEPS` ticks are there."""
    rng = np.random.default_rng(0)
    timesteps = [env.reset()]
    began = time.perf_counter()
    for ticks in itertools.count(1):
        env.send(rng.integers(0, env.spec.num_actions, config.env.num_envs))
        timesteps = [*timesteps[1 - KEPT_TIMESTEPS :], env.recv()]
        elapsed = time.perf_counter() - began
        if elapsed > seconds and ticks > KEPT_TIMESTEPS:
            break
    return Played(env.spec, timesteps, config.env.num_envs * ticks / elapsed)


class Stages:
    """The stages as training calls them, on a full ring; every call is another tick."""

    def __init__(self, config: Config, replay: Replay, agent: learning.Agent, played: Played):
        self._config = config
        self._act = jax.jit(agent.act, donate_argnums=1)
        self._add = jax.jit(replay.add, donate_argnums=0)
        self._learn = kernels.jit_learning(agent.learn, (0, 1))
        self._refresh = jax.jit(replay.refresh, donate_argnums=0)
        self._uniform = functools.partial(priorities.uniforms, batch_size=config.replay.batch_size)
        self._sample = jax.jit(
            lambda state, key, tick: replay.sample(state, self._uniform(key), tick)
        )
        self._draw_and_update = self._prioritised(played.spec)
        self._state, self._actor = jax.jit(agent.init)(jax.random.key(0))
        self._replay = jax.jit(replay.init)(jax.random.key(1))
        self._action = jnp.zeros((config.env.num_envs,), jnp.int32)
        self._timesteps = [jax.device_put(timestep) for timestep in played.timesteps]
        self._keys = [jax.random.key(i) for i in range(101)]
        self._ticks = itertools.count()
        # The whole ring, or sampling would stay in the cache.
        for _ in range(replay.capacity // config.env.num_envs):
            self.add(0)
        jax.block_until_ready(self._replay)

    def _prioritised(self, spec: EnvSpec) -> Callable[..., ReplayState]:
        """A draw and an update of priorities alone: its frames are not used, so not gathered."""
        by_priority = with_overrides(self._config, replay__priority_exponent=0.6)
        prioritised = make_replay(by_priority, spec)

        def draw_and_update(state: ReplayState, key: jax.Array, tick: int) -> ReplayState:
            batch = prioritised.sample(state, self._uniform(key), tick)
            return prioritised.update(state, batch, jnp.abs(batch.reward) + 1e-3 * batch.row)

        return jax.jit(draw_and_update, donate_argnums=0)

    @property
    def params(self) -> Any:
        """Parameters of the online network."""
        return self._state.params

    def act(self, i: int) -> Any:
        """Acts in every environment."""
        timestep = self._timesteps[i % len(self._timesteps)]
        action, self._actor = self._act(self._state, self._actor, timestep, i)
        return action

    def add(self, _: int) -> Any:
        """Adds a row."""
        tick = next(self._ticks)
        timestep = self._timesteps[tick % len(self._timesteps)]
        self._replay = self._add(self._replay, timestep, self._action, tick)
        return self._replay.priorities.max_priority

    def sample(self, i: int) -> Any:
        """Draws a batch."""
        return self._sample(self._replay, self._keys[i], i)

    def spread_errors(self) -> None:
        """Gives rank-based replay something to sort."""
        leaves = self._replay.priorities
        magnitude = jax.random.uniform(jax.random.key(2), leaves.leaves.shape)
        ranks = leaves.ranks.replace(magnitude=magnitude)
        self._replay = self._replay.replace(priorities=leaves.replace(ranks=ranks))

    def refresh(self, i: int) -> Any:
        """Sorts rank-based replay."""
        self._replay = self._refresh(self._replay, i)
        return self._replay.priorities.max_priority

    def draw_and_update(self, i: int) -> Any:
        """Draws by priority and writes new ones."""
        self._replay = self._draw_and_update(self._replay, jax.random.key(i), i)
        return self._replay.priorities.max_priority

    def learn(self, i: int) -> Any:
        """One call of `learn`."""
        # Past the start of learning, so that epsilon and the importance exponent move.
        tick = self._config.train.learning_starts_steps // self._config.env.num_envs + i
        self._state, self._replay, metrics = self._learn(self._state, self._replay, tick)
        return metrics
