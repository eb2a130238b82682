"""One environment to look at: the picture it has of itself, and what its actions are called."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jdqn.config import Config, with_overrides
from jdqn.config.schema import Env
from jdqn.envs import VectorEnv, is_native, jax_names, make_env
from jdqn.envs.guard import Guarded, guard, problem
from jdqn.envs.interface import interface
from jdqn.records import Timestep

# Of Gymnasium's and gymnax's environments, by their names without a version.
ACTIONS = {
    "Acrobot": ("torque -1", "torque 0", "torque +1"),
    "Blackjack": ("stick", "hit"),
    "CartPole": ("left", "right"),
    "Catch": ("left", "stay", "right"),
    "Chain": ("left", "right"),
    "CliffWalking": ("up", "right", "down", "left"),
    "FrozenLake": ("left", "down", "right", "up"),
    "LunarLander": ("nothing", "left engine", "main engine", "right engine"),
    "MountainCar": ("left", "nothing", "right"),
    "Taxi": ("south", "north", "east", "west", "pick up", "drop off"),
}
MINATAR = ("noop", "left", "up", "right", "down", "fire")


class Shown(NamedTuple):
    """One copy of an environment, and how it is looked at."""

    env: Guarded
    # Its own picture of what `env` showed last, `[H, W, 3]` u8; None: it has none.
    picture: Callable[[], np.ndarray] | None
    actions: tuple[str, ...]
    shape: tuple[int, ...]  # of one observation as the environment itself shows it


def show(config: Config, *, seed: int) -> Shown:
    """Makes one copy of the environment of a configuration.

    Atari and Gymnasium draw themselves: a second emulator plays the same game in colour, and
    Gymnasium's `render` is asked, of the very copy that is played.

    Args:
      config: uses `env`, and `train.seed`, to which belongs what is drawn once for a run.
      seed: of the environment.

    Raises:
      ConfigError: as `make_env`.
    """
    # One of its own process cannot be asked for a picture.
    config = with_overrides(config, env__vectorization="sync")
    fields = config.env
    if is_native(fields.name):
        return _shown(make_env(config, num_envs=1, seed=seed), fields, None)
    from jdqn.envs import gym

    if (registered := gym.find(fields.name)) is None:
        env = make_env(config, num_envs=1, seed=seed)  # refuses what is no game
        return _atari(env, fields, seed)
    if not gym.draws_itself(registered, fields):
        return _shown(make_env(config, num_envs=1, seed=seed), fields, None)
    kwargs = {**fields.kwargs.plain(), "render_mode": "rgb_array"}
    drawing = with_overrides(config, env__kwargs=kwargs).env
    env = gym.make(registered, drawing, num_envs=1, seed=seed)
    return _shown(env, fields, env.picture)


def _atari(env: VectorEnv, fields: Env, seed: int) -> Shown:
    from jdqn.envs import ale, atari

    console = ale.console(fields)
    colour = atari.make(fields, num_envs=1, seed=seed, screen=console.screen)
    twins = Twins(env, colour, fields.name)
    return Shown(
        guard(twins, fields.name, 1), twins.picture, console.actions, tuple(env.spec.frame_shape)
    )


def _shown(env: VectorEnv, fields: Env, picture: Callable[[], np.ndarray] | None) -> Shown:
    seen = interface(env)
    shape = seen.shape
    if seen.codec is not None:  # its frames are flat, resized, one-hot
        shape = tuple(env.spec.frame_shape)
    return Shown(guard(env, fields.name, 1), picture, _action_names(env, fields), tuple(shape))


def _action_names(env: VectorEnv, fields: Env) -> tuple[str, ...]:
    """What is known, else the environment's own actions, written down."""
    num_actions = env.spec.num_actions
    family, _, name = fields.name.rpartition("/")
    known = ACTIONS.get(name.rpartition("-v")[0] or name, ())
    if family == "minatar":
        action_set = getattr(jax_names.find(fields).env, "action_set", ())
        known = tuple(MINATAR[int(i)] for i in action_set)
    if len(known) == num_actions:
        return known
    own = interface(env).actions(np.arange(num_actions))
    return tuple(str(action) for action in own)


class Twins:
    """An Atari game as the agent sees it, and the same game in colour, step by step.

    Two emulators with the same seed, the same settings and the same actions show the same game;
    that they do is looked at after every step.
    """

    def __init__(self, env: VectorEnv, colour: VectorEnv, name: str):
        self.spec = env.spec
        self._env = env
        self._colour = colour
        self._name = name

    def reset(self) -> Timestep:
        """Starts both."""
        self._picture = self._colour.reset().frame[0]
        return self._env.reset()

    def send(self, action: np.ndarray) -> None:
        """The same action for both."""
        self._colour.send(action)
        self._env.send(action)

    def recv(self) -> Timestep:
        """What the agent sees."""
        shown = self._colour.recv()
        seen = self._env.recv()
        for field in ("reward", "terminated", "last", "first"):
            if not np.array_equal(getattr(shown, field), getattr(seen, field)):
                raise problem(f"its picture has another {field} than the game", self._name)
        self._picture = shown.frame[0]
        return seen

    def picture(self) -> np.ndarray:
        """The television picture of what the agent saw last, `[H, W, 3]` u8."""
        return self._picture

    def close(self) -> None:
        """Stops both."""
        self._env.close()
        self._colour.close()

    def save(self) -> None:
        """Cannot be saved: they are for looking at."""
        return

    def restore(self, saved: object, timestep: Timestep) -> bool:
        """Cannot be brought back."""
        return False
