"""What a run of several processes leaves: one directory, written by all of them.

Process 0 writes the logs and the manifests, and plays the evaluations. Each process writes the rows
that its own devices have, a ring for each device. All see one folder.
"""

import contextlib
import json
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import chex
import jax

from jdqn import devices
from jdqn.config import Config, ConfigError
from jdqn.envs import EnvError
from jdqn.runs import checkpoint, directory, evaluation, files, processes, slices, stopping
from jdqn.runs.checkpoint import Position
from jdqn.runs.counters import Counters
from jdqn.runs.episodes import Evaluation, Standing
from jdqn.runs.store import Store

# Until a machine sees what another one has made: NFS remembers for so long that nothing was there.
SEEN_SECONDS = 75.0
LOOK_SECONDS = 1.0
# Between words of the first process in an evaluation: gloo waits for half an hour.
TELLS_SECONDS = 300.0
ENDED, PLAYS = range(2)  # what it says


def lock(path: pathlib.Path) -> contextlib.AbstractContextManager[None]:
    """Holds a run directory, in the first process for all. Raises ConfigError."""
    return files.lock(path) if processes.is_first() else contextlib.nullcontext()


def make_run_dir(run_dir: pathlib.Path | None, config: Config) -> pathlib.Path:
    """A run directory that the first process makes, and all see.

    Raises:
      ConfigError: it is taken, cannot be made, or is not seen by one.
    """
    processes.numbers(0)  # all have looked whether it is taken
    path = run_dir or pathlib.Path()
    if processes.is_first():
        path = directory.make_run_dir(run_dir, config)
    path = pathlib.Path(processes.texts(str(path))[0])
    until = time.monotonic() + SEEN_SECONDS
    while not path.is_dir() and time.monotonic() < until:
        time.sleep(LOOK_SECONDS)
    for number, is_seen in enumerate(processes.numbers(path.is_dir())):
        if not is_seen:
            raise ConfigError(
                f"run directory {path} is not seen by process {number}: all processes need one "
                "folder, and a path that means the same to all"
            )
    return path


def open_run_dir(path: pathlib.Path, *arguments: Any, **others: Any) -> directory.RunDirectory:
    """The files of a run, of which the first process has all, others none. Raises ConfigError."""
    if not processes.is_first():
        return NoFiles(path)
    kind = directory.RunDirectory if processes.count() == 1 else FirstFiles
    return kind(path, *arguments, **others)


def make_checkpoints(config: Config, run_dir: pathlib.Path, run_id: str) -> checkpoint.Checkpoints:
    """Those of one process, or of several."""
    kind = checkpoint.Checkpoints if processes.count() == 1 else Checkpoints
    return kind(config, run_dir, run_id)


class FirstFiles(directory.RunDirectory):
    """The logs of the first of several processes."""

    def sync(self) -> dict[str, int]:
        """As of one process; where it fails, it fails in all. Raises OSError."""
        lengths: dict[str, int] = _everyones(super().sync)[0]
        return lengths


class NoFiles(directory.RunDirectory):
    """The logs of a process that writes none."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        self.run_id = ""  # in no manifest of this process

    def log(self, *_: Any) -> None:
        """Nothing."""

    episodes = evaluation = log  # type: ignore[assignment]

    def sync(self) -> dict[str, int]:
        """Hears whether the first process has written its own. Raises OSError."""
        _everyones(lambda: None)
        return {}

    def close(self) -> None:
        """Nothing."""


class Watching(Store):
    """The store of a process that leaves it to another one to delete."""

    def sweep(self) -> None:
        """Nothing."""

    def thin(self, _: Any) -> None:
        """Nothing."""


class Checkpoints(checkpoint.Checkpoints):
    """Those that all processes write: every method is called in all of them at the same place."""

    def __init__(self, config: Config, run_dir: pathlib.Path, run_id: str):
        super().__init__(config, run_dir, run_id)
        mesh = devices.make_mesh(config)
        assert mesh is not None
        own = [device.process_index == jax.process_index() for device in mesh.devices.flat]
        self._first_ring = own.index(True)
        self._num_rings = (len(own), sum(own))  # of all, of this process
        if not processes.is_first():
            self._store = Watching(self._store.folder)

    def save(
        self,
        steps: int,
        position: Position,
        counters: Counters,
        held_out: Sequence[chex.Array],
        files: Mapping[str, int],
    ) -> None:
        """As of one process; what lies apart is gathered, but for the rows. Raises OSError."""
        (carry,) = position.carries
        small, rows = checkpoint.split(carry)
        small = devices.gathered(small)
        carry = small._replace(replay_state=small.replay_state.replace(rows=rows))
        position = position._replace(carries=[carry], learned=devices.gathered(position.learned))
        super().save(steps, position, counters, held_out, files)

    def _save_rows(self, position: Position) -> list[slices.Names]:
        """Each process writes those of its devices; returns the names of all."""
        rows = position.carries[0].replay_state.rows
        rings = devices.own_parts(rows)
        num_rings, num_own = self._num_rings
        before = []
        if len(self._slices) == num_rings:
            before = self._slices[self._first_ring : self._first_ring + num_own]

        def save() -> list[slices.Names]:
            return slices.save(self._store, rings, num_own, position.tick, before, self._tick)

        return [ring for theirs in _everyones(save) for ring in theirs]

    def _complete(self, steps: int, *arguments: Any) -> None:
        complete = super()._complete

        def write() -> None:
            if processes.is_first():
                complete(steps, *arguments)

        _everyones(write)

    def save_best(self, steps: int, tick: int, states: Sequence[Any], mean: float) -> None:
        """The first process has all that is in it. Raises OSError."""
        if processes.is_first():
            super().save_best(steps, tick, states, mean)


def _everyones(write: Callable[[], Any]) -> list[Any]:
    """What it answers in each process. Raises OSError in all where it does in one."""
    answer = None
    problem = ""
    try:
        answer = write()
    except OSError as error:
        problem = error.strerror or str(error)
    everyones = [json.loads(text) for text in processes.texts(json.dumps([problem, answer]))]
    for number, (theirs, _) in enumerate(everyones):
        if theirs:
            raise OSError(f"process {number}: {theirs}")
    return [one for _, one in everyones]


def told(evaluate: evaluation.Evaluator) -> evaluation.Evaluator:
    """An evaluator for all processes: the first one plays, and tells the others."""
    if processes.count() == 1:
        return evaluate

    def call(
        state: Any, run_seed: int, offset: int, policy: str, watch: evaluation.Watch | None = None
    ) -> Evaluation:
        said: list[Any] = []
        if processes.is_first():
            try:
                said = ["", *evaluate(state, run_seed, offset, policy, _telling(watch))]
            except stopping.Interrupted:
                said = ["stopped"]
            except EnvError as error:
                said = ["failed", str(error)]
        while processes.numbers(ENDED)[0] == PLAYS:
            pass
        how, *figures = json.loads(processes.texts(json.dumps(said))[0])
        if how == "stopped":
            raise stopping.Interrupted
        if how == "failed":
            raise EnvError(*figures)
        return Evaluation(*figures)

    return call


def _telling(watch: evaluation.Watch | None) -> evaluation.Watch:
    """Watches an evaluation, and tells those who wait for it that it goes on."""
    told_at = time.monotonic()

    def tell(standing: Standing) -> None:
        nonlocal told_at
        if watch is not None:
            watch(standing)
        if time.monotonic() - told_at > TELLS_SECONDS:
            processes.numbers(PLAYS)
            told_at = time.monotonic()

    return tell
