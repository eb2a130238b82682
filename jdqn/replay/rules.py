"""By what rows are drawn (Schaul et al. 2015): uniformly, by |TD error|, or by its rank.

A rule is four functions of the priorities, with one signature each. It says what a leaf is; that a
leaf is written, and when, is the ring's business.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jdqn.config import Config
from jdqn.replay import priorities
from jdqn.replay.priorities import Priorities

# One early spike must not rule for ever, for a new row gets the highest so far: DQN Zoo's cap on
# the priorities of its Rainbow, of new rows and of rows drawn alike. Ranks need none.
MAX_PRIORITY = 100.0
# What a rule says of leaves: the priorities, with what the rule remembers, and the leaves' values.
Leaves = tuple[Priorities, chex.Array]


class Rule(NamedTuple):
    """How leaves come from |TD errors|."""

    # (number of rows T, of environments E) -> priorities with all leaves 0
    init: Callable[[int, int], Priorities]
    # (priorities, ring row [], which open [E] bool) -> leaves [E] f32 of rows that enter
    enter: Callable[[Priorities, chex.Array, chex.Array], Leaves]
    # (priorities, rows [B], environments [B], |TD errors| + ε [B]) -> leaves [B] f32 of rows drawn;
    # None: they stay as they are
    redraw: Callable[[Priorities, chex.Array, chex.Array, chex.Array], Leaves] | None
    # (priorities, newest ring row [], T) -> all leaves anew, once in `refresh_period_steps`; None:
    # never
    refresh: Callable[[Priorities, chex.Array, int], Priorities] | None
    refresh_period_steps: int
    most: float = math.inf  # that a |TD error| counts for


def make_rule(config: Config) -> Rule:
    """The rule of a configuration: `prioritization`, and exponent 0 for uniform replay."""
    fields = config.replay
    if fields.prioritization == "rank":
        period_steps = fields.rank_refresh_updates * config.train.update_period_steps
        return by_rank(fields.priority_exponent, min(period_steps, 2**31 - 1))
    return proportional(fields.priority_exponent)


def proportional(exponent: float) -> Rule:
    """Leaves (|TD error| + ε)^α; with α = 0 all leaves are 1 and never change."""

    def enter(state: Priorities, row: chex.Array, opens: chex.Array) -> Leaves:
        return state, state.max_priority**exponent

    def redraw(
        state: Priorities, row: chex.Array, env: chex.Array, magnitude: chex.Array
    ) -> Leaves:
        return state, magnitude**exponent

    return Rule(priorities.init, enter, redraw if exponent else None, None, 0, MAX_PRIORITY)


def by_rank(exponent: float, refresh_period_steps: int) -> Rule:
    """Leaves rank^-α, rank 1 for the largest |TD error|; exact after each refresh."""

    def init(num_rows: int, num_envs: int) -> Priorities:
        state = priorities.init(num_rows, num_envs)
        ranks = priorities.Ranks(
            magnitude=jnp.zeros_like(state.leaves),
            sorted=jnp.full((state.leaves.size,), jnp.inf),
            added=jnp.zeros((), jnp.int32),
        )
        return state.replace(ranks=ranks)

    def enter(state: Priorities, row: chex.Array, opens: chex.Array) -> Leaves:
        state, rank = rank_of_new(state, row, opens, state.max_priority)
        return state, rank.astype(jnp.float32) ** -exponent

    def redraw(
        state: Priorities, row: chex.Array, env: chex.Array, magnitude: chex.Array
    ) -> Leaves:
        state, rank = rank_of(state, row, env, magnitude)
        return state, rank.astype(jnp.float32) ** -exponent

    sort = functools.partial(refresh, exponent=exponent)
    return Rule(init, enter, redraw, sort, refresh_period_steps)


def rank_of_new(
    state: Priorities, row: chex.Array, opens: chex.Array, magnitude: chex.Array
) -> tuple[Priorities, chex.Array]:
    """Remembers a ring row that opens; the j-th leaf opened since the last refresh has rank j.

    With rank 1 for all of them, new rows would hold nearly all of the mass.

    Args:
      state: rank-based priorities.
      row: `[]` i32 ring row.
      opens: `[E]` bool, which of its leaves open.
      magnitude: `[]` f32, taken for their |TD error| until they are replayed.

    Returns:
      The priorities and the ranks `[E]` i32, from 1.
    """
    ranks = state.ranks
    assert ranks is not None
    rows_per_block = state.leaves.shape[1]
    rank = ranks.added + jnp.cumsum(opens, dtype=jnp.int32)
    place = (row // rows_per_block, row % rows_per_block)
    ranks = ranks.replace(magnitude=ranks.magnitude.at[place].set(magnitude), added=rank[-1])
    return state.replace(ranks=ranks), jnp.maximum(rank, 1)


def rank_of(
    state: Priorities, row: chex.Array, env: chex.Array, magnitude: chex.Array
) -> tuple[Priorities, chex.Array]:
    """Remembers |TD errors| `[B]`; their ranks `[B]` are those in the last sorted array."""
    ranks = state.ranks
    assert ranks is not None
    rank = 1 + jnp.searchsorted(ranks.sorted, -magnitude, side="left").astype(jnp.int32)
    place = priorities.places(state, row, env)
    remembered = ranks.magnitude.at[place].set(magnitude, mode="drop")
    return state.replace(ranks=ranks.replace(magnitude=remembered)), rank


def refresh(state: Priorities, row: chex.Array, num_rows: int, *, exponent: float) -> Priorities:
    """Sorts the open leaves by |TD error|: leaf = rank^-exponent (Schaul et al. 2015, 3.3).

    Args:
      state: rank-based priorities.
      row: `[]` i32, the newest ring row; of equal |TD errors| the newest ranks first.
      num_rows: T.
      exponent: α.
    """
    ranks = state.ranks
    assert ranks is not None
    size = state.leaves.size
    num_envs = state.leaves.shape[2]
    is_open = state.leaves.reshape(-1) > 0
    key = jnp.where(is_open, -ranks.magnitude.reshape(-1), jnp.inf)
    place = jnp.arange(size)
    age = (row - place // num_envs) % num_rows
    ordered, _, order = jax.lax.sort((key, age, place), num_keys=2)
    ranked = jnp.where(place < jnp.sum(is_open), (1.0 + place) ** -exponent, 0.0)
    leaves = jnp.zeros((size,), jnp.float32).at[order].set(ranked).reshape(state.leaves.shape)
    ranks = ranks.replace(sorted=ordered, added=jnp.zeros((), jnp.int32))
    return state.replace(leaves=leaves, sums=jnp.sum(leaves, axis=(1, 2)), ranks=ranks)
