"""How a run is asked to stop: signals are noted, also while something compiles."""

import concurrent.futures
import os
import signal
import threading
import time

import jax
import jax.numpy as jnp
import pytest

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
            assert ended == []
            signal.raise_signal(number)
            assert ended == [128 + number]
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
