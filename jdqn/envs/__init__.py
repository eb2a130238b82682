"""One vector protocol for every environment, and the adapters that speak it.

The convention is next-step reset: the step after an end ignores the action and returns the first
observation of a new episode with reward 0 and `first` set.
"""

import difflib
import re
from typing import Protocol

import numpy as np

from jdqn.config import Config, ConfigError
from jdqn.records import EnvSpec, Timestep


class VectorEnv(Protocol):
    """`num_envs` environments stepped together."""

    spec: EnvSpec

    def reset(self) -> Timestep:
        """Starts every environment; called once, before the first `send`."""
        ...

    def send(self, action: np.ndarray) -> None:
        """Starts one step with actions `[E]`; returns at once where the environment can."""
        ...

    def recv(self) -> Timestep:
        """Waits for that step and returns fresh arrays."""
        ...

    def close(self) -> None:
        """Frees what the environments hold."""
        ...


def make_env(config: Config, *, num_envs: int | None = None, seed: int | None = None) -> VectorEnv:
    """Makes the environments of a configuration.

    Args:
      config: uses section `env` and `train.seed`.
      num_envs: E; default: `env.num_envs`.
      seed: environment i gets `seed + i`; default: `train.seed`.

    Returns:
      The environments behind the vector protocol.

    Raises:
      ConfigError: an unknown name, or spaces that a Q-network cannot handle.
    """
    num_envs = config.env.num_envs if num_envs is None else num_envs
    seed = config.train.seed if seed is None else seed
    name = config.env.name
    from jdqn.envs import atari, gym

    if gym.is_known(name):
        return gym.make(name, num_envs=num_envs, seed=seed, frame_stack=config.env.frame_stack)
    games = atari.games()
    if name in games:
        return atari.make(config.env, num_envs=num_envs, seed=seed)
    raise ConfigError(_unknown(name, [*games, *gym.known()]))


def _unknown(name: str, known: list[str]) -> str:
    """What to say of a name that no adapter knows."""
    spelling = re.fullmatch(r"(?:ALE/)?(\w+?)(?:NoFrameskip|Deterministic)?(?:-ram)?-v\d+", name)
    if spelling and spelling[1] in known:
        return f'unknown environment "{name}": this Atari game is called "{spelling[1]}" here'
    lower = {k.lower(): k for k in known}
    near = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.6)
    if near:
        return f'unknown environment "{name}"; did you mean "{lower[near[0]]}"?'
    return (
        f'unknown environment "{name}": expected an Atari game such as "Breakout" or a Gymnasium '
        'id such as "CartPole-v1"'
    )
