"""A module that registers an environment of its own, as a user's does; also read by workers."""

import multiprocessing
import os
import time

import gymnasium
import numpy as np


class Countdown(gymnasium.Env):
    """Shows a random walk and the time left; the reward is the action."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gymnasium.spaces.Discrete(3, start=-1)

    def __init__(self, length=7, trouble="", copy=1):
        if trouble == "in a worker" and multiprocessing.parent_process() is not None:
            raise ValueError("one is enough")
        self.length = length
        self.trouble = trouble
        self.troubled = copy

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.copy = self.copy if seed is None else seed
        self.left = self.length
        self.place = self.np_random.normal()
        return np.array([self.place, self.left]), {}

    def step(self, action):
        assert action in self.action_space
        self.left -= 1
        self.place += self.np_random.normal() + float(action)
        if self.copy == self.troubled and self.left == 3:
            self.misbehave()
        return np.array([self.place, self.left]), float(action), self.left == 0, False, {}

    def misbehave(self):
        if self.trouble == "raises":
            raise ValueError("boom")
        if self.trouble == "exits":
            os._exit(3)
        if self.trouble == "hangs":
            time.sleep(1000)


gymnasium.register("Countdown-v0", Countdown)
gymnasium.register("space/Countdown", Countdown, max_episode_steps=100)
