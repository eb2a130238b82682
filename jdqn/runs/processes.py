"""Several processes of jax that make one run: how they find each other, and what they agree on.

Each runs the same loop, tick for tick, on a part of the devices. What only one of them can know, a
signal, a clock, whether its disk is full, all hear at the same place of the program. With a single
process nothing here asks anybody.
"""

import collections
import contextlib
import functools
import os
import pathlib
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np

from jdqn.config import Config, ConfigError, RunError, shown, to_toml, with_overrides
from jdqn.config.wording import one_line
from jdqn.runs import stopping

ADDRESS = "JAX_COORDINATOR_ADDRESS"
# jax knows both on a TPU pod, under SLURM and the like.
NUMBERS = ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
ALONE = f"to train in one process: unset {ADDRESS}"
JOIN_SECONDS = 300  # that one waits for the others
# A process that is gone is missed after these; jax then ends the others.
HEARTBEAT_SECONDS = 60
SHUTDOWN_SECONDS = 30
LAST_WORDS_SECONDS = 2  # before the first one ends: jax ends the others with it
AGREES_TICKS = 64  # between two times that they ask each other whether to stop
# How XLA's errors begin, whatever class they have.
OF_XLA = re.compile(r"[A-Z]+(_[A-Z]+)*: ")


def join(config: Config) -> None:
    """Joins the processes that the environment names, where it names any.

    Raises:
      ConfigError: a variable is not what it must be, the configuration is none of so many
        processes, they cannot be joined, or do not have as many devices.
      KeyboardInterrupt: while it waits.
    """
    address = os.environ.get(ADDRESS)
    if address is None or jax.distributed.is_initialized():
        return
    _check_address(address)
    num_processes, process_id = map(_number, NUMBERS)
    _check_config(config, num_processes or 1)
    waiting = f"waiting at most {JOIN_SECONDS} s for all processes, at {ADDRESS} = {address}"
    is_numbered = None not in (num_processes, process_id)
    who = f"process {process_id} of {num_processes}: " if is_numbered else ""
    _say(f"{who}{waiting}; {ALONE}")
    jax.config.update("jax_enable_preemption_service", False)  # hears SIGTERM in our place
    initialize = functools.partial(
        jax.distributed.initialize,
        num_processes=num_processes,
        process_id=process_id,
        initialization_timeout=JOIN_SECONDS + HEARTBEAT_SECONDS,  # when jax would abort
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        shutdown_timeout_seconds=SHUTDOWN_SECONDS,
    )
    try:
        stopping.in_thread(Deadline(), initialize)  # so that Ctrl-C is heard
    except (ValueError, TypeError, RuntimeError) as error:
        names = ", ".join(f"{name} = {os.environ.get(name, 'not set')}" for name in NUMBERS)
        said = _one_line(error).rstrip(".")
        raise ConfigError(f"{ADDRESS} = {address}, {names}: {said}; {ALONE}") from None
    _check_devices()
    with watched():
        numbers(0)  # the first time gloo waits for half a minute only: now all are here


class Deadline(stopping.Stop):
    """Until when others are waited for."""

    def __init__(self) -> None:
        super().__init__()
        self._ends_at = time.monotonic() + JOIN_SECONDS

    def check(self) -> None:
        """Raises RuntimeError where they have not come in time."""
        if time.monotonic() > self._ends_at:
            raise RuntimeError(f"not all processes came within {JOIN_SECONDS} s")


def _check_address(address: str) -> None:
    """Raises ConfigError where jax would fail, or wait for a port that cannot be."""
    found = re.fullmatch(r"[^/\s]+:([0-9]{1,5})", address)
    if not found or not 0 < int(found[1]) < 2**16:
        raise ConfigError(
            f"{ADDRESS} = {shown(address)}: must be a host and its port, such as localhost:12345; "
            f"{ALONE}"
        )


def _check_config(config: Config, num_processes: int) -> None:
    """Raises ConfigError, before others are waited for, for what cannot be with so many.

    Devices are a multiple of the processes; what does not fit so few, does not fit more.
    """
    asked = config.train.num_devices
    if num_processes == 1:
        return
    if asked == "all":
        with_overrides(config, train__num_devices=num_processes)
    elif int(asked) % num_processes:
        raise ConfigError(
            f"train.num_devices = {asked}: must be all, or a multiple of {NUMBERS[0]} = "
            f"{num_processes}; {ALONE}"
        )


def _check_devices() -> None:
    """Raises ConfigError, in all processes, where one has more devices than another."""
    counts = collections.Counter(device.process_index for device in jax.devices())
    if len({*counts.values()}) > 1:
        told = ", ".join(f"process {number} has {counts[number]}" for number in sorted(counts))
        raise ConfigError(f"all processes must have as many devices: {told}")


def _one_line(error: Exception) -> str:
    return one_line(" ".join(str(error).split()))


def _number(name: str) -> int | None:
    """What a variable says; None: nothing."""
    text = os.environ.get(name)
    if text is not None and not re.fullmatch("[0-9]{1,6}", text):
        raise ConfigError(f"{name} = {shown(text)}: must be a whole number, 0 or more")
    return None if text is None else int(text)


def count() -> int:
    """How many processes the run has."""
    return jax.process_count() if jax.distributed.is_initialized() else 1


def is_first() -> bool:
    """Whether this one logs, evaluates and prints."""
    return count() == 1 or jax.process_index() == 0


def numbers(own: int) -> list[int]:
    """A small number of each process; all call it at the same place, and wait for each other."""
    return [own] if count() == 1 else everyones([np.array(own, np.int32)])[0].tolist()


def texts(own: str) -> list[str]:
    """A text of each process; all call it at the same place, and wait for each other."""
    if count() == 1:
        return [own]
    data = own.encode()
    sizes = numbers(len(data))
    room = 2 ** max(max(sizes) - 1, 0).bit_length()  # few sizes: each is a program
    padded = np.frombuffer(data.ljust(room, b" "), np.uint8)
    (padded,) = everyones([padded])
    return [one.tobytes()[:size].decode() for one, size in zip(padded, sizes, strict=True)]


def everyones(own: list[np.ndarray]) -> list[np.ndarray]:
    """Arrays of each process, of the same shapes and types, with a leading axis of processes."""
    from jax.experimental import multihost_utils

    if len(own) == 1:
        return [multihost_utils.process_allgather(own[0])]
    as_bytes = [array.reshape(-1).view(np.uint8) for array in own]  # in one go
    joined = multihost_utils.process_allgather(np.concatenate(as_bytes))
    ends = np.cumsum([len(one) for one in as_bytes])
    pieces = np.split(joined, ends[:-1], axis=1)
    return [
        np.ascontiguousarray(piece).view(array.dtype).reshape(len(joined), *array.shape)
        for piece, array in zip(pieces, own, strict=True)
    ]


def check_same(config: Config, *others: object) -> None:
    """Raises ConfigError where the processes have not been asked for the same."""
    own = "\n".join([to_toml(config), *map(str, others)])
    for number, theirs in enumerate(texts(own)):
        if theirs != own:
            pairs = zip(own.splitlines(), theirs.splitlines(), strict=False)
            here, there = next((pair for pair in pairs if pair[0] != pair[1]), ("less", "more"))
            raise ConfigError(
                f"process {jax.process_index()} is asked for {shown(here)}, process {number} for "
                f"{shown(there)}: give the same options to all, and one folder that all can see"
            )


class Agreed(stopping.Stop):
    """A stop of which all processes hear at the same place, though one alone was asked."""

    def __init__(self, heard: stopping.Stop):
        super().__init__()
        self._heard = heard
        self._asked_tick = -AGREES_TICKS

    @property
    def heard(self) -> stopping.Stop:
        """What this process was asked."""
        return self._heard

    def agree(self, tick: int | None = None) -> bool:
        """Hears of it: all processes call it at the same place; of ticks not at each."""
        is_due = tick is None or tick - self._asked_tick >= AGREES_TICKS
        if tick is not None and is_due:
            self._asked_tick = tick
        if is_due and not self:
            self.reasons += [reason for reason in numbers(self._heard.reason) if reason]
        return bool(self)


def agreed(heard: stopping.Stop) -> stopping.Stop:
    """The stop of a run, by what this process hears."""
    return heard if count() == 1 else Agreed(heard)


class Watch:
    """What a process says when another one is gone."""

    def __init__(self) -> None:
        self.what_is_kept: Callable[[], str] = lambda: "nothing was begun"


@contextlib.contextmanager
def watched() -> Iterator[Watch]:
    """Turns the error of a process that another one has left into a sentence: RunError.

    A process that fails alone leaves at once, so that the others hear of it.
    """
    watch = Watch()
    try:
        yield watch
    except Exception as error:
        if count() == 1:
            raise
        if not _is_of_another(error):
            leave_apart()
            raise
        stopping.leave_at_once()  # at its end jax would wait for what is gone
        raise RunError(
            f"another process of the run ended or cannot be reached ({_one_line(error)}); "
            f"{watch.what_is_kept()}"
        ) from None


def leave_apart() -> None:
    """Has each of several processes end by itself: jax would have them wait, and abort all.

    The first one waits a moment: jax ends the others with it.
    """
    if count() > 1:
        stopping.leave_at_once()
        time.sleep(LAST_WORDS_SECONDS if is_first() else 0)


def _is_of_another(error: Exception) -> bool:
    """Whether jax says that another process is gone: its errors have no class of their own."""
    is_ours = isinstance(error, ConfigError | RunError)
    is_jax = isinstance(error, ValueError | RuntimeError) and OF_XLA.match(str(error))
    return bool(is_jax) and not is_ours and "RESOURCE_EXHAUSTED" not in str(error)


def say_who_is_there(path: pathlib.Path) -> None:
    """Says on stderr what to do when one is lost: jax may end this one without a word of ours."""
    if count() == 1:
        return
    line = (
        f"process {jax.process_index()} of {count()}: when one is lost the others end, within two "
        f"minutes and with a status that is not 0; go on in all of them with: "
        f"python -m jdqn.train --resume {shlex.quote(str(path))}"
    )
    _say(line)


def _say(line: str) -> None:
    """Prints a line on stderr, also where a run is quiet."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)  # noqa: T201
