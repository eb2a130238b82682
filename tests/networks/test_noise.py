"""Noise on the weights: its moments, its rank, who shares it; drawn for a batch or for each row."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import QUICK
from networks_helpers import a_network, random_params

from jdqn import networks

KINDS = ["factorised", "independent"]
DRAWS = ["shared", "per input"]
ROOT = math.sqrt(2 / math.pi)  # E f(ε)² = E|ε|
MANY = 20_000  # draws
ROWS = 5  # of a batch


def noisily(module, params, x, draw, key, **options):
    """Applies a noisy module with a draw for the batch, as in learning, or for each input."""
    if draw == "per input":
        return module.apply(params, x, rngs={"noise_per_env": key}, **options)
    noise = networks.draw_noise(params, key, module.noisy == "independent")
    return module.clone(noisy="none").apply(networks.perturbed(params, noise), x, **options)


@functools.cache
def noisy_layer(kind, shape, features=2, heads=2):
    """A layer with uneven weights, and a compiled apply under many keys."""
    layer = networks.HeadDense(features, heads, kind, 0.5)
    rng = np.random.default_rng(3)
    params = random_params(layer, rng, np.zeros(shape, np.float32))["params"]

    @functools.partial(jax.jit, static_argnums=2, compiler_options=QUICK)
    def apply(params, x, draw, keys):
        return jax.vmap(lambda key: noisily(layer, {"params": params}, x, draw, key))(keys)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def mean_of(params, x):
        return layer.apply({"params": params}, x)

    return params, apply, mean_of


@functools.cache
def keys_of(number, seed=0):
    return jax.random.split(jax.random.key(seed), number)


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("own", [False, True], ids=["shared features", "own features"])
def test_moments_of_a_noisy_layer(kind, draw, own):
    shape = (ROWS, 2, 3) if own else (ROWS, 3)
    params, apply, mean_of = noisy_layer(kind, shape)
    x = np.random.default_rng(4).normal(size=shape).astype(np.float32)
    y = np.asarray(apply(params, x, draw, keys_of(MANY)), np.float64)  # [N, B, K, out]
    each = x if own else np.stack([x, x], axis=1)  # [B, K, in]
    mean = np.einsum("bki,koi->bko", each, params["kernel"]) + params["bias"]
    squares = np.einsum("bki,koi->bko", each**2, params["kernel_sigma"] ** 2)
    bias = params["bias_sigma"] ** 2
    variance = ROOT**2 * squares + ROOT * bias if kind == "factorised" else squares + bias
    np.testing.assert_allclose(mean_of(params, x), mean, atol=1e-5)  # no key: mean weights
    assert np.all(np.abs(y.mean(axis=0) - mean) < 5 * np.sqrt(variance / MANY))
    np.testing.assert_allclose(y.var(axis=0), variance, rtol=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_learning_shares_one_draw_over_the_batch_and_acting_does_not(kind):
    params, apply, mean_of = noisy_layer(kind, (ROWS, 3))
    alike = {name: np.repeat(value[:1], 2, axis=0) for name, value in params.items()}
    x = np.ones((ROWS, 3), np.float32)
    shared = np.asarray(apply(alike, x, "shared", keys_of(MANY)))[0]
    np.testing.assert_allclose(shared, np.broadcast_to(shared[:1], shared.shape), rtol=1e-6)
    assert np.all(np.abs(shared - mean_of(alike, x)) > 1e-4)
    assert np.all(np.abs(shared[:, 0] - shared[:, 1]) > 1e-4)  # each head its own noise
    own = np.asarray(apply(alike, x, "per input", keys_of(MANY)))[0]
    outputs = own.reshape(10, 2)  # of equal inputs and equal heads
    assert len(np.unique(outputs[:, 0])) == len(np.unique(outputs[:, 1])) == 10


@pytest.mark.parametrize("kind", KINDS)
def test_factorised_weight_noise_has_rank_one_in_each_head(kind):
    params, apply, _ = noisy_layer(kind, (6, 6), features=5)
    pure = {
        "kernel": np.zeros_like(params["kernel"]),
        "bias": np.zeros_like(params["bias"]),
        "kernel_sigma": np.ones_like(params["kernel_sigma"]),
        "bias_sigma": np.zeros_like(params["bias_sigma"]),
    }
    key = keys_of(1, seed=8)
    weights = np.asarray(apply(pure, np.eye(6, dtype=np.float32), "shared", key))[0]  # [in, K, out]
    of_bias = pure | {"bias_sigma": np.ones_like(params["bias_sigma"])}
    bias = np.asarray(apply(of_bias, np.zeros((6, 6), np.float32), "shared", key))[0, 0]
    ranks = [np.linalg.matrix_rank(weights[:, head], tol=1e-4) for head in range(2)]
    assert ranks == ([1, 1] if kind == "factorised" else [5, 5])
    if kind == "factorised":
        # f(ε_in) f(ε_out)ᵀ with the bias's own f(ε_out); heads share neither factor.
        for head in range(2):
            factor = weights[:, head] / bias[head]
            np.testing.assert_allclose(factor, np.tile(factor[:, :1], 5), rtol=1e-4)
        assert np.linalg.matrix_rank(weights.reshape(6, 10), tol=1e-4) == 2
        assert np.linalg.matrix_rank(weights.transpose(0, 2, 1).reshape(30, 2), tol=1e-4) == 2


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize(("kind", "correlation"), [("factorised", 0.5), ("independent", 0.0)])
def test_outputs_share_the_noise_of_their_input(kind, draw, correlation):
    """Of a one-hot input: log|f(ε_in)| + log|f(ε_out)|, whose first term is common."""
    params, apply, mean_of = noisy_layer(kind, (ROWS, 3))
    params = params | {"bias_sigma": np.zeros_like(params["bias_sigma"])}
    x = np.zeros((ROWS, 3), np.float32)
    x[:, 1] = 1
    x[1] = [0, 0, 2]
    noise = np.asarray(apply(params, x, draw, keys_of(MANY))) - np.asarray(mean_of(params, x))
    size = np.log(np.abs(noise[:, :2]) + 1e-12)  # [N, B, K, out]
    for row in range(2):
        for head in range(2):
            found = np.corrcoef(size[:, row, head].T)[0, 1]
            assert found == pytest.approx(correlation, abs=0.05)
    # Where rows have their own noise, so have their outputs; heads always.
    across = [np.corrcoef(size[:, 0, 0, 0], size[:, 0, 1, 0])[0, 1]]
    if draw == "per input":
        across.append(np.corrcoef(size[:, 0, 0, 0], size[:, 1, 0, 0])[0, 1])
    np.testing.assert_allclose(across, 0.0, atol=0.05)


@pytest.mark.parametrize("draw", DRAWS)
def test_layers_draw_different_noise(draw, rng):
    """Layers of equal shape that put out nothing but the noise of their biases."""
    network = a_network(
        torso="none", hidden=(8, 8), heads=2, dueling="mean", noisy="factorised", num_actions=8
    )
    obs = np.ones((2, 1, 8), np.float32)
    params = jax.tree.map_with_path(
        lambda path, x: np.full(x.shape, path[-1].key == "bias_sigma", np.float32),
        random_params(network, rng, obs),
    )

    @functools.partial(jax.jit, compiler_options=QUICK)
    def outputs(key):
        _, kept = noisily(
            network,
            params,
            obs,
            draw,
            key,
            mutable=["intermediates"],
            capture_intermediates=lambda module, _: isinstance(module, networks.HeadDense),
        )
        return kept["intermediates"]

    def layers(seed):
        kept = outputs(jax.random.key(seed))
        return {
            layer: np.asarray(kept[layer]["__call__"][0]) for layer in kept if "stream" not in layer
        }

    seen = layers(1)
    streams = ("value", "advantage")
    assert set(seen) == {*streams, *(f"{s}_hidden_{i}" for s in streams for i in (0, 1))}
    del seen["value"]  # another shape
    drawn = np.stack([seen[layer].reshape(-1) for layer in sorted(seen)])
    assert np.all(drawn != 0)
    for i, one in enumerate(drawn):
        for other in drawn[:i]:
            assert np.all(np.abs(one - other) > 1e-6)
    again = layers(1)
    other = layers(2)
    for layer in seen:
        np.testing.assert_array_equal(again[layer], seen[layer])
        assert np.all(other[layer] != seen[layer])


def test_signal_to_noise_by_hand():
    noisy = {"kernel": [[3.0, -5.0]], "kernel_sigma": [[0.5, 0.5]], "bias": [9.0, 9.0]}
    other = {"kernel": [1.0, 1.0, 1.0, 1.0], "kernel_sigma": [2.0, 2.0, 2.0, 2.0]}
    plain = {"kernel": [4.0], "bias": [1.0]}
    tree = {"params": {"q_hidden_0": noisy, "q": other, "torso": {"Dense_0": plain}}}
    tree = jax.tree.map(lambda x: jnp.array(x), tree, is_leaf=lambda x: isinstance(x, list))
    found = networks.signal_to_noise(tree)
    assert set(found) == {"q_hidden_0", "q"}
    # RMS(3, 5) = √17, RMS(σ) = 0.5.
    assert float(found["q_hidden_0"]) == pytest.approx(2 * math.sqrt(17))
    assert float(found["q"]) == pytest.approx(0.5)
