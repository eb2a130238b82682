"""How a run is asked to stop: signals are noted, also while something compiles."""

import concurrent.futures
import os
import signal
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import pytest

from jdqn.config import ConfigError, Parser, PassingError, RunError
from jdqn.runs import stopping


@pytest.mark.parametrize("number", stopping.SIGNALS)
def test_the_first_signal_is_noted_and_the_second_ends_the_process_at_once(monkeypatch, number):
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)

    def not_caught(*_):
        raise AssertionError("the signal was not caught")

    before = signal.signal(number, not_caught)
    try:
        with stopping.signals() as stop:
            assert (bool(stop), stop.reason) == (False, 0)
            stop.check()
            signal.raise_signal(number)
            assert (bool(stop), stop.reason) == (True, number)
            with pytest.raises(stopping.Interrupted):
                stop.check()
            signal.raise_signal(number)  # the same once more, at once
            assert ended == []
            monkeypatch.setattr(stopping, "SAME_SECONDS", -1.0)  # some time later
            signal.raise_signal(number)
            assert ended == [128 + number] * (number != signal.SIGHUP)
            signal.raise_signal(signal.SIGINT if number == signal.SIGTERM else signal.SIGTERM)
            assert len(ended) == 1 + (number != signal.SIGHUP)
        assert signal.getsignal(number) is not_caught  # put back
    finally:
        signal.signal(number, before)


def test_outside_the_main_thread_there_are_no_signals_to_hear():
    def enter():
        with stopping.signals() as stop:
            return bool(stop), stopping.in_thread(stop, threading.current_thread)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        heard, thread = pool.submit(enter).result()
    assert not heard
    assert thread is not threading.main_thread()


def test_a_signal_is_heard_while_something_takes_long():
    release = threading.Event()
    with stopping.signals() as stop:
        timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM))
        timer.start()
        began = time.monotonic()
        with pytest.raises(stopping.Interrupted):
            stopping.in_thread(stop, release.wait, 30)
        assert time.monotonic() - began < 10
    release.set()
    assert stop.reason == signal.SIGTERM


def test_without_a_stop_it_is_waited_for():
    def work():
        time.sleep(0.3)
        return "done"

    assert stopping.in_thread(None, work) == "done"


def test_what_a_thread_raises_is_raised():
    def fail():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        stopping.in_thread(stopping.Stop(), fail)


def test_a_function_is_compiled_once_and_called():
    traced = []

    def double(x):
        traced.append(x)
        return 2 * x

    function = stopping.Compiled(jax.jit(double))
    assert [float(function(jnp.float32(x))) for x in (1, 2, 3)] == [2.0, 4.0, 6.0]
    assert len(traced) == 1


@pytest.mark.parametrize("compiles", [False, True])
def test_leaving_does_not_wait_for_a_compilation(monkeypatch, compiles):
    def end(status):
        raise SystemError(status)  # not the SystemExit of an ordinary end

    monkeypatch.setattr(os, "_exit", end)
    release = threading.Event()
    thread = threading.Thread(target=release.wait, name=stopping.THREAD, daemon=True)
    if compiles:
        thread.start()
    try:
        with pytest.raises(SystemError if compiles else SystemExit) as info:
            stopping.leave(130)
        assert info.value.args == (130,)
    finally:
        release.set()


def test_what_was_set_to_be_ignored_stays_so():
    """As by `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping.signals() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("error", "said", "status"),
    [
        (RunError("a loss\nwas lost", 1), "error: a loss\\nwas lost", 1),
        (RunError("stopped", 130), "error: stopped", 130),
        (KeyboardInterrupt(), "error: stopped by SIGINT", 130),
        (BrokenPipeError(), "", 141),
        (MemoryError(), "error: out of memory", 1),
        (RuntimeError("RESOURCE_EXHAUSTED: 7 GB"), "error: out of memory", 1),
    ],
)
def test_a_command_ends_in_one_line(monkeypatch, capsys, error, said, status):
    monkeypatch.setattr(threading, "enumerate", list)  # no thread of a test before

    def run():
        raise error

    with pytest.raises(SystemExit) as info:
        stopping.command(pytest.fail, run)
    assert info.value.code == status
    printed = capsys.readouterr().err
    assert printed.startswith(said)
    assert printed.count("\n") == bool(said)


@pytest.mark.parametrize(("error", "status"), [(ConfigError("x"), 2), (PassingError("x"), 75)])
def test_a_refusal_that_may_pass_has_a_status_of_its_own(error, status):
    def run():
        raise error

    with pytest.raises(SystemExit) as info:
        stopping.command(Parser().refuse, run)
    assert info.value.code == status


def test_ctrl_c_during_an_import_ends_a_command_in_one_line(tmp_path):
    """A compiled module makes something else of the exception, or aborts."""
    (tmp_path / "compiled.py").write_text(
        "import os, signal\n"
        "try:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    sum(range(1_000))\n"
        "except KeyboardInterrupt:\n"
        "    raise ImportError('initialization failed') from None\n"
    )
    code = (
        "import signal, sys; from jdqn.runs import stopping; "
        "signal.signal(signal.SIGINT, signal.default_int_handler); print('before'); "
        "stopping.command(sys.exit, lambda: __import__('compiled'))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 128 + signal.SIGINT
    assert ended.stdout == "before\n"
    assert ended.stderr == "error: stopped by SIGINT\n"


def test_what_is_no_end_of_a_command_is_raised():
    def run():
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        stopping.command(pytest.fail, run)


@pytest.mark.parametrize(("target", "status"), [("/dev/full", 2), ("closed", 141)])
def test_an_output_that_cannot_be_flushed_is_no_traceback(target, status):
    """Python itself would try once more when it ends, and say so."""
    code = (
        "import sys; from jdqn.runs import stopping; from jdqn.config import Parser\n"
        "stopping.command(Parser().refuse, lambda: print('x'))"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=full if target == "/dev/full" else subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        if target == "closed":
            process.stdout.close()
            process.stdout = None
        _, err = process.communicate(timeout=60)
    assert process.returncode == status
    assert err.count("\n") == (target == "/dev/full")
    assert "Exception" not in err


WITH_PARENT = """
import os, sys, time
from jdqn.runs import stopping
stopping.stop_with_parent()
assert stopping.PARENT_PIPE not in os.environ  # its own children are not meant
if sys.argv[1] == "imports":
    print("ready", flush=True)
    time.sleep(60)
with stopping.signals() as stop:
    if sys.argv[1] == "is stopped already":
        stop.reasons.append(2)
    print("ready", flush=True)
    until = time.monotonic() + (1.0 if stop else 60.0)
    while time.monotonic() < until and (not stop or stop.reason == 2):
        time.sleep(0.01)
    print(stop.reasons)
"""


@pytest.mark.parametrize(
    ("when", "status", "said"),
    [
        ("imports", -signal.SIGTERM, ""),
        ("trains", 0, f"[<Signals.SIGTERM: {signal.SIGTERM.value}>]"),
        ("is stopped already", 0, "[2]"),  # a second signal would end it without a checkpoint
    ],
)
def test_a_process_stops_when_the_pipe_of_its_parent_closes(when, status, said):
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", WITH_PARENT, when],
        env={**os.environ, stopping.PARENT_PIPE: str(reader)},
        pass_fds=[reader],
        stdout=subprocess.PIPE,
        text=True,
    )
    os.close(reader)
    assert process.stdout.readline() == "ready\n"
    os.close(writer)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == status
    assert out.strip() in (said, said.replace("<Signals.SIGTERM: 15>", "15"))


def test_a_pipe_that_is_none_is_refused(monkeypatch):
    monkeypatch.setenv(stopping.PARENT_PIPE, "stdin")
    with pytest.raises(ConfigError, match="JDQN_PARENT_PIPE = 'stdin': must be the number"):
        stopping.stop_with_parent()
    stopping.stop_with_parent()  # nothing is asked for any more
