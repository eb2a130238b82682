"""The replay against a list of rows: whatever happens, what is drawn is what once happened."""

import functools
from typing import NamedTuple

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import stateful
from hypothesis import strategies as st
from replay_helpers import DISCOUNT, padded_rows, setup, small_blocks

from jdqn.records import Timestep


class Twin:
    """Everything that ever happened, and what may be drawn of it, by definition."""

    def __init__(self, made):
        fields = made.config.replay
        self.n_step = fields.n_step
        self.num_stack = made.spec.frame_stack
        self.num_envs = made.config.env.num_envs
        self.num_rows = made.replay.capacity // self.num_envs
        self.clip = made.config.agent.reward_clip
        self.alpha = fields.priority_exponent
        self.epsilon = fields.priority_epsilon
        self.steps = []
        self.actions = []
        self.masks = []
        self.priority = {}
        self.max_priority = 1.0
        self.expected = {}  # rows that were asked for: the past does not change

    def add(self, timestep, action, mask):
        self.steps.append(timestep)
        self.actions.append(action)
        self.masks.append(mask)
        for env in range(self.num_envs):
            self.priority[len(self.steps) - 1 - self.n_step, env] = self.max_priority

    def update(self, drawn, priority):
        for place, value in zip(reversed(drawn), reversed(priority), strict=True):
            self.priority[place] = min(value + self.epsilon, 100.0)
        self.max_priority = max(self.max_priority, min(max(priority) + self.epsilon, 100.0))

    def places(self, row, env):
        """Time and environment of every drawn row."""
        newest = len(self.steps) - 1
        times = newest - (newest - row) % self.num_rows
        return list(zip(times.tolist(), env.tolist(), strict=True))

    def drawable(self):
        newest = len(self.steps) - 1
        oldest = newest - self.num_rows + 1  # of the ring, whether or not it is full
        return {
            (t, env)
            for t in range(max(oldest + self.num_stack - 1, 0), newest - self.n_step + 1)
            for env in range(self.num_envs)
            if not self.steps[t].last[env] and any(self.masks[t][env])
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
        total = 0.0
        discount = 1.0
        for step in range(t + 1, t + self.n_step + 1):
            reward = self.steps[step].reward[env]
            if self.clip:
                reward = max(-self.clip, min(self.clip, reward))
            total += discount * reward
            discount *= 0.0 if self.steps[step].terminated[env] else DISCOUNT
            if self.steps[step].last[env]:
                break
        return total, discount, self.stack(step, env)

    def row(self, place):
        """Everything that a drawn row must be."""
        if place not in self.expected:
            t, env = place
            action = self.actions[t][env]
            mask = self.masks[t][env]
            self.expected[place] = Row(self.stack(t, env), *self.outcome(t, env), action, mask)
        return self.expected[place]


class Row(NamedTuple):
    """A transition, or a list of them."""

    obs: np.ndarray
    reward: np.ndarray
    discount: np.ndarray
    next_obs: np.ndarray
    action: np.ndarray
    mask: np.ndarray


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
PADDED = ("shortest ring, deep stack", "prioritised, masked")
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


@functools.cache
def replayed(made):
    """A batch is drawn and its errors are written, in one program."""

    def draw_and_update(state, seed, errors):
        batch = made.sample(state, seed, 0)
        return made.update(state, batch, errors), batch.row, batch.env

    return jax.jit(draw_and_update, donate_argnums=0)


class ReplayMachine(stateful.RuleBasedStateMachine):
    """Drives the replay and its twin with the same rows."""

    def __init__(self, made):
        super().__init__()
        self.made = made
        self.twin = Twin(made)
        self.state = made.init(7)
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
        tick = len(self.twin.steps)
        num_envs = self.twin.num_envs
        first = self.ended
        steps = steps[:num_envs]
        timestep = Timestep(
            frame=np.stack([self.frame(tick, env) for env in range(num_envs)]),
            reward=np.array([0.0 if f else s[1] for f, s in zip(first, steps, strict=True)], "f4"),
            terminated=~first & [EVENTS[s[0]][0] for s in steps],
            last=~first & [EVENTS[s[0]][1] for s in steps],
            first=first,
        )
        action = np.array([s[2] for s in steps], np.int32)
        self.state = self.made.add(self.state, timestep, action, tick)
        mask = np.array(self.state.rows.mask)[tick % self.twin.num_rows]
        self.twin.add(timestep, action, mask)
        self.ended = timestep.last

    def update(self, errors):
        priority = np.resize(np.float32(errors), self.made.replay.capacity)
        step = replayed(self.made)
        self.state, *drawn = step(self.state, len(self.twin.steps), priority)
        if self.twin.alpha and self.twin.drawable():
            places = self.twin.places(*map(np.asarray, drawn))
            self.twin.update(places, priority.tolist())

    @stateful.invariant()
    def rows_agree(self):
        twin = self.twin
        drawable = twin.drawable()
        np.testing.assert_allclose(self.made.leaves(self.state), twin.leaves(), rtol=1e-5)
        batch = jax.device_get(self.made.sample_all(self.state, len(twin.steps), 0))
        assert np.all(np.isfinite(batch.weight))
        if not drawable:
            return
        seen = {place: i for i, place in enumerate(twin.places(batch.row, batch.env))}
        assert set(seen) <= drawable
        assert twin.alpha or set(seen) == drawable  # uneven leaves are not all seen
        chosen = list(seen.values())
        got = Row(*(getattr(batch, name)[chosen] for name in Row._fields))
        want = Row(*map(np.stack, zip(*map(twin.row, seen), strict=True)))
        np.testing.assert_array_equal(got.obs, want.obs)
        np.testing.assert_array_equal(got.next_obs, want.next_obs)
        np.testing.assert_allclose(got.reward, want.reward, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(got.discount, want.discount, rtol=1e-5)
        np.testing.assert_array_equal(got.action, want.action)
        np.testing.assert_array_equal(got.mask, want.mask)


@pytest.mark.parametrize("name", SETUPS)
def test_every_drawable_row_agrees_with_a_list_of_rows(name):
    settings = hypothesis.settings(
        deadline=None,
        max_examples=20,
        stateful_step_count=40,
        phases=set(hypothesis.Phase) - {hypothesis.Phase.explain},  # takes minutes
    )
    made = SETUPS[name](optimised=True)
    padding = 5 if name in PADDED else 0
    with small_blocks(), padded_rows(padding):  # several blocks even here
        state = made.init(7)
        rows = state.rows
        assert rows.frame.shape[-1] == rows.frame_entries + padding
        rows_per_block = state.priorities.leaves.shape[1]
        assert rows_per_block == 8 // made.config.env.num_envs
        stateful.run_state_machine_as_test(lambda: ReplayMachine(made), settings=settings)
