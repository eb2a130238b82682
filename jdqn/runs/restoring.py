"""From a checkpoint back to what a loop carries, on however many devices."""

import functools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from jdqn import devices
from jdqn.replay import shards
from jdqn.runs import checkpoint, parts, slices
from jdqn.runs.parts import Arrays
from jdqn.runs.store import DamagedError


class Restored(NamedTuple):
    """What a checkpoint gives back to a loop."""

    carries: list[Any]
    learned: list[dict[str, Any]]  # of each seed; empty before learning starts
    held_out: list[chex.Array]  # of each seed; empty before learning starts
    environment: Arrays | None


def restore(
    found: checkpoint.Found,
    empty: list[Any],
    like: Any,
    held_out: Any,
    learned: Any,
    num_devices: int = 1,
) -> Restored:
    """Everything that a loop goes on with.

    Args:
      found: a verified checkpoint.
      empty: carries before the first tick, one for each seed, or one of all, stacked; donated.
      like: the abstract carry of one seed.
      held_out: abstract observations of one seed's diagnostics.
      learned: abstract metrics of one seed's call of `learn`.
      num_devices: of the run that goes on; may differ from the one before.

    Raises:
      DamagedError: it does not fit.
    """
    manifest = found.manifest
    there = manifest["parts"]
    small, _ = checkpoint.split(like)
    before = manifest["config"]["train"].get("num_devices", 1)
    if before != num_devices:
        saved = jax.eval_shape(functools.partial(_regrouped, before), small.replay_state)
        small = small._replace(replay_state=saved)
    num_seeds = manifest["config"]["train"]["num_seeds"]
    # Without rows there is no replay; without a timestep the environment had failed.
    absent = {"timestep"} if manifest["rows"] else {"timestep", "replay_state"}
    seeds = [
        {
            field: checkpoint.part(found, f"{i}/{field}", getattr(small, field))
            for field in small._fields
            if f"{i}/{field}" in there or field not in absent
        }
        for i in range(num_seeds)
    ]
    if not manifest["rows"] and any("replay_state" in fields for fields in seeds):
        raise DamagedError(f"{found.store.folder}: a manifest has priorities without rows")
    for fields in seeds:
        if before != num_devices and "replay_state" in fields:
            fields["replay_state"] = _regrouped(num_devices, fields["replay_state"])
    carries = _fill(empty, seeds)
    if manifest["rows"]:
        rings = [carry.replay_state.rows for carry in carries]
        tick = manifest["tick"]
        rings = slices.restore(found.store, rings, num_seeds, tick, manifest["rows"])
        carries = [
            carry._replace(replay_state=carry.replay_state.replace(rows=ring))
            for carry, ring in zip(carries, rings, strict=True)
        ]
    environment = None
    if "environment" in there:
        most = checkpoint.MAX_ENVIRONMENT_BYTES
        environment = parts.read_any(found.store, there["environment"], most)
    seen = checkpoint.part(found, "held_out", [held_out] * num_seeds if "held_out" in there else [])
    metrics = checkpoint.part(found, "learned", [learned] * num_seeds if "learned" in there else [])
    return Restored(carries, metrics, [jnp.array(array) for array in seen], environment)


def _fill(empty: list[Any], seeds: list[dict[str, Any]]) -> list[Any]:
    """Carries with the fields of each seed in place, on the device; rows stay as they are."""
    on_device = [jax.tree.map(_on_device, fields) for fields in seeds]
    if len(empty) < len(seeds):
        on_device = [jax.tree.map(lambda *x: jnp.stack(x), *on_device)]
    filled = []
    for carry, fields in zip(empty, on_device, strict=True):
        if "replay_state" in fields:
            rows = carry.replay_state.rows
            fields["replay_state"] = fields["replay_state"].replace(rows=rows)
        there = {name: getattr(carry, name) for name in fields}
        there = {name: fields[name] if tree is None else tree for name, tree in there.items()}
        filled.append(carry._replace(**devices.put_like(fields, there)))
    return filled


def _regrouped(num_devices: int, state: Any) -> Any:
    """The replay's state, of whose environments each of so many devices has some."""
    return state.replace(priorities=shards.regrouped(state.priorities, num_devices))


def _on_device(leaf: Any) -> chex.Array:
    """A copy of its own: it will be donated."""
    return leaf if isinstance(leaf, jax.Array) else jnp.array(leaf)
