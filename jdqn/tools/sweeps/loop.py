"""A sweep from its first trial to its last, whoever runs them."""

import collections
import contextlib
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from jdqn.config import RunError
from jdqn.runs import stopping
from jdqn.tools.sweeps.attempt import Job, Outcome, folder_of
from jdqn.tools.sweeps.board import Board, best_of
from jdqn.tools.sweeps.plan import Plan

POLL_SECONDS = 0.2
Results = dict[str, dict[str, Any]]  # by a trial's name


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


class Source(Protocol):
    """What says which trials are to be run."""

    def jobs(self, results: Results) -> Sequence[Job]:
        """What is to be run now, in the order in which it is to begin; what has a result is not.

        Results that are on the disk, of a sweep before, are added to `results`.
        """

    def best(self, results: Results) -> Sequence[str]:
        """What was best, in words."""


class Grid:
    """All trials of a list."""

    refused: tuple[str, ...] = ()

    def __init__(self, plan: Plan):
        self.trials = plan.trials()
        self._plan = plan
        self._is_read = False

    def jobs(self, results: Results) -> list[Job]:
        """See `Source`."""
        for trial in () if self._is_read else self.trials:
            folder = folder_of(self._plan.directory, trial)
            if (result := folder.final_result()) is not None:
                results[trial.name] = result
        self._is_read = True
        return [Job(trial) for trial in self.trials if trial.name not in results]

    def best(self, results: Results) -> list[str]:
        """The best setting of each game."""
        return best_of(results)


@contextlib.contextmanager
def writing(directory: pathlib.Path) -> Iterator[None]:
    """Makes a RunError of what cannot be written: no mistake of the user's, and it may pass."""
    try:
        yield
    except OSError as error:
        name = error.filename or directory
        sentence = f"cannot write {name}: {error.strerror or error}; the same command goes on"
        raise RunError(sentence) from None


def drive(
    executor: Executor,
    source: Source,
    results: Results,
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
    waiting: collections.deque[Job] = collections.deque(source.jobs(results))
    asked = False
    while waiting or executor.running:
        for job, outcome in executor.poll():
            if outcome.result is not None:
                results[job.trial.name] = outcome.result
            board.ended(job, outcome)
            busy = {job.trial.name for job, _ in executor.running}
            waiting = collections.deque(
                job for job in source.jobs(results) if job.trial.name not in busy
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
