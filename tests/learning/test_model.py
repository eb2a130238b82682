"""The networks with their priors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny, vector_spec
from learning_helpers import (
    batch_of,
    build,
    built,
    equal_to_the_bit,
    timestep_of,
    update_keys,
    with_outputs,
)

from jdqn.config import with_overrides

THREE = {"network__heads": 3, "network__prior_scale": 2.0, "agent__loss": "squared"}


def played(made, brightness):
    """A ring of one episode of four environments, a tick for each brightness of the frame."""
    ticks = len(brightness)
    steps = jax.tree.map(lambda x: np.stack([x] * ticks), timestep_of(4))
    frame = steps.frame * np.float32(brightness)[:, None, None]
    first = np.repeat(np.arange(ticks)[:, None] == 0, 4, axis=1)
    steps = steps._replace(frame=frame, first=first)
    return made.fill(steps, np.zeros((ticks, 4), np.int32))


def test_a_network_has_a_head():
    with pytest.raises(ValueError, match="heads"):
        with_overrides(tiny(), network__heads=0)


def test_priors_move_the_values_and_are_never_trained():
    made = built(**THREE)
    agent = made.agent
    state, _ = agent.init(jax.random.key(0))
    obs = np.asarray(jax.random.normal(jax.random.key(1), (8, 2, 3)))
    bare = agent.output(state.replace(prior_params=None), obs).q
    prior = agent.output(with_outputs(state, np.zeros((3, 3))), obs).q
    np.testing.assert_allclose(agent.output(state, obs).q, bare + prior, rtol=1e-5, atol=1e-6)
    assert (np.asarray(prior).std(axis=1) > 1e-3).all()  # heads have priors of their own
    after, *_ = agent.learn(state, played(made, np.ones(12)), 12)
    assert all(equal_to_the_bit(after.prior_params, state.prior_params))
    assert not any(equal_to_the_bit(after.params, state.params))
    # The optimiser does not know of the priors: as many moments as parameters.
    moments = [x for x in jax.tree.leaves(after.opt_state) if x.ndim > 0]
    assert len(moments) == 2 * len(jax.tree.leaves(state.params))


def test_priors_stand_beside_the_target_too():
    """Networks that answer 0: what is left of the error is between the priors."""
    made = built(**THREE)
    agent = made.agent
    state, _ = agent.init(jax.random.key(0))
    zero = jax.tree.map(jnp.zeros_like, state.params)
    state = state.replace(params=zero, target_params=zero)
    ring = played(made, np.sin(np.arange(12)))
    batch = jax.device_get(batch_of(made, ring, update_keys(state.key, 12)[0, 0], 12))
    now, then = (np.asarray(agent.output(state, x).q) for x in (batch.obs, batch.next_obs))
    error = batch.reward[:, None] + batch.discount[:, None] * then.max(axis=-1) - now[:, :, 0]
    assert np.abs(then).max() > 0.1
    found = agent.learn(state, ring, 12)[2]
    np.testing.assert_allclose(found["loss"], 0.5 * (error**2).sum(axis=1).mean(), rtol=1e-4)


def test_priors_tell_states_apart():
    """With biases a thirtieth of a prior over these one-hot cells tells one from another."""
    fields = {"torso": "none", "hidden": [50, 50], "heads": 3, "prior_scale": 1.0}
    config = tiny(env__frame_stack=1, **{f"network__{name}": x for name, x in fields.items()})
    agent = build(config, vector_spec(width=900, frame_stack=1)).agent
    state, _ = agent.init(jax.random.key(0))
    state = state.replace(params=jax.tree.map(jnp.zeros_like, state.params))
    prior = np.asarray(agent.output(state, np.eye(900, dtype=np.float32)[:, None]).q)
    same = prior.mean(axis=0)
    assert (prior - same).std() > 0.5 * np.sqrt((same**2).mean())


@pytest.mark.parametrize(("torso", "shape"), [("mlp", (3,)), ("minatar", (10, 10, 4))])
def test_priors_start_with_biases_of_zero(torso, shape):
    config = tiny(network__torso=torso, network__heads=2, network__prior_scale=1.0)
    spec = vector_spec()._replace(frame_shape=shape, frame_dtype=np.dtype(np.uint8))
    prior = build(config, spec).agent.init(jax.random.key(0))[0].prior_params
    for path, x in jax.tree.leaves_with_path(jax.device_get(prior)):
        assert bool(x.any()) == (path[-1].key == "kernel"), path


def test_a_prior_moves_all_quantiles_of_an_action_as_it_moves_its_value():
    """Quantiles with a prior each would keep 1 / √Z of it in their mean, which is Q."""
    obs = np.asarray(jax.random.normal(jax.random.key(1), (4, 2, 3)))
    quantiles = {"network__value_head": "quantile", "network__atoms": 50}
    answers = []
    for head in ({}, quantiles):
        agent = built(network__heads=2, network__prior_scale=3.0, **head).agent
        state, _ = agent.init(jax.random.key(0))
        state = state.replace(params=jax.tree.map(jnp.zeros_like, state.params))
        answers.append(agent.output(state, obs))
    of_values, of_quantiles = answers
    assert np.asarray(of_values.q).std() > 0.1
    np.testing.assert_allclose(of_quantiles.q, of_values.q, rtol=1e-5)
    raw = np.asarray(of_quantiles.raw)
    assert raw.shape == (4, 2, 3, 50)
    np.testing.assert_array_equal(raw, np.broadcast_to(raw[..., :1], raw.shape))


def test_priors_of_a_distribution_are_added_to_its_logits():
    atoms = {"network__atoms": 5, "network__v_min": -2.0, "network__v_max": 2.0}
    agent = built(network__heads=2, network__prior_scale=3.0, **atoms).agent
    state, _ = agent.init(jax.random.key(0))
    obs = np.asarray(jax.random.normal(jax.random.key(1), (4, 2, 3)))

    def distribution(state):
        return np.asarray(jax.nn.softmax(agent.output(state, obs).raw))

    both = distribution(state)
    bare = distribution(state.replace(prior_params=None))
    prior = distribution(state.replace(params=jax.tree.map(jnp.zeros_like, state.params)))
    want = bare * prior / np.sum(bare * prior, axis=-1, keepdims=True)
    np.testing.assert_allclose(both, want, rtol=1e-4)
    assert np.abs(both - bare).max() > 0.01
