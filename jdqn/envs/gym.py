"""Any Gymnasium environment with discrete actions."""

import warnings

import gymnasium
import numpy as np
from gymnasium import spaces

from jdqn.config import ConfigError
from jdqn.records import EnvSpec, Timestep


def known() -> list[str]:
    """Ids in Gymnasium's registry."""
    return list(gymnasium.registry)


def is_known(name: str) -> bool:
    """Whether an id is in Gymnasium's registry."""
    return name in gymnasium.registry


def make(name: str, *, num_envs: int, seed: int, frame_stack: int) -> "GymEnv":
    """Makes `num_envs` copies of a Gymnasium environment; see `GymEnv`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # old versions of an id still run
            envs = gymnasium.make_vec(
                name,
                num_envs=num_envs,
                vectorization_mode="sync",
                vector_kwargs={"autoreset_mode": gymnasium.vector.AutoresetMode.NEXT_STEP},
            )
    except (gymnasium.error.Error, ImportError, AttributeError) as error:
        raise ConfigError(f'env.name = "{name}": Gymnasium cannot make it: {error}') from None
    return GymEnv(envs, name, seed, frame_stack)


class GymEnv:
    """Adapter over Gymnasium's synchronous vector environment, which resets on the next step.

    Observations: Box vectors as f32, uint8 images as they are (scaled by 1/255), Discrete as
    one-hot u8. Actions: Discrete, its `start` respected.
    """

    def __init__(self, envs: gymnasium.vector.VectorEnv, name: str, seed: int, frame_stack: int):
        action_space = envs.single_action_space
        if not isinstance(action_space, spaces.Discrete):
            raise ConfigError(
                f'env.name = "{name}": its action space is {action_space}; a Q-network needs '
                "Discrete actions"
            )
        space = envs.single_observation_space
        self.spec = _spec(space, name, frame_stack, int(action_space.n))
        self._envs = envs
        self._seed = seed
        self._one_hot: np.ndarray | None = None
        if isinstance(space, spaces.Discrete):
            self._one_hot = np.eye(int(space.n), dtype=np.uint8)
            self._first_class = int(space.start)
        self._start = int(action_space.start)
        self._action_dtype = action_space.dtype
        self._ended = np.zeros(envs.num_envs, bool)
        self._action = np.zeros(envs.num_envs, self._action_dtype)

    def reset(self) -> Timestep:
        """Starts every environment; environment i is seeded with `seed + i`."""
        observation, _ = self._envs.reset(seed=self._seed)
        no = np.zeros(self._envs.num_envs, bool)
        self._ended = no
        return Timestep(self._frame(observation), no.astype(np.float32), no, no, ~no)

    def send(self, action: np.ndarray) -> None:
        """Keeps the actions `[E]`; the step is made in `recv`."""
        self._action = action.astype(self._action_dtype) + self._start

    def recv(self) -> Timestep:
        """Makes the step."""
        observation, reward, terminated, truncated, _ = self._envs.step(self._action)
        first = self._ended
        self._ended = terminated | truncated
        return Timestep(
            self._frame(observation),
            reward.astype(np.float32),
            terminated.copy(),
            self._ended,
            first,
        )

    def close(self) -> None:
        """Closes the environments."""
        self._envs.close()

    def _frame(self, observation: np.ndarray) -> np.ndarray:
        """Fresh array `[E, *frame_shape]`."""
        if self._one_hot is not None:
            return self._one_hot[observation - self._first_class]
        return np.array(observation, self.spec.frame_dtype)


def _spec(space: gymnasium.Space, name: str, frame_stack: int, num_actions: int) -> EnvSpec:
    """What observations of a space become."""
    if isinstance(space, spaces.Discrete):
        return EnvSpec((int(space.n),), np.dtype(np.uint8), frame_stack, num_actions, 1.0)
    if isinstance(space, spaces.Box):
        if space.dtype == np.uint8 and len(space.shape) in (2, 3):
            return EnvSpec(space.shape, np.dtype(np.uint8), frame_stack, num_actions, 1.0 / 255.0)
        if len(space.shape) == 1:
            return EnvSpec(space.shape, np.dtype(np.float32), frame_stack, num_actions, 1.0)
    raise ConfigError(
        f'env.name = "{name}": its observation space is {space}; expected a Box vector, '
        "a uint8 image or Discrete"
    )
