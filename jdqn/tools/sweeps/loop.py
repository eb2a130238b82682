"""A sweep from its first trial to its last, whoever runs them."""

import collections
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from jdqn.runs import stopping
from jdqn.tools.sweeps import folders
from jdqn.tools.sweeps.attempt import Job, Outcome
from jdqn.tools.sweeps.board import Board
from jdqn.tools.sweeps.plan import Trial

POLL_SECONDS = 0.2
Results = Mapping[str, dict[str, Any]]  # by a trial's name


class Executor(Protocol):
    """Who runs trials."""

    @property
    def running(self) -> Sequence[tuple[Job, int]]:
        """Jobs, and the numbers of their attempts."""

    def has_room(self) -> bool:
        """Whether another trial can be started."""

    def start(self, job: Job) -> None:
        """Starts a trial."""

    def poll(self) -> Sequence[tuple[Job, Outcome]]:
        """What has ended since the last time."""

    def stop(self) -> None:
        """Asks all to end with a checkpoint."""

    def close(self) -> None:
        """Lets go of what it holds."""


# What is to be run now, of what has no result: in the order in which it is to begin.
Source = Callable[[Results], Sequence[Job]]


def of_grid(trials: Sequence[Trial]) -> Source:
    """All trials, in their order."""
    return lambda results: [Job(trial) for trial in trials if trial.name not in results]


def drive(
    executor: Executor,
    source: Source,
    results: dict[str, dict[str, Any]],
    board: Board,
    stop: stopping.Stop,
) -> None:
    """Runs all trials that have no result, or until a stop is asked for.

    Args:
      executor: who runs them.
      source: what is to be run.
      results: of trials that have ended, by name; those that end are added.
      board: is told what happens.
      stop: ends it: every trial saves a checkpoint.

    Raises:
      OSError: the sweep's directory cannot be written.
    """
    waiting: collections.deque[Job] = collections.deque(source(results))
    asked = False
    while waiting or executor.running:
        for job, outcome in executor.poll():
            if outcome.result is not None:
                results[job.trial.name] = outcome.result
            board.ended(job, outcome)
            busy = {job.trial.name for job, _ in executor.running}
            waiting = collections.deque(
                job for job in source(results) if job.trial.name not in busy
            )
        if stop:
            waiting.clear()
            if not asked:
                executor.stop()
                asked = True
                board.stopping(len(executor.running))
        while waiting and executor.has_room():
            job = waiting.popleft()
            executor.start(job)
            board.began(job)
        board.show(executor.running, len(waiting), results)
        time.sleep(POLL_SECONDS)


def is_good(result: Mapping[str, Any]) -> bool:
    """Whether a trial ended as it should."""
    return result["status"] in (folders.DONE, folders.PRUNED)
