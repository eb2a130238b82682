"""Epsilon-greedy actions, heads of episodes, votes: how often each happens."""

import jax
import jax.numpy as jnp
import numpy as np

from jdqn.learning import exploration


def test_epsilon_greedy_frequencies():
    q = jnp.tile(jnp.array([[0.0, 2.0, 1.0, -1.0]]), (40_000, 1))
    greedy = jax.jit(exploration.epsilon_greedy)
    action = np.asarray(greedy(jax.random.key(0), q, 0.4))
    np.testing.assert_allclose(np.bincount(action) / action.size, [0.1, 0.7, 0.1, 0.1], atol=0.01)
    assert np.all(np.asarray(greedy(jax.random.key(0), q, 0.0)) == 1)


def test_heads_are_redrawn_at_true_episode_starts_only():
    head = jnp.arange(20_000, dtype=jnp.int32) % 10
    first = jnp.arange(20_000) >= 10_000
    drawn = np.asarray(exploration.redraw_heads(jax.random.key(0), head, first, 10))
    np.testing.assert_array_equal(drawn[:10_000], np.asarray(head[:10_000]))
    np.testing.assert_allclose(np.bincount(drawn[10_000:]) / 10_000, 0.1, atol=0.012)


def test_a_tie_of_votes_is_broken_at_random():
    q = jnp.tile(jnp.array([[[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]]]), (4_000, 1, 1))
    action = np.argmax(exploration.vote(jax.random.key(0), q), axis=1)
    np.testing.assert_allclose(np.bincount(action, minlength=3) / 4_000, [0.5, 0.5, 0], atol=0.04)
