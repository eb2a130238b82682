"""What is asked of a configuration once the environment is known, before anything is written."""

from typing import Any

import jax
import jax.numpy as jnp

from jdqn import learning
from jdqn.config import Config, ConfigError, default_preset, is_own, modules
from jdqn.learning import exploration, losses
from jdqn.records import Batch, EnvSpec
from jdqn.replay import Replay

# The others are for vectors.
PRESETS_FOR_IMAGES = ("minatar", "pong")


def check(config: Config, spec: EnvSpec, replay: Replay) -> None:
    """Raises ConfigError where a preset is not for such observations, and as `check_own`."""
    preset = config.env.preset
    for_images = preset in PRESETS_FOR_IMAGES
    shows_images = len(spec.frame_shape) > 1
    asked_for = default_preset(config.env.name) or "none"
    if preset not in ("auto", "none", asked_for) and for_images != shows_images:
        kinds = ("vectors", "images")
        raise ConfigError(
            f"env.preset = {preset}: it is for {kinds[for_images]}, and {config.env.name} shows "
            f"{kinds[shows_images]}, of shape {list(spec.frame_shape)}; it asks for --preset "
            f"{asked_for}"
        )
    check_own(config, spec, replay)


def check_own(config: Config, spec: EnvSpec, replay: Replay) -> None:
    """Asks what functions of the user's return, by shapes alone.

    Raises:
      ConfigError: one is not there, fails or returns something else, a sentence with the field.
    """
    if is_own(config.agent.loss):
        _check_loss(config.agent.loss)
    if is_own(config.agent.behaviour):
        _check_behaviour(config, spec)
    if is_own(config.network.value_head):
        _check_value_head(config, spec, replay)


def _check_loss(name: str) -> None:
    field = f'agent.loss = "{name}"'
    with modules.named(field):
        cost = jax.eval_shape(losses.make_penalty(name), _floats())
    _expect(field, "the cost of one TD error", cost, ())


def _check_behaviour(config: Config, spec: EnvSpec) -> None:
    name = config.agent.behaviour
    field = f'agent.behaviour = "{name}"'
    num_envs = config.env.num_envs
    q = _floats(num_envs, config.network.heads, spec.num_actions)
    head = jax.ShapeDtypeStruct((num_envs,), jnp.int32)
    with modules.named(field):
        behaviour = exploration.make_behaviour(name)
        score = jax.eval_shape(behaviour.score, jax.random.key(0), q, head)
    _expect(field, "scores [E, A]", score, (num_envs, spec.num_actions))


def _check_value_head(config: Config, spec: EnvSpec, replay: Replay) -> None:
    """Makes an agent of it, which answers and learns."""
    field = f'network.value_head = "{config.network.value_head}"'
    head = learning.make_value_head(config)

    def loss(calls: learning.Calls, batch: Batch) -> learning.Loss:
        each = head.loss(calls, batch)
        if not isinstance(each, learning.Loss):
            raise ConfigError(f"{field}: its loss returned {_shown(each)}, must be a Loss")
        for name, leaf in each._asdict().items():
            _expect(field, f"{name} [B, K]", leaf, batch.mask.shape)
        return each

    with modules.named(field):
        agent = learning.make_agent(config, spec, replay, head._replace(loss=loss))
        state, _ = jax.eval_shape(agent.init, jax.random.key(0))
        obs = jax.ShapeDtypeStruct((2, spec.frame_stack, *spec.frame_shape), spec.frame_dtype)
        answer = jax.eval_shape(agent.output, state, obs)
        _expect(field, "Q [B, K, A]", answer.q, (2, config.network.heads, spec.num_actions))
        replay_state = jax.eval_shape(replay.init, jax.random.key(0))
        jax.eval_shape(agent.learn, state, replay_state, 0)


def _floats(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _expect(field: str, what: str, found: Any, shape: tuple[int, ...]) -> None:
    """Raises ConfigError where something is not an array of floats of a shape."""
    is_array = hasattr(found, "shape") and hasattr(found, "dtype")
    if not is_array or found.shape != shape or not jnp.issubdtype(found.dtype, jnp.floating):
        raise ConfigError(
            f"{field}: returned {_shown(found)} for {what}, must be floats of shape {list(shape)}"
        )


def _shown(found: Any) -> str:
    """What something is, in a few words."""
    if hasattr(found, "shape") and hasattr(found, "dtype"):
        return f"{found.dtype} of shape {list(found.shape)}"
    return f"something of type {type(found).__name__}"
