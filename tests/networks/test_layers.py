"""Layers of K heads: initial values, noise that the rows of one environment share."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import QUICK
from networks_helpers import a_network, applied, initial, random_params

from jdqn import networks


def test_initial_parameters_lie_within_one_over_root_fan_in():
    head = initial(a_network(heads=2, hidden=(64,)), np.zeros((1, 2, 3)))["params"]["q_hidden_0"]
    bound = 1 / np.sqrt(8)
    for leaf in jax.tree.leaves(head):
        assert np.abs(leaf).max() <= bound
        assert np.abs(leaf).max() > 0.8 * bound


def test_initial_values_of_factorised_noise():
    layer = networks.HeadDense(50, 3, "factorised", 0.5)
    params = initial(layer, np.zeros((1, 16), np.float32))["params"]
    for name in ("kernel", "bias"):
        mean = np.asarray(params[name])
        sigma = np.asarray(params[f"{name}_sigma"])
        assert sigma.shape == mean.shape
        np.testing.assert_allclose(sigma, 0.5 / 4)
        assert 0.9 / 4 < np.abs(mean).max() <= 1 / 4
        assert abs(mean.mean()) < 0.05


def test_initial_values_of_independent_noise():
    layer = networks.HeadDense(50, 3, "independent", 0.017)
    params = initial(layer, np.zeros((1, 12), np.float32))["params"]
    for name in ("kernel", "bias"):
        mean = np.asarray(params[name])
        sigma = np.asarray(params[f"{name}_sigma"])
        assert sigma.shape == mean.shape
        np.testing.assert_allclose(sigma, 0.017)
        assert 0.9 / 2 < np.abs(mean).max() <= 1 / 2  # √(3 / 12)


NUM_ENVS = 4
PER_ENV = 3


@pytest.mark.parametrize("own", [False, True], ids=["shared features", "own features"])
@pytest.mark.parametrize("kind", ["factorised", "independent"])
def test_rows_of_one_environment_share_their_noise_in_acting(rng, kind, own):
    """Without noise of the bias, that of c·x is c times that of x."""
    layer = networks.HeadDense(2, 2, kind, 0.5, inputs_per_env=PER_ENV)
    factor = rng.uniform(0.5, 2.0, (NUM_ENVS * PER_ENV, 1)).astype(np.float32)
    x = factor * rng.normal(size=5).astype(np.float32)
    if own:
        x = np.stack([x, x], axis=1)
    params = random_params(layer, rng, x)["params"]
    # The two heads are equal, but for their noise.
    params = {name: np.repeat(leaf[:1], 2, axis=0) for name, leaf in params.items()}
    params["bias_sigma"] = np.zeros_like(params["bias_sigma"])

    @functools.partial(jax.jit, compiler_options=QUICK)
    def noise_of(params, key):
        apply = functools.partial(layer.apply, {"params": params}, x)
        return apply(rngs={"noise_per_env": key}) - apply()

    noise = np.asarray(noise_of(params, jax.random.key(2))) / factor[..., None]
    noise = noise.reshape(NUM_ENVS, PER_ENV, 4)
    of_env = noise[:, 0]
    np.testing.assert_allclose(noise, np.repeat(of_env[:, None], PER_ENV, 1), rtol=1e-3, atol=1e-5)
    for one in range(NUM_ENVS):
        for other in range(one):
            assert np.all(np.abs(of_env[one] - of_env[other]) > 1e-3)
    by_head = of_env.reshape(NUM_ENVS, 2, 2)
    assert np.all(np.abs(by_head[:, 0] - by_head[:, 1]) > 1e-3)


class Repeated(nn.Module):
    """The same features for each of PER_ENV samples."""

    def __call__(self, x, samples):
        return jnp.repeat(x[:, None], PER_ENV, axis=1)


@pytest.mark.parametrize("kind", ["factorised", "independent"])
def test_samples_of_one_observation_act_with_one_draw_of_the_networks_noise(rng, kind):
    network = a_network(layer=Repeated, heads=2, noisy=kind, dueling="mean", num_outputs=2)
    obs = np.ones((NUM_ENVS, 2, 3), np.float32)
    params = random_params(network, rng, obs)
    raw = np.asarray(applied(network, params, obs, rngs={"noise_per_env": jax.random.key(1)}))
    raw = raw.reshape(NUM_ENVS, 2, 3, PER_ENV, 2)
    np.testing.assert_allclose(raw, np.repeat(raw[:, :, :, :1], PER_ENV, 3), rtol=1e-5, atol=1e-5)
    for one in range(NUM_ENVS):
        for other in range(one):
            assert np.all(np.abs(raw[one] - raw[other]) > 1e-4)


def test_a_fraction_is_embedded_by_its_cosines(rng):
    """Features times ReLU(W · cos(π i τ) + b), i from 1 on, of each fraction on its own."""
    layer = networks.QuantileEmbedding(num_cosines=4)
    features = rng.normal(size=(2, 3)).astype(np.float32)
    fractions = np.float32([[0.0, 0.25], [0.5, 1.0]])
    variables = layer.init(jax.random.key(0), features, fractions)
    (weights,) = jax.device_get(variables["params"]).values()
    cosines = np.cos(np.pi * np.arange(1, 5) * fractions[:, :, None])
    embedding = np.maximum(cosines @ weights["kernel"] + weights["bias"], 0)
    found = layer.apply(variables, features, fractions)
    np.testing.assert_allclose(found, features[:, None] * embedding, rtol=1e-5, atol=1e-6)
    assert all(np.abs(x).max() <= 0.5 for x in weights.values())  # 1 / √4
