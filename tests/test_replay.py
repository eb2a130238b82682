"""The replay against a list of rows, its memory traffic, and its numbers by hand."""

import functools
import re
from collections.abc import Callable
from typing import NamedTuple

import conftest
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import psutil
import pytest
from hypothesis import stateful
from hypothesis import strategies as st
from scipy import stats
from scripted import ScriptedEnv

from jdqn import agent, priorities, replay
from jdqn.config import Config, ConfigError
from jdqn.records import EnvSpec, Timestep

DISCOUNT = 0.9
IMAGE = (2, 3)


class Setup(NamedTuple):
    """A replay with its functions compiled once."""

    config: Config
    spec: EnvSpec
    replay: replay.Replay
    add: Callable
    sample: Callable
    update: Callable
    leaves: Callable  # of a state, [T, E]
    sample_all: Callable  # batches enough to see every row, [draws, ...]


@functools.cache
def setup(num_rows, num_envs, num_stack, n_step, image=False, **overrides):
    spec = conftest.vector_spec(frame_stack=num_stack)
    if image:
        spec = EnvSpec(IMAGE, np.dtype(np.uint8), num_stack, 3, 1 / 255)
    batch_size = num_rows * num_envs
    config = conftest.tiny(
        **{
            "env__num_envs": num_envs,
            "env__frame_stack": num_stack,
            "agent__discount": DISCOUNT,
            "agent__target_period_steps": 16 * num_envs,
            "train__update_period_steps": num_envs,
            "train__learning_starts_steps": 4 * batch_size,
            "replay__capacity": batch_size,
            "replay__batch_size": batch_size,
            "replay__n_step": n_step,
        }
        | overrides
    )
    memory = replay.make_replay(config, spec)

    @jax.jit
    def sample_all(state, key, tick):
        uniform = priorities.uniforms(key, 1200 // batch_size * batch_size)
        uniform = uniform.reshape(-1, batch_size, priorities.LEVELS)
        batches = jax.vmap(memory.sample, in_axes=(None, 0, None))(state, uniform, tick)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batches)

    return Setup(
        config,
        spec,
        memory,
        add=jax.jit(memory.add, donate_argnums=0),
        sample=jax.jit(
            lambda state, key, tick: memory.sample(
                state, priorities.uniforms(key, batch_size), tick
            )
        ),
        update=jax.jit(memory.update, donate_argnums=0),
        leaves=jax.jit(
            lambda state: jax.vmap(conftest.leaves_of_row, in_axes=(None, 0))(
                state.priorities, jnp.arange(num_rows)
            )
        ),
        sample_all=sample_all,
    )


class Twin:
    """Everything that ever happened, and what may be drawn of it, by definition."""

    def __init__(self, made):
        fields = made.config.replay
        self.n_step, self.num_stack = fields.n_step, made.spec.frame_stack
        self.num_rows = made.replay.capacity // made.config.env.num_envs
        self.num_envs, self.clip = made.config.env.num_envs, made.config.agent.reward_clip
        self.alpha, self.epsilon = fields.priority_exponent, fields.priority_epsilon
        self.steps, self.actions, self.masks = [], [], []
        self.priority, self.max_priority = {}, 1.0

    def add(self, timestep, action, mask):
        self.steps.append(timestep)
        self.actions.append(action)
        self.masks.append(mask)
        for env in range(self.num_envs):
            self.priority[len(self.steps) - 1 - self.n_step, env] = self.max_priority

    def update(self, drawn, priority):
        for place, value in zip(reversed(drawn), reversed(priority), strict=True):
            self.priority[place] = value + self.epsilon
        largest = max(priority) + self.epsilon
        self.max_priority = max(self.max_priority, min(largest, 100.0))

    def places(self, batch):
        """Time and environment of every drawn row."""
        newest, row, env = len(self.steps) - 1, np.asarray(batch.row), np.asarray(batch.env)
        times = newest - (newest - row) % self.num_rows
        return list(zip(times.tolist(), env.tolist(), strict=True))

    def drawable(self):
        newest = len(self.steps) - 1
        oldest = newest - self.num_rows + 1  # of the ring, whether or not it is full
        return {
            (t, env)
            for t in range(newest - self.n_step + 1)
            for env in range(self.num_envs)
            if not self.steps[t].last[env]
            and any(self.masks[t][env])
            and t - self.num_stack + 1 >= oldest
        }

    def leaves(self):
        leaves = np.zeros((self.num_rows, self.num_envs))
        for t, env in self.drawable():
            leaves[t % self.num_rows, env] = self.priority[t, env] ** self.alpha
        return leaves

    def stack(self, t, env):
        frames = [self.steps[t].frame[env]]
        while len(frames) < self.num_stack:
            t -= not self.steps[t].first[env]
            frames.insert(0, self.steps[t].frame[env])
        return np.stack(frames)

    def outcome(self, t, env):
        """Return, discount and stack of the bootstrap."""
        total, discount = 0.0, 1.0
        for step in range(t + 1, t + self.n_step + 1):
            reward = self.steps[step].reward[env]
            if self.clip:
                reward = max(-self.clip, min(self.clip, reward))
            total += discount * reward
            discount *= 0.0 if self.steps[step].terminated[env] else DISCOUNT
            if self.steps[step].last[env]:
                break
        return total, discount, self.stack(step, env)


SETUPS = {
    "one row open": functools.partial(setup, 2, 1, 1, 1, image=True),
    "shortest ring, deep stack": functools.partial(setup, 6, 2, 4, 2, image=True),
    "shortest ring, long return": functools.partial(setup, 5, 3, 2, 3),
    "roomy": functools.partial(setup, 13, 3, 3, 3, agent__reward_clip=1.0),
    "prioritised, masked": functools.partial(
        setup,
        9,
        2,
        3,
        2,
        network__heads=2,
        replay__mask_probability=0.5,
        replay__priority_exponent=0.6,
        replay__priority_epsilon=0.1,
    ),
}
# What a step brings: terminated, last.
EVENTS = {
    "nothing": (False, False),
    "lost life": (True, False),
    "truncated": (False, True),
    "terminated": (True, True),
}
STEP = st.tuples(
    st.sampled_from(["nothing", "nothing", *EVENTS]),
    st.sampled_from([0.0, 1.0, -3.0, 0.25, 7.5]),
    st.integers(0, 2),
)
ERRORS = st.lists(st.sampled_from([0.0, 0.3, 2.0, 250.0]), max_size=4)


class ReplayMachine(stateful.RuleBasedStateMachine):
    """Drives the replay and its twin with the same rows."""

    def __init__(self, made):
        super().__init__()
        self.made, self.twin = made, Twin(made)
        self.state = made.replay.init(jax.random.key(7))
        self.ended = np.ones(self.twin.num_envs, bool)

    def frame(self, tick, env):
        pixels = np.arange(np.prod(self.made.spec.frame_shape))
        frame = (7 * (tick * self.twin.num_envs + env) + pixels) % 251
        return frame.reshape(self.made.spec.frame_shape).astype(self.made.spec.frame_dtype)

    @stateful.rule(steps=st.tuples(STEP, STEP, STEP), errors=ERRORS)
    def tick(self, steps, errors):
        self.add(steps)
        if errors:
            self.update(errors)

    def add(self, steps):
        tick, num_envs = len(self.twin.steps), self.twin.num_envs
        first, steps = self.ended, steps[:num_envs]
        timestep = Timestep(
            frame=np.stack([self.frame(tick, env) for env in range(num_envs)]),
            reward=np.array([0.0 if f else s[1] for f, s in zip(first, steps, strict=True)], "f4"),
            terminated=~first & [EVENTS[s[0]][0] for s in steps],
            last=~first & [EVENTS[s[0]][1] for s in steps],
            first=first,
        )
        action = np.array([s[2] for s in steps], np.int32)
        self.state = self.made.add(self.state, timestep, action, tick)
        mask = np.array(self.state.mask)[tick % self.twin.num_rows]
        self.twin.add(timestep, action, mask)
        self.ended = timestep.last

    def update(self, errors):
        batch = self.made.sample(self.state, jax.random.key(len(self.twin.steps)), 0)
        priority = np.resize(np.float32(errors), batch.row.size)
        self.state = self.made.update(self.state, batch, priority)
        if self.twin.alpha and self.twin.drawable():
            self.twin.update(self.twin.places(batch), priority.tolist())

    @stateful.invariant()
    def rows_agree(self):
        twin, drawable = self.twin, self.twin.drawable()
        np.testing.assert_allclose(self.made.leaves(self.state), twin.leaves(), rtol=1e-5)
        batch = self.made.sample_all(self.state, jax.random.key(len(twin.steps)), 0)
        batch = jax.tree.map(np.asarray, batch)
        assert np.all(np.isfinite(batch.weight))
        if not drawable:
            return
        seen = {place: i for i, place in enumerate(twin.places(batch))}
        assert set(seen) <= drawable
        assert twin.alpha or set(seen) == drawable  # uneven leaves are not all seen
        for (t, env), i in seen.items():
            total, discount, next_obs = twin.outcome(t, env)
            np.testing.assert_array_equal(batch.obs[i], twin.stack(t, env))
            np.testing.assert_array_equal(batch.next_obs[i], next_obs)
            np.testing.assert_allclose(batch.reward[i], total, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(batch.discount[i], discount, rtol=1e-5)
            assert batch.action[i] == twin.actions[t][env]
            np.testing.assert_array_equal(batch.mask[i], twin.masks[t][env])


@pytest.mark.parametrize("name", SETUPS)
def test_every_drawable_row_agrees_with_a_list_of_rows(name, monkeypatch):
    monkeypatch.setattr(priorities, "BLOCK_LEAVES", 8)  # several blocks even here
    settings = hypothesis.settings(
        deadline=None,
        max_examples=20,
        stateful_step_count=40,
        phases=set(hypothesis.Phase) - {hypothesis.Phase.explain},  # takes minutes
    )
    stateful.run_state_machine_as_test(lambda: ReplayMachine(SETUPS[name]()), settings=settings)


def play(made, episodes, num_ticks):
    """Adds rows of the scripted episodes; the action is the tick modulo 3."""
    env = ScriptedEnv(episodes, made.config.env.num_envs)
    state, timestep = made.replay.init(jax.random.key(0)), env.reset()
    for tick in range(num_ticks):
        action = np.full(made.config.env.num_envs, tick % 3)
        state = made.add(state, timestep, action, tick)
        env.send(action)
        timestep = env.recv()
    return state


STEADY = [[(5.0, False, False, False)] * 1000]


def test_stacks_start_filled_with_the_first_frame():
    made = setup(12, 1, 3, 1)
    long, short = [(0, 0, 0, 0), (0, 0, 0, 1), (0, 1, 0, 0)], [(0, 0, 1, 0)]
    state = play(made, [long, short], 10)
    assert state.age[:10, 0].tolist() == [0, 1, 2, 2, 0, 1, 0, 1, 2, 2]
    batch = made.sample_all(state, jax.random.key(0), 0)
    stacks = dict(zip(batch.row.tolist(), batch.obs[:, :, 1:].tolist(), strict=True))
    assert stacks == {
        0: [[0, 0], [0, 0], [0, 0]],  # episode, step
        1: [[0, 0], [0, 0], [0, 1]],
        2: [[0, 0], [0, 1], [0, 2]],
        4: [[1, 0], [1, 0], [1, 0]],
        6: [[2, 0], [2, 0], [2, 0]],
        7: [[2, 0], [2, 0], [2, 1]],
        8: [[2, 0], [2, 1], [2, 2]],
    }


def test_images_are_stored_flat_and_vectors_as_they_are():
    image = jax.eval_shape(setup(5, 2, 1, 1, image=True).replay.init, jax.random.key(0))
    vector = jax.eval_shape(setup(5, 2, 1, 1).replay.init, jax.random.key(0))
    assert (image.frame.shape, image.frame.dtype) == ((5, 2, 6), np.uint8)
    assert (vector.frame.shape, vector.frame.dtype) == ((5, 2, 3), np.float32)


def test_rewards_are_clipped_before_they_are_summed():
    made = setup(8, 1, 1, 2, agent__reward_clip=1.0)
    state = play(made, STEADY, 8)
    np.testing.assert_array_equal(state.reward[1:], 5)  # stored raw
    reward = made.sample(state, jax.random.key(0), 0).reward
    np.testing.assert_allclose(reward, 1 + DISCOUNT, rtol=1e-6)


PRIORITISED = functools.partial(
    setup,
    10,
    2,
    1,
    1,
    replay__priority_exponent=0.6,
    replay__priority_epsilon=0.1,
    replay__importance_exponent=0.4,
    replay__importance_anneal_steps=100,
)


def drawn(made, num_ticks=8):
    """A played replay and a batch of it."""
    state = play(made, STEADY, num_ticks)
    return state, made.sample(state, jax.random.key(1), 0)


@pytest.mark.parametrize(
    ("anneal_steps", "tick", "beta"),
    [(100, 0, 0.4), (100, 25, 0.7), (100, 50, 1.0), (100, 5000, 1.0), (0, 50, 0.55)],
)
def test_importance_weights(anneal_steps, tick, beta, rng):
    made = PRIORITISED(replay__importance_anneal_steps=anneal_steps)
    state, batch = drawn(made)
    state = made.update(state, batch, rng.gamma(0.5, size=batch.row.shape).astype(np.float32))
    batch = made.sample(state, jax.random.key(2), tick)
    leaves = np.asarray(made.leaves(state), np.float64)
    probability = leaves[batch.row, batch.env] / leaves.sum()
    weight = (np.sum(leaves > 0) * probability) ** -beta
    assert np.ptp(weight) > 0.1
    np.testing.assert_allclose(batch.weight, weight / weight.max(), rtol=1e-5)


def test_uniform_replay_weighs_all_alike_and_keeps_its_leaves():
    made = setup(10, 2, 1, 1)
    state, batch = drawn(made)
    np.testing.assert_array_equal(batch.weight, 1)
    after = made.replay.update(state, batch, jnp.full(batch.row.shape, 9.0))
    for x, y in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
        assert jnp.array_equal(x, y)


def test_a_zero_error_closes_no_row():
    made = PRIORITISED()
    state, batch = drawn(made)
    was_open = np.asarray(made.leaves(state)) > 0
    leaves = np.asarray(made.leaves(made.update(state, batch, jnp.zeros(batch.row.shape))))
    np.testing.assert_array_equal(leaves > 0, was_open)
    np.testing.assert_allclose(leaves[batch.row, batch.env], 0.1**0.6, rtol=1e-6)


@pytest.mark.parametrize(("largest", "entry"), [(0.5, 1.0), (7.0, 7.1), (1e6, 100.0)])
def test_new_rows_enter_at_the_largest_priority_seen_up_to_the_cap(largest, entry):
    made = PRIORITISED()
    state, batch = drawn(made)
    for priority in (largest, 0.01):  # a later small one does not lower it
        state = made.update(state, batch, jnp.full(batch.row.shape, priority))
    timestep = ScriptedEnv(STEADY, 2).reset()
    state = made.add(state, timestep, np.zeros(2, int), 8)
    np.testing.assert_allclose(made.leaves(state)[7], entry**0.6, rtol=1e-6)


def test_an_update_without_drawable_rows_opens_none():
    made = PRIORITISED()
    state = play(made, STEADY, 1)
    batch = made.sample(state, jax.random.key(0), 0)
    np.testing.assert_array_equal(batch.weight, 0)
    state = made.update(state, batch, jnp.full(batch.row.shape, 9.0))
    np.testing.assert_array_equal(state.priorities.leaves, 0)
    np.testing.assert_array_equal(state.max_priority, 1)


@functools.partial(jax.jit, static_argnums=0)
def ring_of(memory, key, reward):
    """A full ring of one endless episode."""
    state = memory.init(key)
    num_rows, num_envs = state.age.shape

    def body(state, tick):
        no = jnp.zeros(num_envs, bool)
        frame = jnp.zeros((num_envs, 3))
        timestep = Timestep(frame, jnp.full(num_envs, reward), no, no, no | (tick == 0))
        return memory.add(state, timestep, jnp.zeros(num_envs, int), tick), None

    return jax.lax.scan(body, state, jnp.arange(num_rows))[0]


def test_masks_are_bernoulli_and_an_empty_one_never_opens():
    made = setup(1000, 8, 1, 1, network__heads=3, replay__mask_probability=0.5)
    state = ring_of(made.replay, jax.random.key(0), 0.0)
    mask = np.asarray(state.mask)
    pattern = np.bincount(mask.reshape(-1, 3) @ [4, 2, 1], minlength=8)
    assert stats.chisquare(pattern).pvalue > 1e-3
    np.testing.assert_array_equal(made.leaves(state)[:-1] > 0, mask[:-1].any(-1))

    other_rewards = ring_of(made.replay, jax.random.key(0), 1.0)
    np.testing.assert_array_equal(other_rewards.mask, mask)
    other_key = ring_of(made.replay, jax.random.key(1), 0.0)
    assert 0.45 < np.mean(other_key.mask == mask) < 0.55


@pytest.mark.parametrize("probability", [0.1, 1.0])
def test_mask_probability(probability):
    made = setup(1000, 8, 1, 1, network__heads=3, replay__mask_probability=probability)
    mask = ring_of(made.replay, jax.random.key(0), 0.0).mask
    deviation = np.sqrt(probability * (1 - probability) / mask.size)
    assert abs(np.mean(mask) - probability) <= 4 * deviation


def test_capacity_is_rounded_up_and_bytes_are_counted():
    config = conftest.tiny(env__frame_stack=1, replay__capacity=10, network__heads=2)
    for spec in (conftest.vector_spec(frame_stack=1), EnvSpec(IMAGE, np.dtype("u1"), 1, 300, 1.0)):
        memory = replay.make_replay(config, spec)
        state = memory.init(jax.random.key(0))
        assert memory.capacity == state.age.size == 12
        arrays = jax.tree.leaves(state.replace(key=None))
        assert memory.num_bytes == sum(x.nbytes for x in arrays)


def test_a_ring_too_short_is_refused():
    config = conftest.tiny(replay__capacity=64, replay__n_step=3)
    replay.make_replay(config, conftest.vector_spec(frame_stack=13))
    with pytest.raises(ConfigError, match=r"16 rows .* use at least 68"):
        replay.make_replay(config, conftest.vector_spec(frame_stack=14))


ATARI = EnvSpec((84, 84), np.dtype(np.uint8), 4, 4, 1 / 255)
ATARI_FRAMES = "u8[250000,4,7056]"


class Traffic(NamedTuple):
    in_place: bool
    copies: int  # of the frame array
    is_small: bool  # scratch memory, beside the frame array


def traffic(f, donated, *others):
    """What the compiled `f(*donated, *others)` does to the frames of a 1M-row replay."""
    compile_ = agent.jit_learning if f.__name__ == "learn" else jax.jit
    program = compile_(f, donate_argnums=tuple(range(len(donated))))
    compiled = program.lower(*donated, *others).compile()
    text, frames = compiled.as_text(), re.escape(ATARI_FRAMES)
    entry = text[text.index("\nENTRY") :]
    (parameter,) = re.findall(rf"= {frames}\S* parameter\((\d+)\)", entry)
    return Traffic(
        in_place=re.search(rf"\({parameter}, {{}}, \w+-alias\)", text.split("\n")[0]) is not None,
        copies=len(re.findall(rf"= \(?{frames}.* copy(?:-start)?\(", text)),
        is_small=compiled.memory_analysis().temp_size_in_bytes < 10**8,
    )


@functools.cache
def atari():
    """The functions of a prioritised double agent and the shapes of their arguments."""
    config = conftest.tiny(
        agent__double=True,
        env__frame_stack=4,
        network__torso="mlp",
        replay__capacity=10**6,
        replay__priority_exponent=0.6,
        train__update_period_steps=1,
    )
    memory = replay.make_replay(config, ATARI)
    learner = agent.make_agent(config, ATARI, memory)
    key, tick = jax.eval_shape(jax.random.key, 0), jax.ShapeDtypeStruct((), np.int32)
    flag = jax.ShapeDtypeStruct((4,), bool)
    timestep = Timestep(
        jax.ShapeDtypeStruct((4, 84, 84), np.uint8),
        jax.ShapeDtypeStruct((4,), np.float32),
        *[flag] * 3,
    )
    action = jax.ShapeDtypeStruct((4,), np.int32)
    states = jax.eval_shape(learner.init, key)[0], jax.eval_shape(memory.init, key)
    return memory, learner, states, (timestep, action, tick), key


def test_add_and_learn_write_in_place():
    memory, learner, (agent_state, state), (timestep, action, tick), _ = atari()
    good = Traffic(in_place=True, copies=0, is_small=True)
    assert traffic(memory.add, [state], timestep, action, tick) == good
    assert traffic(learner.learn, [agent_state, state], tick) == good


def test_no_parameter_is_copied_between_updates():
    """But for the target network, once for each call; four updates a call."""
    config = conftest.tiny(
        network__torso_hidden=[300], network__hidden=[500], train__update_period_steps=1
    )
    spec, key = conftest.vector_spec(), jax.eval_shape(jax.random.key, 0)
    memory = replay.make_replay(config, spec)
    learner = agent.make_agent(config, spec, memory)
    states = jax.eval_shape(learner.init, key)[0], jax.eval_shape(memory.init, key)

    def copies(compile_):
        program = compile_(learner.learn, donate_argnums=(0, 1)).lower(*states, 0).compile()
        return len(re.findall(r"= \(?f32\[(?:1,)?500,300\][^=]* copy\(", program.as_text()))

    assert copies(agent.jit_learning) <= 1
    if jax.default_backend() == "cpu" and jax.__version_info__ < (0, 12):
        assert copies(jax.jit) > 1  # without the option: the test sees what it looks for


def test_copies_of_the_frames_are_found():
    memory, learner, (agent_state, state), row, key = atari()

    def read_first(state, timestep, action, tick, key):
        batch = memory.sample(state, priorities.uniforms(key, 8), tick)
        return memory.add(state, timestep, action, tick), batch

    def false_branch_writes(state, *row):
        return jax.lax.cond(row[-1] > 9, lambda: state, lambda: memory.add(state, *row))

    for bad in (
        traffic(read_first, [state], *row, key),
        traffic(false_branch_writes, [state], *row),
    ):
        assert bad.copies and not bad.is_small
    for not_donated in (
        traffic(memory.add, [], state, *row),
        traffic(learner.learn, [], agent_state, state, row[-1]),
    ):
        assert not_donated.copies and not not_donated.in_place


def test_add_copies_no_leaves():
    """Each copy of a million leaves costs more than the rest of `add`."""
    memory, _, (_, state), row, _ = atari()
    leaves = re.escape(f"f32{list(state.priorities.leaves.shape)}".replace(" ", ""))

    def copies(f):
        text = jax.jit(f, donate_argnums=0).lower(state, *row).compile().as_text()
        return len(re.findall(rf"= \(?{leaves}.* copy(?:-start)?\(", text))

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
    assert copies(one_by_one) > 0


@pytest.mark.slow
def test_a_buffer_beyond_four_gigabytes(rng):
    config = conftest.tiny(env__num_envs=2, env__frame_stack=4, replay__capacity=650_000)
    memory = replay.make_replay(config, ATARI)
    num_rows = memory.capacity // 2
    state = jax.jit(memory.init)(jax.random.key(0))
    add = jax.jit(memory.add, donate_argnums=0)
    start, no = num_rows - 5, np.zeros(2, bool)
    assert start * 2 * 84 * 84 > 2**32
    frames = rng.integers(0, 256, (8, 2, 84, 84), np.uint8)
    for i, frame in enumerate(frames):  # the last three after the wrap
        timestep = Timestep(frame, np.zeros(2, np.float32), no, no, ~no if i == 0 else no)
        state = add(state, timestep, np.full(2, i % 4), start + i)

    seen, sample = set(), jax.jit(memory.sample)
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
    stored = np.asarray(state.frame)  # a view: that the same wrong row is not written and read
    np.testing.assert_array_equal(stored[start:], frames[:5].reshape(5, 2, -1))
    np.testing.assert_array_equal(stored[:3], frames[5:].reshape(3, 2, -1))
    wrapped = start - 2**32 // (2 * 84 * 84)
    assert not stored[wrapped - 2 : wrapped + 8].any()


@pytest.mark.slow
def test_a_million_frames_are_filled_and_sampled():
    """The papers' replay for real: every row written, in place, and drawn from end to end."""
    config = conftest.tiny(
        env__num_envs=32,
        env__frame_stack=4,
        replay__capacity=1_000_000,
        train__learning_starts_steps=160,
    )
    memory = replay.make_replay(config, ATARI)
    assert memory.num_bytes < 7.2e9
    before = psutil.Process().memory_info().rss
    state = jax.jit(memory.init)(jax.random.key(0))
    add, no = jax.jit(memory.add, donate_argnums=0), np.zeros(32, bool)
    num_rows = memory.capacity // 32
    for tick in range(num_rows + 3):
        frame = np.full((32, 84, 84), tick % 251, np.uint8)
        timestep = Timestep(frame, np.zeros(32, np.float32), no, no, no if tick else ~no)
        state = add(state, timestep, np.zeros(32, int), tick)
    rows, sample = [], jax.jit(memory.sample)
    for seed in range(200):
        batch = sample(state, priorities.uniforms(jax.random.key(seed), 8), 0)
        tick = np.where(batch.row < 3, batch.row + num_rows, batch.row)
        np.testing.assert_array_equal(batch.obs[:, -1, 0, 0], tick % 251)
        np.testing.assert_array_equal(batch.next_obs[:, -1, 83, 83], (tick + 1) % 251)
        rows += batch.row.tolist()
    assert min(rows) < 0.02 * num_rows
    assert max(rows) > 0.98 * num_rows
    assert psutil.Process().memory_info().rss - before < 7.5e9  # no second copy
