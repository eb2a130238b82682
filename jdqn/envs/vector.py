"""Gymnasium's vector environments behind the vector protocol: in this process, or in workers."""

import atexit
import contextlib
import multiprocessing
import signal
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.vector.async_vector_env import _async_worker

from jdqn.envs.guard import EnvError, problem, said
from jdqn.envs.spaces import Codec
from jdqn.envs.turns import Turns
from jdqn.records import Timestep

CLOSE_SECONDS = 5.0  # that workers get to finish a step and close their environment
# Never fork: it would copy the locks of JAX's threads. A fork server starts without any, and has
# read in once what all workers need.
CONTEXT = "spawn" if sys.platform == "win32" else "forkserver"
WORKERS_IMPORT = ["jdqn.envs.gym"]

Copies = Sequence[Callable[[], gymnasium.Env]]  # `[E]`; frames of bytes or f32, numbered actions


class GymEnv:
    """Adapter over Gymnasium's synchronous vector environment, which resets on the next step."""

    def __init__(self, copies: Copies, codec: Codec, seed: int):
        self.codec = codec
        self.spec = codec.spec
        self.said = codec.said
        self._seed = seed
        self._ended = np.zeros(len(copies), bool)
        self._turns = Turns(len(copies), codec.spec.num_actions)
        self._envs: Any = SyncVectorEnv(copies, autoreset_mode=AutoresetMode.NEXT_STEP)

    def reset(self) -> Timestep:
        """Starts every environment; environment i is seeded with `seed + i`."""
        return self._started(self._envs.reset(seed=self._seed)[0])

    def send(self, action: np.ndarray) -> None:
        """Keeps the actions `[E]`; the step is made in `recv`."""
        self._action = self._turns.send(action).astype(np.int64)

    def recv(self) -> Timestep:
        """Makes the step."""
        self._turns.recv()
        return self._stepped(*self._envs.step(self._action))

    def picture(self) -> np.ndarray:
        """The first environment's own picture, `[H, W, 3]` u8, where it was made to draw one."""
        return self._envs.envs[0].render()

    def close(self) -> None:
        """Closes the environments."""
        self._envs.close()

    def save(self) -> dict[str, np.ndarray] | None:
        """Gymnasium has no way to save an environment."""
        return None

    def restore(self, saved: Mapping[str, np.ndarray], timestep: Timestep) -> bool:
        """Cannot be brought back."""
        return False

    def _started(self, frame: np.ndarray) -> Timestep:
        no = np.zeros(len(self._ended), bool)
        self._ended = no
        self._turns.start()
        return Timestep(frame, no.astype(np.float32), no, no, ~no)

    def _stepped(
        self,
        frame: np.ndarray,
        reward: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        _: dict[str, Any],
    ) -> Timestep:
        first = self._ended
        self._ended = terminated | truncated
        with np.errstate(over="ignore"):  # infinite is for `guard` to see
            reward = reward.astype(np.float32)
        return Timestep(frame, reward, terminated.copy(), self._ended, first)


class _Workers(AsyncVectorEnv):
    """Gymnasium's, but there is one to ask and to close where a worker ended while starting."""

    is_complete = True

    def _check_spaces(self) -> None:
        """Waits until all have started."""
        try:
            super()._check_spaces()
        except (EOFError, OSError):
            self.is_complete = False


def _work(*arguments: Any) -> None:
    """What a process does: Gymnasium's worker, quiet where its parent is no more."""
    # What a signal to all processes means is for the parent to say, which ends this one.
    for number in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, number):
            signal.signal(getattr(signal, number), signal.SIG_IGN)
    with contextlib.suppress(EOFError, OSError):
        _async_worker(*arguments)


class WorkersEnv(GymEnv):
    """Adapter over Gymnasium's asynchronous vector environment: a process for each copy.

    They are started by `reset`, so that looking at `spec` costs none.
    """

    def __init__(self, copies: Copies, codec: Codec, name: str, seed: int):
        self.codec = codec
        self.spec = codec.spec
        self.said = codec.said
        self._copies = copies
        self._name = name
        self._seed = seed
        self._envs: _Workers | None = None
        self._turns = Turns(len(copies), codec.spec.num_actions)

    def reset(self) -> Timestep:
        """Starts every process and every environment."""
        self.close()
        context = multiprocessing.get_context(CONTEXT)
        if CONTEXT == "forkserver":
            context.set_forkserver_preload(WORKERS_IMPORT)
        try:
            self._envs = _Workers(
                self._copies,
                context=CONTEXT,
                worker=_work,
                autoreset_mode=AutoresetMode.NEXT_STEP,
            )
        except Exception as error:  # what cannot be sent to a process, or no process left
            raise problem(f"its processes cannot be started: {said(error)}", self._name) from error
        atexit.register(self.close)  # before multiprocessing waits for them
        if not self._envs.is_complete:
            raise self._ended_early()
        self._ended = np.zeros(len(self._copies), bool)
        self._ask(self._envs.reset_async, seed=self._seed)
        return self._started(self._ask(self._envs.reset_wait)[0])

    def send(self, action: np.ndarray) -> None:
        """Starts the step in every process; `action` is `[E]`."""
        action = self._turns.send(action)
        assert self._envs is not None
        self._ask(self._envs.step_async, action.astype(np.int64))

    def recv(self) -> Timestep:
        """Waits for the step."""
        self._turns.recv()
        assert self._envs is not None
        return self._stepped(*self._ask(self._envs.step_wait))

    def close(self) -> None:
        """Ends the processes, whatever they are at."""
        envs = self._envs
        self._envs = None
        if envs is None:
            return
        atexit.unregister(self.close)
        for pipe in envs.parent_pipes:
            with contextlib.suppress(OSError, AttributeError):  # it ended; it failed
                pipe.send(("close", None))
        until = time.monotonic() + CLOSE_SECONDS
        for pipe in envs.parent_pipes:
            with contextlib.suppress(EOFError, OSError, AttributeError):  # it ended, which is right
                while pipe.poll(max(0.0, until - time.monotonic())):
                    pipe.recv()
        for process in envs.processes:
            process.join(max(0.0, until - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
        for pipe in envs.parent_pipes:
            if pipe is not None:
                pipe.close()
        envs.closed = True

    def _ask(self, method: Callable, *arguments: Any, **keywords: Any) -> Any:
        """Calls Gymnasium; what went wrong in a worker is raised as what it was there."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Gymnasium shows the worker's traceback in one
                return method(*arguments, **keywords)
        except EnvError as error:
            raise EnvError(str(error)) from None
        except (EOFError, OSError) as error:
            raise self._ended_early() from error

    def _ended_early(self) -> EnvError:
        """The error of a process that is no more."""
        assert self._envs is not None
        processes = self._envs.processes
        for seconds in (0.0, 1.0):  # its pipe closes a moment before it ends
            for i, process in enumerate(processes):
                process.join(seconds)
                if process.exitcode is not None:
                    return problem(
                        f"its process ended with exit code {process.exitcode}; a script that "
                        'trains needs `if __name__ == "__main__":`',
                        self._name,
                        i,
                        len(processes),
                    )
        return problem("one of its processes does not answer", self._name)
