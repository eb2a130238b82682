"""Ticks, steps, calls: the only place that turns one into another, or says what is due.

A *tick* is one step of all environments. *Steps* are agent steps, summed over environments. One
*call* of `learn` makes the updates that are owed since the call before.
"""

import math

import chex
import jax.numpy as jnp

from jdqn.config import Config


def num_ticks(config: Config) -> int:
    """Ticks of a run."""
    return math.ceil(config.train.steps / config.env.num_envs)


def steps_at(config: Config, tick: chex.Numeric) -> chex.Numeric:
    """Agent steps taken once the action of `tick` is chosen."""
    return (tick + 1) * config.env.num_envs


def updates_per_call(config: Config) -> int:
    """Updates that one call of `learn` makes: those owed by one step of all environments."""
    return max(config.env.num_envs // config.train.update_period_steps, 1)


def ticks_per_call(config: Config) -> int:
    """Ticks between calls of `learn`, 1 unless fewer environments than the update period."""
    return max(config.train.update_period_steps // config.env.num_envs, 1)


def schedule_steps(config: Config) -> int:
    """Agent steps over which the schedules of a whole run stretch."""
    return config.train.schedule_steps or config.train.steps


def total_updates(config: Config) -> int:
    """Updates over which the learning rate falls, at least 1."""
    learning_steps = schedule_steps(config) - config.train.learning_starts_steps
    return max(learning_steps // config.train.update_period_steps, 1)


def last_update(config: Config, tick: chex.Numeric) -> chex.Numeric:
    """Number of the last update of the call at or before a tick, had learning begun at once."""
    return (tick + 1) // ticks_per_call(config) * updates_per_call(config)


def learns_at(config: Config, tick: int, empty_steps: int = 0) -> bool:
    """Whether `learn` is called at a tick: past the start of learning, every update period.

    `empty_steps` are the agent steps at which the replay was last empty.
    """
    has_started = steps_at(config, tick) - empty_steps >= config.train.learning_starts_steps
    return bool(has_started) and (tick + 1) % ticks_per_call(config) == 0


def first_learning_tick(config: Config, empty_steps: int = 0) -> int:
    """First of the ticks that the first call of `learn` ends; `empty_steps` as for `learns_at`."""
    stride = ticks_per_call(config)
    starts = math.ceil((empty_steps + config.train.learning_starts_steps) / config.env.num_envs)
    return max(math.ceil(starts / stride) - 1, 0) * stride


def learned_before(config: Config, tick: chex.Numeric) -> chex.Array:
    """Whether the call of `learn` at a tick is not the first."""
    previous = steps_at(config, tick) - ticks_per_call(config) * config.env.num_envs
    return jnp.asarray(previous >= config.train.learning_starts_steps)


def is_due(config: Config, tick: chex.Numeric, period_steps: int) -> chex.Array:
    """Whether this call of `learn` is the first at or after a multiple of a period."""
    steps = steps_at(config, tick)
    previous = steps - ticks_per_call(config) * config.env.num_envs
    return jnp.asarray(steps // period_steps > previous // period_steps)


def has_passed(period_steps: int, steps_before: int, steps: int) -> bool:
    """Whether a multiple of a period lies after `steps_before`, up to `steps`; 0: never."""
    return period_steps > 0 and steps // period_steps > steps_before // period_steps


def next_due_tick(config: Config, ticks: int) -> int:
    """How many ticks have passed when next a log, an evaluation or a checkpoint is due.

    `ticks` have passed so far. Due is the first tick that reaches a multiple of a period.
    """
    fields = config.train
    evaluation = fields.eval_period_steps if fields.eval_episodes else 0
    periods = (fields.log_period_steps, evaluation, fields.checkpoint_period_steps)
    num_envs = config.env.num_envs
    due = [-(-(ticks * num_envs // p + 1) * p // num_envs) for p in periods if p]
    return min(due)


def linear(
    steps: chex.Numeric, *, start: float, end: float, over_steps: int, delay_steps: int = 0
) -> chex.Array:
    """Linear schedule: `start` until `delay_steps`, `end` from `delay_steps + over_steps` on.

    Args:
      steps: agent steps taken so far, any shape.
      start: first value.
      end: last value.
      over_steps: agent steps from `start` to `end`; 0 jumps.
      delay_steps: agent steps before the change begins.

    Returns:
      f32 of the shape of `steps`.
    """
    # Divided in float32: int32 steps stay exact there up to 2^24, the schedule is long over then.
    fraction = (jnp.asarray(steps) - delay_steps).astype(jnp.float32) / max(over_steps, 1)
    return start + jnp.clip(fraction, 0.0, 1.0) * (end - start)


def epsilon(config: Config, tick: chex.Numeric) -> chex.Array:
    """Epsilon of the action of a tick, `[]` f32; it falls from the start of learning on."""
    fields = config.agent
    steps = jnp.asarray(tick) * config.env.num_envs
    falling = linear(
        steps,
        start=fields.epsilon_start,
        end=fields.epsilon_end,
        over_steps=fields.epsilon_decay_steps,
        delay_steps=config.train.learning_starts_steps,
    )
    if not fields.epsilon_off_steps:
        return falling
    return jnp.where(steps < fields.epsilon_off_steps, falling, 0.0)


def importance_exponent(config: Config, tick: chex.Numeric) -> chex.Array:
    """β at a tick, `[]` f32: linear from the first step on (Schaul et al. 2015)."""
    fields = config.replay
    return linear(
        jnp.asarray(tick) * config.env.num_envs,
        start=fields.importance_exponent,
        end=fields.importance_exponent_final,
        over_steps=fields.importance_anneal_steps or schedule_steps(config),
    )
