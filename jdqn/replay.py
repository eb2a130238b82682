"""The immutable replay pytree: `init`, `add`, `sample`, `update`.

A row is what the agent saw and what it then did, written once, when the action is chosen: single
frames, not stacks, and no next observations. The reward and the flags of a row arrived *with* its
frame: they are the result of the action of the row before. Stacks, n-step returns and bootstrap
observations are gathered from neighbouring rows when a batch is drawn.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jdqn import config as config_lib
from jdqn import losses, priorities
from jdqn.config import Config, ConfigError
from jdqn.records import Batch, EnvSpec, Timestep

# One early spike must not rule for ever: DQN Zoo's cap on the priority of a new row.
MAX_PRIORITY = 100.0


class ReplayState(flax.struct.PyTreeNode):
    """A ring of `T` rows for `E` environments."""

    frame: chex.Array  # [T, E, H*W] u8, or [T, E, *frame_shape]: the newest frame only
    age: chex.Array  # [T, E] u8: how many earlier rows belong to this stack, 0..S-1
    action: chex.Array  # [T, E] u8 or i32: taken after seeing this row
    reward: chex.Array  # [T, E] f32, raw: arrived with this row
    terminated: chex.Array  # [T, E] bool: no bootstrap through this row
    last: chex.Array  # [T, E] bool: the episode ended at this row
    mask: chex.Array  # [T, E, K] u8: bootstrap weights, drawn once
    priorities: priorities.Priorities  # a leaf above 0: this row may be drawn
    max_priority: chex.Array  # [] f32: |TD error| + ε of a new row
    key: chex.PRNGKey  # of the masks


class Replay(NamedTuple):
    """Pure functions; `tick` counts steps of all environments and is never part of the state."""

    init: Callable[[chex.PRNGKey], ReplayState]
    add: Callable[[ReplayState, Timestep, chex.Array, chex.Numeric], ReplayState]
    # Takes `priorities.uniforms`, a row of them for each transition.
    sample: Callable[[ReplayState, chex.Array, chex.Numeric], Batch]
    update: Callable[[ReplayState, Batch, chex.Array], ReplayState]
    refresh: Callable[[ReplayState, chex.Numeric], ReplayState]  # sorts rank-based priorities
    capacity: int  # transitions, after rounding up to whole rows
    num_bytes: int  # of the state


def make_replay(config: Config, spec: EnvSpec) -> Replay:
    """Builds the replay for a configuration and an environment.

    Args:
      config: uses `env.num_envs`, `network.heads`, `replay.*`, `agent.discount`,
        `agent.reward_clip`.
      spec: shape and dtype of a frame, and S.

    Returns:
      The pure functions. `add` and `update` write in place when their state is donated.
      Prioritised replay: Schaul et al. 2015; masks: Osband et al. 2016.
    """
    fields = config.replay
    num_envs, num_heads = config.env.num_envs, config.network.heads
    num_rows = math.ceil(fields.capacity / num_envs)
    n_step, num_stack = fields.n_step, spec.frame_stack
    if num_rows < n_step + num_stack:
        raise ConfigError(
            f"replay.capacity = {fields.capacity}: a ring of {num_rows} rows of {num_envs} "
            f"environments cannot hold n_step + frame_stack = {n_step + num_stack} rows; "
            f"use at least {num_envs * (n_step + num_stack)}"
        )
    # 84 × 84 as the two last axes would be padded by three quarters on a TPU.
    is_image = len(spec.frame_shape) == 2
    stored_shape = (math.prod(spec.frame_shape),) if is_image else spec.frame_shape
    action_dtype = jnp.uint8 if spec.num_actions <= 256 else jnp.int32
    alpha, priority_epsilon = fields.priority_exponent, fields.priority_epsilon
    by_rank = fields.prioritization == "rank"

    def leaf_of(priority: chex.Array) -> chex.Array:
        """The leaf of a |TD error| or of a rank."""
        return priority ** (-alpha if by_rank else alpha)

    def init(key: chex.PRNGKey) -> ReplayState:
        ring = (num_rows, num_envs)
        return ReplayState(
            frame=jnp.zeros(ring + stored_shape, spec.frame_dtype),
            age=jnp.zeros(ring, jnp.uint8),
            action=jnp.zeros(ring, action_dtype),
            reward=jnp.zeros(ring, jnp.float32),
            terminated=jnp.zeros(ring, bool),
            last=jnp.ones(ring, bool),  # no row opens before N real ones followed it
            mask=jnp.zeros((*ring, num_heads), jnp.uint8),
            priorities=priorities.init(num_rows, num_envs, by_rank=by_rank),
            max_priority=jnp.ones((), jnp.float32),
            key=key,
        )

    def add(
        state: ReplayState, timestep: Timestep, action: chex.Array, tick: chex.Numeric
    ) -> ReplayState:
        chex.assert_shape(timestep.frame, (num_envs, *spec.frame_shape))
        chex.assert_shape([timestep.reward, timestep.first, action], (num_envs,))
        row = jnp.asarray(tick) % num_rows
        previous_age = state.age[(row - 1) % num_rows].astype(jnp.int32)
        age = jnp.where(timestep.first, 0, jnp.minimum(previous_age + 1, num_stack - 1))
        mask = _draw_mask(jax.random.fold_in(state.key, tick), fields, (num_envs, num_heads))
        state = state.replace(
            frame=state.frame.at[row].set(timestep.frame.reshape(num_envs, *stored_shape)),
            age=state.age.at[row].set(age.astype(jnp.uint8)),
            action=state.action.at[row].set(action.astype(action_dtype)),
            reward=state.reward.at[row].set(timestep.reward),
            terminated=state.terminated.at[row].set(timestep.terminated),
            last=state.last.at[row].set(timestep.last),
            mask=state.mask.at[row].set(mask),
        )
        # Close what was overwritten, open what now has its N successors, and close the row that
        # has just lost the oldest frame of its stack.
        opening = (row - n_step) % num_rows
        may_open = ~state.last[opening] & jnp.any(state.mask[opening] > 0, axis=-1)
        closed = jnp.zeros((num_envs,), jnp.float32)
        leaves, opened = state.priorities, state.max_priority
        if by_rank:
            leaves, rank = priorities.rank_of_new(leaves, opening, may_open, opened)
            opened = rank.astype(jnp.float32)
        leaves = priorities.set_rows(
            leaves,
            jnp.stack([row, opening, (row + num_stack - 1) % num_rows]),
            jnp.stack([closed, jnp.where(may_open, leaf_of(opened), 0.0), closed]),
        )
        return state.replace(priorities=leaves)

    def gather_stack(state: ReplayState, row: chex.Array, env: chex.Array) -> chex.Array:
        """Stacks `[B, S, *frame_shape]` ending at `row`, the episode's first frame repeated."""
        age = state.age[row, env].astype(jnp.int32)
        back = jnp.minimum(jnp.arange(num_stack - 1, -1, -1)[None, :], age[:, None])
        # Indexed per dimension: a flat index into 1M frames exceeds 2^31.
        stack = state.frame[(row[:, None] - back) % num_rows, env[:, None]]
        return stack.reshape(*stack.shape[:2], *spec.frame_shape)

    def sample(state: ReplayState, uniform: chex.Array, tick: chex.Numeric) -> Batch:
        row, env, leaf = priorities.draw(state.priorities, uniform)
        window = (row[:, None] + jnp.arange(1, n_step + 1)[None, :]) % num_rows  # [B, N]
        reward = state.reward[window, env[:, None]]
        if config.agent.reward_clip:
            reward = jnp.clip(reward, -config.agent.reward_clip, config.agent.reward_clip)
        returns, discount, length = jax.vmap(losses.n_step_return, in_axes=(0, 0, 0, None))(
            reward,
            state.terminated[window, env[:, None]],
            state.last[window, env[:, None]],
            config.agent.discount,
        )
        return Batch(
            obs=gather_stack(state, row, env),
            action=state.action[row, env].astype(jnp.int32),
            reward=returns,
            discount=discount,
            next_obs=gather_stack(state, (row + length) % num_rows, env),
            mask=state.mask[row, env],
            weight=_importance_weight(leaf, importance_exponent(config, tick)),
            row=row,
            env=env,
        )

    def update(state: ReplayState, batch: Batch, priority: chex.Array) -> ReplayState:
        if not alpha:
            return state
        # A weight of 0: nothing was drawable, the row drawn is closed and stays so.
        is_open, leaves = batch.weight > 0, state.priorities
        priority = priority + priority_epsilon
        ordered = priority
        if by_rank:
            leaves, rank = priorities.rank_of(leaves, batch.row, batch.env, priority)
            ordered = rank.astype(jnp.float32)
        leaf = jnp.where(is_open, leaf_of(ordered), 0.0)
        leaves = priorities.set_leaves(leaves, batch.row, batch.env, leaf)
        largest = jnp.minimum(jnp.max(jnp.where(is_open, priority, 0.0)), MAX_PRIORITY)
        return state.replace(
            priorities=leaves, max_priority=jnp.maximum(state.max_priority, largest)
        )

    def refresh(state: ReplayState, tick: chex.Numeric) -> ReplayState:
        row = jnp.asarray(tick) % num_rows
        return state.replace(priorities=priorities.refresh(state.priorities, row, num_rows, alpha))

    shapes = jax.tree.leaves(jax.eval_shape(init, jax.random.key(0)))
    num_bytes = sum(math.prod(x.shape) * np.dtype(x.dtype).itemsize for x in shapes[:-1])
    return Replay(init, add, sample, update, refresh, num_rows * num_envs, num_bytes)


def importance_exponent(config: Config, tick: chex.Numeric) -> chex.Array:
    """β at a tick: linear from `importance_exponent` to `importance_exponent_final`, `[]` f32."""
    fields = config.replay
    steps = fields.importance_anneal_steps or config.train.steps
    fraction = jnp.clip(jnp.asarray(tick, jnp.float32) * config.env.num_envs / steps, 0.0, 1.0)
    start = fields.importance_exponent
    return start + fraction * (fields.importance_exponent_final - start)


def _importance_weight(leaf: chex.Array, beta: chex.Array) -> chex.Array:
    """Weights `(n·P(i))^-β` over the batch maximum: n and the total cancel. 0 for a leaf of 0."""
    smallest = jnp.min(jnp.where(leaf > 0, leaf, jnp.inf))
    return jnp.where(leaf > 0, (leaf / smallest) ** -beta, 0.0)


def _draw_mask(key: chex.PRNGKey, fields: config_lib.Replay, shape: tuple[int, int]) -> chex.Array:
    """Bootstrap masks `[E, K]` u8: Bernoulli, or counts of the full bootstrap, Poisson(1)."""
    if fields.mask_distribution == "poisson":
        return jax.random.poisson(key, 1.0, shape).astype(jnp.uint8)
    if fields.mask_probability == 1.0:
        return jnp.ones(shape, jnp.uint8)
    return jax.random.bernoulli(key, fields.mask_probability, shape).astype(jnp.uint8)
