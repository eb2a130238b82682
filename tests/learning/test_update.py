"""One update and the updates of a call: against a plain DQN, target copies, noise, priorities."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import leaves_of_row, tiny
from learning_helpers import (
    PlainDqn,
    batch_of,
    build,
    built,
    optimised,
    plain_q,
    quick_jit,
    update_keys,
)

from jdqn import clock, learning, networks


@pytest.mark.parametrize("double", [False, True])
def test_twenty_updates_agree_with_a_plain_dqn(double):
    made = optimised(agent__double=double, optimizer__learning_rate=1e-3)
    config = made.config
    ring = made.fill()
    state, _ = made.agent.init(jax.random.key(0))
    optimizer = optax.adam(
        optax.linear_schedule(1e-3, config.optimizer.learning_rate_final, 92), eps=1e-8
    )
    plain = PlainDqn(state.params, optimizer, double=double)
    for number in range(1, 21):
        tick = 100 + number
        norm, _ = plain.update(batch_of(made, ring, update_keys(state.key, tick)[0, 0], tick))
        state, ring, found = made.agent.learn(state, ring, tick)
        tolerance = 1e-5 if number == 1 else 1e-4
        chex.assert_trees_all_close(state.params, plain.online, atol=tolerance, rtol=tolerance)
        np.testing.assert_allclose(found["gradient_norm"], norm, rtol=1e-3)
        if clock.is_due(config, tick, config.agent.target_period_steps):
            plain.target = plain.online
    assert not np.allclose(*(jax.tree.leaves(p)[0] for p in (state.params, plain.target)))


def test_double_changes_nothing_while_online_and_target_are_equal():
    results = []
    for double in (False, True):
        made = optimised(agent__double=double, optimizer__learning_rate=1e-3)
        state, _ = made.agent.init(jax.random.key(0))
        results.append(made.agent.learn(state, made.fill(), 100)[0].params)
    chex.assert_trees_all_close(*results, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("num_envs", "period", "target_period"), [(4, 4, 16), (8, 2, 20), (2, 8, 24), (4, 4, 4)]
)
def test_target_is_copied_at_the_first_learn_call_at_or_after_each_multiple(
    num_envs, period, target_period
):
    config = tiny(
        env__num_envs=num_envs,
        train__update_period_steps=period,
        agent__target_period_steps=target_period,
    )
    is_due = np.asarray(clock.is_due(config, np.arange(200), target_period))
    copies = [
        (tick + 1) * num_envs
        for tick in range(200)
        if clock.learns_at(config, tick) and is_due[tick]
    ]
    first = config.train.learning_starts_steps
    stride = max(num_envs, period)
    want = []
    for multiple in range(target_period, 200 * num_envs + 1, target_period):
        at = -(-multiple // stride) * stride
        if at >= first and at <= 200 * num_envs and at not in want:
            want.append(at)
    assert copies == want


def test_learn_copies_the_target_when_due_and_not_before():
    made = optimised(agent__double=False, optimizer__learning_rate=1e-3)
    state, _ = made.agent.init(jax.random.key(0))
    before = jax.tree.map(np.asarray, state.target_params)
    state, ring, _ = made.agent.learn(state, made.fill(), 20)  # 84 steps, period 16
    chex.assert_trees_all_equal(state.target_params, before)
    assert (jax.tree.leaves(state.params)[0] != jax.tree.leaves(before)[0]).any()
    state, _, _ = made.agent.learn(state, ring, 23)  # 96 steps
    chex.assert_trees_all_equal(state.target_params, state.params)


@pytest.mark.parametrize("exponent", [0.0, 0.6])
def test_a_call_makes_every_update_it_owes(exponent):
    """Each draws by the priorities that the one before has left."""
    made = built(
        env__num_envs=8,
        train__update_period_steps=2,
        replay__priority_exponent=exponent,
        replay__importance_exponent=0.0,
        replay__importance_exponent_final=0.0,
    )
    ring = made.fill()
    first, _ = made.agent.init(jax.random.key(0))
    state, learned, found = made.agent.learn(first, ring, 50)
    plain = PlainDqn(first.params, learning.make_optimizer(made.config))
    for keys in update_keys(first.key, 50, 4):
        batch = batch_of(made, ring, keys[0], 50)
        norm, priority = plain.update(batch)
        ring = made.replay.update(ring, batch, priority)
    chex.assert_trees_all_close(learned.priorities, ring.priorities, rtol=1e-4)
    np.testing.assert_allclose(found["gradient_norm"], norm, rtol=1e-3)  # of the last of them
    chex.assert_trees_all_close(state.params, plain.online, atol=1e-4, rtol=1e-4)
    assert [int(x) for x in optax.tree.get_all_with_path(state.opt_state, "count")[0][1:]] == [4]


def test_updates_of_a_call_have_noise_of_their_own(monkeypatch):
    drawn = []
    draw_noise = networks.draw_noise

    def spy(params, key, independent):
        jax.debug.callback(
            lambda data: drawn.append(tuple(data.tolist())), jax.random.key_data(key)
        )
        return draw_noise(params, key, independent)

    monkeypatch.setattr(networks, "draw_noise", spy)
    made = build(
        tiny(
            env__num_envs=8,
            train__update_period_steps=2,
            network__noisy="factorised",
            agent__double=True,
        )
    )
    state, _ = made.agent.init(jax.random.key(0))
    jax.block_until_ready(made.agent.learn(state, made.fill(), 50))
    jax.effects_barrier()
    wanted = jax.random.key_data(update_keys(state.key, 50, 4)[:, 1:]).reshape(-1, 2)
    assert sorted(drawn) == sorted(tuple(data) for data in wanted.tolist())


def test_learning_lowers_the_loss_on_a_fixed_problem():
    """γ = 0 makes it regression on the clipped reward."""
    made = built(
        agent__discount=0.0,
        agent__reward_clip=1.0,
        optimizer__learning_rate=1e-2,
        optimizer__learning_rate_final="none",
    )
    ring = made.fill()
    state, _ = made.agent.init(jax.random.key(0))
    seen = []
    for tick in range(200, 500):
        state, ring, metrics = made.agent.learn(state, ring, tick)
        seen.append(metrics["loss"])
    seen = jax.device_get(seen)
    assert np.mean(seen[-20:]) < 0.5 * np.mean(seen[:20])


@pytest.mark.parametrize("noisy", ["factorised", "independent"])
def test_online_target_and_selection_have_their_own_noise_and_gradients_go_through_it(noisy):
    made = built(network__noisy=noisy, network__noisy_sigma=0.5, agent__double=True)
    tick = 34  # its draws choose differently, see below
    state, _ = made.agent.init(jax.random.key(0))
    ring = made.fill()
    sample_key, *noise_keys = update_keys(state.key, tick)[0]
    batch = batch_of(made, ring, sample_key, tick)
    rows = np.arange(batch.action.size)

    def noisy_q(params, i, obs):
        noise = networks.draw_noise(params, noise_keys[i], noisy == "independent")
        return plain_q(networks.perturbed(params, noise), obs)

    @jax.value_and_grad
    def loss_and_gradients(params):
        target, selector = (noisy_q(params, i, batch.next_obs) for i in (1, 2))
        value = batch.reward + batch.discount * target[rows, jnp.argmax(selector, axis=1)]
        error = jax.lax.stop_gradient(value) - noisy_q(params, 0, batch.obs)[rows, batch.action]
        return jnp.mean(optax.huber_loss(error))

    @quick_jit
    def one_update(params):
        loss, gradients = loss_and_gradients(params)
        optimizer = learning.make_optimizer(made.config)
        updates, _ = optimizer.update(gradients, optimizer.init(params), params)
        choices = [jnp.argmax(noisy_q(params, i, batch.next_obs), axis=1) for i in range(3)]
        choices.append(jnp.argmax(plain_q(params, batch.next_obs), axis=1))
        norm = optax.tree.norm(gradients)
        return loss, gradients, norm, optax.apply_updates(params, updates), choices

    # The target's parameters are still those of the online network.
    loss, gradients, norm, params, choices = jax.device_get(one_update(state.params))
    by_online, by_target, selected, by_mean = choices
    for other in (by_online, by_target, by_mean):  # else this test could not tell them apart
        assert ((other != selected) & (np.asarray(batch.discount) > 0)).any()
    sigmas = [x for path, x in jax.tree.leaves_with_path(gradients) if "sigma" in path[-1].key]
    assert len(sigmas) == 4
    assert all(np.abs(x).max() > 1e-4 for x in sigmas)
    learned, _, metrics = made.agent.learn(state, ring, tick)
    chex.assert_trees_all_close(learned.params, params, rtol=1e-4, atol=1e-6)
    assert float(metrics["loss"]) == pytest.approx(float(loss), rel=1e-4)
    assert float(metrics["gradient_norm"]) == pytest.approx(float(norm), rel=1e-4)


def test_a_priority_is_the_unweighted_error():
    made = built(replay__priority_exponent=0.6, replay__importance_exponent=1.0)
    state, _ = made.agent.init(jax.random.key(0))
    ring = made.fill()
    batch = batch_of(made, ring, jax.random.key(1), 20)
    ring = made.replay.update(ring, batch, jnp.arange(8.0))  # so that weights differ
    batch = jax.device_get(batch_of(made, ring, update_keys(state.key, 20)[0, 0], 20))
    assert np.ptp(batch.weight) > 0.3
    values = np.asarray(made.agent.output(state, batch.next_obs).q)[:, 0].max(axis=-1)
    chosen = np.asarray(made.agent.output(state, batch.obs).q)[np.arange(8), 0, batch.action]
    error = np.abs(batch.reward + batch.discount * values - chosen)
    _, ring, _ = made.agent.learn(state, ring, 20)
    leaves = jax.device_get(ring.priorities)
    for row, env, magnitude in zip(batch.row, batch.env, error, strict=True):
        want = (magnitude + made.config.replay.priority_epsilon) ** 0.6
        np.testing.assert_allclose(leaves_of_row(leaves, row)[env], want, rtol=1e-4)


def test_ranks_are_sorted_at_the_first_update_and_then_once_in_their_period():
    made = built(
        replay__prioritization="rank", replay__priority_exponent=0.7, replay__rank_refresh_updates=3
    )
    state, _ = made.agent.init(jax.random.key(0))
    ring = made.fill()
    sorted_at = []
    for tick in range(7, 20):  # learning starts at 32 steps of 4 environments, an update a tick
        before = np.asarray(ring.priorities.ranks.sorted)
        state, ring, _ = made.agent.learn(state, ring, tick)
        if (np.asarray(ring.priorities.ranks.sorted) != before).any():
            sorted_at.append(tick)
    assert sorted_at == [7, 8, 11, 14, 17]


def test_a_period_beyond_all_steps_is_never_due():
    made = build(
        tiny(
            replay__prioritization="rank",
            replay__priority_exponent=0.7,
            replay__rank_refresh_updates=2_000_000_000,
        )
    )
    config = made.config
    assert config.replay.rank_refresh_updates * config.train.update_period_steps > 2**31
    state, _ = jax.eval_shape(made.agent.init, jax.random.key(0))
    ring = jax.eval_shape(made.replay.init, jax.random.key(0))
    jax.eval_shape(made.agent.learn, state, ring, 20)
