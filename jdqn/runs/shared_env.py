"""Environments on the host, of several processes: each steps its own, and hears of all.

To the loop they are the environments of one process, but that frames stay with the process, and so
on its devices, that has them.
"""

import base64
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jdqn import devices, envs
from jdqn.config import Config
from jdqn.envs.guard import guard
from jdqn.records import Timestep
from jdqn.runs import processes
from jdqn.runs.evaluation import MakeEnv

SMALL = ("reward", "terminated", "last", "first")  # what all processes count by


def make(make_env: MakeEnv, config: Config, seed: int | None = None) -> Any:
    """The environments of a run, guarded; with several processes this one's part of them.

    Environment i gets `seed + i`, whichever process has it. Raises ConfigError.
    """
    num_processes = processes.count()
    keywords = {} if seed is None else {"seed": seed}
    if num_processes == 1:
        return guard(make_env(config, **keywords), config.env.name, config.env.num_envs)
    num_envs = config.env.num_envs // num_processes
    first = num_envs * jax.process_index()
    if seed is None:
        seed = envs.first_seed(config.env.name, config.train.seed)
    env = guard(make_env(config, num_envs=num_envs, seed=first + seed), config.env.name, num_envs)
    return SharedEnv(env, config, slice(first, first + num_envs))


class SharedEnv:
    """See `make`. Every method but `close` is called in all processes at the same place."""

    def __init__(self, env: Any, config: Config, own: slice):
        self.spec = env.spec
        self.said = env.said
        self._env = env
        self._own = own
        self._num_envs = config.env.num_envs
        mesh = devices.make_mesh(config)
        assert mesh is not None
        self._split = devices.placed(mesh, devices.SPLIT)
        self._problem = ""

    def reset(self) -> Timestep:
        """As the environments' own, of all processes."""
        return self._of_all(self._asked(self._env.reset))

    def send(self, action: np.ndarray) -> None:
        """As the environments' own; `action` is of this process's. What fails is told by `recv`."""
        self._asked(self._env.send, action)

    def recv(self) -> Timestep:
        """As the environments' own, of all processes."""
        return self._of_all(None if self._problem else self._asked(self._env.recv))

    def close(self) -> None:
        """As the environments' own."""
        self._env.close()

    def save(self) -> dict[str, np.ndarray] | None:
        """What each process's environments save; None where one cannot."""
        saved = self._asked(self._env.save)
        own = None if self._problem or saved is None else _packed(saved)
        self._problem = ""
        everyones = [json.loads(text) for text in processes.texts(json.dumps(own))]
        if None in everyones:
            return None
        return {
            f"{i}_{name}": array
            for i, packed in enumerate(everyones)
            for name, array in _unpacked(packed).items()
        }

    def restore(self, saved: Mapping[str, np.ndarray], timestep: Timestep) -> bool:
        """Whether all processes have brought back theirs, which as many had saved."""
        numbers = {int(name.partition("_")[0]) for name in saved if name[0].isdecimal()}
        is_back = False
        if len(numbers) == processes.count():
            mark = f"{jax.process_index()}_"
            own = {n.removeprefix(mark): array for n, array in saved.items() if n.startswith(mark)}
            shown = jax.tree.map(lambda x: np.asarray(x)[self._own], timestep)
            is_back = bool(self._asked(self._env.restore, own, shown))
        self._problem = ""
        return all(processes.numbers(is_back))

    def _asked(self, method: Any, *arguments: Any) -> Any:
        """What a method returns; None where it fails, which is remembered."""
        try:
            return method(*arguments)
        except envs.EnvError as error:
            self._problem = self._problem or str(error)
            return None

    def _of_all(self, own: Timestep | None) -> Timestep:
        """A timestep of all environments, of this process's. Raises EnvError where one failed."""
        num_own = self._own.stop - self._own.start
        small = {"reward": np.zeros(num_own, np.float32)}
        small |= {name: np.zeros(num_own, bool) for name in SMALL[1:]}
        if own is not None:
            small = {name: np.ascontiguousarray(getattr(own, name)) for name in SMALL}
        failed = np.array([bool(self._problem)])
        everyones = processes.everyones([failed, *small.values()])
        if everyones[0].any():
            told = enumerate(processes.texts(self._problem))
            raise envs.EnvError("; ".join(f"in process {i}, {what}" for i, what in told if what))
        assert own is not None
        frame = np.asarray(own.frame)
        shape = (self._num_envs, *frame.shape[1:])
        whole = jax.make_array_from_process_local_data(self._split, frame, shape)
        return Timestep(whole, *(array.reshape(-1) for array in everyones[1:]))


def _packed(arrays: Mapping[str, np.ndarray]) -> dict[str, list]:
    """Named arrays as JSON."""
    return {
        name: [array.dtype.str, array.shape, base64.b64encode(array.tobytes()).decode()]
        for name, array in arrays.items()
    }


def _unpacked(packed: Mapping[str, list]) -> dict[str, np.ndarray]:
    """The other way."""
    return {
        name: np.frombuffer(base64.b64decode(data), dtype).reshape(shape)
        for name, (dtype, shape, data) in packed.items()
    }
