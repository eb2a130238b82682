"""Torsos: shapes of the papers, both convolution forms, which torso `auto` stands for."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny, vector_spec
from networks_helpers import a_network, applied, initial

from jdqn import networks
from jdqn.config import ConfigError
from jdqn.networks import torsos
from jdqn.records import EnvSpec

IMAGE = EnvSpec((84, 84), np.dtype(np.uint8), 4, 6, 1 / 255)


def test_nature_network_is_the_same_in_both_forms(rng):
    obs = jnp.asarray(rng.integers(0, 256, (2, 4, 84, 84)), jnp.uint8)
    by_patches = a_network(torso="nature", scale=1 / 255)
    by_library = by_patches.clone(for_cpu=False)
    params = initial(by_patches, obs)
    other_params = jax.eval_shape(by_library.init, jax.random.key(0), obs)
    chex.assert_trees_all_equal_shapes(params, other_params)

    def summed(net):
        def f(params):
            return jnp.sum(net.apply(params, obs) ** 2)

        return jax.jit(jax.value_and_grad(f))(params)

    chex.assert_trees_all_close(summed(by_patches), summed(by_library), rtol=1e-3, atol=1e-5)


def test_nature_network_has_the_papers_shapes():
    net = networks.make_network(tiny("Breakout", network__hidden=[512]), IMAGE)
    obs = jnp.zeros((1, 4, 84, 84), jnp.uint8)
    params = jax.eval_shape(net.init, jax.random.key(0), obs)["params"]
    shapes = {
        "/".join(k.key for k in path): v.shape for path, v in jax.tree.leaves_with_path(params)
    }
    assert shapes["NatureTorso_0/Conv_0/kernel"] == (8, 8, 4, 32)
    assert shapes["NatureTorso_0/Conv_1/kernel"] == (4, 4, 32, 64)
    assert shapes["NatureTorso_0/Conv_2/kernel"] == (3, 3, 64, 64)
    assert shapes["q_hidden_0/kernel"] == (1, 512, 3136)
    assert shapes["q/kernel"] == (1, 6, 512)


@pytest.mark.parametrize(("torso", "side"), [("nature", 84), ("minatar", 10), ("none", 5)])
def test_pixels_are_scaled_once(torso, side):
    """A white image under 1/255 is an image of ones."""
    white = jnp.full((1, 4, side, side), 255, jnp.uint8)
    net = a_network(torso=torso, scale=1 / 255)
    params = initial(net, white)
    ones = applied(net.clone(scale=1.0), params, white / 255)
    chex.assert_trees_all_close(applied(net, params, white), ones, rtol=1e-4, atol=1e-6)


def test_auto_torso_follows_the_observation():
    assert networks.make_network(tiny(), vector_spec()).torso == "mlp"
    assert networks.make_network(tiny(), IMAGE).torso == "nature"
    small = IMAGE._replace(frame_shape=(10, 10, 4))
    assert networks.make_network(tiny(), small).torso == "minatar"


@pytest.mark.parametrize("torso", torsos.TORSOS)
def test_a_torso_takes_images_of_its_smallest_side_and_refuses_smaller_ones(torso):
    config = tiny(network__torso=torso)
    side = torsos.TORSOS[torso].smallest_side
    spec = IMAGE._replace(frame_shape=(side or 1, side or 1))
    obs = jnp.zeros((1, 4, *spec.frame_shape), jnp.uint8)
    net = networks.make_network(config, spec)
    assert jax.eval_shape(net.init_with_output, jax.random.key(0), obs)[0].shape == (1, 1, 6, 1)
    if side:
        with pytest.raises(ConfigError, match=f"at least {side} × {side} pixels"):
            networks.make_network(config, spec._replace(frame_shape=(side - 1, side)))
