"""The replay as an immutable pytree: `init`, `add`, `seal`, `sample`, `update`, `refresh`.

A row is what the agent saw and what it then did, written once, when the action is chosen: single
frames, not stacks, and no next observations. The reward and the flags of a row arrived *with* its
frame: they are the result of the action of the row before. Stacks, n-step returns and bootstrap
observations are gathered from neighbouring rows when a batch is drawn.

Every function takes the static `Settings` first; `make_replay` binds them.
"""

import functools
import math
import types
from collections.abc import Callable
from typing import NamedTuple

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jdqn import clock, kernels
from jdqn.config import Config, ConfigError
from jdqn.records import Batch, EnvSpec, Timestep
from jdqn.replay import priorities, rules, window


class Rows(flax.struct.PyTreeNode):
    """A ring of `T` rows for `E` environments, each row written once."""

    frame: chex.Array  # [T, E, W], flat: the newest frame only; W is `kernels.stored_width`
    age: chex.Array  # [T, E] u8: how many earlier rows belong to this stack, 0..S-1
    action: chex.Array  # [T, E] u8 or i32: taken after seeing this row
    reward: chex.Array  # [T, E] f32, raw: arrived with this row
    terminated: chex.Array  # [T, E] bool: no bootstrap through this row
    last: chex.Array  # [T, E] bool: the episode ended at this row
    mask: chex.Array  # [T, E, K] u8: bootstrap weights, drawn once
    # Entries of a frame; those of `frame` beyond them mean nothing.
    frame_entries: int = flax.struct.field(pytree_node=False)


class ReplayState(flax.struct.PyTreeNode):
    """The rows, which learning only reads, and the priorities, which it writes."""

    rows: Rows
    priorities: priorities.Priorities  # a leaf above 0: this row may be drawn
    key: chex.PRNGKey  # of the masks; constant, every use folds in the tick


class Settings(NamedTuple):
    """What is static about a replay."""

    num_rows: int  # T
    num_envs: int  # E
    num_heads: int  # K
    n_step: int  # N
    frame_stack: int  # S
    frame_shape: tuple[int, ...]
    frame_dtype: np.dtype
    action_dtype: np.dtype
    discount: float  # γ of one step
    reward_clip: float  # 0: off
    priority_epsilon: float
    mask_probability: float
    mask_distribution: str
    rule: rules.Rule
    importance_exponent: Callable[[chex.Numeric], chex.Array]  # β at a tick

    def __repr__(self) -> str:
        return f"<settings of a replay, {self.num_rows:,} rows x {self.num_envs} environments>"


class Replay(NamedTuple):
    """The functions of this module with their settings bound; `tick` is never part of the state."""

    init: Callable[[chex.PRNGKey], ReplayState]
    add: Callable[[ReplayState, Timestep, chex.Array, chex.Numeric], ReplayState]
    seal: Callable[[ReplayState, chex.Numeric], ReplayState]
    # Takes `priorities.uniforms`, a row of them for each transition.
    draw: Callable[[ReplayState, chex.Array], priorities.Drawn]
    gather: Callable[[ReplayState, priorities.Drawn, chex.Numeric], Batch]
    sample: Callable[[ReplayState, chex.Array, chex.Numeric], Batch]  # draws and gathers
    update: Callable[[ReplayState, Batch, chex.Array], ReplayState]
    changes_draws: bool  # whether `update` says by what is drawn
    refresh: Callable[[ReplayState, chex.Numeric], ReplayState]  # sorts rank-based priorities
    refresh_period_steps: int  # agent steps between sorts; 0: nothing to sort
    capacity: int  # transitions, after rounding up to whole rows
    num_bytes: int  # of the state

    def __repr__(self) -> str:
        return f"<replay of {self.capacity:,} transitions, {self.num_bytes:,} bytes>"


def make_replay(config: Config, spec: EnvSpec) -> Replay:
    """Builds the replay for a configuration and an environment.

    `add` and `update` write in place when their state is donated. Prioritised replay: Schaul et al.
    2015; masks: Osband et al. 2016.

    Raises:
      ConfigError: a ring too short for one transition.
    """
    settings = make_settings(config, spec)
    rule = settings.rule
    functions = (init, add, seal, gather, sample, update, refresh)
    bound = {f.__name__: types.MethodType(f, settings) for f in functions}
    shapes = jax.tree.leaves(jax.eval_shape(bound["init"], jax.random.key(0)))
    return Replay(
        **bound,
        draw=draw,
        changes_draws=rule.redraw is not None,
        refresh_period_steps=rule.refresh_period_steps,
        capacity=settings.num_rows * settings.num_envs,
        # The last leaf is the key.
        num_bytes=sum(math.prod(x.shape) * np.dtype(x.dtype).itemsize for x in shapes[:-1]),
    )


def make_settings(config: Config, spec: EnvSpec) -> Settings:
    """What is static about the replay of a configuration; see `make_replay`."""
    fields = config.replay
    num_envs = config.env.num_envs
    num_rows = math.ceil(fields.capacity / num_envs)
    shortest = fields.n_step + spec.frame_stack
    if num_rows < shortest:
        raise ConfigError(
            f"replay.capacity = {fields.capacity}: a ring of {num_rows} rows of {num_envs} "
            f"environments cannot hold n_step + frame_stack = {shortest} rows; "
            f"use at least {num_envs * shortest}"
        )
    return Settings(
        num_rows=num_rows,
        num_envs=num_envs,
        num_heads=config.network.heads,
        n_step=fields.n_step,
        frame_stack=spec.frame_stack,
        frame_shape=spec.frame_shape,
        frame_dtype=spec.frame_dtype,
        action_dtype=np.dtype(np.uint8 if spec.num_actions <= 256 else np.int32),
        discount=config.agent.discount,
        reward_clip=config.agent.reward_clip,
        priority_epsilon=fields.priority_epsilon,
        mask_probability=fields.mask_probability,
        mask_distribution=fields.mask_distribution,
        rule=rules.make_rule(config),
        importance_exponent=functools.partial(clock.importance_exponent, config),
    )


def init(settings: Settings, key: chex.PRNGKey) -> ReplayState:
    """An empty ring; `key` draws the bootstrap masks."""
    ring = (settings.num_rows, settings.num_envs)
    entries = math.prod(settings.frame_shape)
    rows = Rows(
        frame=jnp.zeros((*ring, kernels.stored_width(entries)), settings.frame_dtype),
        age=jnp.zeros(ring, jnp.uint8),
        action=jnp.zeros(ring, settings.action_dtype),
        reward=jnp.zeros(ring, jnp.float32),
        terminated=jnp.zeros(ring, bool),
        last=jnp.ones(ring, bool),  # no row opens before N real ones followed it
        mask=jnp.zeros((*ring, settings.num_heads), jnp.uint8),
        frame_entries=entries,
    )
    return ReplayState(rows, settings.rule.init(*ring), key)


def add(
    settings: Settings,
    state: ReplayState,
    timestep: Timestep,
    action: chex.Array,
    tick: chex.Numeric,
) -> ReplayState:
    """Writes the row of a tick, with actions `[E]`, and says which rows may now be drawn."""
    mask = draw_mask(settings, jax.random.fold_in(state.key, tick))
    return write(settings, state, timestep, action, mask, tick)


def write(
    settings: Settings,
    state: ReplayState,
    timestep: Timestep,
    action: chex.Array,
    mask: chex.Array,
    tick: chex.Numeric,
) -> ReplayState:
    """The same with the masks `[E, K]` drawn."""
    num_envs = settings.num_envs
    chex.assert_shape(timestep.frame, (num_envs, *settings.frame_shape))
    chex.assert_shape([timestep.reward, timestep.first, action], (num_envs,))
    row = jnp.asarray(tick) % settings.num_rows
    old = state.rows
    previous_age = old.age[(row - 1) % settings.num_rows].astype(jnp.int32)
    age = jnp.where(timestep.first, 0, jnp.minimum(previous_age + 1, settings.frame_stack - 1))
    frame = timestep.frame.reshape(num_envs, -1)
    padding = old.frame.shape[-1] - old.frame_entries
    rows = old.replace(
        frame=old.frame.at[row].set(jnp.pad(frame, ((0, 0), (0, padding)))),
        age=old.age.at[row].set(age.astype(jnp.uint8)),
        action=old.action.at[row].set(action.astype(settings.action_dtype)),
        reward=old.reward.at[row].set(timestep.reward),
        terminated=old.terminated.at[row].set(timestep.terminated),
        last=old.last.at[row].set(timestep.last),
        mask=old.mask.at[row].set(mask),
    )
    return state.replace(rows=rows, priorities=_open_and_close(settings, rows, state, row))


def seal(settings: Settings, state: ReplayState, tick: chex.Numeric) -> ReplayState:
    """Ends the episodes at the row of a tick, the newest: no return reaches beyond it.

    For environments that start anew there, in the middle of an episode.
    """
    row = jnp.asarray(tick) % settings.num_rows
    return state.replace(rows=state.rows.replace(last=state.rows.last.at[row].set(True)))


def _open_and_close(
    settings: Settings, rows: Rows, state: ReplayState, row: chex.Array
) -> priorities.Priorities:
    """Closes what was overwritten or lost a frame of its stack, opens what has N successors."""
    num_rows = settings.num_rows
    opening = (row - settings.n_step) % num_rows
    may_open = ~rows.last[opening] & jnp.any(rows.mask[opening] > 0, axis=-1)
    closed = jnp.zeros((settings.num_envs,), jnp.float32)
    leaves, entered = settings.rule.enter(state.priorities, opening, may_open)
    return priorities.set_rows(
        leaves,
        jnp.stack([row, opening, (row + settings.frame_stack - 1) % num_rows]),
        jnp.stack([closed, jnp.where(may_open, entered, 0.0), closed]),
    )


def draw(state: ReplayState, uniform: chex.Array) -> priorities.Drawn:
    """Draws `B` rows by the leaves; `uniform`, `[B, LEVELS]` f32, is `priorities.uniforms`."""
    return priorities.draw(state.priorities, uniform)


def sample(
    settings: Settings, state: ReplayState, uniform: chex.Array, tick: chex.Numeric
) -> Batch:
    """Draws a batch by the leaves; `uniform`, `[B, LEVELS]` f32, is `priorities.uniforms`."""
    return gather(settings, state, draw(state, uniform), tick)


def gather(
    settings: Settings, state: ReplayState, drawn: priorities.Drawn, tick: chex.Numeric
) -> Batch:
    """The transitions that begin at `B` rows drawn; their weights have β at a tick."""
    rows = state.rows
    num_rows = settings.num_rows
    row, env, leaf = drawn
    following = (row[:, None] + jnp.arange(1, settings.n_step + 1)[None, :]) % num_rows  # [B, N]
    reward = rows.reward[following, env[:, None]]
    if settings.reward_clip:
        reward = jnp.clip(reward, -settings.reward_clip, settings.reward_clip)
    returns, discount, length = jax.vmap(window.n_step_return, in_axes=(0, 0, 0, None))(
        reward,
        rows.terminated[following, env[:, None]],
        rows.last[following, env[:, None]],
        settings.discount,
    )
    stack_at = functools.partial(
        window.gather_stack,
        rows.frame,
        rows.age,
        frame_stack=settings.frame_stack,
        frame_shape=settings.frame_shape,
    )
    return Batch(
        obs=stack_at(row, env),
        action=rows.action[row, env].astype(jnp.int32),
        reward=returns,
        discount=discount,
        next_obs=stack_at((row + length) % num_rows, env),
        mask=rows.mask[row, env],
        weight=importance_weight(leaf, smallest(leaf), settings.importance_exponent(tick)),
        row=row,
        env=env,
    )


def update(
    settings: Settings, state: ReplayState, batch: Batch, priority: chex.Array
) -> ReplayState:
    """Writes the leaves of a batch from its |TD errors| `[B]`; uniform replay stays as it is."""
    if settings.rule.redraw is None:
        return state
    # A weight of 0: nothing was drawable, the row drawn is closed and stays so.
    is_open = batch.weight > 0
    magnitude = jnp.minimum(priority + settings.priority_epsilon, settings.rule.most)
    leaves, redrawn = settings.rule.redraw(state.priorities, batch.row, batch.env, magnitude)
    leaf = jnp.where(is_open, redrawn, 0.0)
    leaves = priorities.set_leaves(leaves, batch.row, batch.env, leaf)
    largest = jnp.max(jnp.where(is_open, magnitude, 0.0))
    max_priority = jnp.maximum(leaves.max_priority, largest)
    return state.replace(priorities=leaves.replace(max_priority=max_priority))


def refresh(settings: Settings, state: ReplayState, tick: chex.Numeric) -> ReplayState:
    """Computes all leaves anew after the add of a tick, where the rule asks for it."""
    if settings.rule.refresh is None:
        return state
    row = jnp.asarray(tick) % settings.num_rows
    leaves = settings.rule.refresh(state.priorities, row, settings.num_rows)
    return state.replace(priorities=leaves)


def smallest(leaf: chex.Array) -> chex.Array:
    """The least of the leaves `[B]` that are above 0; inf: none."""
    return jnp.min(jnp.where(leaf > 0, leaf, jnp.inf))


def importance_weight(leaf: chex.Array, least: chex.Array, beta: chex.Array) -> chex.Array:
    """Weights `(n·P(i))^-β` over the batch maximum: n and the total cancel. 0 for a leaf of 0."""
    return jnp.where(leaf > 0, (leaf / least) ** -beta, 0.0)


def draw_mask(settings: Settings, key: chex.PRNGKey) -> chex.Array:
    """Bootstrap masks `[E, K]` u8: Bernoulli, or counts of the full bootstrap, Poisson(1)."""
    shape = (settings.num_envs, settings.num_heads)
    if settings.mask_distribution == "poisson":
        return jax.random.poisson(key, 1.0, shape).astype(jnp.uint8)
    if settings.mask_probability == 1.0:
        return jnp.ones(shape, jnp.uint8)
    return jax.random.bernoulli(key, settings.mask_probability, shape).astype(jnp.uint8)
