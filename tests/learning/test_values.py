"""Value heads of the package: how Q is read from what a network says."""

import jax.numpy as jnp
import numpy as np
from helpers import tiny

from jdqn.learning import losses, values


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


def test_the_configuration_chooses_the_value_head():
    assert values.make_value_head(tiny()).num_outputs == 1
    of_atoms = values.make_value_head(
        tiny(network__atoms=5, network__v_min=-2.0, network__v_max=2.0)
    )
    assert of_atoms.num_outputs == 5
    evenly = of_atoms.read(jnp.zeros((1, 1, 1, 5)), None)
    np.testing.assert_allclose(evenly, [[[0.0]]], atol=1e-6)
    # All mass on the fourth of -2, -1, 0, 1, 2.
    sure = of_atoms.read(jnp.array([[[[0.0, 0.0, 0.0, 99.0, 0.0]]]]), None)
    np.testing.assert_allclose(sure, [[[1.0]]], atol=1e-6)
