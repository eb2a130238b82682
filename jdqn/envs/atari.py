"""Atari through envpool, ROMs included."""

from typing import Any

import numpy as np

from jdqn.config.schema import Env
from jdqn.envs import usable_cores
from jdqn.records import EnvSpec, Timestep


def games() -> list[str] | None:
    """The games' names, CamelCase; None where envpool is not installed."""
    try:
        from envpool.atari.registration import atari_game_list
    except ImportError:
        return None
    return ["".join(word.capitalize() for word in game.split("_")) for game in atari_game_list]


def make(fields: Env, *, num_envs: int, seed: int) -> "AtariEnv":
    """Makes `num_envs` copies of an Atari game; environment i is seeded with `seed + i`."""
    import envpool

    envs = envpool.make(
        f"{fields.name}-v5",
        env_type="gymnasium",
        num_envs=num_envs,
        num_threads=min(fields.num_threads or usable_cores(), num_envs),
        seed=seed,
        stack_num=1,  # stacks are built on the device
        frame_skip=fields.frame_skip,
        repeat_action_probability=fields.sticky_probability,
        full_action_space=fields.full_action_space,
        noop_max=fields.noop_max,
        use_fire_reset=fields.fire_on_reset,
        max_episode_steps=fields.max_episode_steps,
        episodic_life=False,  # a lost life ends the bootstrap, not the game: see AtariEnv
        reward_clip=False,  # clipped when drawn from the replay; the score stays raw
    )
    return AtariEnv(envs, fields.life_loss_terminates, fields.frame_stack)


class AtariEnv:
    """Adapter over envpool, which resets on the next step and returns fresh arrays."""

    def __init__(self, envs: Any, life_loss_terminates: bool, frame_stack: int):
        self._envs = envs
        self._life_loss_terminates = life_loss_terminates
        _, height, width = envs.observation_space.shape
        self.spec = EnvSpec(
            (height, width), np.dtype(np.uint8), frame_stack, int(envs.action_space.n), 1.0 / 255.0
        )
        num_envs = envs.spec.config.num_envs
        self._lives = np.zeros(num_envs, np.int32)
        self._ended = np.zeros(num_envs, bool)

    def reset(self) -> Timestep:
        """Starts every environment, each with its own number of no-ops."""
        observation, info = self._envs.reset()
        no = np.zeros(len(self._lives), bool)
        self._lives = info["lives"]
        self._ended = no
        return Timestep(observation[:, 0], no.astype(np.float32), no, no, ~no)

    def send(self, action: np.ndarray) -> None:
        """Starts the emulators on their own threads; `action` is `[E]`."""
        self._envs.send(action.astype(np.int32))

    def recv(self) -> Timestep:
        """Waits for the emulators.

        A lost life sets `terminated` only. A game over exactly on the step limit is reported by
        envpool as a truncation alone; `info["terminated"]` is the emulator's own word for it.
        """
        observation, _, terminated, truncated, info = self._envs.recv()
        first = self._ended
        lives = info["lives"]
        over = terminated | info["terminated"].astype(bool)
        self._ended = over | truncated
        lost_life = (lives < self._lives) & ~first
        self._lives = lives
        return Timestep(
            frame=observation[:, 0],
            reward=info["reward"].astype(np.float32),
            terminated=over | lost_life if self._life_loss_terminates else over,
            last=self._ended,
            first=first,
        )

    def close(self) -> None:
        """Stops the emulators."""
        self._envs.close()
