"""One vector protocol for every environment, and the adapters that speak it.

The convention is next-step reset: the step after an end ignores the action and returns the first
observation of a new episode with reward 0 and `first` set.
"""

import os
import re
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from jdqn.config import Config, ConfigError, shown, suggest
from jdqn.config.schema import Env
from jdqn.envs import jax_names
from jdqn.envs.guard import EnvError
from jdqn.envs.jax_names import is_native
from jdqn.envs.jax_native import HostEnv, JaxEnv, env_key, world_key
from jdqn.envs.jax_native import make as _make_native
from jdqn.records import EnvSpec, Timestep

__all__ = [
    "EnvError",
    "VectorEnv",
    "check_name",
    "env_key",
    "episode_limit",
    "first_seed",
    "is_native",
    "make_env",
    "make_native_env",
    "says_no_limit",
    "usable_cores",
    "world_key",
]


SEEDS_APART = 100_000  # of the first environments of two runs with neighbouring seeds


class VectorEnv(Protocol):
    """`E` environments stepped together: `reset` once, then `send` and `recv` by turns.

    Those of `make_env` answer `send` and `recv` out of turn, and actions that are none, with a
    ConfigError.
    """

    spec: EnvSpec

    def reset(self) -> Timestep:
        """Starts every environment and returns first observations; once, before any `send`."""
        ...

    def send(self, action: np.ndarray) -> None:
        """Starts one step with actions `[E]`, whole numbers from 0 to A - 1.

        Returns at once where the environment can. Where an episode has ended (`last`), the action
        is ignored: the step starts the next one.
        """
        ...

    def recv(self) -> Timestep:
        """Waits for the step of the last `send` and returns fresh arrays; once for each `send`."""
        ...

    def close(self) -> None:
        """Frees what the environments hold."""
        ...

    def save(self) -> dict[str, np.ndarray] | None:
        """What `restore` needs to bring these environments back exactly.

        None: they cannot be brought back.
        """
        ...

    def restore(self, saved: Mapping[str, np.ndarray], timestep: Timestep) -> bool:
        """In place of `reset`, in environments freshly made with the same seed.

        Goes to where `saved` was taken, `timestep` being what they showed last; returns whether
        that is exactly where they are.
        """
        ...


def make_env(config: Config, *, num_envs: int | None = None, seed: int | None = None) -> VectorEnv:
    """Makes the environments of a configuration.

    Args:
      config: uses section `env` and `train.seed`.
      num_envs: E; default: `env.num_envs`.
      seed: environment i gets `seed + i`; default: `first_seed` of `train.seed`.

    Returns:
      The environments behind the vector protocol.

    Raises:
      ConfigError: an unknown name, a package that is missing, or spaces that a Q-network cannot
        handle.
    """
    num_envs = config.env.num_envs if num_envs is None else num_envs
    name = config.env.name
    seed = first_seed(name, config.train.seed) if seed is None else seed
    if is_native(name):
        _refuse_gymnasiums(config.env)
        return HostEnv(config.env, num_envs=num_envs, seed=seed, run_seed=config.train.seed)
    from jdqn.envs import atari, gym

    if (registered := _registered(config.env)) is not None:
        return gym.make(registered, config.env, num_envs=num_envs, seed=seed)
    return atari.make(config.env, num_envs=num_envs, seed=seed)


def first_seed(name: str, run_seed: int) -> int:
    """The seed of a run's first environment; with `seed + i` alone runs 0 and 1 would share games.

    Written in JAX it is the run's: keys of neighbouring seeds have nothing in common.
    """
    if is_native(name):
        return run_seed
    return run_seed * SEEDS_APART % (2**31 - SEEDS_APART)


def check_name(fields: Env) -> None:
    """Refuses what `make_env` would not find, and makes no environment but one in JAX.

    Raises:
      ConfigError: an unknown name, or a package that is missing.
    """
    if is_native(fields.name):
        _refuse_gymnasiums(fields)
        jax_names.find(fields)
    else:
        _registered(fields)


def _registered(fields: Env) -> Any:
    """What Gymnasium knows by a name; None: it is a game of Atari's. Raises ConfigError."""
    from jdqn.envs import atari, gym

    if (registered := gym.find(fields.name)) is not None:
        return registered
    _refuse_gymnasiums(fields)
    games = atari.games(fields)
    if fields.name not in games:
        raise ConfigError(_unknown(fields.name, [*games, *gym.known()], fields.backend))
    return None


def make_native_env(config: Config, *, num_envs: int) -> JaxEnv:
    """A JAX-native environment as pure functions, for the fused loop.

    Raises:
      ConfigError: as `make_env`.
    """
    _refuse_gymnasiums(config.env)
    return _make_native(config.env, num_envs=num_envs)


def episode_limit(fields: Env) -> int:
    """Agent steps that cut an episode: `env.max_episode_steps`, or less by Gymnasium's registry."""
    from jdqn.envs import gym

    registered = None if is_native(fields.name) else gym.find(fields.name)
    own = None if registered is None else registered.max_episode_steps
    return min(own or fields.max_episode_steps, fields.max_episode_steps)


def says_no_limit(config: Config) -> str | None:
    """What a run says of an environment that only `env.max_episode_steps` ends.

    None where its episodes have a limit of their own: all that are written in JAX, and Atari,
    whose usual limit this is.
    """
    from jdqn.envs import gym

    name = config.env.name
    registered = None if is_native(name) else gym.find(name)
    if registered is None or registered.max_episode_steps is not None:
        return None
    return (
        f'env.name = "{name}" has no step limit of its own: its episodes are cut at '
        f"env.max_episode_steps = {config.env.max_episode_steps:,}"
    )


def _refuse_gymnasiums(fields: Env) -> None:
    """Raises ConfigError where an environment that is not Gymnasium's is told what is for those."""
    of_gymnasium: dict[str, Any] = {
        "kwargs": {},
        "vectorization": "sync",
        "observation_scale": "none",
    }
    if ":" in fields.name:  # of a user's module, which may take arguments
        del of_gymnasium["kwargs"]
    for field, default in of_gymnasium.items():
        value = getattr(fields, field)
        if value != default:
            raise ConfigError(
                f"env.{field} = {shown(value)}: only of Gymnasium environments, which "
                f"{fields.name} is not"
            )


def usable_cores() -> int:
    """Cores this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _unknown(name: str, known: list[str], backend: str) -> str:
    """What to say of a name that no adapter knows."""
    spelling = re.fullmatch(r"(ALE/)?(\w+?)(NoFrameskip|Deterministic)?(?:-ram)?-v\d+", name)
    if spelling and spelling[2] in known:
        return f'unknown environment "{name}": this Atari game is called "{spelling[2]}" here'
    if spelling and (spelling[1] or spelling[3]):
        near = suggest(spelling[2], [game for game in known if "-v" not in game])
        return f'unknown environment "{name}": {backend} has no such Atari game{near}'
    if near := suggest(name, known):
        return f'unknown environment "{name}"{near}'
    return (
        f'unknown environment "{name}": expected an Atari game such as "Breakout", a Gymnasium id '
        'such as "CartPole-v1", a JAX-native environment such as "minatar/Breakout" or one of your '
        'own, "jax:my_module:make"'
    )
