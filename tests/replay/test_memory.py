"""The replay's memory: nothing is copied, bytes beyond 2^32, a million frames for real."""

import functools
import re
from typing import NamedTuple

import jax
import numpy as np
import psutil
import pytest
from helpers import tiny, vector_spec

from jdqn import kernels, learning, replay
from jdqn.records import EnvSpec, Timestep
from jdqn.replay import priorities

ATARI = EnvSpec((84, 84), np.dtype(np.uint8), 4, 4, 1 / 255)
ATARI_FRAMES = "u8[250000,4,7056]"


class Traffic(NamedTuple):
    """What a compiled program does to the frames of a 1M-row replay."""

    in_place: bool
    copies: int  # of the frame array
    is_small: bool  # scratch memory, beside the frame array


GOOD = Traffic(in_place=True, copies=0, is_small=True)


def copies_of(array, text):
    """How often a program copies an array like `f32[3,4]`."""
    return len(re.findall(rf"= \(?{re.escape(array)}.* copy(?:-start)?\(", text))


def traffic(f, donated, *others, compile_=jax.jit):
    """Of `f(*donated, *others)`."""
    program = compile_(f, donate_argnums=tuple(range(len(donated))))
    compiled = program.lower(*donated, *others).compile()
    text = compiled.as_text()
    entry = text[text.index("\nENTRY") :]
    (parameter,) = re.findall(rf"= {re.escape(ATARI_FRAMES)}\S* parameter\((\d+)\)", entry)
    return Traffic(
        in_place=re.search(rf"\({parameter}, {{}}, \w+-alias\)", text.split("\n")[0]) is not None,
        copies=copies_of(ATARI_FRAMES, text),
        is_small=compiled.memory_analysis().temp_size_in_bytes < 10**8,
    )


class Atari(NamedTuple):
    """The functions of a prioritised double agent and the shapes of their arguments."""

    memory: replay.Replay
    learner: learning.Agent
    agent_state: learning.AgentState
    state: replay.ReplayState
    row: tuple  # timestep, action, tick
    key: jax.ShapeDtypeStruct


@functools.cache
def atari():
    config = tiny(
        agent__double=True,
        env__frame_stack=4,
        network__torso="mlp",
        replay__capacity=10**6,
        replay__priority_exponent=0.6,
        train__update_period_steps=1,
    )
    memory = replay.make_replay(config, ATARI)
    learner = learning.make_agent(config, ATARI, memory)
    key = jax.eval_shape(jax.random.key, 0)
    flag = jax.ShapeDtypeStruct((4,), bool)
    timestep = Timestep(
        jax.ShapeDtypeStruct((4, 84, 84), np.uint8),
        jax.ShapeDtypeStruct((4,), np.float32),
        *[flag] * 3,
    )
    action = jax.ShapeDtypeStruct((4,), np.int32)
    tick = jax.ShapeDtypeStruct((), np.int32)
    return Atari(
        memory,
        learner,
        agent_state=jax.eval_shape(learner.init, key)[0],
        state=jax.eval_shape(memory.init, key),
        row=(timestep, action, tick),
        key=key,
    )


def test_add_and_learn_write_in_place():
    memory, learner, agent_state, state, row, _ = atari()
    assert traffic(memory.add, [state], *row) == GOOD
    donated = [agent_state, state]
    assert traffic(learner.learn, donated, row[-1], compile_=kernels.jit_learning) == GOOD


def test_copies_of_the_frames_are_found():
    """By programs that no compiler can spare the copy: the old frames are wanted after the new."""
    memory, learner, agent_state, state, row, key = atari()

    def reads_the_old_where_the_new_says(state, timestep, action, tick, key):
        after = memory.add(state, timestep, action, tick)
        batch = memory.sample(after, priorities.uniforms(key, 8), tick)
        return after, state.rows.frame[batch.next_obs[:, 0, 0, 0].astype(int), batch.env]

    def keeps_the_old(state, *row):
        return memory.add(state, *row), state.rows.frame

    in_scratch = traffic(reads_the_old_where_the_new_says, [state], *row, key)
    assert in_scratch.copies and not in_scratch.is_small
    assert traffic(keeps_the_old, [state], *row).copies
    for not_donated in (
        traffic(memory.add, [], state, *row),
        traffic(learner.learn, [], agent_state, state, row[-1], compile_=kernels.jit_learning),
    ):
        assert not_donated.copies and not not_donated.in_place


def test_no_parameter_is_copied_between_updates():
    """But for the target network, once for each call; four updates a call."""
    config = tiny(network__torso_hidden=[300], network__hidden=[500], train__update_period_steps=1)
    spec = vector_spec()
    key = jax.eval_shape(jax.random.key, 0)
    memory = replay.make_replay(config, spec)
    learner = learning.make_agent(config, spec, memory)
    agent_state = jax.eval_shape(learner.init, key)[0]
    state = jax.eval_shape(memory.init, key)

    def copies(compile_):
        program = compile_(learner.learn, donate_argnums=(0, 1))
        text = program.lower(agent_state, state, 0).compile().as_text()
        return len(re.findall(r"= \(?f32\[(?:1,)?500,300\][^=]* copy\(", text))

    assert copies(kernels.jit_learning) <= 1
    if jax.default_backend() == "cpu" and jax.__version_info__ < (0, 12):
        assert copies(jax.jit) > 1  # without the option: the test sees what it looks for


def test_add_copies_no_leaves():
    """Each copy of a million leaves costs more than the rest of `add`."""
    memory, _, _, state, row, _ = atari()
    leaves = f"f32{list(state.priorities.leaves.shape)}".replace(" ", "")

    def copies(f):
        return copies_of(
            leaves, jax.jit(f, donate_argnums=0).lower(state, *row).compile().as_text()
        )

    def one_by_one(state, timestep, action, tick):
        priorities_ = state.priorities
        for ahead in range(2):
            inside = priorities_.leaves[tick + ahead].at[0].set(timestep.reward)
            priorities_ = priorities_.replace(
                leaves=priorities_.leaves.at[tick + ahead].set(inside),
                sums=priorities_.sums.at[tick + ahead].set(inside.sum()),
            )
        return memory.add(state.replace(priorities=priorities_), timestep, action, tick)

    assert copies(memory.add) == 0
    if kernels.on_cpu():  # a GPU's compiler spares it here
        assert copies(one_by_one) > 0


@pytest.mark.slow
def test_a_buffer_beyond_four_gigabytes(rng):
    config = tiny(env__num_envs=2, env__frame_stack=4, replay__capacity=650_000)
    memory = replay.make_replay(config, ATARI)
    num_rows = memory.capacity // 2
    state = jax.jit(memory.init)(jax.random.key(0))
    add = jax.jit(memory.add, donate_argnums=0)
    start = num_rows - 5
    no = np.zeros(2, bool)
    assert start * 2 * 84 * 84 > 2**32
    frames = rng.integers(0, 256, (8, 2, 84, 84), np.uint8)
    for i, frame in enumerate(frames):  # the last three after the wrap
        timestep = Timestep(frame, np.zeros(2, np.float32), no, no, ~no if i == 0 else no)
        state = add(state, timestep, np.full(2, i % 4), start + i)

    seen = set()
    sample = jax.jit(memory.sample)
    for seed in range(16):
        batch = sample(state, priorities.uniforms(jax.random.key(seed), 8), 0)
        for i, (row, env) in enumerate(zip(batch.row.tolist(), batch.env.tolist(), strict=True)):
            age = (row - start) % num_rows
            stack = frames[np.maximum(np.arange(age - 3, age + 2), 0), env]
            np.testing.assert_array_equal(batch.obs[i], stack[:4])
            np.testing.assert_array_equal(batch.next_obs[i], stack[1:])
            assert batch.action[i] == age % 4
            seen.add((age, env))
    assert seen == {(age, env) for age in range(7) for env in range(2)}
    stored = np.asarray(state.rows.frame)  # a view: that the same wrong row is not written and read
    np.testing.assert_array_equal(stored[start:], frames[:5].reshape(5, 2, -1))
    np.testing.assert_array_equal(stored[:3], frames[5:].reshape(3, 2, -1))
    wrapped = start - 2**32 // (2 * 84 * 84)
    assert not stored[wrapped - 2 : wrapped + 8].any()


@pytest.mark.slow
def test_a_million_frames_are_filled_and_sampled():
    """The papers' replay for real: every row written, in place, and drawn from end to end."""
    config = tiny(
        env__num_envs=32,
        env__frame_stack=4,
        replay__capacity=1_000_000,
        train__learning_starts_steps=160,
    )
    memory = replay.make_replay(config, ATARI)
    assert memory.num_bytes < 7.2e9
    before = psutil.Process().memory_info().rss
    state = jax.jit(memory.init)(jax.random.key(0))
    add = jax.jit(memory.add, donate_argnums=0)
    no = np.zeros(32, bool)
    num_rows = memory.capacity // 32
    for tick in range(num_rows + 3):
        frame = np.full((32, 84, 84), tick % 251, np.uint8)
        timestep = Timestep(frame, np.zeros(32, np.float32), no, no, no if tick else ~no)
        state = add(state, timestep, np.zeros(32, int), tick)
    rows = []
    sample = jax.jit(memory.sample)
    for seed in range(200):
        batch = sample(state, priorities.uniforms(jax.random.key(seed), 8), 0)
        tick = np.where(batch.row < 3, batch.row + num_rows, batch.row)
        np.testing.assert_array_equal(batch.obs[:, -1, 0, 0], tick % 251)
        np.testing.assert_array_equal(batch.next_obs[:, -1, 83, 83], (tick + 1) % 251)
        rows += batch.row.tolist()
    assert min(rows) < 0.02 * num_rows
    assert max(rows) > 0.98 * num_rows
    assert psutil.Process().memory_info().rss - before < 7.5e9  # no second copy
