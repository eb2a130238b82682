"""Ticks, steps, calls: against slow twins that walk a run, over random settings."""

import functools

import jax
import numpy as np
import pytest
from helpers import tiny

from jdqn import clock
from jdqn import config as config_lib

TICKS = np.arange(150)
NUM_SETTINGS = 200


@functools.cache
def settings():
    """Random configurations: environments a multiple of the update period, or dividing it."""
    rng = np.random.default_rng(0)
    base = tiny(env__frame_stack=1, replay__capacity=1000)
    found = []
    for _ in range(NUM_SETTINGS):
        few = int(rng.integers(1, 7))
        many = few * int(rng.integers(1, 7))
        num_envs, period = rng.permutation([few, many]).tolist()
        starts, steps = rng.integers(2 * num_envs, 60 * max(num_envs, period), size=2)
        found.append(
            config_lib.with_overrides(
                base,
                env__num_envs=num_envs,
                train__update_period_steps=period,
                train__learning_starts_steps=int(starts),
                train__steps=int(steps),
                agent__target_period_steps=period * int(rng.integers(1, 9)),
                agent__epsilon_decay_steps=int(rng.integers(0, 500)),
                agent__epsilon_start=float(rng.random()),
                agent__epsilon_end=float(rng.random()),
                replay__importance_exponent=float(rng.random()),
                replay__importance_exponent_final=float(rng.random()),
                replay__importance_anneal_steps=int(rng.integers(0, 2) * rng.integers(1, 500)),
            )
        )
    return found


@functools.cache
def walks():
    """Of each configuration, `{tick: (updates, ticks waited, steps taken, has learning begun)}`.

    One agent step after another, each owes 1 / period of an update; whole ones are made at once
    when all environments have stepped.
    """
    found = []
    for config in settings():
        calls = {}
        steps = 0
        owed = 0
        waited = 0
        for tick in TICKS.tolist():
            waited += 1
            for _ in range(config.env.num_envs):
                steps += 1
                owed += 1
            updates = owed // config.train.update_period_steps
            if updates:
                has_begun = steps >= config.train.learning_starts_steps
                calls[tick] = (updates, waited, steps, has_begun)
                owed -= updates * config.train.update_period_steps
                waited = 0
        assert owed < config.train.update_period_steps
        found.append(calls)
    return found


def each():
    return zip(settings(), walks(), strict=True)


def learning_ticks(calls):
    return [tick for tick, (*_, has_begun) in calls.items() if has_begun]


def schedule(steps, start, end, over_steps, delay_steps):
    """A straight line, a point at a time."""
    values = []
    for s in steps:
        if s <= delay_steps:
            values.append(start)
        elif s >= delay_steps + over_steps:
            values.append(end)
        else:
            passed = (s - delay_steps) / over_steps
            values.append((1 - passed) * start + passed * end)
    return values


def test_the_settings_are_of_every_kind():
    envs = np.array([config.env.num_envs for config in settings()])
    period = np.array([config.train.update_period_steps for config in settings()])
    assert (envs > period).sum() > 50
    assert (envs < period).sum() > 50
    assert (envs == period).any()
    assert sum(bool(learning_ticks(calls)) for calls in walks()) > 150


def test_a_call_makes_the_updates_that_are_owed_since_the_last():
    for config, calls in each():
        updates = {updates for updates, *_ in calls.values()}
        waited = {waited for _, waited, *_ in calls.values()}
        assert updates == {clock.updates_per_call(config)}
        assert waited == {clock.ticks_per_call(config)}


def test_steps_are_counted_once_the_action_is_chosen():
    for config, calls in each():
        steps = {tick: clock.steps_at(config, tick) for tick in calls}
        assert steps == {tick: steps for tick, (_, _, steps, _) in calls.items()}


def test_learning_happens_at_the_calls_after_its_start():
    for config, calls in each():
        learns = [tick for tick in TICKS.tolist() if clock.learns_at(config, tick)]
        assert learns == learning_ticks(calls)


def test_the_first_learning_tick_opens_the_first_call():
    for config, calls in each():
        learning = learning_ticks(calls)
        if learning:
            _, waited, *_ = calls[learning[0]]
            assert clock.first_learning_tick(config) == learning[0] - waited + 1
        else:
            assert clock.first_learning_tick(config) > TICKS[-1] - clock.ticks_per_call(config)


def test_only_the_first_call_has_none_before():
    for config, calls in each():
        learning = learning_ticks(calls)
        got = np.asarray(clock.learned_before(config, TICKS))[learning]
        assert got.tolist() == [tick != learning[0] for tick in learning]


def test_a_period_is_due_at_the_call_that_reaches_its_multiple(rng):
    for config, calls in each():
        for period in (config.agent.target_period_steps, int(rng.integers(1, 100))):
            due = []
            before = 0
            for _, _, steps, _ in calls.values():
                due.append(any(step % period == 0 for step in range(before + 1, steps + 1)))
                before = steps
            got = np.asarray(clock.is_due(config, TICKS, period))[list(calls)]
            assert got.tolist() == due


def test_a_multiple_has_passed_once(rng):
    for _ in range(300):
        period, before, more = rng.integers(0, 50, size=3).tolist()
        multiples = [s for s in range(before + 1, before + more + 1) if period and s % period == 0]
        assert clock.has_passed(period, before, before + more) == bool(multiples)


def test_a_run_ends_with_the_tick_that_takes_its_last_step():
    for config in settings():
        ticks = 0
        steps = 0
        while steps < config.train.steps:
            ticks += 1
            steps += config.env.num_envs
        assert clock.num_ticks(config) == ticks


def test_the_updates_of_a_run_are_counted_to_a_call_or_two():
    """The learning rate's schedule does not need them exactly."""
    for config, calls in each():
        num_ticks = clock.num_ticks(config)
        if num_ticks > TICKS.size:
            continue
        updates = clock.updates_per_call(config)
        made = updates * sum(tick < num_ticks for tick in learning_ticks(calls))
        total = clock.total_updates(config)
        assert total >= 1
        assert -updates <= made - total <= 2 * updates


def test_a_schedule_is_linear_after_a_delay():
    """Epsilon: 1 until learning starts, then down to 0.1."""
    steps = np.array([0, 50, 150, 10_000, 100])
    got = clock.linear(steps, start=1.0, end=0.1, over_steps=100, delay_steps=50)
    assert got.tolist() == pytest.approx([1, 1, 0.1, 0.1, 0.55])


def test_a_schedule_is_a_line_between_two_levels(rng):
    steps = np.arange(-5, 145)
    for _ in range(100):
        start, end = rng.uniform(-2, 2, size=2).tolist()
        over, delay = rng.integers(0, 80, size=2).tolist()
        got = clock.linear(steps, start=start, end=end, over_steps=over, delay_steps=delay)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, schedule(steps, start, end, over, delay), atol=1e-6)
    jump = clock.linear(np.array([6, 7, 8]), start=1.0, end=0.0, over_steps=0, delay_steps=7)
    assert jump.tolist() == [1, 1, 0]


def test_a_schedule_has_no_delay_unless_given():
    assert clock.linear(5, start=0.0, end=1.0, over_steps=10) == pytest.approx(0.5)


def test_a_schedule_stays_exact_over_the_longest_run():
    steps = np.array([0, 10**9, 2 * 10**9])
    got = clock.linear(steps, start=0.4, end=1.0, over_steps=2 * 10**9)
    np.testing.assert_allclose(got, [0.4, 0.7, 1.0], rtol=1e-6)


def test_epsilon_falls_from_the_start_of_learning():
    """The action of tick 0 is chosen after no step at all."""
    for config in settings():
        fields = config.agent
        want = schedule(
            TICKS * config.env.num_envs,
            fields.epsilon_start,
            fields.epsilon_end,
            fields.epsilon_decay_steps,
            config.train.learning_starts_steps,
        )
        np.testing.assert_allclose(clock.epsilon(config, TICKS), want, atol=1e-6)


def test_epsilon_is_switched_off_after_so_many_steps():
    for config in settings():
        off_steps = 100
        switched = config_lib.with_overrides(config, agent__epsilon_off_steps=off_steps)
        got = clock.epsilon(switched, TICKS)
        is_on = TICKS * config.env.num_envs < off_steps
        np.testing.assert_array_equal(got, np.where(is_on, clock.epsilon(config, TICKS), 0.0))
        assert is_on.any()
        assert not is_on.all()


def test_the_importance_exponent_changes_from_the_first_step():
    """Over the whole run unless a number of steps is given."""
    for config in settings():
        fields = config.replay
        want = schedule(
            TICKS * config.env.num_envs,
            fields.importance_exponent,
            fields.importance_exponent_final,
            fields.importance_anneal_steps or config.train.steps,
            0,
        )
        np.testing.assert_allclose(clock.importance_exponent(config, TICKS), want, atol=1e-6)


def test_a_traced_tick_says_the_same():
    config = settings()[0]
    period = config.agent.target_period_steps

    def all_of(tick):
        return (
            clock.steps_at(config, tick),
            clock.learned_before(config, tick),
            clock.is_due(config, tick, period),
            clock.epsilon(config, tick),
            clock.importance_exponent(config, tick),
        )

    traced = jax.jit(jax.vmap(all_of))(TICKS)
    for got, want in zip(traced, all_of(TICKS), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-6)
