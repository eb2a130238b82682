"""Other libraries training the same environments, for `python -m jdqn.bench --peer`.

Measured, never imported by training. The extra `bench` installs them.
"""

import contextlib
import time
from typing import Any

import numpy as np

from jdqn import envs
from jdqn.config import Config, ConfigError


def sb3_steps_per_second(cfg: Config, *, steps: int) -> float:
    """Agent steps per second of Stable-Baselines3's DQN while learning, on one torch thread.

    The same environments behind the same adapter, the same network sizes, batch and updates per
    step. Its vector environments cannot reset on the next step, so that the first observation of
    an episode arrives here as one more step; that changes what is learned, not how fast.

    Args:
      cfg: environments, sizes, update period; frame stacks on images only.
      steps: agent steps to measure.

    Raises:
      ConfigError: Stable-Baselines3 is not installed.
    """
    try:
        import gymnasium
        import stable_baselines3
        import torch
        from stable_baselines3.common import torch_layers, vec_env
    except ImportError:
        raise ConfigError(
            '--peer sb3: Stable-Baselines3 is not installed; pip install "jdqn[bench]"'
        ) from None

    class Wrapped(vec_env.VecEnv):
        """Our vector protocol as theirs."""

        def __init__(self, env: envs.VectorEnv):
            self._env = env
            spec = env.spec
            self._is_board = len(spec.frame_shape) == 3  # channels last here, first there
            shape = spec.frame_shape
            shape = (shape[2], *shape[:2]) if self._is_board else shape
            shape = (1, *shape) if len(shape) == 2 else shape
            is_bytes = spec.frame_dtype == np.uint8
            high = (255 if spec.scale < 1 else 1) if is_bytes else np.inf
            box = gymnasium.spaces.Box(
                0 if is_bytes else -np.inf, high, shape, spec.frame_dtype.type
            )
            super().__init__(cfg.env.num_envs, box, gymnasium.spaces.Discrete(spec.num_actions))

        def _see(self, frame: Any) -> np.ndarray:
            frame = np.moveaxis(np.asarray(frame), -1, 1) if self._is_board else np.asarray(frame)
            return frame.reshape(self.num_envs, *self.observation_space.shape)

        def reset(self) -> np.ndarray:
            return self._see(self._env.reset().frame)

        def step_async(self, actions: np.ndarray) -> None:
            self._env.send(actions.astype(np.int32))

        def step_wait(self) -> Any:
            timestep = self._env.recv()
            reward, last = np.asarray(timestep.reward), np.asarray(timestep.last)
            infos: list[dict] = [{} for _ in range(self.num_envs)]
            return self._see(timestep.frame), reward, last, infos

        def close(self) -> None:
            self._env.close()

        def get_attr(self, attr_name: str, indices: Any = None) -> list:
            return [None] * self.num_envs

        def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None: ...

        def env_method(self, method_name: str, *args: Any, indices: Any = None, **kw: Any) -> list:
            return []

        def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
            return [False] * self.num_envs

    class Board(torch_layers.BaseFeaturesExtractor):
        """The MinAtar torso."""

        def __init__(self, space: Any):
            channels, height, width = space.shape
            super().__init__(space, 16 * (height - 2) * (width - 2))
            self._conv = torch.nn.Conv2d(channels, 16, 3)

        def forward(self, x: Any) -> Any:
            return torch.flatten(torch.relu(self._conv(x)), 1)

    torch.set_num_threads(1)
    with contextlib.closing(envs.make_env(cfg)) as own:
        wrapped: Any = Wrapped(own)
        hidden, options = list(cfg.network.hidden), {}
        shape = own.spec.frame_shape
        if len(shape) == 2:
            wrapped = vec_env.VecFrameStack(wrapped, cfg.env.frame_stack, "first")
            hidden = []  # theirs has the 512 units in the torso
        elif len(shape) == 3:
            options = {"features_extractor_class": Board, "normalize_images": False}
        else:
            hidden = [*cfg.network.torso_hidden, *hidden]
        start = max(cfg.replay.batch_size, 8 * cfg.env.num_envs)
        model = stable_baselines3.DQN(
            "MlpPolicy" if len(shape) == 1 else "CnnPolicy",
            wrapped,
            learning_rate=cfg.optimizer.learning_rate,
            buffer_size=min(cfg.replay.capacity, 100_000),
            learning_starts=start,
            batch_size=cfg.replay.batch_size,
            gamma=cfg.agent.discount,
            train_freq=(max(cfg.train.update_period_steps // cfg.env.num_envs, 1), "step"),
            gradient_steps=max(cfg.env.num_envs // cfg.train.update_period_steps, 1),
            target_update_interval=cfg.agent.target_period_steps,
            policy_kwargs={"net_arch": hidden, **options},
            device="cpu",
        )
        model.learn(2 * start)
        began = time.perf_counter()
        model.learn(steps, reset_num_timesteps=False)
        return steps / (time.perf_counter() - began)
