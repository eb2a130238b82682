"""The Q-network: the head axis, dueling streams, gradients, what a value head puts between."""

import math

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import QUICK
from networks_helpers import a_network, applied, initial, random_params

from jdqn import networks
from jdqn.learning import values


@pytest.mark.parametrize("torso", ["mlp", "none"])
def test_heads_are_independent_networks_over_one_torso(rng, torso):
    """Head k of a K-headed network is the single-headed network with head k's parameters."""
    obs = jnp.asarray(rng.normal(size=(4, 2, 3)), jnp.float32)
    many = a_network(heads=3, torso=torso)
    one = jax.jit(many.clone(heads=1).apply, compiler_options=QUICK)
    params = initial(many, obs, seed=1)
    q = applied(many, params, obs)[..., 0]
    assert q.shape == (4, 3, 3)

    def only(path, leaf, k):
        if path[1].key not in ("q_hidden_0", "q"):
            return leaf
        return leaf[k : k + 1]

    for k in range(3):
        single = jax.tree.map_with_path(lambda path, leaf, k=k: only(path, leaf, k), params)
        chex.assert_trees_all_close(one(single, obs)[:, 0, :, 0], q[:, k], rtol=1e-5, atol=1e-6)
    assert not np.allclose(q[:, 0], q[:, 1])


# --- The torso's gradient -----------------------------------------------------------------------


def test_torso_gradient_is_scaled_by_one_over_k_and_the_heads_is_not(rng):
    """Checked on raw gradients, since Adam hides a factor."""
    obs = jnp.asarray(rng.normal(size=(4, 2, 3)), jnp.float32)
    heads = 4
    net = a_network(heads=heads)
    params = initial(net, obs, seed=1)["params"]

    def unscaled(params):
        torso = networks.TORSOS["mlp"](1.0, (8,), True)
        x = torso.apply({"params": params["MlpTorso_0"]}, obs)
        hidden = networks.HeadDense(8, heads).apply({"params": params["q_hidden_0"]}, x)
        out = networks.HeadDense(3, heads).apply({"params": params["q"]}, jax.nn.relu(hidden))
        return jnp.sum(out**2)

    want = jax.jit(jax.grad(unscaled), compiler_options=QUICK)(params)
    got = jax.jit(jax.grad(lambda p: jnp.sum(net.apply({"params": p}, obs) ** 2)))(params)
    want["MlpTorso_0"] = jax.tree.map(lambda x: x / heads, want["MlpTorso_0"])
    chex.assert_trees_all_close(got, want, rtol=1e-4, atol=1e-6)


def by_definition(params, obs, dueling):
    """A network without hidden layers in plain arithmetic, gradients as they fall."""
    dense = params["MlpTorso_0"]["Dense_0"]
    x = jax.nn.relu(obs.reshape(obs.shape[0], -1) @ dense["kernel"] + dense["bias"][None])

    def stream(name):
        layer = params[name]
        return jnp.einsum("bi,koi->bko", x, layer["kernel"]) + layer["bias"][None]

    if dueling == "none":
        return stream("q")[..., None]
    value = stream("value")
    advantage = stream("advantage")
    if dueling == "mean":
        advantage -= advantage.mean(axis=2, keepdims=True)
    if dueling == "max":
        advantage -= advantage.max(axis=2, keepdims=True)
    return (value + advantage)[..., None]


@pytest.mark.parametrize(
    ("dueling", "heads", "scale"),
    [
        ("none", 1, 1.0),
        ("none", 3, 1 / 3),
        ("mean", 1, 1 / math.sqrt(2)),
        ("max", 3, 1 / (3 * math.sqrt(2))),
        ("sum", 2, 1 / (2 * math.sqrt(2))),
    ],
)
def test_the_torso_gradient_is_scaled_once(rng, dueling, heads, scale):
    network = a_network(dueling=dueling, heads=heads, torso_hidden=(5,), hidden=())
    obs = rng.normal(size=(7, 2, 3)).astype(np.float32)
    params = random_params(network, rng, obs)["params"]
    pull = rng.normal(size=(7, heads, 3, 1)).astype(np.float32)

    def gradient(apply, **options):
        def value(params):
            raw = apply(params)
            return jnp.sum(raw * pull), raw

        return jax.jit(jax.grad(value, has_aux=True), **options)(params)

    ours, raw = gradient(lambda p: network.apply({"params": p}, obs))
    plain, plain_raw = gradient(lambda p: by_definition(p, obs, dueling), compiler_options=QUICK)
    np.testing.assert_allclose(raw, plain_raw, atol=1e-4)
    torso = ours.pop("MlpTorso_0")
    plain_torso = plain.pop("MlpTorso_0")
    for got, want in zip(*map(jax.tree.leaves, (torso, plain_torso)), strict=True):
        assert np.abs(want).max() > 0.1
        np.testing.assert_allclose(got, scale * want, rtol=1e-4, atol=1e-5)
    for got, want in zip(*map(jax.tree.leaves, (ours, plain)), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


# --- Dueling ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dueling", "want"),
    [
        ("mean", [[[-2, -3], [0, 2], [2, 1]], [[0, 3], [0, 0], [0, -3]]]),
        ("max", [[[-4, -5], [-2, 0], [0, -1]], [[0, 0], [0, -3], [0, -6]]]),
        ("sum", [[[1, 0], [3, 5], [5, 4]], [[7, 9], [7, 6], [7, 3]]]),
    ],
)
def test_advantages_are_centred_over_actions_for_each_head_and_atom(dueling, want):
    advantage = jnp.array([[[[1.0, 0], [3, 5], [5, 4]], [[7, 9], [7, 6], [7, 3]]]])
    np.testing.assert_allclose(networks.centred(advantage, dueling)[0], want, atol=1e-6)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_outputs_are_multiplied_in_full_float32_where_the_default_is_less(rng, platform):
    network = a_network(heads=2)
    obs = rng.normal(size=(6, 1, 3)).astype(np.float32)
    params = random_params(network, rng, obs)
    program = jax.jit(network.apply).trace(params, obs).lower(lowering_platforms=(platform,))
    products = [line for line in program.as_text().splitlines() if "dot_general" in line]
    exact = [line for line in products if "precision = [HIGHEST, HIGHEST]" in line]
    assert len(products) == 3
    assert exact == products[-1:]


@pytest.mark.parametrize("dueling", ["mean", "max", "sum"])
def test_dueling_of_distributions_is_before_the_softmax(rng, dueling):
    network = a_network(dueling=dueling, heads=2, torso_hidden=(5,), hidden=(), num_outputs=4)
    obs = rng.normal(size=(6, 1, 3)).astype(np.float32)
    params = random_params(network, rng, obs)
    atoms = np.float32([-3, -1, 1, 3])

    @jax.jit
    def ask(params):
        raw, kept = network.apply(params, obs, capture_intermediates=True)
        return raw, kept["intermediates"], values.categorical(jnp.asarray(atoms)).read(raw, None)

    raw, kept, q = ask(params)
    assert raw.shape == (6, 2, 3, 4)
    value, advantage = (
        np.asarray(kept[name]["__call__"][0]).reshape(6, 2, -1, 4)
        for name in ("value", "advantage")
    )
    assert value.shape == (6, 2, 1, 4)
    reduce = {"mean": np.mean, "max": np.max, "sum": lambda x, **_: 0 * x}[dueling]
    logits = value + advantage - reduce(advantage, axis=2, keepdims=True)
    np.testing.assert_allclose(raw, logits, atol=1e-5)
    mass = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(q, (mass * atoms).sum(axis=-1), atol=1e-5)


# --- What a value head puts between torso and heads ---------------------------------------------


class Turned(nn.Module):
    """Features that depend on each sample, `[B, n]`."""

    @nn.compact
    def __call__(self, x, samples):
        shift = self.param("shift", nn.initializers.normal(), x.shape[1:])
        return jnp.sin(x[:, None] * samples[..., None] + shift[None, None])


@pytest.mark.parametrize("dueling", ["none", "mean"])
def test_a_layer_of_samples_is_the_network_applied_to_each_of_them(rng, dueling):
    fields = {"heads": 2, "num_outputs": 2, "dueling": dueling, "layer": Turned}
    network = a_network(**fields)
    obs = rng.normal(size=(4, 2, 3)).astype(np.float32)
    samples = rng.normal(size=(4, 5)).astype(np.float32)
    params = random_params(network, rng, obs, samples)
    assert params["params"]["value_layer"]["shift"].shape == (8,)  # shared by the heads
    raw = np.asarray(applied(network, params, obs, samples))
    assert raw.shape == (4, 2, 3, 5 * 2)

    apply = jax.jit(network.apply, compiler_options=QUICK)
    each = [apply(params, obs, samples[:, i : i + 1]) for i in range(5)]
    assert each[0].shape == (4, 2, 3, 2)
    np.testing.assert_allclose(raw, np.concatenate(each, axis=-1), rtol=1e-5, atol=1e-5)
    assert not np.allclose(each[0], each[1])


def test_gradients_of_the_layer_are_averaged_over_heads_as_the_torsos(rng):
    """K equal heads leave the single head's gradient to what they share."""
    obs = rng.normal(size=(4, 2, 3)).astype(np.float32)
    samples = rng.normal(size=(4, 5)).astype(np.float32)
    one = a_network(layer=Turned)
    params = random_params(one, rng, obs, samples)["params"]
    repeated = {
        name: jax.tree.map(lambda x: np.repeat(x, 3, axis=0), leaves) if name[0] == "q" else leaves
        for name, leaves in params.items()
    }

    def gradient(network, params):
        def value(params):
            return jnp.sum(jnp.sin(network.apply({"params": params}, obs, samples)))

        return jax.jit(jax.grad(value), compiler_options=QUICK)(params)

    want = gradient(one, params)
    got = gradient(one.clone(heads=3), repeated)
    for shared in ("MlpTorso_0", "value_layer"):
        chex.assert_trees_all_close(got[shared], want[shared], rtol=1e-4, atol=1e-5)
        assert max(np.abs(x).max() for x in jax.tree.leaves(want[shared])) > 0.1
