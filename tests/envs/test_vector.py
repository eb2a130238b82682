"""Copies in this process and in processes of their own: the same to the bit, and gone when done."""

import os
import signal
import time

import jax
import numpy as np
import psutil
import pytest
from envs_helpers import play
from helpers import tiny

from jdqn import envs
from jdqn.config import with_overrides
from jdqn.envs import vector
from jdqn.envs.guard import EnvError, guard
from jdqn.train import train

ACTIONS = np.random.default_rng(0).integers(0, 3, (20, 4))


def config(vectorization="async", name="countdown:Countdown-v0", **kwargs):
    fields = {"env__vectorization": vectorization, "env__kwargs": kwargs}
    return tiny(name, **fields)


def made(**kwargs):
    name = "countdown:Countdown-v0"
    return guard(envs.make_env(config(**kwargs)), name, 4)


def workers(env):
    return [psutil.Process(process.pid) for process in env._env._envs.processes]


def gone(processes):
    """Whether all have ended; a fork server takes a moment to bury its children."""
    return not psutil.wait_procs(processes, timeout=5)[1]


def sentence(env):
    """With which twenty steps end."""
    with pytest.raises(EnvError) as info:
        play(env, ACTIONS)
    return str(info.value)


@pytest.fixture
def closing():
    """Closes what a test leaves open."""
    opened = []
    yield lambda env: opened.append(env) or env
    for env in opened:
        env.close()


def test_copies_in_processes_are_the_same_to_the_bit():
    in_process, in_workers = (
        play(envs.make_env(config(vectorization)), ACTIONS) for vectorization in ("sync", "async")
    )
    jax.tree.map(np.testing.assert_array_equal, in_process, in_workers)
    assert in_workers.terminated.any()
    assert in_workers.frame.dtype == np.float32


def test_processes_run_beside_each_other_and_end(closing):
    env = closing(made())
    env.reset()
    processes = workers(env)
    assert len({process.pid for process in processes} | {os.getpid()}) == 5
    env.close()
    assert gone(processes)
    env.close()


def test_looking_at_an_environment_starts_no_process():
    env = made()
    assert env.spec.frame_shape == (2,)
    env.close()
    assert env._env._envs is None


@pytest.mark.parametrize(
    ("trouble", "copies", "said"),
    [
        ("raises", [1], "step raised ValueError: boom"),
        ("exits", [1], "its process ended with exit code 3; a script that trains needs"),
        ("in a worker", range(4), "cannot be made: ValueError: one is enough"),
    ],
)
def test_what_goes_wrong_in_a_process_is_one_sentence_that_names_the_copy(
    closing, trouble, copies, said
):
    env = closing(made(trouble=trouble))
    text = sentence(env)
    start, _, what = text.partition(" of 0 to 3: ")
    assert start in [f'environment "countdown:Countdown-v0", copy {i}' for i in copies]
    assert what.startswith(said)


def test_a_step_that_hangs_does_not_keep_a_process(monkeypatch, closing):
    monkeypatch.setattr(vector, "CLOSE_SECONDS", 0.3)
    env = closing(made(trouble="hangs"))
    env.reset()
    processes = workers(env)
    for _ in range(3):
        env.send(np.ones(4, int))
        env.recv()
    env.send(np.ones(4, int))
    began = time.monotonic()
    env.close()
    assert gone(processes)
    assert time.monotonic() - began < 5


def test_signals_to_all_processes_are_for_the_parent(closing):
    env = closing(made())
    env.reset()
    processes = workers(env)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        for process in processes:
            process.send_signal(number)
    env.send(np.zeros(4, int))
    assert not env.recv().first.any()
    env.close()
    assert gone(processes)


def test_what_cannot_be_sent_to_a_process_is_said(monkeypatch):
    def fails(*_, **__):
        raise TypeError("cannot pickle it")

    monkeypatch.setattr(vector, "_Workers", fails)
    with pytest.raises(EnvError, match="its processes cannot be started: TypeError: cannot pickle"):
        made().reset()


@pytest.mark.slow
def test_training_is_the_same_to_the_bit(tmp_path):
    results = [
        train(with_overrides(config(), env__vectorization=kind), run_dir=tmp_path / kind)
        for kind in ("sync", "async")
    ]
    jax.tree.map(np.testing.assert_array_equal, *[jax.device_get(r.state.params) for r in results])
    assert results[0].evaluations == results[1].evaluations
    csv = [(tmp_path / kind / "episodes.csv").read_text() for kind in ("sync", "async")]
    assert csv[0] == csv[1]
