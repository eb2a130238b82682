"""One attempt at a trial: a process of `jdqn.train`, watched until it ends.

The process has a pipe from this one. It saves a checkpoint and ends when the pipe closes: that is
how it is stopped, and what happens by itself when this process is gone, however that came.
"""

import contextlib
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jdqn.config import ConfigError
from jdqn.runs import stopping
from jdqn.tools.sweeps import folders
from jdqn.tools.sweeps.folders import Folder
from jdqn.tools.sweeps.plan import Trial

COMMAND = (sys.executable, "-m", "jdqn.train")
NOT_FINITE = "not finite"  # of a loss, a gradient, a reward: the same twice will be so again
# Negative: before there was anything to save.
STOPPED_STATUSES = {sign for number in stopping.SIGNALS for sign in (128 + number, -number)}
# That make one run of several processes: a trial is a run of its own.
OF_SEVERAL = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
LOOK_SECONDS = 1.0  # between looks at what other processes have written


class Job(NamedTuple):
    """A trial to be run, to its end or until it has been evaluated at some steps."""

    trial: Trial
    until_steps: int | None = None


class Outcome(NamedTuple):
    """How an attempt ended."""

    how: str  # see `folders`
    number: int  # of the attempt
    result: dict[str, Any] | None = None  # of the trial, where it has ended
    sentence: str = ""  # what its process said last, where it did not go well


class Place(NamedTuple):
    """Where an attempt runs."""

    cores: tuple[int, ...] = ()  # that it is pinned to; none: to no core
    num_threads: int = 1
    gpu: str | None = None  # as CUDA_VISIBLE_DEVICES names it


class Attempt:
    """Takes the next number of a trial, waits for its run to be free, runs it."""

    def __init__(
        self,
        job: Job,
        folder: Folder,
        place: Place,
        max_retries: int,
    ):
        """Begins. Raises OSError where the folder cannot be written."""
        self.job = job
        self._folder = folder
        self._place = place
        self._max_retries = max_retries
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: int | None = None
        self._asked: str | None = None  # why it was asked to stop
        self._looked_at = 0.0
        self.number = folder.claim()

    def poll(self) -> Outcome | None:
        """How it ended; None: it has not. Raises OSError."""
        if self._process is None:
            return self._begin()
        status = self._process.poll()
        if status is None:
            self._look()
            return None
        self._close()
        return self._ended(status)

    def stop(self) -> None:
        """Asks it to save a checkpoint and to end; `poll` says when it has."""
        self._asked = self._asked or folders.STOPPED
        self._close()

    def kill(self) -> None:
        """Ends it at once: while the pipe is open, for what hears it close would still save."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._close()

    # --- Before ---------------------------------------------------------------------------------

    def _begin(self) -> Outcome | None:
        """Starts the process once no other one has the run; or ends, where there is no need."""
        folder = self._folder
        if self._asked:
            return self._record(self._asked)
        if folder.newest() != self.number:
            return self._record(folders.SUPERSEDED)
        if (result := folder.result()) is not None:
            if result["status"] != folders.PRUNED or result["attempt"] >= self.number:
                return Outcome(result["status"], self.number, result)
            folder.reopen()  # pruned by a search before, and now wanted whole
        if folder.is_in_use():  # by an attempt whose parent is gone: it is about to end
            return None
        if folder.saved_steps() is None:
            folder.clear()
            self._start([*self.job.trial.options, f"--run-dir={folder.run}"])
        elif self._has_been_done():
            return self._done()
        else:
            self._start([f"--resume={folder.run}"])
        return None

    def _has_been_done(self) -> bool:
        """Whether the run is at its end: nobody was there to write the result."""
        from jdqn.runs import resume

        try:
            return resume.is_finished(self._folder.run)
        except ConfigError:  # damaged: going on will say so
            return False

    def _start(self, options: Sequence[str]) -> None:
        reader, self._pipe = os.pipe()
        environment = {**os.environ, **variables(self._place), stopping.PARENT_PIPE: str(reader)}
        for name in OF_SEVERAL:
            environment.pop(name, None)
        try:
            with self._folder.log.open("ab") as log:
                self._process = subprocess.Popen(
                    [*COMMAND, *options],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    pass_fds=[reader],
                    start_new_session=True,  # Ctrl-C is for the sweep, which asks once
                )
        finally:
            os.close(reader)
        if self._place.cores and hasattr(os, "sched_setaffinity"):
            with contextlib.suppress(ProcessLookupError):
                # Before it has any thread: those that come are where it is.
                os.sched_setaffinity(self._process.pid, self._place.cores)

    # --- Meanwhile ------------------------------------------------------------------------------

    def _look(self) -> None:
        """Ends what a later attempt has taken over, pauses what has come far enough."""
        now = time.monotonic()
        if now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        if self._folder.newest() != self.number:
            self._asked = folders.SUPERSEDED
            self.kill()
        elif self._asked is None and self._has_come_far_enough():
            self._asked = folders.PAUSED
            self._close()

    def _has_come_far_enough(self) -> bool:
        until = self.job.until_steps
        if until is None:
            return False
        evaluated = max(self._folder.standing().evaluations, default=0)
        return until <= evaluated < self.job.trial.steps  # at its end it ends by itself

    def _close(self) -> None:
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None

    # --- After ----------------------------------------------------------------------------------

    def _ended(self, status: int) -> Outcome:
        sentence = self._folder.last_line()
        if self._asked == folders.SUPERSEDED:
            return self._record(folders.SUPERSEDED)
        if status == 0:
            return self._done()
        # What has saved a checkpoint was no mistake: something cannot be read now.
        if status == stopping.REFUSED_STATUS and self._folder.saved_steps() is None:
            return self._result(folders.REFUSED, sentence)
        if self._asked and status in STOPPED_STATUSES:
            return self._done() if self._has_been_done() else self._record(self._asked)
        if status < 0:  # it could not say so
            after = f", after: {sentence}" if sentence else ""
            sentence = f"ended by {stopping.name_of(-status)}{after}"
        sentence = sentence or f"exit status {status}"
        retries = self._max_retries
        return crashed(
            self.job.trial, self._folder, self.number, folders.CRASHED, sentence, retries
        )

    def _done(self) -> Outcome:
        return self._result(folders.DONE)

    def _record(self, how: str, sentence: str = "") -> Outcome:
        self._folder.end(self.number, how)
        return Outcome(how, self.number, None, sentence)

    def _result(self, status: str, sentence: str = "") -> Outcome:
        return ended(self.job.trial, self._folder, self.number, status, sentence)


def ended(trial: Trial, folder: Folder, number: int, status: str, sentence: str = "") -> Outcome:
    """Ends a trial, if the attempt is still the newest. Raises OSError."""
    result = result_of(trial, folder, status, sentence)
    if not folder.write_result(number, result):
        found = folder.result()
        if found is None or found["attempt"] != number:
            folder.end(number, folders.SUPERSEDED)
            return Outcome(folders.SUPERSEDED, number)
        result = found  # pruned meanwhile
    folder.end(number, result["status"])
    return Outcome(result["status"], number, result, sentence)


def crashed(
    trial: Trial, folder: Folder, number: int, how: str, sentence: str, max_retries: int
) -> Outcome:
    """Records a crash or a loss; ends the trial where there were too many. Raises OSError."""
    repeats = NOT_FINITE in sentence and sentence == folder.sentence(number - 1)
    folder.end(number, how, sentence)
    if repeats or folder.crashes() > max_retries:
        return ended(trial, folder, number, folders.FAILED, sentence)
    return Outcome(how, number, None, sentence)


def result_of(trial: Trial, folder: Folder, status: str, sentence: str = "") -> dict[str, Any]:
    """What is written of a trial that has ended."""
    standing = folder.standing()
    evaluations = standing.evaluations
    score = evaluations[max(evaluations)] if evaluations else standing.training
    return {
        "status": status,
        "trial": trial.name,
        "game": trial.game,
        "agent": trial.agent,
        "seed": trial.seed,
        "settings": trial.settings,
        "steps": standing.steps,
        "score": score,
        "training": standing.training,
        "score_of": "evaluation" if evaluations else "training",
        "sentence": sentence,
    }


def variables(place: Place) -> Mapping[str, str]:
    """What the environment of a process says of where it runs."""
    threads = str(place.num_threads)
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NPROC")
    found = dict.fromkeys(names, threads)  # NPROC: of XLA on a CPU
    if place.gpu is not None:
        found["CUDA_VISIBLE_DEVICES"] = place.gpu
    return found


def folder_of(directory: pathlib.Path, trial: Trial) -> Folder:
    """The folder of a trial in a sweep's directory."""
    return Folder(directory / "trials" / trial.name)
