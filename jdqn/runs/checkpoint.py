"""Checkpoints of the small state through Orbax; nothing is pickled."""

import pathlib

import chex
import jax
import orbax.checkpoint as ocp

from jdqn.config import ConfigError
from jdqn.learning import AgentState


def _manager(run_dir: pathlib.Path, keep: int | None = None) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False)
    return ocp.CheckpointManager((run_dir / "checkpoints").resolve(), options=options)


def _parts(state: chex.ArrayTree) -> chex.ArrayTree:
    """The fields of an agent's state; without a network state that it has not got.

    So that checkpoints from before there was such a thing load.
    """
    if not isinstance(state, AgentState):
        return state
    return {name: value for name, value in vars(state).items() if not _is_empty(value)}


def _is_empty(value: object) -> bool:
    return isinstance(value, dict) and not value


def _storable(tree: chex.ArrayTree) -> chex.ArrayTree:
    """Typed PRNG keys as plain integers."""

    def plain(leaf: chex.Array) -> chex.Array:
        is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return jax.random.key_data(leaf) if is_key else leaf

    return jax.tree.map(plain, tree)


def save(run_dir: pathlib.Path, steps: int, state: chex.ArrayTree, *, keep: int) -> None:
    """Writes `RUN/checkpoints/STEPS`, complete or not at all, and keeps the newest `keep`."""
    with _manager(run_dir, keep) as manager:
        if steps not in manager.all_steps():
            manager.save(steps, args=ocp.args.StandardSave(_storable(_parts(state))))


def restore(run_dir: pathlib.Path, like: chex.ArrayTree) -> tuple[int, chex.ArrayTree]:
    """Reads the newest checkpoint of a run.

    Args:
      run_dir: the run directory.
      like: a tree of the same structure, shapes and dtypes, such as an initial state.

    Returns:
      Agent steps at the checkpoint, and the state.

    Raises:
      ConfigError: no checkpoint there.
    """
    if not (run_dir / "checkpoints").is_dir():
        raise ConfigError(f"{run_dir} has no checkpoint: expected a run directory of jdqn.train")
    with _manager(run_dir) as manager:
        steps = manager.latest_step()
        if steps is None:
            raise ConfigError(f"{run_dir} has no finished checkpoint yet")
        parts = _parts(like)
        abstract = jax.eval_shape(_storable, parts)
        plain = manager.restore(steps, args=ocp.args.StandardRestore(abstract))

    def keyed(leaf: chex.Array, original: chex.Array) -> chex.Array:
        is_key = jax.dtypes.issubdtype(original.dtype, jax.dtypes.prng_key)
        return jax.random.wrap_key_data(leaf) if is_key else leaf

    restored = jax.tree.map(keyed, plain, parts)
    return steps, like.replace(**restored) if isinstance(like, AgentState) else restored
