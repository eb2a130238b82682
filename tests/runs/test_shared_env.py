"""Each process's part of the environments; `loops/test_several_processes.py` has two real ones."""

import jax
import numpy as np
import pytest
from devices_helpers import needs_several
from helpers import tiny
from runs_helpers import EPISODES
from scripted import ScriptedEnv, maker

from jdqn.envs import EnvError
from jdqn.envs.guard import Guarded, guard
from jdqn.runs import processes, shared_env

NUM_ENVS = 4


def scripted():
    """All environments of a run."""
    return ScriptedEnv(EPISODES, NUM_ENVS)


@pytest.fixture
def shared(monkeypatch):
    """A function that makes one process share environments with itself alone."""
    monkeypatch.setattr(processes, "everyones", lambda own: [array[None] for array in own])

    def make(env):
        config = tiny(train__num_devices=NUM_ENVS)
        guarded = guard(env, "scripted", NUM_ENVS)
        return shared_env.SharedEnv(guarded, config, slice(0, NUM_ENVS))

    return make


def test_a_single_process_has_all_environments():
    config = tiny()
    make_env = maker(EPISODES)
    assert isinstance(shared_env.make(make_env, config), Guarded)
    assert isinstance(shared_env.make(make_env, config, seed=7), Guarded)
    assert [seed for seed, _ in make_env.made] == [config.train.seed, 7]


@needs_several
def test_environments_have_the_seeds_that_they_have_in_one_process(monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    config = tiny(train__num_devices=4, train__seed=30)
    make_env = maker(EPISODES)
    shared_env.make(make_env, config)
    shared_env.make(make_env, config, seed=100)
    assert [(seed, len(env.reset().reward)) for seed, env in make_env.made] == [
        (3_000_002, 2),
        (102, 2),
    ]


@needs_several
def test_all_hear_what_happens_and_frames_lie_on_devices(shared):
    alone = scripted()
    env = shared(scripted())
    pairs = [(alone.reset(), env.reset())]
    for _ in range(9):
        for one in (alone, env):
            one.send(np.zeros(NUM_ENVS, int))
        pairs.append((alone.recv(), env.recv()))
    for expected, found in pairs:
        assert len(found.frame.sharding.device_set) == NUM_ENVS
        for x, y in zip(expected, found, strict=True):
            assert (x.dtype, x.shape) == (y.dtype, y.shape)
            assert np.array_equal(x, y)
    assert pairs[-1][1].reward.any()
    assert any(found.last.any() for _, found in pairs)


@needs_several
@pytest.mark.parametrize("method", ["send", "recv"])
def test_what_fails_in_one_process_fails_in_all(shared, method):
    own = scripted()
    env = shared(own)
    env.reset()

    def fail(*_):
        raise ValueError("it broke")

    setattr(own, method, fail)
    env.send(np.zeros(NUM_ENVS, int))
    with pytest.raises(EnvError, match=r'^in process 0, environment "scripted": .*it broke'):
        env.recv()


@needs_several
def test_environments_come_back_where_as_many_processes_saved_them(shared):
    before = shared(scripted())
    before.reset()
    for _ in range(3):
        before.send(np.zeros(NUM_ENVS, int))
        timestep = before.recv()
    saved = before.save()
    after = shared(scripted())
    assert after.restore(saved, timestep)
    following = []
    for env in (before, after):
        env.send(np.zeros(NUM_ENVS, int))
        following.append(env.recv())
    for x, y in zip(*following, strict=True):
        assert np.array_equal(x, y)
    assert not after.restore({name.replace("0_", ""): array for name, array in saved.items()}, None)
    twice = saved | {name.replace("0_", "1_"): array for name, array in saved.items()}
    assert not after.restore(twice, timestep)


@needs_several
def test_environments_that_cannot_be_saved_are_not(shared):
    own = scripted()
    own.save = lambda: None
    assert shared(own).save() is None
