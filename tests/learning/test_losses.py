"""Losses: hand-written numbers, RLax as oracle, masks and weights."""

import functools
import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from learning_helpers import quick_jit
from oracle import needs_rlax, rlax

from jdqn.learning import losses
from jdqn.records import Batch, QOutput

SQUARED = losses.q_learning(losses.squared)
squared = quick_jit(SQUARED)


def q(*values):
    return QOutput(jnp.array(values, jnp.float32))


def test_huber_by_hand():
    chex.assert_trees_all_close(
        losses.huber(jnp.array([0.0, 0.5, -1.0, 3.0, -4.0])), jnp.array([0, 0.125, 0.5, 2.5, 3.5])
    )


@needs_rlax
def test_huber_is_rlax(rng):
    x = jnp.asarray(rng.normal(size=100) * 3, jnp.float32)
    chex.assert_trees_all_close(losses.huber(x), rlax.huber_loss(x, 1.0))


def test_q_learning_by_hand():
    # δ = 1 + 0.5 · max(4, 7) - 2 = 2.5
    loss, priority = squared(q(2.0, 9.0), 0, 1.0, 0.5, q(4.0, 7.0), q(4.0, 7.0))
    assert loss == 0.5 * 2.5**2
    assert priority == 2.5


def test_double_by_hand():
    # The selector prefers action 0, which the target values at 4: δ = 1 + 0.5 · 4 - 2 = 1.
    loss, _ = squared(q(2.0, 9.0), 0, 1.0, 0.5, q(4.0, 7.0), q(1.0, 0.0))
    assert loss == 0.5


def test_zero_discount_ignores_the_bootstrap():
    loss, _ = squared(q(2.0, 9.0), 1, 3.0, 0.0, q(1e6, 1e6), q(0.0, 1.0))
    assert loss == 0.5 * 6.0**2


@needs_rlax
@pytest.mark.parametrize("double", [False, True])
def test_q_learning_is_rlax(rng, double):
    num_actions, size = 5, 64
    online, target, selector = (
        jnp.asarray(rng.normal(size=(size, num_actions)), jnp.float32) for _ in range(3)
    )
    selector = selector if double else target
    action = jnp.asarray(rng.integers(0, num_actions, size))
    reward, discount = (jnp.asarray(rng.random(size), jnp.float32) for _ in range(2))
    loss, priority = quick_jit(jax.vmap(SQUARED))(
        QOutput(online), action, reward, discount, QOutput(target), QOutput(selector)
    )
    if double:
        oracle = quick_jit(jax.vmap(rlax.double_q_learning))
        error = oracle(online, action, reward, discount, target, selector)
    else:
        oracle = quick_jit(jax.vmap(rlax.q_learning))
        error = oracle(online, action, reward, discount, target)
    chex.assert_trees_all_close(loss, 0.5 * error**2, rtol=1e-5)
    chex.assert_trees_all_close(priority, jnp.abs(error), rtol=1e-5)


def test_gradient_reaches_the_taken_action_only_and_no_target():
    def loss(online, target):
        return SQUARED(QOutput(online), 1, 1.0, 0.5, QOutput(target), QOutput(target)).loss

    gradients = quick_jit(jax.grad(loss, argnums=(0, 1)))
    by_online, by_target = gradients(jnp.array([0.0, 2.0]), jnp.array([4.0, 0]))
    chex.assert_trees_all_close(by_online, jnp.array([0.0, -1.0]))  # -(1 + 2 - 2)
    chex.assert_trees_all_close(by_target, jnp.zeros(2))


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


@functools.partial(quick_jit, static_argnums=0)
def batch_loss(loss_fn, online, batch, target, selector):
    """Loss and priorities of a batch, by a loss of one transition and one head."""
    return losses.over_batch(losses.for_each(loss_fn, batch, online, target, selector), batch)


def test_batch_loss_by_hand():
    """Masks before any reduction, heads summed, batch averaged, priority unweighted."""
    online = QOutput(jnp.array([[[2.0], [4.0]], [[6.0], [8.0]], [[1.0], [1.0]]]))  # [3, 2, 1]
    batch = a_batch([[1, 1], [0, 1], [0, 0]], [1.0, 0.5, 1.0])
    loss, priority = batch_loss(SQUARED, online, batch, online, online)
    chex.assert_trees_all_close(loss, (1.0 * (2 + 8) + 0.5 * 32 + 0) / 3)
    chex.assert_trees_all_close(priority, jnp.array([3.0, 8.0, 0.0]))


def test_a_count_in_the_mask_weighs_the_loss():
    online = QOutput(jnp.array([[[2.0], [4.0]]]))
    loss, priority = batch_loss(SQUARED, online, a_batch([[3, 1]], [1.0]), online, online)
    chex.assert_trees_all_close(loss, 3.0 * 2 + 8)
    chex.assert_trees_all_close(priority, jnp.array([(3 * 2 + 4) / 4]))


def test_a_head_without_samples_gets_a_zero_gradient():
    batch = a_batch([[1, 0], [1, 0]], [1.0, 1.0])

    def loss(online_q):
        online = QOutput(online_q)
        each = losses.for_each(SQUARED, batch, online, online, online)
        return losses.over_batch(each, batch)[0]

    gradient = quick_jit(jax.grad(loss))(jnp.ones((2, 2, 3)))
    chex.assert_tree_all_finite(gradient)
    assert np.all(np.asarray(gradient[:, 1]) == 0)
    assert np.any(np.asarray(gradient[:, 0]) != 0)


def test_huber_comes_before_the_weight():
    online = QOutput(jnp.array([[[3.0]]]))
    huber = losses.q_learning(losses.huber)
    loss, _ = batch_loss(huber, online, a_batch([[1]], [0.1]), online, online)
    chex.assert_trees_all_close(loss, 0.1 * 2.5, rtol=1e-6)


def test_each_head_bootstraps_from_its_own_target_by_its_own_selector():
    online = QOutput(jnp.zeros((1, 2, 2)))
    target = QOutput(jnp.array([[[2.0, 4.0], [8.0, 16.0]]]))
    selector = QOutput(jnp.array([[[0.0, 1.0], [3.0, 0.0]]]))  # their mean picks the first
    batch = a_batch([[1, 1]], [1.0])._replace(discount=jnp.array([0.5]))
    loss, priority = batch_loss(SQUARED, online, batch, target, selector)
    chex.assert_trees_all_close(loss, 0.5 * (0.5 * 4) ** 2 + 0.5 * (0.5 * 8) ** 2)
    chex.assert_trees_all_close(priority, jnp.array([(2.0 + 4.0) / 2]))
    # Heads that differ by another order of actions: the selector's rows are not interchangeable.
    loss, _ = batch_loss(SQUARED, online, batch, target, target)
    chex.assert_trees_all_close(loss, 0.5 * (0.5 * 4) ** 2 + 0.5 * (0.5 * 16) ** 2)


# --- C51 ----------------------------------------------------------------------------------------

ATOMS = np.linspace(-10, 10, 11).astype(np.float32)  # 2 apart, so all of them are exact
project = quick_jit(losses.project)


def some_mass(rng, size=ATOMS.size):
    return rng.dirichlet(np.ones(size)).astype(np.float32)


@needs_rlax
def test_projection_is_rlax(rng):
    oracle = quick_jit(rlax.categorical_l2_project)
    for _ in range(20):
        values = rng.normal(size=ATOMS.size).astype(np.float32) * 8
        mass = some_mass(rng)
        got = np.asarray(project(values, mass, ATOMS))
        np.testing.assert_allclose(got, oracle(values, mass, ATOMS), atol=1e-6)
        assert got.sum() == pytest.approx(1.0, abs=1e-5)


def test_projection_of_the_atoms_is_the_identity(rng):
    mass = some_mass(rng)
    np.testing.assert_allclose(project(ATOMS, mass, ATOMS), mass, rtol=1e-6)
    uneven = np.linspace(-10, 10, 51).astype(np.float32)  # hit up to rounding
    mass = some_mass(rng, 51)
    np.testing.assert_allclose(project(uneven, mass, uneven), mass, atol=1e-5)


@pytest.mark.parametrize("shift", [-4.0, 2.0, 6.0])
def test_mass_is_kept_where_values_land_on_atoms(rng, shift):
    """With l = u both parts of Bellemare et al.'s listing are zero."""
    mass = some_mass(rng)
    moved = np.zeros_like(mass)
    for place, m in enumerate(mass):
        moved[np.clip(place + int(shift) // 2, 0, 10)] += m
    np.testing.assert_allclose(project(ATOMS + np.float32(shift), mass, ATOMS), moved, atol=1e-6)


def test_values_beyond_the_support_are_clipped_first():
    values = np.full(11, -1e6, np.float32)
    values[5:8] = 3.5
    values[8:] = 11.0
    mass = np.arange(1, 12, dtype=np.float32) / 66
    want = np.zeros(11)
    want[0] = mass[:5].sum()
    want[10] = mass[8:].sum()
    want[6] = 0.25 * mass[5:8].sum()  # 3.5 between 2 and 4
    want[7] = 0.75 * mass[5:8].sum()
    np.testing.assert_allclose(project(values, mass, ATOMS), want, atol=1e-6)


@quick_jit
def c51(online, action, reward, discount, target, selector):
    """Losses of a batch, from logits `[B, A, Z]` and the selector's values `[B, A]`."""
    atoms = jnp.asarray(ATOMS)

    def read(logits):
        return QOutput(jnp.sum(jax.nn.softmax(logits) * atoms[None, None], axis=-1), logits)

    arguments = read(online), action, reward, discount, read(target), QOutput(selector, None)
    return jax.vmap(CATEGORICAL)(*arguments)


CATEGORICAL = losses.categorical(jnp.asarray(ATOMS))


@needs_rlax
@pytest.mark.parametrize("double", [False, True])
def test_categorical_is_rlax(rng, double):
    size, num_actions = 64, 4
    online, target = (
        rng.normal(size=(size, num_actions, 11)).astype(np.float32) * 2 for _ in range(2)
    )
    selector = np.asarray(jax.nn.softmax(target)) @ ATOMS
    if double:
        selector = rng.normal(size=(size, num_actions)).astype(np.float32)
    action = rng.integers(0, num_actions, size)
    reward = rng.normal(size=size).astype(np.float32) * 4
    discount = rng.choice(np.float32([0, 0.9, 0.99]), size)
    got = c51(online, action, reward, discount, target, selector)
    atoms = jnp.asarray(ATOMS)
    with jax.numpy_rank_promotion("allow"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its deprecations
        if double:
            oracle = jax.vmap(rlax.categorical_double_q_learning, (None, 0, 0, 0, 0, None, 0, 0))
            want = quick_jit(oracle)(
                atoms, online, action, reward, discount, atoms, target, selector
            )
        else:
            oracle = jax.vmap(rlax.categorical_q_learning, (None, 0, 0, 0, 0, None, 0))
            want = quick_jit(oracle)(atoms, online, action, reward, discount, atoms, target)
    np.testing.assert_allclose(got.loss, want, rtol=1e-4)
    np.testing.assert_array_equal(got.priority, got.loss)  # the cross-entropy


@pytest.mark.parametrize(
    ("reward", "want"),
    [(4.0, {7: 1.0}), (3.0, {6: 0.5, 7: 0.5}), (-99.0, {0: 1.0}), (10.0, {10: 1.0})],
)
def test_a_terminal_puts_all_mass_at_the_reward(rng, reward, want):
    """The cross-entropy of one-hot-like log-probabilities reads the target off."""
    online, target = rng.normal(size=(2, 1, 2, 11)).astype(np.float32)
    arguments = (np.array([1]), np.float32([reward]), np.float32([0.0]), target)
    got = c51(online, *arguments, np.float32([[1.0, 0.0]]))
    log = np.asarray(jax.nn.log_softmax(online[0, 1]))
    entropy = -sum(mass * log[place] for place, mass in want.items())
    np.testing.assert_allclose(got.loss, [entropy], rtol=1e-5)
    np.testing.assert_allclose(got.priority, [entropy], rtol=1e-5)


def test_no_gradient_reaches_the_target_distribution(rng):
    online, target = (jnp.asarray(rng.normal(size=(2, 11)), jnp.float32) for _ in range(2))

    def loss(online, target):
        read = QOutput(jnp.zeros(2), online), QOutput(jnp.zeros(2), target)
        return CATEGORICAL(read[0], 1, 1.0, 0.9, read[1], read[1]).loss

    by_online, by_target = quick_jit(jax.grad(loss, argnums=(0, 1)))(online, target)
    assert np.all(np.asarray(by_target) == 0)
    assert np.all(np.asarray(by_online[0]) == 0)
    assert np.any(np.asarray(by_online[1]) != 0)


# --- Quantiles ----------------------------------------------------------------------------------


@quick_jit
def quantile_losses(online, fraction, action, reward, discount, target, selector):
    """Losses of a batch, from quantiles `[B, A, Z]`, their fractions `[B, Z]` and `[B, A]`."""
    loss = jax.vmap(losses.quantile(losses.huber))
    read = QOutput(jnp.mean(target, axis=-1), target), QOutput(selector)
    return loss(QOutput(selector, online, fraction), action, reward, discount, *read)


def some_quantiles(rng, size=32, num_actions=4, online=5, target=7):
    return (
        3 * rng.normal(size=(size, num_actions, online)).astype(np.float32),
        rng.random((size, online)).astype(np.float32),
        rng.integers(0, num_actions, size),
        rng.normal(size=size).astype(np.float32),
        rng.choice(np.float32([0, 0.9, 0.99]), size),
        3 * rng.normal(size=(size, num_actions, target)).astype(np.float32),
        rng.normal(size=(size, num_actions)).astype(np.float32),
    )


def test_quantile_regression_by_hand():
    """One quantile at 0.25 and targets of 2.5 and -0.5: δ = 1.5 and -1.5, each costs 1."""
    online = np.float32([[[1.0], [9.0]]])
    arguments = (np.float32([[0.25]]), np.array([0]), np.float32([0.5]), np.float32([0.5]))
    target = np.float32([[[4.0, -2.0], [0.0, 0.0]]])
    found = quantile_losses(online, *arguments, target, np.float32([[1.0, 0.0]]))
    np.testing.assert_allclose(found.loss, [(0.25 * 1.0 + 0.75 * 1.0) / 2])
    np.testing.assert_allclose(found.priority, [1.5])


def test_quantile_regression_is_its_slow_twin(rng):
    """A sum over online quantiles of the mean over target quantiles (Dabney et al. 2018, eq. 3)."""
    drawn = some_quantiles(rng)
    found = quantile_losses(*drawn)
    for i, (online, fraction, action, reward, discount, target, selector) in enumerate(
        zip(*drawn, strict=True)
    ):
        cost = 0.0
        sizes = []
        for tau, quantile in zip(fraction, online[action], strict=True):
            for other in target[selector.argmax()]:
                error = reward + discount * other - quantile
                huber = 0.5 * error**2 if abs(error) <= 1 else abs(error) - 0.5
                cost += (tau if error >= 0 else 1 - tau) * huber / target.shape[1]
                sizes.append(abs(error))
        np.testing.assert_allclose(found.loss[i], cost, rtol=1e-4)
        np.testing.assert_allclose(found.priority[i], np.mean(sizes), rtol=1e-4)


@needs_rlax
def test_quantile_regression_is_rlax(rng):
    online, fraction, action, reward, discount, target, selector = some_quantiles(rng)
    found = quantile_losses(online, fraction, action, reward, discount, target, selector)
    oracle = jax.vmap(functools.partial(rlax.quantile_q_learning, huber_param=1.0))
    swapped = [np.swapaxes(x, 1, 2) for x in (online, target)]
    chosen = selector[:, None]  # one sample of each action
    with jax.numpy_rank_promotion("allow"):
        want = quick_jit(oracle)(swapped[0], fraction, action, reward, discount, chosen, swapped[1])
    np.testing.assert_allclose(found.loss, want, rtol=1e-4)


@pytest.mark.parametrize("penalty", [losses.huber, jnp.cosh])
def test_the_gradient_of_quantile_regression_is_that_of_its_definition(rng, penalty):
    """Over two more axes, as a batch of some heads has them; the priority has none."""
    quantiles, fractions, target = (
        jnp.asarray(rng.normal(size=(2, 3, size)), jnp.float32) for size in (5, 5, 7)
    )

    def definition(quantiles, fractions, target):
        error = target[None, :] - quantiles[:, None]
        slope = jnp.where(error < 0, 1.0 - fractions[:, None], fractions[:, None])
        return jnp.sum(jnp.mean(slope * penalty(error), axis=1)), 0.0

    def ours(quantiles, fractions, target):
        found = losses.quantile_regression(penalty, quantiles, fractions, target)
        return found.loss, found.priority

    def both(loss):
        def summed(quantiles):
            each = jax.vmap(jax.vmap(loss))(quantiles, jax.nn.sigmoid(fractions), target)
            return jnp.sum(each[0] ** 2) + jnp.sum(each[1])

        return quick_jit(jax.value_and_grad(summed))(quantiles)

    (found, gradient), (want, want_gradient) = both(ours), both(definition)
    np.testing.assert_allclose(gradient, want_gradient, rtol=1e-4, atol=1e-5)
    error = np.asarray(target)[:, :, None] - np.asarray(quantiles)[..., None]
    np.testing.assert_allclose(found - np.abs(error).mean(axis=(2, 3)).sum(), want, rtol=1e-4)


def test_one_quantile_in_the_middle_costs_half_of_what_q_learning_does(rng):
    drawn = some_quantiles(rng, online=1, target=1)
    online, _, *rest, target, selector = drawn
    half = np.full((32, 1), 0.5, np.float32)
    found = quantile_losses(online, half, *rest, target, selector)
    q_learning = quick_jit(jax.vmap(losses.q_learning(losses.huber)))
    outputs = [QOutput(x) for x in (online[..., 0], target[..., 0], selector)]
    want = q_learning(outputs[0], *rest, *outputs[1:])
    np.testing.assert_allclose(found.loss, 0.5 * want.loss, rtol=1e-5)
    np.testing.assert_allclose(found.priority, want.priority, rtol=1e-5)


def test_quantiles_at_their_fractions_have_no_gradient_and_no_target_ever_has():
    """The median of a thousand targets: as many pull up as down, whatever their distance."""
    target = jnp.concatenate([jnp.linspace(-40, -20, 500), jnp.linspace(100, 110, 500)])[None]

    def loss(online, target):
        of_target = QOutput(jnp.zeros(1), target)
        half = QOutput(jnp.zeros(1), online, jnp.array([0.5]))
        return losses.quantile(losses.huber)(half, 0, 0.0, 1.0, of_target, of_target).loss

    by_online, by_target = quick_jit(jax.grad(loss, argnums=(0, 1)))(jnp.zeros((1, 1)), target)
    np.testing.assert_allclose(by_online, [[0.0]], atol=1e-5)
    assert np.all(np.asarray(by_target) == 0)
