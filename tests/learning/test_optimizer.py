"""Adam and RMSProp: against optax and against the formulas, clipped gradients."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from helpers import tiny
from learning_helpers import quick_jit

from jdqn import learning
from jdqn.learning import optimizer as optimizer_lib


def test_gradients_are_clipped_to_the_global_norm():
    config = tiny(optimizer__max_gradient_norm=0.5, optimizer__name="adam")
    optimizer = learning.make_optimizer(config)
    small = {"w": jnp.array([3.0, 4.0]) * 0.05}
    large = {"w": jnp.array([3.0, 4.0]) * 1e3}
    state = optimizer.init(small)

    @quick_jit
    def first_moment(gradient):
        return optax.tree.get(optimizer.update(gradient, state)[1], "mu")["w"]

    chex.assert_trees_all_close(first_moment(large), 0.1 * jnp.array([0.3, 0.4]), rtol=1e-5)
    chex.assert_trees_all_close(first_moment(small), 0.1 * small["w"], rtol=1e-5)


def test_adam_is_that_of_optax(rng):
    ours = optimizer_lib.scale_by_adam(1e-3)
    theirs = optax.scale_by_adam(eps=1e-3)
    params = {"w": jnp.ones((3, 4)), "b": jnp.ones((4,))}
    state = ours.init(params)
    their_state = theirs.init(params)

    @quick_jit
    def both(gradients, state, their_state):
        return ours.update(gradients, state), theirs.update(gradients, their_state)

    for _ in range(5):
        gradients = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), params)
        (updates, state), (want, their_state) = both(gradients, state, their_state)
        chex.assert_trees_all_close((updates, state), (want, their_state), rtol=1e-5)

        chex.assert_trees_all_close((updates, state), (want, their_state), rtol=1e-5)


def test_rmsprop_is_centred_as_in_nature():
    config = tiny(
        optimizer__name="rmsprop",
        optimizer__learning_rate=0.1,
        optimizer__learning_rate_final="none",
        optimizer__eps=0.01,
        optimizer__decay=0.95,
    )
    optimizer = learning.make_optimizer(config)
    params = jnp.array([1.0])
    state = optimizer.init(params)
    step = quick_jit(optimizer.update)
    square = 0.0
    mean = 0.0
    for gradient in (2.0, -1.0, 0.5):
        updates, state = step(jnp.array([gradient]), state)
        square = 0.95 * square + 0.05 * gradient**2
        mean = 0.95 * mean + 0.05 * gradient
        want = -0.1 * gradient / np.sqrt(square - mean**2 + 0.01)
        np.testing.assert_allclose(updates, [want], rtol=1e-5)
