"""How a run is asked to stop: signals, also while XLA compiles, and a reader that went away.

A first signal is noted, and the run ends between two ticks. A second one ends the process at once:
whatever is being written is complete or absent then. A terminal that closes and wrappers that
forward signals send theirs twice: the same one again, at once, is still the first.

Python runs handlers in the main thread only, between two of its instructions: what takes long
there without any is done by `in_thread`.
"""

import contextlib
import os
import re
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from typing import IO, Any, NoReturn, TextIO

from jdqn.config import ConfigError, PassingError, RunError, shown
from jdqn.config.wording import one_line

SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]
# Of the process that reads what is printed; number 13 wherever there is such a signal.
BROKEN_PIPE = 13
# A function of the user's that returned True or raised; no signals.
ON_LOG = -1
ON_EVALUATION = -2
NAMES = {BROKEN_PIPE: "SIGPIPE", ON_LOG: "on_log", ON_EVALUATION: "on_evaluation"}
IMPORT_FILE = "<frozen importlib._bootstrap>"  # of the code that imports
REFUSED_STATUS = 2  # of a mistake
PASSING_STATUS = 75  # of what may be none a moment later: EX_TEMPFAIL of sysexits.h
POLL_SECONDS = 0.1
SAME_SECONDS = 1.0
# Sent once more, some time later, by the shell of a terminal that closes.
REPEATED = {number for number in SIGNALS if number == getattr(signal, "SIGHUP", None)}
THREAD = "jdqn compiles"
# Names a descriptor: the end for reading of a pipe that the parent closes, or that closes with it.
PARENT_PIPE = "JDQN_PARENT_PIPE"


class Interrupted(Exception):
    """A stop was asked for during something that is given up."""


class Stop:
    """Why a run is to stop; false while it is not."""

    def __init__(self) -> None:
        self.reasons: list[int] = []  # signals or functions of the user's, the first counts

    def __bool__(self) -> bool:
        return bool(self.reasons)

    @property
    def reason(self) -> int:
        """The signal, or the function of the user's; 0: none."""
        return self.reasons[0] if self.reasons else 0

    @property
    def heard(self) -> "Stop":
        """What this process alone was asked: see `processes.Agreed`."""
        return self

    def agree(self, tick: int | None = None) -> bool:
        """Whether a stop was asked for, of any process; at a tick, or now."""
        return bool(self)

    def check(self) -> None:
        """Raises Interrupted where a stop was asked for."""
        if self.reasons:
            raise Interrupted


_stops: list[Stop] = []  # that hear signals now
_waits_for_nothing: list[bool] = []  # not empty: see `leave_at_once`


@contextlib.contextmanager
def signals() -> Iterator[Stop]:
    """Yields a Stop that hears signals until the context ends."""
    stop = Stop()
    _stops.append(stop)
    heard: list[tuple[int, float]] = []  # signals and when; a broken pipe is none

    def note(number: int, _: Any) -> None:
        now = time.monotonic()
        is_second = bool(heard) and number not in REPEATED
        if is_second and (number != heard[0][0] or now - heard[0][1] > SAME_SECONDS):
            _end_at_once(number)
        if not heard and sys.stderr is not None and sys.stderr.isatty():
            os.write(2, b"\nstopping, with a checkpoint; once more ends at once, without one\n")
        heard.append((number, now))
        stop.reasons.append(number)

    before = {}
    with contextlib.suppress(ValueError):  # not in the main thread: a notebook's executor
        for number in SIGNALS:
            # What `nohup` and shells have set to be ignored stays so.
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, note)
    try:
        yield stop
    finally:
        _stops.remove(stop)
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_with_parent() -> None:
    """Has a process that was given `PARENT_PIPE` stop as by SIGTERM when that pipe closes.

    Raises:
      ConfigError: it names no descriptor.
    """
    text = os.environ.pop(PARENT_PIPE, None)  # for this process, not for its own children
    if text is None:
        return
    if not re.fullmatch("[0-9]{1,9}", text):
        raise ConfigError(f"{PARENT_PIPE} = {shown(text)}: must be the number of an open pipe")
    descriptor = int(text)

    def wait() -> None:
        with contextlib.suppress(OSError):
            while os.read(descriptor, 1):
                pass
        if not any(_stops):  # a second signal would end it without a checkpoint
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="jdqn parent", daemon=True).start()


def _end_at_once(number: int) -> None:
    if sys.stdout is not None and sys.stdout.isatty():
        os.write(1, b"\x1b[?25h\n")  # the progress bar hides the cursor
    with contextlib.suppress(OSError):
        os.write(2, f"ended at once by {name_of(number)}, without a checkpoint\n".encode())
    os._exit(128 + number)


def in_thread(stop: Stop | None, function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function in a thread of its own, so that signals are heard meanwhile.

    Raises:
      Interrupted: a stop was asked for; the thread is left to itself, see `leave`.
    """
    if threading.current_thread() is not threading.main_thread():
        return function(*arguments)
    results: list[Any] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            results.append(function(*arguments))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=call, name=THREAD, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(POLL_SECONDS)
        if stop is not None and thread.is_alive():
            stop.check()
    if errors:
        raise errors[0]
    return results[0]


def compiled(stop: Stop | None, function: Any, *arguments: Any) -> Any:
    """Compiles a jitted function for arguments, which may be abstract; signals are heard.

    Raises:
      Interrupted: see `in_thread`.
    """
    return in_thread(stop, lambda: function.lower(*arguments).compile())


class Compiled:
    """A jitted function that is compiled by `compiled` when it is first called."""

    def __init__(self, function: Any, stop: Stop | None = None):
        self._function = function
        self._program: Any = None
        self._stop = stop

    def __call__(self, *arguments: Any) -> Any:
        """Calls it; all calls have arguments of the same shapes and types."""
        if self._program is None:
            self._program = compiled(self._stop, self._function, *arguments)
        return self._program(*arguments)


def command(refuse: Callable[[Exception], NoReturn], run: Callable[[], int | None]) -> None:
    """Runs a command: a mistake, a failure or a stop is one line on stderr and an exit status.

    Args:
      refuse: says what a mistake is, and exits; the status is `REFUSED_STATUS` or `PASSING_STATUS`.
      run: the command; returns its exit status.
    """
    status: int | None = 1
    try:
        with _imports_end_at_once():
            status = run()
        sys.stdout.flush()
    except BrokenPipeError:
        silence(sys.stdout)
        status = 128 + BROKEN_PIPE
    except (ConfigError, OSError) as error:
        silence_if_full(sys.stdout)
        with contextlib.suppress(SystemExit):
            refuse(error)
        status = PASSING_STATUS if isinstance(error, PassingError) else REFUSED_STATUS
    except RunError as error:
        say(str(error))
        status = error.status
    except KeyboardInterrupt:
        say("stopped by SIGINT")
        status = 128 + signal.SIGINT
    except MemoryError:
        say("out of memory")
    except RuntimeError as error:  # JAX's have no class of their own
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        say(f"out of memory: {error}")
    if status:
        leave(status)


@contextlib.contextmanager
def _imports_end_at_once() -> Iterator[None]:
    """Has Ctrl-C during an import end the process: compiled modules abort where it raises."""

    def hear(number: int, frame: types.FrameType | None) -> None:
        while frame is not None:
            if frame.f_code.co_filename == IMPORT_FILE:
                say(f"stopped by {name_of(number)}")
                leave_at_once()
                leave(128 + number)
            frame = frame.f_back
        raise KeyboardInterrupt

    is_ours = False
    with contextlib.suppress(ValueError):  # not in the main thread
        is_ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if is_ours:
            signal.signal(signal.SIGINT, hear)
    try:
        yield
    finally:
        if is_ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def say(sentence: str) -> None:
    """Prints a sentence on one line of stderr, where there is one to print on."""
    with contextlib.suppress(OSError):
        print(f"error: {one_line(sentence)}", file=sys.stderr)  # noqa: T201


def silence_if_full(stream: TextIO) -> None:
    """Writes nothing any more where nothing can be written."""
    try:
        stream.flush()
    except OSError:
        silence(stream)


def name_of(number: int) -> str:
    """What a signal, or another reason to stop, is called."""
    return NAMES.get(number) or signal.Signals(number).name


def silence(stream: IO[str]) -> None:
    """Writes nothing any more where nobody reads, also when Python ends."""
    with contextlib.suppress(OSError, ValueError):  # where it is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def leave_at_once() -> None:
    """Has `leave` wait for nothing."""
    _waits_for_nothing.append(True)


def leave(status: int) -> None:
    """Ends the process, even where a thread still compiles."""
    if _waits_for_nothing or any(thread.name == THREAD for thread in threading.enumerate()):
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)
    raise SystemExit(status)
