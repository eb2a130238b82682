"""Losses: hand-written numbers, RLax as oracle, masks and weights."""

import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jdqn import losses
from jdqn.records import Batch, QOutput

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its own dependencies
    import rlax

SQUARED = losses.q_learning(losses.squared)


def q(*values):
    return QOutput(jnp.array(values, jnp.float32))


def test_huber_by_hand():
    chex.assert_trees_all_close(
        losses.huber(jnp.array([0.0, 0.5, -1.0, 3.0, -4.0])), jnp.array([0, 0.125, 0.5, 2.5, 3.5])
    )


def test_huber_is_rlax(rng):
    x = jnp.asarray(rng.normal(size=100) * 3, jnp.float32)
    chex.assert_trees_all_close(losses.huber(x), rlax.huber_loss(x, 1.0))


def test_q_learning_by_hand():
    # δ = 1 + 0.5 · max(4, 7) - 2 = 2.5
    loss, priority = SQUARED(q(2.0, 9.0), 0, 1.0, 0.5, q(4.0, 7.0), q(4.0, 7.0))
    assert loss == 0.5 * 2.5**2
    assert priority == 2.5


def test_double_by_hand():
    # The selector prefers action 0, which the target values at 4: δ = 1 + 0.5 · 4 - 2 = 1.
    loss, _ = SQUARED(q(2.0, 9.0), 0, 1.0, 0.5, q(4.0, 7.0), q(1.0, 0.0))
    assert loss == 0.5


def test_zero_discount_ignores_the_bootstrap():
    loss, _ = SQUARED(q(2.0, 9.0), 1, 3.0, 0.0, q(1e6, 1e6), q(0.0, 1.0))
    assert loss == 0.5 * 6.0**2


@pytest.mark.parametrize("double", [False, True])
def test_q_learning_is_rlax(rng, double):
    num_actions, size = 5, 64
    online, target, selector = (
        jnp.asarray(rng.normal(size=(size, num_actions)), jnp.float32) for _ in range(3)
    )
    selector = selector if double else target
    action = jnp.asarray(rng.integers(0, num_actions, size))
    reward, discount = (jnp.asarray(rng.random(size), jnp.float32) for _ in range(2))
    loss, priority = jax.vmap(SQUARED)(
        QOutput(online), action, reward, discount, QOutput(target), QOutput(selector)
    )
    if double:
        error = jax.vmap(rlax.double_q_learning)(online, action, reward, discount, target, selector)
    else:
        error = jax.vmap(rlax.q_learning)(online, action, reward, discount, target)
    chex.assert_trees_all_close(loss, 0.5 * error**2, rtol=1e-5)
    chex.assert_trees_all_close(priority, jnp.abs(error), rtol=1e-5)


def test_gradient_reaches_the_taken_action_only_and_no_target():
    def loss(online, target):
        return SQUARED(QOutput(online), 1, 1.0, 0.5, QOutput(target), QOutput(target)).loss

    by_online, by_target = jax.grad(loss, argnums=(0, 1))(
        jnp.array([0.0, 2.0]), jnp.array([4.0, 0])
    )
    chex.assert_trees_all_close(by_online, jnp.array([0.0, -1.0]))  # -(1 + 2 - 2)
    chex.assert_trees_all_close(by_target, jnp.zeros(2))


def naive_n_step(reward, terminated, last, discount):
    """The window by its definition, one row after another."""
    total, factor, length = 0.0, 1.0, 0
    for r, end, stop in zip(reward, terminated, last, strict=True):
        total += factor * r
        factor *= 0.0 if end else discount
        length += 1
        if stop:
            break
    return total, factor, length


FOLD = jax.jit(lambda r, t, s: losses.n_step_return(r, t, s, 0.9))


@given(
    st.integers(1, 4).flatmap(
        lambda n: st.lists(
            st.tuples(st.floats(-5, 5, width=32), st.booleans(), st.booleans()),
            min_size=n,
            max_size=n,
        )
    )
)
def test_n_step_return_is_a_python_loop(rows):
    reward, terminated, last = (np.array(column) for column in zip(*rows, strict=True))
    got = FOLD(jnp.asarray(reward, jnp.float32), jnp.asarray(terminated), jnp.asarray(last))
    want = naive_n_step(reward, terminated, last, 0.9)
    np.testing.assert_allclose(np.array([float(x) for x in got]), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("terminated", "last", "want"),
    [
        ([0, 0, 0], [0, 0, 0], (1 + 0.9 * 2 + 0.81 * 4, 0.729, 3)),
        ([0, 1, 0], [0, 1, 0], (1 + 0.9 * 2, 0.0, 2)),  # game over: shorter, no bootstrap
        ([0, 0, 0], [0, 1, 0], (1 + 0.9 * 2, 0.81, 2)),  # truncated: shorter, γ² kept
        ([1, 0, 0], [0, 0, 0], (1.0, 0.0, 3)),  # a lost life: what follows counts for nothing
    ],
)
def test_n_step_return_by_hand(terminated, last, want):
    got = FOLD(jnp.array([1.0, 2.0, 4.0]), jnp.array(terminated, bool), jnp.array(last, bool))
    np.testing.assert_allclose([float(x) for x in got], want, rtol=1e-6)


def test_n_step_return_is_rlax(rng):
    reward = jnp.asarray(rng.normal(size=3), jnp.float32)
    none = jnp.zeros(3, bool)
    total, factor, _ = FOLD(reward, none, none)
    value = 2.5
    want = rlax.n_step_bootstrapped_returns(
        reward, jnp.full(3, 0.9), jnp.array([0.0, 0.0, value]), n=3
    )
    chex.assert_trees_all_close(total + factor * value, want[0], rtol=1e-5)


def a_batch(mask, weight):
    size = len(weight)
    zeros = jnp.zeros(size, jnp.int32)
    return Batch(
        obs=jnp.zeros((size, 1, 1)),
        action=zeros,
        reward=jnp.zeros(size),
        discount=jnp.zeros(size),
        next_obs=jnp.zeros((size, 1, 1)),
        mask=jnp.asarray(mask, jnp.uint8),
        weight=jnp.asarray(weight, jnp.float32),
        row=zeros,
        env=zeros,
    )


def test_batch_loss_by_hand():
    """Masks before any reduction, heads summed, batch averaged, priority unweighted."""
    online = QOutput(jnp.array([[[2.0], [4.0]], [[6.0], [8.0]], [[1.0], [1.0]]]))  # [3, 2, 1]
    batch = a_batch([[1, 1], [0, 1], [0, 0]], [1.0, 0.5, 1.0])
    loss, priority = losses.batch_loss(SQUARED, online, batch, online, online)
    chex.assert_trees_all_close(loss, (1.0 * (2 + 8) + 0.5 * 32 + 0) / 3)
    chex.assert_trees_all_close(priority, jnp.array([3.0, 8.0, 0.0]))


def test_a_count_in_the_mask_weighs_the_loss():
    online = QOutput(jnp.array([[[2.0], [4.0]]]))
    loss, priority = losses.batch_loss(SQUARED, online, a_batch([[3, 1]], [1.0]), online, online)
    chex.assert_trees_all_close(loss, 3.0 * 2 + 8)
    chex.assert_trees_all_close(priority, jnp.array([(3 * 2 + 4) / 4]))


def test_a_head_without_samples_gets_a_zero_gradient():
    batch = a_batch([[1, 0], [1, 0]], [1.0, 1.0])

    def loss(online_q):
        online = QOutput(online_q)
        return losses.batch_loss(SQUARED, online, batch, online, online)[0]

    gradient = jax.grad(loss)(jnp.ones((2, 2, 3)))
    chex.assert_tree_all_finite(gradient)
    assert np.all(np.asarray(gradient[:, 1]) == 0)
    assert np.any(np.asarray(gradient[:, 0]) != 0)


def test_huber_comes_before_the_weight():
    online = QOutput(jnp.array([[[3.0]]]))
    huber = losses.q_learning(losses.huber)
    loss, _ = losses.batch_loss(huber, online, a_batch([[1]], [0.1]), online, online)
    chex.assert_trees_all_close(loss, 0.1 * 2.5, rtol=1e-6)


def test_each_head_bootstraps_from_its_own_target_by_its_own_selector():
    online = QOutput(jnp.zeros((1, 2, 2)))
    target = QOutput(jnp.array([[[2.0, 4.0], [8.0, 16.0]]]))
    selector = QOutput(jnp.array([[[0.0, 1.0], [3.0, 0.0]]]))  # their mean picks the first
    batch = a_batch([[1, 1]], [1.0])._replace(discount=jnp.array([0.5]))
    loss, priority = losses.batch_loss(SQUARED, online, batch, target, selector)
    chex.assert_trees_all_close(loss, 0.5 * (0.5 * 4) ** 2 + 0.5 * (0.5 * 8) ** 2)
    chex.assert_trees_all_close(priority, jnp.array([(2.0 + 4.0) / 2]))
    # Heads that differ by another order of actions: the selector's rows are not interchangeable.
    loss, _ = losses.batch_loss(SQUARED, online, batch, target, target)
    chex.assert_trees_all_close(loss, 0.5 * (0.5 * 4) ** 2 + 0.5 * (0.5 * 16) ** 2)
