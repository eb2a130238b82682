"""Environments written in JAX: pure functions that the fused loop compiles."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jdqn.config.schema import Env
from jdqn.envs import jax_names, jax_protocol
from jdqn.envs.turns import Turns
from jdqn.records import EnvSpec, Timestep


class JaxEnvState(flax.struct.PyTreeNode):
    """`E` environments."""

    inner: Any  # states, leaves [E, ...]
    ended: chex.Array  # [E] bool: the next step resets
    length: chex.Array  # [E] i32, steps of this episode
    key: chex.PRNGKey  # constant; every use folds in the tick
    drawn: Any  # constant: the parameters that belong to the seed of the run; None: it draws none


class JaxEnv(NamedTuple):
    """Pure functions in the one convention: the step after an end ignores the action."""

    spec: EnvSpec
    # Of the environments' key and the world's.
    init: Callable[[chex.PRNGKey, chex.PRNGKey], tuple[JaxEnvState, Timestep]]
    step: Callable[[JaxEnvState, chex.Array, chex.Numeric], tuple[JaxEnvState, Timestep]]
    observation: jax.ShapeDtypeStruct  # one, as the environment itself shows it


def env_key(seed: chex.Numeric) -> chex.PRNGKey:
    """The environments' key of a seed, apart from the keys of agent and replay."""
    # Beyond every tick and every split of the same key: fold_in(key, 1) is split(key)[1].
    return jax.random.fold_in(jax.random.key(seed), np.uint32(2**31))


def world_key(run_seed: chex.Numeric) -> chex.PRNGKey:
    """The key of what stays the same through a run and its evaluations, of the run's seed."""
    # Evaluations' actors have the one between.
    return jax.random.fold_in(jax.random.key(run_seed), np.uint32(2**31 + 2))


class _Inner(NamedTuple):
    """An environment, and what is static about `E` of them."""

    env: Any
    params: Any
    spec: EnvSpec
    num_envs: int
    max_episode_steps: int
    types: Any  # of a state


def make(fields: Env, *, num_envs: int) -> JaxEnv:
    """Makes `num_envs` copies of an environment written in JAX.

    gymnax's own `step` resets by itself and returns the next episode's observation after an end;
    here the last observation of an episode is seen, and the step after it resets.

    Raises:
      ConfigError: as `jax_names.find` and `jax_protocol.check`.
    """
    env, params, is_binary = jax_names.find(fields)
    shapes = jax_protocol.check(env, params, fields.name)
    shape = shapes.observation.shape
    keeps_bytes = is_binary or shapes.observation.dtype in (np.bool_, np.uint8)
    spec = EnvSpec(
        frame_shape=tuple(shape) if len(shape) == 3 else (math.prod(shape),),
        frame_dtype=np.dtype(np.uint8 if keeps_bytes else np.float32),
        frame_stack=fields.frame_stack,
        num_actions=shapes.num_actions,
        scale=1.0,
    )
    inner = _Inner(env, params, spec, num_envs, fields.max_episode_steps, shapes.state)
    return JaxEnv(
        spec,
        functools.partial(_init, inner),
        functools.partial(_step, inner),
        shapes.observation,
    )


def _init(inner: _Inner, key: chex.PRNGKey, world: chex.PRNGKey) -> tuple[JaxEnvState, Timestep]:
    reset_key, step_key = jax.random.split(key)
    params = jax_protocol.params_of(inner.env, inner.params, world)
    observation, state = _reset(inner, reset_key, params)
    no = jnp.zeros((inner.num_envs,), bool)
    no_reward = jnp.zeros((inner.num_envs,), jnp.float32)
    timestep = Timestep(_frame(inner, observation), no_reward, no, no, ~no)
    length = jnp.zeros((inner.num_envs,), jnp.int32)
    drawn = None
    if jax_protocol.draws(inner.env):  # python numbers become arrays
        drawn = jax.tree.map(lambda x: jnp.asarray(x, jnp.asarray(x).dtype), params)
    return JaxEnvState(state, ended=no, length=length, key=step_key, drawn=drawn), timestep


def _step(
    inner: _Inner, state: JaxEnvState, action: chex.Array, tick: chex.Numeric
) -> tuple[JaxEnvState, Timestep]:
    step_key, reset_key = jax.random.split(jax.random.fold_in(state.key, tick))
    params = state.drawn if jax_protocol.draws(inner.env) else inner.params
    keys = jax.random.split(step_key, inner.num_envs)

    def step_one(key: chex.PRNGKey, state: Any, action: chex.Array) -> tuple:
        return inner.env.step_env(key, state, action, params)[:4]

    observation, after, reward, terminated = jax.vmap(step_one)(keys, state.inner, action)
    length = jnp.where(state.ended, 0, state.length + 1)
    truncated = length >= inner.max_episode_steps
    if hasattr(inner.env, "is_truncated"):
        truncated |= jax.vmap(lambda state: inner.env.is_truncated(state, params))(after)
    fresh_observation, fresh = _reset(inner, reset_key, params)

    def select(new: chex.Array, old: chex.Array) -> chex.Array:
        ended = state.ended.reshape(-1, *[1] * (new.ndim - 1))
        return jnp.where(ended, new, old)

    played = ~state.ended
    terminated = terminated.astype(bool) & played
    last = (terminated | truncated) & played
    timestep = Timestep(
        frame=_frame(inner, select(fresh_observation, observation)),
        reward=jnp.where(played, reward, 0.0).astype(jnp.float32),
        terminated=terminated,
        last=last,
        first=state.ended,
    )
    inner_state = jax.tree.map(select, fresh, _typed(inner, after))
    return state.replace(inner=inner_state, ended=last, length=length), timestep


def _reset(inner: _Inner, key: chex.PRNGKey, params: Any) -> tuple[chex.Array, Any]:
    keys = jax.random.split(key, inner.num_envs)
    observation, state = jax.vmap(lambda key: inner.env.reset_env(key, params))(keys)
    return observation, _typed(inner, state)


def _typed(inner: _Inner, state: Any) -> Any:
    return jax.tree.map(lambda x, like: jnp.asarray(x, like.dtype), state, inner.types)


def _frame(inner: _Inner, observation: chex.Array) -> chex.Array:
    shape = (inner.num_envs, *inner.spec.frame_shape)
    return observation.reshape(shape).astype(inner.spec.frame_dtype)


@functools.lru_cache
def _compiled(fields: Env, num_envs: int) -> JaxEnv:
    """The environment with its functions jitted, once for all evaluations of a run."""
    env = make(fields, num_envs=num_envs)
    return env._replace(init=jax.jit(env.init), step=jax.jit(env.step))


class HostEnv:
    """A JAX-native environment behind the vector protocol, for the host loop.

    What an environment draws for a run belongs to `run_seed`, all else to `seed`.
    """

    def __init__(self, fields: Env, *, num_envs: int, seed: int, run_seed: int):
        self._env = _compiled(fields, num_envs)
        self.spec = self._env.spec
        self.observation = self._env.observation
        self._keys = (env_key(seed), world_key(run_seed))
        self._turns = Turns(num_envs, self.spec.num_actions)
        self._tick = 0

    def reset(self) -> Timestep:
        """Starts every environment."""
        self._state, timestep = self._env.init(*self._keys)
        self._turns.start()
        return timestep

    def send(self, action: np.ndarray) -> None:
        """Dispatches the step."""
        action = self._turns.send(action)
        self._state, self._timestep = self._env.step(self._state, action, self._tick)
        self._tick += 1

    def recv(self) -> Timestep:
        """The timestep, on the device."""
        self._turns.recv()
        return self._timestep

    def close(self) -> None:
        """Nothing to free."""

    def save(self) -> dict[str, np.ndarray] | None:
        """The state, as numbered leaves, and the tick."""
        leaves = jax.tree.leaves(self._state.replace(key=None))
        named = {f"leaf_{i}": np.asarray(_plain(leaf)) for i, leaf in enumerate(leaves)}
        return {**named, "tick": np.asarray(self._tick)}

    def restore(self, saved: Mapping[str, np.ndarray], timestep: Timestep) -> bool:
        """Goes to a saved state."""
        state, _ = self._env.init(*self._keys)
        leaves, structure = jax.tree.flatten(state.replace(key=None))
        plain = [_plain(leaf) for leaf in leaves]
        arrays = [saved.get(f"leaf_{i}") for i in range(len(leaves))]
        same = [
            array is not None and (array.shape, array.dtype) == (like.shape, like.dtype)
            for array, like in zip(arrays, plain, strict=True)
        ]
        if not all(same) or "tick" not in saved:
            return False
        restored = [
            jax.random.wrap_key_data(jnp.array(array)) if _is_key(leaf) else jnp.array(array)
            for array, leaf in zip(arrays, leaves, strict=True)
        ]
        self._state = jax.tree.unflatten(structure, restored).replace(key=state.key)
        self._tick = int(saved["tick"])
        self._turns.start()
        return True


def _is_key(leaf: chex.Array) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(leaf: chex.Array) -> chex.Array:
    """An array, or the numbers of a key."""
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf
