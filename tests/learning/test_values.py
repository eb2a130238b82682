"""Value heads of the package: how Q is read from what a network says, and what it learns."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny
from learning_helpers import batch_of, build, built, quick_jit, update_keys
from oracle import needs_rlax, rlax

from jdqn.learning import losses, values
from jdqn.networks import QuantileEmbedding
from jdqn.records import Batch, QOutput

IMPLICIT = {"network__value_head": "implicit_quantile"}


def test_q_of_a_categorical_head_is_the_mean_of_the_distribution():
    raw = np.log(np.float32([[[[1, 1, 2], [2, 1, 1]]]]))  # [1, 1, 2, 3]
    head = values.categorical(jnp.array([-4.0, 0.0, 8.0]))
    np.testing.assert_allclose(head.read(jnp.asarray(raw), None), [[[-1 + 4, -2 + 2]]], atol=1e-6)
    assert head.num_outputs == 3


def test_q_of_an_expectation_is_the_output_itself():
    raw = np.log(np.float32([[[[1], [2]]]]))
    head = values.expectation(losses.huber)
    np.testing.assert_array_equal(head.read(jnp.asarray(raw), None), raw[..., 0])
    assert head.num_outputs == 1


def test_q_of_quantiles_is_their_mean():
    head = values.quantile(4, losses.huber)
    raw = jnp.array([[[[1.0, 2.0, 4.0, 9.0], [0.0, 0.0, 0.0, 1.0]]]])
    np.testing.assert_array_equal(head.read(raw, None), [[[4.0, 0.25]]])
    assert head.num_outputs == 4
    np.testing.assert_allclose(values.midpoints(4), [0.125, 0.375, 0.625, 0.875])


def test_fractions_are_drawn_by_purpose():
    numbers = {"acting": 3, "online": 5, "target": 4}
    head = values.implicit_quantile(numbers, QuantileEmbedding, losses.huber)
    key = jax.random.key(0)
    for purpose, number in numbers.items():
        draw = functools.partial(head.draw, purpose=purpose, batch_size=7)
        assert jax.eval_shape(draw, key).shape == (7, number)
    drawn = np.asarray(head.draw(key, "online", 7))
    assert np.unique(drawn).size == drawn.size
    assert 0 <= drawn.min() < drawn.max() < 1
    np.testing.assert_array_equal(head.read(jnp.array([[[[1.0, 5.0]]]]), None), [[[3.0]]])


def test_who_looks_on_asks_of_every_observation_at_the_same_even_fractions():
    """What is said of one does not depend on its row; acting draws."""
    agent = built(network__quantile_samples_acting=32, **IMPLICIT).agent
    state, _ = agent.init(jax.random.key(0))
    obs = np.ones((3, 2, 3), np.float32)
    answer = agent.output(state, obs)
    np.testing.assert_allclose(answer.samples, [(np.arange(32) + 0.5) / 32] * 3, rtol=1e-6)
    np.testing.assert_allclose(answer.q[1:], [answer.q[0]] * 2, rtol=1e-5)
    drawn = agent.output(state, obs, jax.random.key(1)).samples
    assert np.unique(drawn).size == 3 * 32


@pytest.mark.parametrize("double", [False, True])
def test_who_selects_does_so_by_fractions_of_its_own(double):
    """The target, with Double the online network; this embedding tells no fractions apart."""
    config = tiny(agent__double=double, **IMPLICIT)
    head = values.make_value_head(config)
    seen = []

    def loss(calls, batch):
        selector, target = calls.selector(batch.next_obs), calls.target(batch.next_obs)
        told = (selector.q, selector.samples, target.samples)
        jax.debug.callback(lambda *found: seen.extend(found), *told)
        return head.loss(calls, batch)

    made = build(config, value_head=head._replace(loss=loss))
    state, _ = made.agent.init(jax.random.key(0))
    embedding = state.params["params"]["value_layer"]["embedding"]
    alike = {
        "kernel": jnp.zeros_like(embedding["kernel"]),
        "bias": jnp.ones_like(embedding["bias"]),
    }
    online, target = (
        {"params": jax.tree.map(lambda x: size * x, state.params["params"])}  # noqa: B023
        for size in (1.0, -2.0)
    )
    for params in (online, target):
        params["params"]["value_layer"] = {"embedding": alike}
    ring = made.fill()
    batch = batch_of(made, ring, update_keys(state.key, 20)[0, 0], 20)
    state = state.replace(params=online, target_params=target)
    jax.block_until_ready(made.agent.learn(state, ring, 20))
    jax.effects_barrier()
    who = state.replace(params=online if double else target)
    want = np.asarray(made.agent.output(who, batch.next_obs).q)
    q, own, of_target = map(np.asarray, seen)
    np.testing.assert_allclose(q, want, rtol=1e-4, atol=1e-5)
    assert want.std() > 0.01
    assert np.intersect1d(own, of_target).size == 0


def test_the_configuration_chooses_the_value_head():
    assert values.make_value_head(tiny()).num_outputs == 1
    of_quantiles = tiny(network__value_head="quantile", network__atoms=7)
    assert values.make_value_head(of_quantiles).num_outputs == 7
    numbers = {"network__quantile_samples_acting": 32, "network__quantile_samples": 64}
    of_fractions = tiny(network__value_head="implicit_quantile", **numbers)
    drawn = values.make_value_head(of_fractions).draw
    draws = [functools.partial(drawn, purpose=x, batch_size=2) for x in ("acting", "online")]
    shapes = [jax.eval_shape(draw, jax.random.key(0)).shape for draw in draws]
    assert shapes == [(2, 32), (2, 64)]
    of_atoms = values.make_value_head(
        tiny(network__atoms=5, network__v_min=-2.0, network__v_max=2.0)
    )
    assert of_atoms.num_outputs == 5
    evenly = of_atoms.read(jnp.zeros((1, 1, 1, 5)), None)
    np.testing.assert_allclose(evenly, [[[0.0]]], atol=1e-6)
    # All mass on the fourth of -2, -1, 0, 1, 2.
    sure = of_atoms.read(jnp.array([[[[0.0, 0.0, 0.0, 99.0, 0.0]]]]), None)
    np.testing.assert_allclose(sure, [[[1.0]]], atol=1e-6)


# --- Munchausen ---------------------------------------------------------------------------------


def some_batch(rng, size=6, num_actions=3):
    """Transitions whose observations only say which is which."""
    return Batch(
        obs=jnp.zeros(size),
        action=jnp.asarray(rng.integers(0, num_actions, size)),
        reward=jnp.asarray(rng.normal(size=size), jnp.float32),
        discount=jnp.asarray(rng.choice([0.0, 0.9, 0.99**3], size), jnp.float32),
        next_obs=jnp.ones(size),
        mask=jnp.ones((size, 2), jnp.uint8),
        weight=jnp.ones(size),
        row=jnp.zeros(size, jnp.int32),
        env=jnp.zeros(size, jnp.int32),
    )


def loss_of(head, batch, online, now, then, *, acting=None, fractions=None):
    """The head's loss and figures where networks say what is given, raw `[B, K, A, Z]`.

    `online` of `obs`, asked with `fractions`; the target `now` of `obs`, `then` of `next_obs`;
    `acting`, a pair, is what it says to the selector.
    """

    @quick_jit
    def run(batch, online, now, then, acting, fractions):
        def says(at_obs, at_next):
            def call(obs):
                raw = at_obs if obs is batch.obs else at_next
                return QOutput(jnp.mean(raw, axis=-1), raw, fractions)

            return call

        target = says(now, then)
        selector = target if acting is None else says(*acting)
        calls = values.Calls(says(online, None), target, selector)
        figures = {name: of(calls, batch) for name, of in head.figures.items()}
        return head.loss(calls, batch), figures

    return run(batch, online, now, then, acting, fractions)


def munchausen_target(reward, action, discount, q, q_next, values_next, settings):
    """The slow twin of one transition and one head, in double precision: a target for each output.

    `q` and `q_next` `[A]` make the policy, `values_next` `[A, Z]` are what is learned from.
    """
    scale, temperature, clip = settings

    def log_policy(q):
        scaled = [value / temperature for value in np.float64(q)]
        largest = max(scaled)
        total = largest + math.log(sum(math.exp(value - largest) for value in scaled))
        return [value - total for value in scaled]

    bonus = scale * max(temperature * log_policy(q)[action], clip)
    target = np.zeros(values_next.shape[1])
    for log, outputs in zip(log_policy(q_next), np.float64(values_next), strict=True):
        target += math.exp(log) * (outputs - temperature * log)
    return reward + bonus + discount * target


SQUARES = values.expectation(losses.squared)


def test_munchausen_by_hand():
    """With τ 0.5 and Q of 0 and τ log 3 the policy is 1/4 and 3/4, the soft value τ log 4."""
    settings = (0.9, 0.5, -10.0)
    head = values.munchausen(SQUARES, *settings)
    batch = some_batch(np.random.default_rng(0), size=1)._replace(
        action=jnp.array([0]), reward=jnp.array([1.0]), discount=jnp.array([0.8])
    )
    target = jnp.array([[[[0.0], [0.5 * math.log(3)]]]])
    found, figures = loss_of(head, batch, jnp.array([[[[2.0], [7.0]]]]), target, target)
    error = 1.0 - 0.9 * 0.5 * math.log(4) + 0.8 * 0.5 * math.log(4) - 2.0
    np.testing.assert_allclose(found.loss, [[0.5 * error**2]], rtol=1e-5)
    np.testing.assert_allclose(found.priority, [[abs(error)]], rtol=1e-5)
    np.testing.assert_allclose(figures["munchausen_bonus"], [[-0.9 * 0.5 * math.log(4)]], rtol=1e-5)
    assert figures["munchausen_clipped"] == 0
    tight = values.munchausen(SQUARES, 0.9, 0.5, -0.25)
    found, figures = loss_of(tight, batch, jnp.array([[[[2.0], [7.0]]]]), target, target)
    np.testing.assert_allclose(figures["munchausen_bonus"], [[-0.9 * 0.25]], rtol=1e-6)
    assert figures["munchausen_clipped"] == 1


@pytest.mark.parametrize("drawn", [False, True])
def test_munchausen_of_quantiles_is_its_slow_twin(rng, drawn):
    """The soft target of each quantile, by a policy of means: M-IQN's draws its own fractions."""
    settings = (0.9, 0.3, -1.0)
    batch = some_batch(rng)
    online, now, then = rng.normal(size=(3, 6, 2, 3, 4)).astype(np.float32)
    acting = rng.normal(size=(2, 6, 2, 3, 5)).astype(np.float32) if drawn else (now, then)
    if drawn:
        fractions = rng.random((6, 4)).astype(np.float32)
        head = values.implicit_quantile({}, QuantileEmbedding, losses.huber)
    else:
        fractions = np.tile(np.float32([0.125, 0.375, 0.625, 0.875]), (6, 1))
        head = values.quantile(4, losses.huber)
    given = {"acting": tuple(acting), "fractions": fractions}
    found, _ = loss_of(values.munchausen(head, *settings), batch, online, now, then, **given)
    batch = jax.device_get(batch)
    for i, k in np.ndindex(6, 2):
        of_transition = (batch.reward[i], batch.action[i], batch.discount[i])
        q = (acting[0][i, k].mean(axis=1), acting[1][i, k].mean(axis=1), then[i, k])
        target = munchausen_target(*of_transition, *q, settings)
        error = target[None, :] - online[i, k, batch.action[i]][:, None]
        np.testing.assert_allclose(found.priority[i, k], np.abs(error).mean(), rtol=1e-4)
        slope = np.abs(fractions[i][:, None] - (error < 0))
        want = (slope * np.asarray(losses.huber(error))).mean(axis=1).sum()
        np.testing.assert_allclose(found.loss[i, k], want, rtol=1e-4)


@needs_rlax
def test_a_cold_policy_over_quantiles_is_the_expected_sarsa_of_rlax(rng):
    """RLax weighs the losses of actions by the policy, M-IQN their quantiles."""
    head = values.munchausen(values.quantile(4, losses.huber), 0.0, 1e-4, -1.0)
    batch = some_batch(rng)
    online, now, then = rng.normal(size=(3, 6, 2, 3, 4)).astype(np.float32)
    fractions = np.tile(np.asarray(values.midpoints(4)), (6, 1))
    found, _ = loss_of(head, batch, online, now, then, fractions=fractions)
    policy = np.float32(np.eye(3)[then.mean(axis=3).argmax(axis=2)])
    oracle = functools.partial(rlax.quantile_expected_sarsa, huber_param=1.0)
    over_heads = jax.vmap(oracle, in_axes=(0, None, None, None, None, 0, 0))
    transitions = (fractions, batch.action, batch.reward, batch.discount)
    swapped = [np.swapaxes(x, 2, 3) for x in (online, then)]
    with jax.numpy_rank_promotion("allow"):
        want = quick_jit(jax.vmap(over_heads))(swapped[0], *transitions, swapped[1], policy)
    np.testing.assert_allclose(found.loss, want, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("size", [1.0, 100.0])
def test_munchausen_is_its_slow_twin(rng, size):
    """With the paper's temperature, where `q / τ` is in the thousands."""
    settings = (0.9, 0.03, -1.0)
    batch = some_batch(rng)
    online, now, then = (size * rng.normal(size=(3, 6, 2, 3, 1))).astype(np.float32)
    found, figures = loss_of(values.munchausen(SQUARES, *settings), batch, online, now, then)
    batch = jax.device_get(batch)
    for i, k in np.ndindex(6, 2):
        of_transition = (batch.reward[i], batch.action[i], batch.discount[i])
        q = (now[i, k, :, 0], then[i, k, :, 0], then[i, k])
        target = munchausen_target(*of_transition, *q, settings)
        error = target[0] - online[i, k, batch.action[i], 0]
        np.testing.assert_allclose(found.priority[i, k], abs(error), rtol=1e-4, atol=1e-4)
    assert 0 < np.mean(figures["munchausen_clipped"]) < 1


def test_a_cold_policy_that_took_its_best_action_learns_what_q_learning_learns(rng):
    batch = some_batch(rng)
    online, now, then = rng.normal(size=(3, 6, 2, 3, 1)).astype(np.float32)
    now[:, 1] = now[:, 0]
    batch = batch._replace(action=jnp.asarray(now[:, 0, :, 0].argmax(axis=1)))
    cold = values.munchausen(SQUARES, 0.9, 1e-4, -1.0)
    found, _ = loss_of(cold, batch, online, now, then)
    want, _ = loss_of(SQUARES, batch, online, now, then)
    np.testing.assert_allclose(found.loss, want.loss, rtol=1e-3, atol=1e-3)


def test_the_log_policy_is_finite_however_far_apart_values_are():
    q = jnp.array([[0.0, 1e6], [-1e30, 1e30], [5.0, 5.0]])
    found = np.asarray(losses.scaled_log_softmax(q, 0.03))
    half = 0.03 * math.log(0.5)
    np.testing.assert_allclose(found, [[-1e6, 0.0], [-2e30, 0.0], [half, half]], rtol=1e-6)


def test_figures_of_a_head_are_logged_as_means_over_the_batch():
    made = built(agent__munchausen_scale=0.9)
    state, _ = made.agent.init(jax.random.key(0))
    metrics = made.agent.learn(state, made.fill(), 20)[2]
    # At first the networks are alike, so a policy of three actions is near even.
    assert -0.9 * 1.0 <= metrics["munchausen_bonus"] < 0
    assert 0 <= metrics["munchausen_clipped"] <= 1
    assert "munchausen_bonus" not in jax.eval_shape(built().agent.learn, state, made.fill(), 20)[2]
