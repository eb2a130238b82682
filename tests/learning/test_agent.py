"""The agent before the first tick: its parameters, its keys, its actors."""

import jax
import numpy as np
import pytest
from helpers import tiny
from learning_helpers import SPEC, built, equal_to_the_bit

from jdqn import learning

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def agent():
    """One with priors, in four environments."""
    return built(network__prior_scale=1.0).agent


def test_initial_target_is_a_copy_not_the_same_buffer():
    """Not compiled: what a program returns twice are two buffers anyway."""
    eager = learning.make_agent(tiny(network__torso="none"), SPEC, built().replay)
    state, _ = eager.init(jax.random.key(0))
    leaves = map(jax.tree.leaves, (state.params, state.target_params))
    for online, target in zip(*leaves, strict=True):
        assert online.unsafe_buffer_pointer() != target.unsafe_buffer_pointer()
        np.testing.assert_array_equal(online, target)


def test_a_prior_is_drawn_apart_from_the_network_beside_it(agent):
    state, _ = agent.init(jax.random.key(0))
    assert not any(equal_to_the_bit(state.prior_params, state.params))


def test_learning_and_acting_have_keys_of_their_own_and_each_seed_has_others(agent):
    pairs = [agent.init(jax.random.key(seed)) for seed in (0, 1, 0)]
    keys = [jax.random.key_data(part.key).tolist() for pair in pairs for part in pair]
    assert keys[:2] == keys[4:]
    assert len(set(map(tuple, keys[:4]))) == 4


def test_an_actor_has_a_stack_and_a_head_for_each_environment(agent):
    _, actor = agent.init(jax.random.key(0))
    assert actor.stack.shape == (4, 2, 3)
    assert actor.head.shape == (4,)
    assert agent.init_actor(jax.random.key(0), 7).stack.shape == (7, 2, 3)
