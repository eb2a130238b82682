"""Atari through the vector environment of ALE itself, ROMs included."""

from typing import Any, NamedTuple

import gymnasium
import numpy as np

from jdqn.config.schema import Env
from jdqn.envs import usable_cores
from jdqn.envs.atari import History, Seen, camel_case

# ROMs that ALE can only start for several players; it ends the process where it cannot.
SEVERAL_PLAYERS = ("combat", "joust", "maze_craze", "warlords")
MOST_FRAMES = 2**31 - 1  # counted in int32


def rom_ids() -> dict[str, str]:
    """The games: CamelCase names to what ALE calls them. Raises ImportError."""
    _import()
    from ale_py import roms

    ids = set(roms.get_all_rom_ids()).difference(SEVERAL_PLAYERS)
    return {camel_case(rom): rom for rom in sorted(ids)}


def _import() -> None:
    """Imports ale_py without the ids that it registers with Gymnasium: they are other games."""
    before = set(gymnasium.registry)
    import ale_py  # noqa: F401

    for name in set(gymnasium.registry) - before:
        del gymnasium.registry[name]


class Console(NamedTuple):
    """What ALE knows of a game before it is played."""

    screen: tuple[int, int]  # height and width of the television picture
    actions: tuple[str, ...]  # what the agent's actions are called


def console(fields: Env) -> Console:
    """Screen and actions of a game, the same whoever emulates it. Raises ImportError."""
    rom = rom_ids()[fields.name]
    from ale_py import ALEInterface, LoggerMode, roms

    ALEInterface.setLoggerMode(LoggerMode.Error)
    game = ALEInterface()
    game.loadROM(roms.get_rom_path(rom))
    of_game = game.getMinimalActionSet()
    actions = game.getLegalActionSet() if fields.full_action_space else of_game
    height, width = game.getScreenDims()
    return Console((height, width), tuple(action.name for action in actions))


class Ale:
    """`num_envs` emulators; see `atari.Emulators`. With the size of a picture, in colour."""

    def __init__(self, fields: Env, *, num_envs: int, seed: int, **in_colour: int):
        rom = rom_ids()[fields.name]
        from ale_py.vector_env import AtariVectorEnv

        self._envs: Any = AtariVectorEnv(
            rom,
            num_envs,
            num_threads=min(fields.num_threads or usable_cores(), num_envs),
            autoreset_mode=gymnasium.vector.AutoresetMode.NEXT_STEP,
            stack_num=1,  # stacks are built on the device
            frameskip=fields.frame_skip,
            repeat_action_probability=fields.sticky_probability,
            full_action_space=fields.full_action_space,
            noop_max=fields.noop_max,
            use_fire_reset=fields.fire_on_reset,
            max_num_frames_per_episode=min(
                fields.max_episode_steps * fields.frame_skip, MOST_FRAMES
            ),
            episodic_life=False,  # a lost life ends the bootstrap, not the game: see AtariEnv
            reward_clipping=False,  # clipped when drawn from the replay; the score stays raw
            grayscale=not in_colour,
            **in_colour,
        )
        # Counted in int32: of the last seeds some copies begin anew at 0.
        self._seeds = (seed + np.arange(num_envs)) % 2**31
        self.num_envs = num_envs
        self.frame_shape = self._envs.single_observation_space.shape[1:]
        self.num_actions = int(self._envs.single_action_space.n)

    def start(self) -> tuple[np.ndarray, np.ndarray]:
        """Seeds and starts every game; frames and lives."""
        return _shown(*self._envs.reset(seed=self._seeds))

    def send(self, action: np.ndarray) -> None:
        """Starts the emulators on their own threads."""
        self._envs.send(action.astype(np.int32))

    def recv(self) -> Seen:
        """Waits for them."""
        observation, reward, over, truncated, info = self._envs.recv()
        return Seen(*_shown(observation, info), reward, over, truncated)

    def replay(self, history: History) -> tuple[np.ndarray, np.ndarray]:
        """Starts each game as often and repeats the actions; frames and lives.

        All games step together: each is started when as many steps are left as it had, and only
        waits before.
        """
        shown = self.start()
        longest = int(history.lengths.max())
        for number in range(longest + 1):
            done = number - (longest - history.lengths)  # below 0: it waits
            if (done == 0).any():
                shown = self._start_again(done == 0, history.resets)
            if number < longest:
                row = np.maximum(done, 0)
                action = history.actions[row, np.arange(self.num_envs)]
                self.send(np.where(done < 0, 0, action))
                seen = self.recv()
                shown = (seen.frame, seen.lives)
        return shown

    def _start_again(self, which: np.ndarray, resets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Starts some games from their seeds, each as often as it was."""
        shown = self._envs.reset(seed=self._seeds[which], options={"reset_mask": which})
        for number in range(1, int(resets[which].max())):
            shown = self._envs.reset(options={"reset_mask": which & (resets > number)})
        return _shown(*shown)

    def close(self) -> None:
        """Stops the emulators."""
        self._envs.close()


def _shown(observation: np.ndarray, info: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """The only frame of each stack, and the lives."""
    return observation[:, 0], info["lives"]
