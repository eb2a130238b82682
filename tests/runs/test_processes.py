"""What several processes agree on; `tests/loops/test_several_processes.py` has two real ones."""

import os
import signal
import threading
import types

import jax
import pytest
from helpers import tiny

from jdqn.config import ConfigError, Parser, RunError
from jdqn.runs import processes, stopping


def test_a_single_process_asks_nobody(monkeypatch):
    monkeypatch.delenv(processes.ADDRESS, raising=False)
    processes.join(tiny())
    assert not jax.distributed.is_initialized()
    assert (processes.count(), processes.is_first()) == (1, True)
    assert processes.numbers(-7) == [-7]
    assert processes.texts("é") == ["é"]
    processes.check_same(tiny(), "anything")
    stop = stopping.Stop()
    assert processes.agreed(stop) is stop
    assert stop.heard is stop
    assert not stop.agree()
    stop.reasons.append(15)
    assert stop.agree()


def test_a_single_process_has_nothing_to_say_of_others(tmp_path, capsys):
    processes.say_who_is_there(tmp_path)
    assert capsys.readouterr() == ("", "")
    with pytest.raises(ValueError, match=r"^UNKNOWN: Gloo"), processes.watched():
        raise ValueError("UNKNOWN: Gloo AllGather failed")


@pytest.mark.parametrize("name", processes.NUMBERS)
@pytest.mark.parametrize("text", ["two", "-1"])
def test_variables_that_are_no_numbers_are_refused(monkeypatch, name, text):
    monkeypatch.setenv(processes.ADDRESS, "localhost:1")
    monkeypatch.setenv(name, text)
    with pytest.raises(ConfigError, match=f"{name} = '{text}': must be a whole number, 0 or more"):
        processes.join(tiny())


@pytest.mark.parametrize(
    "address", ["localhost", "", ":12345", "localhost:", "localhost:0", "localhost:65536", "a b:1"]
)
def test_an_address_is_a_host_and_its_port(monkeypatch, address):
    monkeypatch.setenv(processes.ADDRESS, address)
    expected = (
        f"^JAX_COORDINATOR_ADDRESS = '{address}': must be a host and its port, such as "
        f"localhost:12345; {processes.ALONE}$"
    )
    with pytest.raises(ConfigError, match=expected):
        processes.join(tiny())


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "train.num_devices = 1: must be all, or a multiple of JAX_NUM_PROCESSES = 2; "),
        ({"train__num_devices": 3}, "train.num_devices = 3: must be all, or a multiple of "),
        ({"train__num_devices": "all"}, "train.num_devices = 2: must divide env.num_envs = 3"),
    ],
)
def test_what_no_number_of_devices_makes_right_is_said_before_others_are_waited_for(
    monkeypatch, capsys, fields, said
):
    monkeypatch.setenv(processes.ADDRESS, "[::1]:1")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    sizes = {"env__num_envs": 3, "replay__batch_size": 12, "train__update_period_steps": 1}
    with pytest.raises(ConfigError, match=f"^{said}"):
        processes.join(tiny(**sizes, **fields))
    assert capsys.readouterr() == ("", "")


def test_what_jax_says_of_joining_is_one_sentence(monkeypatch, capsys):
    def initialize(**arguments):
        assert arguments["num_processes"] == 2
        assert arguments["process_id"] is None
        assert arguments["heartbeat_timeout_seconds"] < 120
        raise ValueError("The process id\nmust be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.setenv(processes.ADDRESS, "localhost:1")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    monkeypatch.delenv("JAX_PROCESS_ID", raising=False)
    expected = (
        r"JAX_COORDINATOR_ADDRESS = localhost:1, JAX_NUM_PROCESSES = 2, JAX_PROCESS_ID = not set: "
        r"The process id must be defined; to train in one process: unset JAX_COORDINATOR_ADDRESS$"
    )
    with pytest.raises(ConfigError, match=expected):
        processes.join(tiny(train__num_devices=2))
    assert capsys.readouterr().err.startswith("waiting at most 300 s for all processes, at ")


def test_who_waits_says_which_it_is_and_how_to_train_alone_and_hears_ctrl_c(monkeypatch, capsys):
    release = threading.Event()
    waiting = threading.Event()

    def initialize(**_):
        waiting.set()
        release.wait(30)

    def interrupt():
        waiting.wait(30)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    for name, value in zip((processes.ADDRESS, *processes.NUMBERS), ("a:1", "2", "1"), strict=True):
        monkeypatch.setenv(name, value)
    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        processes.join(tiny(train__num_devices="all"))
    release.set()
    assert capsys.readouterr().err == (
        "process 1 of 2: waiting at most 300 s for all processes, at JAX_COORDINATOR_ADDRESS = "
        "a:1; to train in one process: unset JAX_COORDINATOR_ADDRESS\n"
    )


def test_others_are_not_waited_for_without_end(monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(jax.distributed, "initialize", lambda **_: release.wait(30))
    monkeypatch.setattr(processes, "JOIN_SECONDS", 0)
    monkeypatch.setenv(processes.ADDRESS, "a:1")
    expected = f"= a:1, .*: not all processes came within 0 s; {processes.ALONE}$"
    with pytest.raises(ConfigError, match=expected):
        processes.join(tiny())
    release.set()


def test_processes_with_more_devices_than_others_are_refused(monkeypatch):
    def joined(*process_indices):
        devices = [types.SimpleNamespace(process_index=number) for number in process_indices]
        monkeypatch.setattr(jax, "devices", lambda: devices)
        processes.join(tiny())

    monkeypatch.setattr(jax.distributed, "initialize", lambda **_: None)
    monkeypatch.setenv(processes.ADDRESS, "localhost:1")
    joined(0, 0, 1, 1)
    expected = "^all processes must have as many devices: process 0 has 2, process 1 has 1$"
    with pytest.raises(ConfigError, match=expected):
        joined(0, 1, 0)


@pytest.fixture
def of_two(monkeypatch):
    """This process is the second of two; a function sets what the first one says."""
    told = {"numbers": 0, "texts": ""}
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(processes, "numbers", lambda own: [told["numbers"], own])
    monkeypatch.setattr(processes, "texts", lambda own: [told["texts"], own])
    return told.update


def test_a_stop_is_heard_where_all_agree_on_it(of_two):
    heard = stopping.Stop()
    stop = processes.agreed(heard)
    assert stop.heard is heard
    heard.reasons.append(2)
    assert not stop
    assert stop.agree()
    assert (bool(stop), stop.reason) == (True, 2)
    other = processes.agreed(stopping.Stop())
    assert not other.agree()
    of_two(numbers=15)
    assert other.agree()
    assert other.reason == 15


def test_whether_to_stop_is_not_asked_at_every_tick(of_two):
    heard = stopping.Stop()
    stop = processes.agreed(heard)
    assert not stop.agree(0)
    heard.reasons.append(2)
    answers = [stop.agree(tick) for tick in (1, 30, 63, 64)]
    assert answers == [False, False, False, True]
    assert stop.agree(65)


def test_other_options_of_another_process_are_refused(of_two):
    with pytest.raises(ConfigError, match=r"process 1 is asked for .*, process 0 for "):
        processes.check_same(tiny(), "a")


def test_who_was_left_says_so_and_waits_for_nothing(of_two, monkeypatch, tmp_path, capsys):
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr(stopping, "_waits_for_nothing", [])
    processes.say_who_is_there(tmp_path)
    assert f"--resume {tmp_path}" in capsys.readouterr().err
    kept = pytest.raises(RunError, match=r"closed by peer\); it is kept$")
    with kept as info, processes.watched() as watch:
        watch.what_is_kept = lambda: "it is kept"
        raise ValueError("UNKNOWN: Gloo AllGather failed: closed by peer")
    assert info.value.status == 1
    with pytest.raises(SystemExit):
        stopping.leave(1)
    assert ended == [1]


@pytest.mark.parametrize(
    ("error", "status"),
    [(ConfigError("a mistake"), 2), (RunError("it broke", 143), 143), (OSError("no folder"), 2)],
)
@pytest.mark.parametrize("is_first", [False, True])
def test_who_fails_alone_leaves_at_once_with_its_own_status(
    of_two, monkeypatch, is_first, error, status
):
    """At its end jax would wait for the others, which wait for this one, and abort all."""
    ended = []
    slept = []
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr(processes.time, "sleep", slept.append)
    monkeypatch.setattr(processes, "is_first", lambda: is_first)
    monkeypatch.setattr(stopping, "_waits_for_nothing", [])

    def run():
        with processes.watched():
            raise error

    with pytest.raises(SystemExit):
        stopping.command(Parser().refuse, run)
    assert ended == [status]
    assert slept == [processes.LAST_WORDS_SECONDS * is_first]


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("INTERNAL: of the user's"),
        ValueError("no status"),
        RuntimeError("RESOURCE_EXHAUSTED: out of memory"),
    ],
)
def test_other_errors_stay_what_they_are(of_two, error, monkeypatch):
    monkeypatch.setattr(stopping, "_waits_for_nothing", [])
    with pytest.raises(type(error)) as info, processes.watched():
        raise error
    assert info.value is error
