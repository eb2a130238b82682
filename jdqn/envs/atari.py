"""Atari through envpool, ROMs included."""

from collections.abc import Mapping
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
    return AtariEnv(envs, fields)


class AtariEnv:
    """Adapter over envpool, which resets on the next step and returns fresh arrays."""

    def __init__(self, envs: Any, fields: Env):
        self._envs = envs
        self._life_loss_terminates = fields.life_loss_terminates
        self._is_sticky = fields.sticky_probability > 0
        _, height, width = envs.observation_space.shape
        num_actions = int(envs.action_space.n)
        frame = ((height, width), np.dtype(np.uint8))
        self.spec = EnvSpec(*frame, fields.frame_stack, num_actions, scale=1 / 255)
        num_envs = envs.spec.config.num_envs
        self._lives = np.zeros(num_envs, np.int32)
        self._ended = np.zeros(num_envs, bool)
        self._history = History(num_envs)

    def reset(self) -> Timestep:
        """Starts every environment, each with its own number of no-ops."""
        observation, info = self._envs.reset()
        no = np.zeros(len(self._lives), bool)
        self._lives = info["lives"]
        self._ended = no
        self._history.reset(~no)
        return Timestep(observation[:, 0], no.astype(np.float32), no, no, ~no)

    def send(self, action: np.ndarray) -> None:
        """Starts the emulators on their own threads; `action` is `[E]`."""
        self._history.act(action)
        self._envs.send(action.astype(np.int32))

    def recv(self) -> Timestep:
        """Waits for the emulators.

        A lost life sets `terminated` only. A game over exactly on the step limit is reported by
        envpool as a truncation alone; `info["terminated"]` is the emulator's own word for it.
        """
        observation, _, terminated, truncated, info = self._envs.recv()
        first = self._ended
        self._history.reset(first)
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

    def save(self) -> dict[str, np.ndarray] | None:
        """How often each game was started, and the actions of those that run.

        The emulators are deterministic, and envpool draws from random states of their own only for
        the no-ops at a start. Sticky actions are random too: there nothing can be brought back.
        """
        if self._is_sticky:
            return None
        return {**self._history.save(), "ended": self._ended}

    def restore(self, saved: Mapping[str, np.ndarray], timestep: Timestep) -> bool:
        """Starts each game as often, repeats the actions, and compares frames byte for byte."""
        history = History(len(self._lives))
        if not history.restore(saved, self.spec.num_actions):
            return False
        observation, info = self._envs.reset()
        frames = observation[:, 0].copy()
        lives = info["lives"].copy()

        def note(observation: np.ndarray, info: dict[str, Any]) -> None:
            frames[info["env_id"]] = observation[:, 0]
            lives[info["env_id"]] = info["lives"]

        for number in range(1, int(history.resets.max())):
            note(*self._envs.reset(np.flatnonzero(history.resets > number).astype(np.int32)))
        for number in range(int(history.lengths.max())):
            ids = np.flatnonzero(history.lengths > number).astype(np.int32)
            action = history.actions[number, ids].astype(np.int32)
            observation, *_, info = self._envs.step(action, ids)
            note(observation, info)
        self._history = history
        self._lives = lives
        self._ended = saved["ended"]
        return bool(np.array_equal(frames, timestep.frame))


class History:
    """What happened in each of `E` games: how often it was started, and what was done since."""

    def __init__(self, num_envs: int):
        self.resets = np.zeros(num_envs, np.int64)
        self.lengths = np.zeros(num_envs, np.int64)  # actions since
        self.actions = np.zeros((1024, num_envs), np.uint8)  # [at least the longest, E]

    def reset(self, which: np.ndarray) -> None:
        """Games `[E]` bool that start."""
        self.resets += which
        self.lengths[which] = 0

    def act(self, action: np.ndarray) -> None:
        """An action `[E]` in every game; where one has ended, a reset comes after it."""
        if self.lengths.max() == len(self.actions):
            self.actions = np.concatenate([self.actions, np.zeros_like(self.actions)])
        self.actions[self.lengths, np.arange(len(action))] = action
        self.lengths += 1

    def save(self) -> dict[str, np.ndarray]:
        """As named arrays."""
        actions = self.actions[: self.lengths.max()]
        actions = np.where(np.arange(len(actions))[:, None] < self.lengths, actions, 0)
        return {"resets": self.resets, "lengths": self.lengths, "actions": actions.astype(np.uint8)}

    def restore(self, saved: Mapping[str, np.ndarray], num_actions: int) -> bool:
        """Takes it from such arrays; False where they are none."""
        num_envs = len(self.resets)
        arrays = [saved.get(name) for name in ("resets", "lengths", "actions", "ended")]
        if any(array is None or array.dtype.kind not in "iub" for array in arrays):
            return False
        resets, lengths, actions, ended = (np.asarray(array) for array in arrays)
        shapes = [resets.shape, lengths.shape, ended.shape, actions.shape[1:]]
        if any(shape != (num_envs,) for shape in shapes) or resets.min() < 1:
            return False
        if lengths.min() < 0 or lengths.max() > len(actions) or (actions >= num_actions).any():
            return False
        self.resets = resets.astype(np.int64)
        self.lengths = lengths.astype(np.int64)
        room = np.zeros((1024, num_envs), np.uint8)
        self.actions = np.concatenate([actions.astype(np.uint8), room])
        return True
