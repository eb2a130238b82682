"""One trial of the list, by its number: each is a task of an array job of a cluster."""

import contextlib
import time

from jdqn.envs import usable_cores
from jdqn.runs import files, stopping
from jdqn.tools.sweeps import attempt, ends, folders, loop
from jdqn.tools.sweeps.attempt import Attempt, Job, Place
from jdqn.tools.sweeps.board import Board
from jdqn.tools.sweeps.plan import Plan, Trial


def run(plan: Plan, trial: Trial) -> int:
    """Runs a trial to its end, on all that the task was given.

    Returns:
      The exit status; 2 where trying again changes nothing, refused or failed for good.

    Raises:
      ConfigError: a sweep of another kind holds the directory.
      RunError: it cannot be written.
    """
    folders.make(plan.directory)
    folder = attempt.folder_of(plan.directory, trial)
    place = Place(num_threads=usable_cores())
    with (
        files.lock(plan.directory, "sweep directory", shared=True),
        stopping.signals() as stop,
        contextlib.closing(Board(plan.directory, stop)) as board,
        loop.writing(plan.directory),
    ):
        job = Job(trial)
        if (result := folder.final_result()) is not None:
            board.say(f"has ended before: {ends.told(result)}{ends.advice(folder, result)}")
        while (result := folder.final_result()) is None:
            one = Attempt(job, folder, place, plan.sweep.max_retries)
            board.began(job)
            while (outcome := one.poll()) is None:
                if stop:
                    one.stop()
                board.show([(job, one.number)], 0, {})
                time.sleep(loop.POLL_SECONDS)
            board.ended(job, outcome)
            if stop:
                return 128 + stop.reason
            if outcome.how == folders.SUPERSEDED and folder.final_result() is None:
                return 1  # another task has the trial now
        return stopping.REFUSED_STATUS if result["status"] in ends.BAD else 0
