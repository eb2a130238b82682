"""Other libraries training the same environments, for `python -m jdqn.bench --peer`.

Measured, never imported by training. The extra `bench` installs them.
"""

import contextlib
import time
from typing import Any

import numpy as np

from jdqn import envs
from jdqn.config import Config, ConfigError
from jdqn.records import EnvSpec


def sb3_steps_per_second(config: Config, *, steps: int) -> float:
    """Agent steps per second of Stable-Baselines3's DQN while learning, on torch's own threads.

    The same environments behind the same adapter, the same network sizes, batch and updates per
    step. Its vector environments cannot reset on the next step, so that the first observation of
    an episode arrives here as one more step; that changes what is learned, not how fast.

    Args:
      config: environments, sizes, update period; frame stacks on images only.
      steps: agent steps to measure.

    Raises:
      ConfigError: Stable-Baselines3 is not installed.
    """
    try:
        import stable_baselines3  # noqa: F401
    except ImportError:
        raise ConfigError(
            "--peer sb3: Stable-Baselines3 is not installed; pip install -e '.[bench]'"
        ) from None
    start = max(config.replay.batch_size, 8 * config.env.num_envs)
    with contextlib.closing(envs.make_env(config)) as env:
        model = _sb3_model(config, env, start)
        model.learn(2 * start)
        began = time.perf_counter()
        model.learn(steps, reset_num_timesteps=False)
        return steps / (time.perf_counter() - began)


def _sb3_model(config: Config, env: envs.VectorEnv, start: int) -> Any:
    """Their DQN of the same sizes, on our environments."""
    import stable_baselines3
    from stable_baselines3.common import vec_env

    wrapped = _sb3_env(config, env)
    hidden = list(config.network.hidden)
    options = {}
    rank = len(env.spec.frame_shape)
    if rank == 2:
        wrapped = vec_env.VecFrameStack(wrapped, config.env.frame_stack, "first")
        hidden = []  # theirs has the 512 units in the torso
    elif rank == 3:
        options = {"features_extractor_class": _sb3_board_torso(), "normalize_images": False}
    else:
        hidden = [*config.network.torso_hidden, *hidden]
    period = config.train.update_period_steps
    return stable_baselines3.DQN(
        "MlpPolicy" if rank == 1 else "CnnPolicy",
        wrapped,
        learning_rate=config.optimizer.learning_rate,
        buffer_size=min(config.replay.capacity, 100_000),
        learning_starts=start,
        batch_size=config.replay.batch_size,
        gamma=config.agent.discount,
        train_freq=(max(period // config.env.num_envs, 1), "step"),
        gradient_steps=max(config.env.num_envs // period, 1),
        target_update_interval=config.agent.target_period_steps,
        policy_kwargs={"net_arch": hidden, **options},
        device="cpu",
    )


def _sb3_spaces(spec: EnvSpec) -> tuple[Any, Any]:
    """Observation and action space, channels first."""
    import gymnasium

    shape = spec.frame_shape
    if len(shape) == 3:
        shape = (shape[2], *shape[:2])
    if len(shape) == 2:
        shape = (1, *shape)
    is_bytes = spec.frame_dtype == np.uint8
    high = (255 if spec.scale < 1 else 1) if is_bytes else np.inf
    low = 0 if is_bytes else -np.inf
    box = gymnasium.spaces.Box(low, high, shape, spec.frame_dtype.type)
    return box, gymnasium.spaces.Discrete(spec.num_actions)


def _sb3_env(config: Config, env: envs.VectorEnv) -> Any:
    """Our vector protocol as theirs."""
    from stable_baselines3.common import vec_env

    is_board = len(env.spec.frame_shape) == 3  # channels last here, first there

    class Wrapped(vec_env.VecEnv):
        def __init__(self) -> None:
            super().__init__(config.env.num_envs, *_sb3_spaces(env.spec))

        def _see(self, frame: Any) -> np.ndarray:
            frame = np.asarray(frame)
            frame = np.moveaxis(frame, -1, 1) if is_board else frame
            return frame.reshape(self.num_envs, *self.observation_space.shape)

        def reset(self) -> np.ndarray:
            return self._see(env.reset().frame)

        def step_async(self, actions: np.ndarray) -> None:
            env.send(actions.astype(np.int32))

        def step_wait(self) -> Any:
            timestep = env.recv()
            infos: list[dict] = [{} for _ in range(self.num_envs)]
            reward = np.asarray(timestep.reward)
            return self._see(timestep.frame), reward, np.asarray(timestep.last), infos

        def close(self) -> None:
            env.close()

        def get_attr(self, attr_name: str, indices: Any = None) -> list:
            return [None] * self.num_envs

        def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None: ...

        def env_method(self, method_name: str, *args: Any, indices: Any = None, **kw: Any) -> list:
            return []

        def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
            return [False] * self.num_envs

    return Wrapped()


def _sb3_board_torso() -> type:
    """The MinAtar torso."""
    import torch
    from stable_baselines3.common import torch_layers

    class Board(torch_layers.BaseFeaturesExtractor):
        def __init__(self, space: Any):
            channels, height, width = space.shape
            super().__init__(space, 16 * (height - 2) * (width - 2))
            self._conv = torch.nn.Conv2d(channels, 16, 3)

        def forward(self, x: Any) -> Any:
            return torch.flatten(torch.relu(self._conv(x)), 1)

    return Board
