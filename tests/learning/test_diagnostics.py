"""Figures over held-out observations, and how these are drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny, vector_spec
from learning_helpers import built, with_outputs

from jdqn import learning, replay
from jdqn.replay import priorities

Q = [[3.0, 1.0, 0.0], [2.0, 3.0, 0.0], [0.0, 3.0, 0.0], [0.0, 2.5, 9.0]]  # votes 0, 1, 1, 2


def test_the_spread_between_heads_is_measured():
    agent = built(network__heads=4, agent__epsilon_eval=0.0).agent
    state, _ = agent.init(jax.random.key(0))
    found = agent.diagnose(with_outputs(state, Q), jnp.zeros((5, 2, 3)))
    np.testing.assert_allclose(found["q_spread"], np.std(Q, axis=0).mean(), rtol=1e-6)
    np.testing.assert_allclose(found["disagreement"], 0.5)  # two of four for the favourite
    np.testing.assert_allclose(found["q_heldout"], np.max(Q, axis=1).mean(), rtol=1e-6)
    assert "quantile_spread" not in found


@pytest.mark.parametrize(("dueling", "value", "advantage"), [("mean", 2.0, 2.0), ("max", 2.0, 3.0)])
def test_value_and_advantage_of_dueling_streams(dueling, value, advantage):
    agent = built(network__dueling=dueling).agent
    state, _ = agent.init(jax.random.key(0))
    params = jax.tree.map(jnp.zeros_like, state.params)
    params["params"]["value"]["bias"] += 2.0
    params["params"]["advantage"]["bias"] += jnp.array([[4.0, 1.0, -2.0]])
    found = agent.diagnose(state.replace(params=params), jnp.zeros((5, 2, 3)))
    np.testing.assert_allclose(found["value"], value, rtol=1e-6)
    np.testing.assert_allclose(found["advantage"], advantage, rtol=1e-6)


def test_the_spread_of_the_best_actions_quantiles_is_measured():
    agent = built(network__value_head="quantile", network__atoms=3).agent
    state, _ = agent.init(jax.random.key(0))
    quantiles = [[1.0, 2.0, 3.0], [-2.0, 1.0, 10.0], [4.0, 4.0, 0.0]]
    outputs = np.reshape(quantiles, (1, 9))
    found = agent.diagnose(with_outputs(state, outputs), jnp.zeros((5, 2, 3)))
    np.testing.assert_allclose(found["quantile_spread"], np.std([-2, 1, 10]), rtol=1e-5)
    np.testing.assert_allclose(found["q_heldout"], 3.0, rtol=1e-6)


def test_held_out_states_are_drawn_uniformly_whatever_the_leaves_are():
    config = tiny(
        replay__capacity=4_000, replay__prioritization="rank", replay__priority_exponent=0.7
    )
    memory = replay.make_replay(config, vector_spec())
    state = memory.init(jax.random.key(0))
    row = np.arange(1_000)
    leaves = np.repeat((1.0 + row[:, None]) ** -0.7, 4, axis=1)
    state = state.replace(
        rows=state.rows.replace(frame=state.rows.frame + row[:, None, None]),
        priorities=priorities.set_rows(state.priorities, row, leaves),
    )
    drawn = np.asarray(learning.held_out(memory)(state))[:, -1, 0]
    assert drawn.size == 1_000
    np.testing.assert_allclose(drawn.mean(), 500, atol=40)  # drawn by leaf: about 230
