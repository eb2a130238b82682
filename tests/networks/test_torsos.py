"""Torsos: shapes of the papers, both convolution forms, which torso `auto` stands for."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import QUICK, tiny, vector_spec
from networks_helpers import a_network, applied, initial, random_params

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


def impala(width=1, pool=0, *, spectral_norm=False):
    """The torso alone, for images of bytes, in the form for a CPU."""
    return torsos.ImpalaTorso(1 / 255, (), True, "float32", width, pool, spectral_norm)


# Weights and biases of 15 convolutions: of width 1, 16 channels once and 32 twice.
STAGE_1 = 9 * 16 * (4 + 4 * 16) + 5 * 16
STAGE_2 = 9 * 32 * (16 + 4 * 32) + 5 * 32
STAGE_3 = 9 * 32 * (32 + 4 * 32) + 5 * 32
DOUBLED = 9 * 32 * (4 + 4 * 32) + 9 * 64 * (32 + 64 + 8 * 64) + 5 * (32 + 64 + 64)


@pytest.mark.parametrize(
    ("side", "width", "pool", "num_features", "num_params"),
    [
        (84, 1, 0, 11 * 11 * 32, STAGE_1 + STAGE_2 + STAGE_3),
        (84, 2, 6, 6 * 6 * 64, DOUBLED),
        (36, 1, 6, 5 * 5 * 32, STAGE_1 + STAGE_2 + STAGE_3),  # too small to be pooled
        (35, 1, 6, 18 * 18 * 16, STAGE_1),
        (10, 2, 0, 5 * 5 * 32, 9 * 32 * (4 + 4 * 32) + 5 * 32),
    ],
)
def test_impala_has_the_papers_shapes(side, width, pool, num_features, num_params):
    obs = jnp.zeros((1, 4, side, side), jnp.uint8)
    torso = impala(width, pool)
    features, variables = jax.eval_shape(torso.init_with_output, jax.random.key(0), obs)
    assert features.shape == (1, num_features)
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == num_params


def plain_impala(params, obs):
    """As in a tutorial, with Flax's own layers; three stages end in a pool of 2 × 2 windows."""
    layers = iter([params[f"Conv_{i}"] for i in range(len(params))])

    def conv(x):
        layer = next(layers)
        return nn.Conv(layer["bias"].size, (3, 3)).apply({"params": layer}, x)

    x = jnp.moveaxis(obs, 1, -1) / 255
    num_stages = len(params) // 5
    for _ in range(num_stages):
        x = nn.max_pool(conv(x), (3, 3), (2, 2), "SAME")
        for _ in range(2):
            x = x + conv(nn.relu(conv(nn.relu(x))))
    x = nn.relu(x)
    if num_stages == 3:  # 36 rows have become 5: windows of three, two apart
        x = nn.max_pool(x, (3, 3), (2, 2))
    return x.reshape(len(x), -1)


@pytest.mark.parametrize(
    ("sides", "width", "pool", "num_features", "scale"),
    [((7, 6), 1, 0, 4 * 3 * 16, 0.1), ((36, 36), 2, 2, 2 * 2 * 64, 0.05)],
    ids=["one stage", "all, wide, with a pool"],
)
def test_impala_is_what_flax_makes_of_its_parameters_and_so_is_its_gradient(
    rng, sides, width, pool, num_features, scale
):
    obs = rng.integers(0, 256, (2, 3, *sides)).astype(np.uint8)
    torso = impala(width, pool)
    params = random_params(torso, rng, obs, scale=scale)["params"]

    def of(features):
        def summed(params):
            found = features(params)
            return jnp.sum(jnp.sin(found)), found

        return jax.jit(jax.value_and_grad(summed, has_aux=True), compiler_options=QUICK)(params)

    ours = of(lambda params: torso.apply({"params": params}, obs))
    plain = of(lambda params: plain_impala(params, obs))
    assert ours[0][1].shape == (2, num_features)
    chex.assert_trees_all_close(ours, plain, rtol=1e-3, atol=1e-4)


def test_spectral_norm_divides_by_the_largest_singular_value(rng):
    """Of two seeds side by side, after many passes; however large a kernel is."""
    obs = rng.integers(0, 256, (2, 3, 5, 5)).astype(np.uint8)
    torso = impala(spectral_norm=True)

    @functools.partial(jax.jit, compiler_options=QUICK)
    @jax.vmap
    def after_passes(key):
        variables = torso.init(key, obs)
        variables["params"]["Conv_3"]["kernel"] *= 7.0

        def another(_, variables):
            return variables | torso.apply(variables, obs, mutable=[torsos.SPECTRAL_NORM])[1]

        variables = jax.lax.fori_loop(0, 300, another, variables)
        return variables, torso.apply(variables, obs)

    both = jax.device_get(after_passes(jax.random.split(jax.random.key(0))))
    for seed in range(2):
        variables, features = jax.tree.map(lambda x: np.array(x[seed]), both)  # noqa: B023
        params = variables.pop("params")
        norms = []
        for kernel in [params[f"Conv_{i}"]["kernel"] for i in range(1, 5)]:
            norms.append(np.linalg.svd(kernel.reshape(-1, 16), compute_uv=False)[0])
            kernel /= norms[-1]
        found = torsos.largest_singular_values(variables)
        np.testing.assert_allclose(sorted(found), sorted(norms), rtol=1e-3)
        assert max(norms) > 5
        np.testing.assert_allclose(features, plain_impala(params, obs), rtol=1e-2, atol=1e-3)


def test_without_spectral_norm_there_is_no_state_and_nothing_to_show():
    obs = jnp.zeros((1, 4, 5, 5), jnp.uint8)
    assert set(jax.eval_shape(impala().init, jax.random.key(0), obs)) == {"params"}
    assert torsos.largest_singular_values({}) == []


@pytest.mark.parametrize(("shape", "torso"), [((3,), "mlp"), ((84, 84), "impala")])
def test_impala_is_for_images_and_what_vectors_get_is_said(shape, torso):
    spec = IMAGE._replace(frame_shape=shape)
    assert networks.make_network(tiny(network__torso="impala"), spec).torso == torso
    assert networks.says_torso(tiny().network, shape) == []
    assert networks.says_torso(tiny(network__torso="impala").network, shape) == (
        ['network.torso = "impala" is for images: observations of (3,) get the mlp']
        if torso == "mlp"
        else []
    )


@pytest.mark.parametrize("torso", ["nature", "auto"])
def test_what_only_impala_has_is_said_to_be_without_effect(torso):
    fields = tiny(network__torso=torso, network__spectral_norm=True, network__torso_pool=6).network
    assert networks.says_torso(fields, (84, 84)) == [
        "of the impala torso, not of nature: network.torso_pool, network.spectral_norm"
    ]
    whole = tiny(network__torso="impala", network__torso_width=2).network
    assert networks.says_torso(whole, (84, 84)) == []


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
