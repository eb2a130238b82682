"""Atari: the contract over two emulators, envpool's and ALE's own, ROMs included."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from jdqn.config import ConfigError
from jdqn.config.schema import Env
from jdqn.envs import usable_cores
from jdqn.envs.guard import said
from jdqn.envs.turns import Turns
from jdqn.records import EnvSpec, Timestep

PACKAGES = {"envpool": "envpool", "ale": "ale-py"}


class Seen(NamedTuple):
    """What emulators show after a step, `[E, ...]`."""

    frame: np.ndarray  # u8, the newest only
    lives: np.ndarray
    reward: np.ndarray  # raw
    over: np.ndarray  # bool: the game itself has ended
    truncated: np.ndarray  # bool: the step limit


class Emulators(Protocol):
    """`num_envs` games stepped together; the step after an end ignores the action and resets."""

    num_envs: int
    frame_shape: tuple[int, ...]
    num_actions: int

    def start(self) -> tuple[np.ndarray, np.ndarray]:
        """Starts every game, each with its own number of no-ops; frames and lives."""
        ...

    def send(self, action: np.ndarray) -> None:
        """Starts the emulators on their own threads; `action` is `[E]`."""
        ...

    def recv(self) -> Seen:
        """Waits for them; fresh arrays."""
        ...

    def replay(self, history: "History") -> tuple[np.ndarray, np.ndarray]:
        """In place of `start`: each game as often, then its actions again; frames and lives."""
        ...

    def close(self) -> None:
        """Stops the emulators."""
        ...


def games(fields: Env) -> list[str]:
    """The names of the games that `env.backend` has, CamelCase.

    Raises:
      ConfigError: the package is missing, or cannot be imported.
    """
    backend = fields.backend
    package = PACKAGES[backend]
    try:
        if backend == "ale":
            from jdqn.envs import ale

            return list(ale.rom_ids())
        from envpool.atari.registration import atari_game_list
    except ImportError as error:
        needs = f'env.name = "{fields.name}": not a Gymnasium id, and Atari games need {package}'
        missing = isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0]
        if missing != package.replace("-", "_"):
            raise ConfigError(f"{needs}; importing it raised {said(error)}") from error
        other = "ale" if backend == "envpool" else "envpool"
        raise ConfigError(
            f"{needs}, which is not installed: pip install {package}, or take other emulators "
            f"with --env.backend {other}"
        ) from error
    return [camel_case(game) for game in atari_game_list]


def camel_case(game: str) -> str:
    """`ms_pacman` as `MsPacman`."""
    return "".join(word.capitalize() for word in game.split("_"))


def make(
    fields: Env, *, num_envs: int, seed: int, screen: tuple[int, int] | None = None
) -> "AtariEnv":
    """Makes `num_envs` copies of an Atari game; environment i is seeded with `seed + i`.

    With `screen`, height and width of the television picture, frames are that, `[H, W, 3]`, of the
    same games.
    """
    in_colour = {} if screen is None else {"img_height": screen[0], "img_width": screen[1]}
    if fields.backend == "ale":
        from jdqn.envs import ale

        return AtariEnv(ale.Ale(fields, num_envs=num_envs, seed=seed, **in_colour), fields)
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
        gray_scale=screen is None,
        **in_colour,
    )
    return AtariEnv(Envpool(envs), fields)


class Envpool:
    """Emulators of envpool, seeded when they are made."""

    def __init__(self, envs: Any):
        self._envs = envs
        self.num_envs: int = envs.spec.config.num_envs
        self._planes, *side = envs.observation_space.shape  # 1, or 3 of a picture in colour
        self.frame_shape = (*side, self._planes) if self._planes > 1 else tuple(side)
        self.num_actions = int(envs.action_space.n)

    def start(self) -> tuple[np.ndarray, np.ndarray]:
        """Starts every game; frames and lives."""
        observation, info = self._envs.reset()
        return self._newest(observation), info["lives"]

    def send(self, action: np.ndarray) -> None:
        """Starts the emulators on their own threads."""
        self._envs.send(action.astype(np.int32))

    def recv(self) -> Seen:
        """Waits for them.

        A game over exactly on the step limit is reported as a truncation alone;
        `info["terminated"]` is the emulator's own word for it.
        """
        observation, _, terminated, truncated, info = self._envs.recv()
        over = terminated | info["terminated"].astype(bool)
        return Seen(self._newest(observation), info["lives"], info["reward"], over, truncated)

    def replay(self, history: "History") -> tuple[np.ndarray, np.ndarray]:
        """Starts each game as often and repeats the actions; frames and lives."""
        frames, lives = (shown.copy() for shown in self.start())

        def note(observation: np.ndarray, info: dict[str, Any]) -> None:
            frames[info["env_id"]] = self._newest(observation)
            lives[info["env_id"]] = info["lives"]

        for number in range(1, int(history.resets.max())):
            note(*self._envs.reset(np.flatnonzero(history.resets > number).astype(np.int32)))
        for number in range(int(history.lengths.max())):
            ids = np.flatnonzero(history.lengths > number).astype(np.int32)
            action = history.actions[number, ids].astype(np.int32)
            observation, *_, info = self._envs.step(action, ids)
            note(observation, info)
        return frames, lives

    def close(self) -> None:
        """Stops the emulators."""
        self._envs.close()

    def _newest(self, observation: np.ndarray) -> np.ndarray:
        """`[E, H, W]`, or `[E, H, W, 3]` in colour."""
        return np.moveaxis(observation, 1, -1) if self._planes > 1 else observation[:, 0]


class AtariEnv:
    """Games behind the vector protocol, whatever emulates them."""

    def __init__(self, emulators: Emulators, fields: Env):
        self._emulators = emulators
        self._life_loss_terminates = fields.life_loss_terminates
        self._is_sticky = fields.sticky_probability > 0
        frame = (emulators.frame_shape, np.dtype(np.uint8))
        self.spec = EnvSpec(*frame, fields.frame_stack, emulators.num_actions, scale=1 / 255)
        num_envs = emulators.num_envs
        self._lives = np.zeros(num_envs, np.int32)
        self._ended = np.zeros(num_envs, bool)
        self._history = History(num_envs)
        self._turns = Turns(num_envs, emulators.num_actions)

    def reset(self) -> Timestep:
        """Starts every environment, each with its own number of no-ops."""
        frame, self._lives = self._emulators.start()
        no = np.zeros(len(self._lives), bool)
        self._ended = no
        self._history.reset(~no)
        self._turns.start()
        return Timestep(frame, no.astype(np.float32), no, no, ~no)

    def send(self, action: np.ndarray) -> None:
        """Starts the emulators on their own threads; `action` is `[E]`."""
        action = self._turns.send(action)
        self._history.act(action)
        self._emulators.send(action)

    def recv(self) -> Timestep:
        """Waits for the emulators. A lost life sets `terminated` only."""
        self._turns.recv()
        seen = self._emulators.recv()
        first = self._ended
        self._history.reset(first)
        self._ended = seen.over | seen.truncated
        lost_life = (seen.lives < self._lives) & ~first
        self._lives = seen.lives
        return Timestep(
            frame=seen.frame,
            reward=seen.reward.astype(np.float32),
            terminated=seen.over | lost_life if self._life_loss_terminates else seen.over,
            last=self._ended,
            first=first,
        )

    def close(self) -> None:
        """Stops the emulators."""
        self._emulators.close()

    def save(self) -> dict[str, np.ndarray] | None:
        """How often each game was started, and the actions of those that run.

        The emulators are deterministic, and draw from random states of their own only for
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
        frames, self._lives = self._emulators.replay(history)
        self._history = history
        self._ended = saved["ended"]
        self._turns.start()
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
