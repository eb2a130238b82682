"""The replay of several devices: each has some environments, their rows and their priorities.

A batch is stratified: of `B` transitions each of `D` devices draws `B / D` from its own rows, by
its own leaves, so that `P(row) = leaf / (D · total of its device)`. No device reads another's rows.
To its callers it is the replay of one device, with arrays that lie apart: `priorities.Priorities`.
"""

import types
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from jdqn.config import Config
from jdqn.devices import AXIS, SPLIT, WHOLE, placed
from jdqn.records import Batch, EnvSpec, Timestep
from jdqn.replay import priorities, ring
from jdqn.replay.priorities import Drawn, Priorities, Ranks
from jdqn.replay.ring import Replay, ReplayState

OF_LEAVES: Any = PartitionSpec(None, None, AXIS)
OF_ROWS: Any = PartitionSpec(None, AXIS)


class Shards(NamedTuple):
    """What is static about a replay of several devices."""

    mesh: Mesh
    settings: ring.Settings  # of all environments
    part: ring.Settings  # of one device's
    whole: Replay  # of all environments on one device
    specs: Any  # of the state


def specs(config: Config) -> Any:
    """How a replay's state is split: `T` rows stay whole, environments go apart."""
    split: Any = SPLIT
    by_rank = config.replay.prioritization == "rank"
    ranks = Ranks(magnitude=OF_LEAVES, sorted=split, added=split) if by_rank else None
    leaves = Priorities(leaves=OF_LEAVES, sums=split, max_priority=WHOLE, ranks=ranks)
    return ReplayState(rows=OF_ROWS, priorities=leaves, key=WHOLE)


def make_replay(config: Config, spec: EnvSpec, mesh: Mesh) -> Replay:
    """Builds the replay over the devices of a mesh; `Batch.env` is a number within a device.

    Raises:
      ConfigError: a ring too short for one transition.
    """
    settings = ring.make_settings(config, spec)
    part = settings._replace(num_envs=settings.num_envs // mesh.size)
    whole = ring.make_replay(config, spec)
    shards = Shards(mesh, settings, part, whole, specs(config))
    functions: list[Callable] = [init, add, draw, gather, sample, refresh]
    functions += [update] * whole.changes_draws
    bound: Any = {f.__name__: types.MethodType(f, shards) for f in functions}
    return whole._replace(**bound)


def init(shards: Shards, key: chex.PRNGKey) -> ReplayState:
    """An empty ring, which no device ever has as a whole."""
    state = shards.whole.init(key)
    state = state.replace(priorities=regrouped(state.priorities, shards.mesh.size))
    placements = placed(shards.mesh, shards.specs)
    every = jax.tree.map(lambda at, tree: jax.tree.map(lambda _: at, tree), placements, state)
    return jax.lax.with_sharding_constraint(state, every)


def add(
    shards: Shards,
    state: ReplayState,
    timestep: Timestep,
    action: chex.Array,
    tick: chex.Numeric,
) -> ReplayState:
    """Writes the row of a tick; an environment's masks do not depend on the number of devices."""
    mask = ring.draw_mask(shards.settings, jax.random.fold_in(state.key, tick))

    def write(state: ReplayState, timestep: Timestep, *others: Any) -> ReplayState:
        return _apart(ring.write(shards.part, _alone(state), timestep, *others))

    arguments = (state, timestep, action, mask, jnp.asarray(tick))
    in_specs = (shards.specs, SPLIT, SPLIT, SPLIT, WHOLE)
    return _on_each(shards, write, in_specs, shards.specs)(*arguments)


def draw(shards: Shards, state: ReplayState, uniform: chex.Array) -> Drawn:
    """Draws `B / D` rows on each device; `uniform` is `priorities.uniforms`."""
    return _on_each(shards, ring.draw, (shards.specs, SPLIT), SPLIT)(state, uniform)


def gather(shards: Shards, state: ReplayState, drawn: Drawn, tick: chex.Numeric) -> Batch:
    """The transitions that begin at rows drawn; weights are over the maximum of all devices."""

    def gather(state: ReplayState, drawn: Drawn, tick: chex.Array) -> Batch:
        batch = ring.gather(shards.part, state, drawn, tick)
        probability = drawn.leaf / jnp.sum(state.priorities.sums)  # times D, which cancels
        least = jax.lax.pmin(ring.smallest(probability), AXIS)
        beta = shards.part.importance_exponent(tick)
        return batch._replace(weight=ring.importance_weight(probability, least, beta))

    in_specs = (shards.specs, SPLIT, WHOLE)
    return _on_each(shards, gather, in_specs, SPLIT)(state, drawn, jnp.asarray(tick))


def sample(shards: Shards, state: ReplayState, uniform: chex.Array, tick: chex.Numeric) -> Batch:
    """Draws and gathers a batch of any size, whole on every device."""
    size = len(uniform)
    multiple = -(-size // shards.mesh.size) * shards.mesh.size
    filled = jnp.resize(uniform, (multiple, priorities.LEVELS))
    batch = gather(shards, state, draw(shards, state, filled), tick)
    batch = jax.tree.map(lambda x: x[:size], batch)
    return jax.lax.with_sharding_constraint(batch, placed(shards.mesh, WHOLE))


def update(shards: Shards, state: ReplayState, batch: Batch, priority: chex.Array) -> ReplayState:
    """Writes the leaves of a batch on the devices that drew it."""

    def write(state: ReplayState, batch: Batch, priority: chex.Array) -> ReplayState:
        state = _apart(ring.update(shards.part, _alone(state), batch, priority))
        leaves = state.priorities
        largest = jax.lax.pmax(leaves.max_priority, AXIS)
        return state.replace(priorities=leaves.replace(max_priority=largest))

    return _on_leaves(shards, write, (SPLIT, SPLIT))(state, batch, priority)


def refresh(shards: Shards, state: ReplayState, tick: chex.Numeric) -> ReplayState:
    """Sorts rank-based priorities on each device."""

    def sort(state: ReplayState, tick: chex.Array) -> ReplayState:
        return _apart(ring.refresh(shards.part, _alone(state), tick))

    return _on_leaves(shards, sort, (WHOLE,))(state, jnp.asarray(tick))


def regrouped(leaves: Priorities, num_devices: int) -> Priorities:
    """Priorities of any number of devices, for another number; leaves stay as they are.

    By rank the leaves are those of their old devices until the next sort.
    """
    ranks = leaves.ranks
    if ranks is not None:
        magnitude = jnp.where(leaves.leaves > 0, -ranks.magnitude, jnp.inf)
        parts = magnitude.reshape(*magnitude.shape[:2], num_devices, -1)
        ordered = jnp.sort(parts.transpose(2, 0, 1, 3).reshape(num_devices, -1), axis=1)
        added = jnp.zeros((num_devices,) if num_devices > 1 else (), jnp.int32)
        ranks = ranks.replace(sorted=ordered.reshape(-1), added=added)
    return leaves.replace(sums=priorities.block_sums(leaves.leaves, num_devices), ranks=ranks)


def _on_each(shards: Shards, function: Callable, in_specs: tuple, out_specs: Any) -> Callable:
    """A function of each device's part, over all of them."""
    return jax.shard_map(function, mesh=shards.mesh, in_specs=in_specs, out_specs=out_specs)


def _on_leaves(shards: Shards, function: Callable, in_specs: tuple) -> Callable:
    """A function that changes a state's priorities, the rows kept out of it."""
    of_state = shards.specs.replace(rows=None)
    changed = _on_each(shards, function, (of_state, *in_specs), of_state)

    def call(state: ReplayState, *arguments: Any) -> ReplayState:
        return changed(state.replace(rows=None), *arguments).replace(rows=state.rows)

    return call


def _alone(state: ReplayState) -> ReplayState:
    """A device's part in the form of one device, where `added` is a scalar."""
    return _with_added(state, lambda added: added[0])


def _apart(state: ReplayState) -> ReplayState:
    """The other way."""
    return _with_added(state, lambda added: added[None])


def _with_added(state: ReplayState, function: Callable) -> ReplayState:
    leaves = state.priorities
    if leaves.ranks is None:
        return state
    ranks = leaves.ranks.replace(added=function(leaves.ranks.added))
    return state.replace(priorities=leaves.replace(ranks=ranks))
