"""A scripted environment: what happens is a given list, whatever the agent does."""

import numpy as np

from jdqn.records import EnvSpec, Timestep


class ScriptedEnv:
    """Plays the same list of episodes in every environment, over and over.

    An episode is a list of steps `(reward, terminated, truncated, lost_life)`; the first frame of
    an episode has no step. Environment e starts with episode e of the list. A frame is
    `[env, episode number, step of the episode]` as float32, so that every frame is unique.
    """

    def __init__(self, episodes, num_envs, num_actions=2, frame_stack=2):
        self.spec = EnvSpec((3,), np.dtype(np.float32), frame_stack, num_actions, 1.0)
        self._episodes, self._num_envs = episodes, num_envs
        self.actions = []  # everything that was sent
        self.closed = False

    def reset(self):
        self._episode = np.arange(self._num_envs)
        self._step = np.zeros(self._num_envs, int)
        self._ended = np.zeros(self._num_envs, bool)
        no = np.zeros(self._num_envs, bool)
        return Timestep(self._frame(), no.astype(np.float32), no, no, ~no)

    def send(self, action):
        self.actions.append(np.array(action))

    def recv(self):
        first = self._ended.copy()
        reward = np.zeros(self._num_envs, np.float32)
        terminated, last = np.zeros(self._num_envs, bool), np.zeros(self._num_envs, bool)
        for e in range(self._num_envs):
            if first[e]:
                self._episode[e] += 1
                self._step[e] = 0
                continue
            episode = self._episodes[self._episode[e] % len(self._episodes)]
            reward[e], over, truncated, lost_life = episode[self._step[e]]
            terminated[e], last[e] = over or lost_life, over or truncated
            self._step[e] += 1
        self._ended = last.copy()
        return Timestep(self._frame(), reward, terminated, last, first)

    def save(self):
        return {"episode": self._episode, "step": self._step, "ended": self._ended}

    def restore(self, saved, timestep):
        self._episode, self._step, self._ended = (
            np.array(saved[name]) for name in ("episode", "step", "ended")
        )
        return bool((self._frame() == timestep.frame).all())

    def close(self):
        self.closed = True

    def _frame(self):
        columns = [np.arange(self._num_envs), self._episode, self._step]
        return np.stack(columns, axis=1).astype(np.float32)


def maker(episodes, kind=ScriptedEnv):
    """A `make_env` of scripted environments; `made` keeps `(seed, environment)` of each call."""

    def make_env(config, *, num_envs=None, seed=None):
        env = kind(episodes, num_envs or config.env.num_envs, frame_stack=config.env.frame_stack)
        make_env.made.append((config.train.seed if seed is None else seed, env))
        return env

    make_env.made = []
    return make_env
