"""Environments written in JAX: pure functions that the fused loop compiles."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jdqn.config import ConfigError, suggest
from jdqn.config.schema import Env
from jdqn.envs import chain
from jdqn.records import EnvSpec, Timestep

# Prefix of a name here, suffix of the name in gymnax.
FAMILIES = {"minatar": "-MinAtar", "bsuite": "-bsuite", "gymnax": ""}
# Observations of zeros and ones, kept as u8.
BINARY = ("-MinAtar", "Catch-bsuite", "DeepSea-bsuite")


class JaxEnvState(flax.struct.PyTreeNode):
    """`E` environments."""

    inner: Any  # gymnax states, leaves [E, ...]
    ended: chex.Array  # [E] bool: the next step resets
    length: chex.Array  # [E] i32, steps of this episode
    key: chex.PRNGKey  # constant; every use folds in the tick


class JaxEnv(NamedTuple):
    """Pure functions in the one convention: the step after an end ignores the action."""

    spec: EnvSpec
    init: Callable[[chex.PRNGKey], tuple[JaxEnvState, Timestep]]
    step: Callable[[JaxEnvState, chex.Array, chex.Numeric], tuple[JaxEnvState, Timestep]]


def env_key(seed: chex.Numeric) -> chex.PRNGKey:
    """The environments' key of a seed, apart from the keys of agent and replay."""
    # Beyond every tick and every split of the same key: fold_in(key, 1) is split(key)[1].
    return jax.random.fold_in(jax.random.key(seed), np.uint32(2**31))


def is_native(name: str) -> bool:
    """Whether a name has the prefix of a JAX-native family."""
    return name.partition("/")[0] in {*FAMILIES, OWN_FAMILY} and "/" in name


class _Inner(NamedTuple):
    """A gymnax environment, or one with its functions, and what is static about `E` of them."""

    env: Any
    params: Any
    spec: EnvSpec
    num_envs: int
    max_episode_steps: int
    # Of a state: resets and steps of gymnax differ in the types of some numbers; a scan wants one.
    types: Any


def make(fields: Env, *, num_envs: int) -> JaxEnv:
    """Makes `num_envs` copies of a gymnax environment, or of our chain.

    gymnax's own `step` resets by itself and returns the next episode's observation after an end;
    here the last observation of an episode is seen, and the step after it resets.

    Raises:
      ConfigError: gymnax is missing, the name is unknown, the actions are not discrete.
    """
    if fields.name.startswith(f"{OWN_FAMILY}/") and fields.name not in OWN:
        raise ConfigError(f'unknown environment "{fields.name}"{suggest(fields.name, OWN)}')
    env, params, is_binary = OWN.get(fields.name, _gymnax)(fields)

    def first_step(key: chex.PRNGKey) -> tuple[chex.Array, Any]:
        observation, state = env.reset_env(key, params)
        return observation, env.step_env(key, state, 0, params)[1]

    observation, types = jax.eval_shape(first_step, jax.random.key(0))
    shape = observation.shape
    spec = EnvSpec(
        frame_shape=tuple(shape) if len(shape) == 3 else (int(np.prod(shape)),),
        frame_dtype=np.dtype(np.uint8 if is_binary else np.float32),
        frame_stack=fields.frame_stack,
        num_actions=int(env.action_space(params).n),
        scale=1.0,
    )
    inner = _Inner(env, params, spec, num_envs, fields.max_episode_steps, types)
    return JaxEnv(spec, functools.partial(_init, inner), functools.partial(_step, inner))


def _init(inner: _Inner, key: chex.PRNGKey) -> tuple[JaxEnvState, Timestep]:
    reset_key, step_key = jax.random.split(key)
    observation, state = _reset(inner, reset_key)
    no = jnp.zeros((inner.num_envs,), bool)
    no_reward = jnp.zeros((inner.num_envs,), jnp.float32)
    timestep = Timestep(_frame(inner, observation), no_reward, no, no, ~no)
    length = jnp.zeros((inner.num_envs,), jnp.int32)
    return JaxEnvState(inner=state, ended=no, length=length, key=step_key), timestep


def _step(
    inner: _Inner, state: JaxEnvState, action: chex.Array, tick: chex.Numeric
) -> tuple[JaxEnvState, Timestep]:
    step_key, reset_key = jax.random.split(jax.random.fold_in(state.key, tick))
    keys = jax.random.split(step_key, inner.num_envs)
    stepped = jax.vmap(inner.env.step_env, in_axes=(0, 0, 0, None))
    observation, after, reward, terminated, _ = stepped(keys, state.inner, action, inner.params)
    length = jnp.where(state.ended, 0, state.length + 1)
    truncated = jax.vmap(inner.env.is_truncated, in_axes=(0, None))(after, inner.params)
    truncated |= length >= inner.max_episode_steps
    fresh_observation, fresh = _reset(inner, reset_key)

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
    return JaxEnvState(inner=inner_state, ended=last, length=length, key=state.key), timestep


def _reset(inner: _Inner, key: chex.PRNGKey) -> tuple[chex.Array, Any]:
    keys = jax.random.split(key, inner.num_envs)
    observation, state = jax.vmap(inner.env.reset_env, in_axes=(0, None))(keys, inner.params)
    return observation, _typed(inner, state)


def _typed(inner: _Inner, state: Any) -> Any:
    return jax.tree.map(lambda x, like: jnp.asarray(x, like.dtype), state, inner.types)


def _frame(inner: _Inner, observation: chex.Array) -> chex.Array:
    shape = (inner.num_envs, *inner.spec.frame_shape)
    return observation.reshape(shape).astype(inner.spec.frame_dtype)


def _chain(fields: Env) -> tuple[Any, Any, bool]:
    """Our own environment, its parameters and whether observations are zeros and ones."""
    if fields.size < 3:
        raise ConfigError(f"env.size = {fields.size}: jdqn/Chain needs at least 3 states")
    return chain.Chain(fields.size), None, True


def _gymnax(fields: Env) -> tuple[Any, Any, bool]:
    """A gymnax environment, its parameters and whether observations are zeros and ones."""
    try:
        import gymnax
    except ImportError:
        raise ConfigError(
            f'env.name = "{fields.name}": gymnax is not installed; pip install "jdqn[jax-envs]"'
        ) from None
    known = {
        f"{prefix}/{name.removesuffix(suffix)}": name
        for prefix, suffix in FAMILIES.items()
        for name in gymnax.registered_envs
        if name.endswith(suffix)
    }
    family, _, game = fields.name.partition("/")
    full_name = game + FAMILIES.get(family, "")
    if known.get(fields.name) != full_name:
        near = suggest(fields.name, [*known, *OWN])
        raise ConfigError(f'unknown environment "{fields.name}"{near}')
    arguments = {"size": fields.size} if full_name == "DeepSea-bsuite" else {}
    inner, params = gymnax.make(full_name, **arguments)
    if hasattr(params, "deterministic"):
        params = params.replace(deterministic=not fields.stochastic)
    if not hasattr(inner.action_space(params), "n"):
        raise ConfigError(
            f'env.name = "{fields.name}": its action space is not discrete; a Q-network needs '
            "discrete actions"
        )
    return inner, params, full_name.endswith(BINARY)


# Environments of this package, by name; each gets `env`'s fields and returns the same three.
OWN_FAMILY = "jdqn"
OWN = {f"{OWN_FAMILY}/Chain": _chain}


@functools.lru_cache
def _compiled(fields: Env, num_envs: int) -> JaxEnv:
    """The environment with its functions jitted, once for all evaluations of a run."""
    env = make(fields, num_envs=num_envs)
    return env._replace(init=jax.jit(env.init), step=jax.jit(env.step))


class HostEnv:
    """A JAX-native environment behind the vector protocol, for evaluation and the host loop."""

    def __init__(self, fields: Env, *, num_envs: int, seed: int):
        self._env = _compiled(fields, num_envs)
        self.spec = self._env.spec
        self._key = env_key(seed)
        self._tick = 0

    def reset(self) -> Timestep:
        """Starts every environment."""
        self._state, timestep = self._env.init(self._key)
        return timestep

    def send(self, action: np.ndarray) -> None:
        """Dispatches the step."""
        self._state, self._timestep = self._env.step(self._state, action, self._tick)
        self._tick += 1

    def recv(self) -> Timestep:
        """The timestep, on the device."""
        return self._timestep

    def close(self) -> None:
        """Nothing to free."""

    def save(self) -> dict[str, np.ndarray] | None:
        """The state, as numbered leaves, and the tick."""
        leaves = jax.tree.leaves(self._state.replace(key=None))
        named = {f"leaf_{i}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
        return {**named, "tick": np.asarray(self._tick)}

    def restore(self, saved: Mapping[str, np.ndarray], timestep: Timestep) -> bool:
        """Goes to a saved state."""
        state, _ = self._env.init(self._key)
        leaves, structure = jax.tree.flatten(state.replace(key=None))
        arrays = [saved.get(f"leaf_{i}") for i in range(len(leaves))]
        same = [
            array is not None and (array.shape, array.dtype) == (leaf.shape, leaf.dtype)
            for array, leaf in zip(arrays, leaves, strict=True)
        ]
        if not all(same) or "tick" not in saved:
            return False
        restored = jax.tree.unflatten(structure, [jnp.array(array) for array in arrays])
        self._state = restored.replace(key=state.key)
        self._tick = int(saved["tick"])
        return True
