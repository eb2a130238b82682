"""The parts of the family: C51, dueling, noisy layers, rank-based priorities, Poisson masks."""

import functools
import math
import warnings

import conftest
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from jdqn import losses, networks, priorities, replay
from jdqn.records import QOutput, Timestep

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its own dependencies
    import rlax

# --- C51 ----------------------------------------------------------------------------------------

ATOMS = np.linspace(-10, 10, 11).astype(np.float32)  # 2 apart, so all of them are exact
project = jax.jit(lambda values, mass: losses.project(values, mass, jnp.asarray(ATOMS)))


def some_mass(rng, size=ATOMS.size):
    return rng.dirichlet(np.ones(size)).astype(np.float32)


def test_projection_is_rlax(rng):
    oracle = jax.jit(lambda v, p: rlax.categorical_l2_project(v, p, jnp.asarray(ATOMS)))
    for _ in range(20):
        values, mass = rng.normal(size=ATOMS.size).astype(np.float32) * 8, some_mass(rng)
        got = np.asarray(project(values, mass))
        np.testing.assert_allclose(got, oracle(values, mass), atol=1e-6)
        assert got.sum() == pytest.approx(1.0, abs=1e-5)


def test_projection_of_the_atoms_is_the_identity(rng):
    mass = some_mass(rng)
    np.testing.assert_allclose(project(ATOMS, mass), mass, rtol=1e-6)
    uneven = np.linspace(-10, 10, 51).astype(np.float32)  # hit up to rounding
    mass = some_mass(rng, 51)
    np.testing.assert_allclose(losses.project(uneven, mass, jnp.asarray(uneven)), mass, atol=1e-5)


@pytest.mark.parametrize("shift", [-4.0, 2.0, 6.0])
def test_mass_is_kept_where_values_land_on_atoms(rng, shift):
    """With l = u both parts of Bellemare et al.'s listing are zero."""
    mass = some_mass(rng)
    moved = np.zeros_like(mass)
    for place, m in enumerate(mass):
        moved[np.clip(place + int(shift) // 2, 0, 10)] += m
    np.testing.assert_allclose(project(ATOMS + np.float32(shift), mass), moved, atol=1e-6)


def test_values_beyond_the_support_are_clipped_first():
    values = np.full(11, -1e6, np.float32)
    values[5:8], values[8:] = 3.5, 11.0
    mass = np.arange(1, 12, dtype=np.float32) / 66
    want = np.zeros(11)
    want[0], want[10] = mass[:5].sum(), mass[8:].sum()
    want[6], want[7] = 0.25 * mass[5:8].sum(), 0.75 * mass[5:8].sum()  # 3.5 between 2 and 4
    np.testing.assert_allclose(project(values, mass), want, atol=1e-6)


@functools.partial(jax.jit, static_argnums=0)
def c51(loss_fn, online, action, reward, discount, target, selector):
    """Losses of a batch, from logits `[B, A, Z]` and the selector's values `[B, A]`."""
    atoms = jnp.asarray(ATOMS)

    def read(logits):
        return QOutput(jnp.sum(jax.nn.softmax(logits) * atoms[None, None], axis=-1), logits)

    arguments = read(online), action, reward, discount, read(target), QOutput(selector, None)
    return jax.vmap(loss_fn)(*arguments)


CATEGORICAL = losses.categorical(jnp.asarray(ATOMS))


@pytest.mark.parametrize("double", [False, True])
def test_categorical_is_rlax(rng, double):
    size, num_actions = 64, 4
    online, target = (
        rng.normal(size=(size, num_actions, 11)).astype(np.float32) * 2 for _ in range(2)
    )
    selector = np.asarray(jax.nn.softmax(target)) @ ATOMS
    if double:
        selector = rng.normal(size=(size, num_actions)).astype(np.float32)
    action = rng.integers(0, num_actions, size)
    reward = rng.normal(size=size).astype(np.float32) * 4
    discount = rng.choice(np.float32([0, 0.9, 0.99]), size)
    got = c51(CATEGORICAL, online, action, reward, discount, target, selector)
    atoms = jnp.asarray(ATOMS)
    with jax.numpy_rank_promotion("allow"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its deprecations
        if double:
            oracle = jax.vmap(rlax.categorical_double_q_learning, (None, 0, 0, 0, 0, None, 0, 0))
            want = oracle(atoms, online, action, reward, discount, atoms, target, selector)
        else:
            oracle = jax.vmap(rlax.categorical_q_learning, (None, 0, 0, 0, 0, None, 0))
            want = oracle(atoms, online, action, reward, discount, atoms, target)
    np.testing.assert_allclose(got.loss, want, rtol=1e-4)
    np.testing.assert_array_equal(got.priority, got.loss)  # the cross-entropy


@pytest.mark.parametrize(
    ("reward", "want"),
    [(4.0, {7: 1.0}), (3.0, {6: 0.5, 7: 0.5}), (-99.0, {0: 1.0}), (10.0, {10: 1.0})],
)
def test_a_terminal_puts_all_mass_at_the_reward(rng, reward, want):
    """The cross-entropy of one-hot-like log-probabilities reads the target off."""
    online, target = rng.normal(size=(2, 1, 2, 11)).astype(np.float32)
    arguments = (np.array([1]), np.float32([reward]), np.float32([0.0]), target)
    got = c51(CATEGORICAL, online, *arguments, np.float32([[1.0, 0.0]]))
    log = np.asarray(jax.nn.log_softmax(online[0, 1]))
    entropy = -sum(mass * log[place] for place, mass in want.items())
    np.testing.assert_allclose(got.loss, [entropy], rtol=1e-5)
    np.testing.assert_allclose(got.priority, [entropy], rtol=1e-5)


def test_no_gradient_reaches_the_target_distribution(rng):
    online, target = (jnp.asarray(rng.normal(size=(2, 11)), jnp.float32) for _ in range(2))

    def loss(online, target):
        read = QOutput(jnp.zeros(2), online), QOutput(jnp.zeros(2), target)
        return CATEGORICAL(read[0], 1, 1.0, 0.9, read[1], read[1]).loss

    by_online, by_target = jax.grad(loss, argnums=(0, 1))(online, target)
    assert np.all(np.asarray(by_target) == 0)
    assert np.all(np.asarray(by_online[0]) == 0)
    assert np.any(np.asarray(by_online[1]) != 0)


def test_q_output_is_the_mean_of_the_distribution():
    raw = np.log(np.float32([[[[1, 1, 2], [2, 1, 1]]]]))  # [1, 1, 2, 3]
    out = networks.q_output(jnp.asarray(raw), jnp.array([-4.0, 0.0, 8.0]))
    np.testing.assert_allclose(out.q, [[[-1 + 4, -2 + 2]]], atol=1e-6)
    np.testing.assert_array_equal(out.logits, raw)
    plain = networks.q_output(jnp.asarray(raw[..., :1]), jnp.array([5.0]))
    np.testing.assert_array_equal(plain.q, raw[..., 0])
    assert plain.logits is None


# --- Dueling, and the torso's gradient ----------------------------------------------------------


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


def a_network(**fields):
    defaults = {
        "num_actions": 3,
        "torso": "mlp",
        "torso_hidden": (5,),
        "hidden": (),
        "heads": 2,
        "scale": 1.0,
        "for_cpu": True,
    }
    return networks.QNetwork(**defaults | fields)


def randomised(params, rng):
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), params)


@pytest.mark.parametrize("dueling", ["mean", "max", "sum"])
def test_dueling_of_distributions_is_before_the_softmax(rng, dueling):
    network = a_network(dueling=dueling, atoms=4)
    obs = rng.normal(size=(6, 1, 3)).astype(np.float32)
    params = randomised(network.init(jax.random.key(0), obs)["params"], rng)
    raw, kept = network.apply({"params": params}, obs, capture_intermediates=True)
    assert raw.shape == (6, 2, 3, 4)
    value, advantage = (
        np.asarray(kept["intermediates"][name]["__call__"][0]).reshape(6, 2, -1, 4)
        for name in ("value", "advantage")
    )
    assert value.shape == (6, 2, 1, 4)
    reduce = {"mean": np.mean, "max": np.max, "sum": lambda x, **_: 0 * x}[dueling]
    logits = value + advantage - reduce(advantage, axis=2, keepdims=True)
    np.testing.assert_allclose(raw, logits, atol=1e-5)
    atoms = np.float32([-3, -1, 1, 3])
    mass = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    out = networks.q_output(raw, jnp.asarray(atoms))
    np.testing.assert_allclose(out.q, (mass * atoms).sum(axis=-1), atol=1e-5)


def unscaled(params, obs, dueling):
    """The network of `a_network` in plain arithmetic, gradients as they fall."""
    dense = params["MlpTorso_0"]["Dense_0"]
    x = jax.nn.relu(obs.reshape(obs.shape[0], -1) @ dense["kernel"] + dense["bias"][None])

    def stream(name):
        layer = params[name]
        return jnp.einsum("bi,koi->bko", x, layer["kernel"]) + layer["bias"][None]

    if dueling == "none":
        return stream("q")[..., None]
    value, advantage = stream("value"), stream("advantage")
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
    network = a_network(dueling=dueling, heads=heads)
    obs = rng.normal(size=(7, 2, 3)).astype(np.float32)
    params = randomised(jax.jit(network.init)(jax.random.key(0), obs)["params"], rng)
    pull = rng.normal(size=(7, heads, 3, 1)).astype(np.float32)

    def value(params, apply):
        raw = apply(params)
        return jnp.sum(raw * pull), raw

    grad = jax.jit(jax.grad(value, has_aux=True), static_argnums=1)
    ours, raw = grad(params, lambda p: network.apply({"params": p}, obs))
    plain, plain_raw = grad(params, lambda p: unscaled(p, obs, dueling))
    np.testing.assert_allclose(raw, plain_raw, atol=1e-4)
    torso, plain_torso = ours.pop("MlpTorso_0"), plain.pop("MlpTorso_0")
    for got, want in zip(*map(jax.tree.leaves, (torso, plain_torso)), strict=True):
        assert np.abs(want).max() > 0.1
        np.testing.assert_allclose(got, scale * want, rtol=1e-4, atol=1e-5)
    for got, want in zip(*map(jax.tree.leaves, (ours, plain)), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


# --- Noisy layers -------------------------------------------------------------------------------

KINDS = ["factorised", "independent"]
DRAWS = ["shared", "per input"]
ROOT = math.sqrt(2 / math.pi)  # E f(ε)² = E|ε|


def test_initial_values_of_factorised_noise():
    layer = networks.HeadDense(50, 3, "factorised", 0.5)
    params = layer.init(jax.random.key(0), np.zeros((1, 16), np.float32))["params"]
    for name in ("kernel", "bias"):
        mean, sigma = np.asarray(params[name]), np.asarray(params[f"{name}_sigma"])
        assert sigma.shape == mean.shape
        np.testing.assert_allclose(sigma, 0.5 / 4)
        assert 0.9 / 4 < np.abs(mean).max() <= 1 / 4
        assert abs(mean.mean()) < 0.05


def test_initial_values_of_independent_noise():
    layer = networks.HeadDense(50, 3, "independent", 0.017)
    params = layer.init(jax.random.key(0), np.zeros((1, 12), np.float32))["params"]
    for name in ("kernel", "bias"):
        mean, sigma = np.asarray(params[name]), np.asarray(params[f"{name}_sigma"])
        assert sigma.shape == mean.shape
        np.testing.assert_allclose(sigma, 0.017)
        assert 0.9 / 2 < np.abs(mean).max() <= 1 / 2  # √(3 / 12)


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
    params = randomised(layer.init(jax.random.key(0), np.zeros(shape, np.float32))["params"], rng)

    @functools.partial(jax.jit, static_argnums=2)
    def apply(params, x, draw, keys):
        return jax.vmap(lambda key: noisily(layer, {"params": params}, x, draw, key))(keys)

    return params, apply, jax.jit(lambda params, x: layer.apply({"params": params}, x))


def keys_of(number, seed=0):
    return jax.random.split(jax.random.key(seed), number)


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("own", [False, True], ids=["shared features", "own features"])
def test_moments_of_a_noisy_layer(kind, draw, own):
    shape = (2, 2, 3) if own else (2, 3)
    params, apply, mean_of = noisy_layer(kind, shape)
    x = np.random.default_rng(4).normal(size=shape).astype(np.float32)
    number = 20_000
    y = np.asarray(apply(params, x, draw, keys_of(number)), np.float64)  # [N, B, K, out]
    each = x if own else np.stack([x, x], axis=1)  # [B, K, in]
    mean = np.einsum("bki,koi->bko", each, params["kernel"]) + params["bias"]
    squares = np.einsum("bki,koi->bko", each**2, params["kernel_sigma"] ** 2)
    bias = params["bias_sigma"] ** 2
    variance = ROOT**2 * squares + ROOT * bias if kind == "factorised" else squares + bias
    np.testing.assert_allclose(mean_of(params, x), mean, atol=1e-5)  # no key: mean weights
    assert np.all(np.abs(y.mean(axis=0) - mean) < 5 * np.sqrt(variance / number))
    np.testing.assert_allclose(y.var(axis=0), variance, rtol=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_learning_shares_one_draw_over_the_batch_and_acting_does_not(kind):
    params, apply, mean_of = noisy_layer(kind, (5, 3))
    alike = {name: np.repeat(value[:1], 2, axis=0) for name, value in params.items()}
    x = np.ones((5, 3), np.float32)
    shared = np.asarray(apply(alike, x, "shared", keys_of(1)))[0]
    np.testing.assert_allclose(shared, np.broadcast_to(shared[:1], shared.shape), rtol=1e-6)
    assert np.all(np.abs(shared - mean_of(alike, x)) > 1e-4)
    assert np.all(np.abs(shared[:, 0] - shared[:, 1]) > 1e-4)  # each head its own noise
    own = np.asarray(apply(alike, x, "per input", keys_of(1)))[0]
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
    params, apply, mean_of = noisy_layer(kind, (2, 3))
    params = params | {"bias_sigma": np.zeros_like(params["bias_sigma"])}
    x = np.float32([[0, 1, 0], [0, 0, 2]])
    noise = np.asarray(apply(params, x, draw, keys_of(20_000))) - np.asarray(mean_of(params, x))
    size = np.log(np.abs(noise) + 1e-12)  # [N, B, K, out]
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
def test_layers_draw_different_noise(draw):
    """Layers of equal shape that put out nothing but the noise of their biases."""
    network = a_network(
        torso="none", hidden=(8, 8), dueling="mean", noisy="factorised", num_actions=8
    )
    obs = np.ones((2, 1, 8), np.float32)
    params = network.init(jax.random.key(0), obs)["params"]

    def pure(path, x):
        return jnp.full(x.shape, float(path[-1].key == "bias_sigma"))

    params = jax.tree.map_with_path(pure, params)

    def layers(key):
        _, kept = noisily(
            network,
            {"params": params},
            obs,
            draw,
            key,
            mutable=["intermediates"],
            capture_intermediates=lambda module, _: isinstance(module, networks.HeadDense),
        )
        kept = kept["intermediates"]
        return {
            layer: np.asarray(kept[layer]["__call__"][0]) for layer in kept if "stream" not in layer
        }

    seen = layers(jax.random.key(1))
    streams = ("value", "advantage")
    assert set(seen) == {*streams, *(f"{s}_hidden_{i}" for s in streams for i in (0, 1))}
    del seen["value"]  # another shape
    drawn = np.stack([seen[layer].reshape(-1) for layer in sorted(seen)])
    assert np.all(drawn != 0)
    for i, one in enumerate(drawn):
        for other in drawn[:i]:
            assert np.all(np.abs(one - other) > 1e-6)
    again, other = layers(jax.random.key(1)), layers(jax.random.key(2))
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


# --- Rank-based priorities ----------------------------------------------------------------------

ALPHA = 0.7


def ranked(magnitude, is_open, newest, alpha=ALPHA):
    """Leaves `[T, E]` by definition: rank^-α, ties to the newest ring row, then by environment."""
    num_rows, num_envs = magnitude.shape
    row, env = np.divmod(np.arange(magnitude.size), num_envs)
    order = np.lexsort((env, (newest - row) % num_rows, -magnitude.ravel()))
    order = order[is_open.ravel()[order]]
    leaves = np.zeros(magnitude.size)
    leaves[order] = np.arange(1, order.size + 1.0) ** -alpha
    return leaves.reshape(num_rows, num_envs), magnitude.ravel()[order]


def structure(magnitude, is_open, block_leaves=6):
    """Priorities that remember magnitudes `[T, E]`, leaves 1 where open."""
    num_rows, num_envs = magnitude.shape
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(priorities, "BLOCK_LEAVES", block_leaves)
        state = priorities.init(num_rows, num_envs, by_rank=True)

    def padded(x):
        flat = np.zeros(state.leaves.size, np.float32)
        flat[: x.size] = x.ravel()
        return jnp.asarray(flat.reshape(state.leaves.shape))

    leaves = padded(is_open.astype(np.float32))
    ranks = state.ranks.replace(magnitude=padded(magnitude), added=jnp.array(5))
    return priorities.Priorities(leaves, jnp.sum(leaves, axis=(1, 2)), ranks)


refresh = jax.jit(priorities.refresh, static_argnums=(2, 3))
rank_of = jax.jit(priorities.rank_of)
rank_of_new = jax.jit(priorities.rank_of_new)


def rows_of(state, num_rows):
    return np.asarray(state.leaves).reshape(-1, state.leaves.shape[-1])[:num_rows]


@pytest.mark.parametrize("newest", [0, 3, 6])
@pytest.mark.parametrize("ties", [False, True])
def test_refresh_sorts_as_a_naive_sort(rng, newest, ties):
    magnitude = rng.random((7, 3)).astype(np.float32)
    if ties:
        magnitude = np.float32([0.0, 0.5, 2.0])[rng.integers(0, 3, (7, 3))]
    is_open = rng.random((7, 3)) < 0.7
    state = refresh(structure(magnitude, is_open), newest, 7, ALPHA)
    want, in_order = ranked(magnitude, is_open, newest)
    np.testing.assert_allclose(rows_of(state, 7), want, rtol=1e-6)
    assert np.all(rows_of(state, 7)[~is_open] == 0)
    assert np.asarray(state.leaves).sum() == pytest.approx(want.sum(), rel=1e-5)  # no padding
    np.testing.assert_allclose(state.sums, np.asarray(state.leaves).sum(axis=(1, 2)), rtol=1e-6)
    np.testing.assert_array_equal(state.ranks.sorted[: in_order.size], -in_order)
    assert np.all(np.isposinf(np.asarray(state.ranks.sorted[in_order.size :])))
    assert state.ranks.added == 0


def test_the_jth_new_row_takes_rank_j():
    state = structure(np.zeros((7, 3), np.float32), np.zeros((7, 3), bool))
    state = refresh(state, 0, 7, ALPHA)
    taken = []
    for row, opens in enumerate([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]]):
        opens = np.array(opens, bool)
        state, rank = rank_of_new(state, row, opens, np.float32(2.5))
        taken += np.asarray(rank)[opens].tolist()
    assert taken == [1, 2, 3, 4, 5, 6]
    assert state.ranks.added == 6
    remembered = np.asarray(state.ranks.magnitude).reshape(-1, 3)[:4]
    np.testing.assert_array_equal(remembered, 2.5)
    state = refresh(state, 4, 7, ALPHA)
    _, rank = rank_of_new(state, 5, np.array([False, True, True]), np.float32(1.0))
    assert np.asarray(rank)[1:].tolist() == [1, 2]


def test_rank_of_counts_the_larger_magnitudes_of_the_last_sort():
    magnitude = np.float32([[4, 1], [3, 3], [0.5, 9]])
    is_open = np.array([[1, 1], [1, 1], [1, 0]], bool)  # 9 is closed
    state = refresh(structure(magnitude, is_open, block_leaves=4), 2, 3, ALPHA)
    row, env = np.array([0, 1, 1, 2, 1, 0]), np.array([0, 0, 1, 0, 0, 1])
    given = np.float32([5, 3, 2, 0.1, 7, 4])  # (1, 0) twice: the first is remembered
    state, rank = rank_of(state, row, env, given)
    larger = [int(np.sum(magnitude[is_open] > value)) for value in given]
    assert larger == [0, 1, 3, 5, 0, 0]
    np.testing.assert_array_equal(rank, 1 + np.array(larger))
    remembered = np.asarray(state.ranks.magnitude).reshape(-1, 2)[:3]
    np.testing.assert_array_equal(remembered, np.float32([[5, 4], [3, 2], [0.1, 9]]))


def total_variation(leaves, other):
    return 0.5 * np.abs(leaves / leaves.sum() - other / other.sum()).sum()


def test_between_refreshes_the_distribution_stays_near_the_exact_ranks(rng):
    """256 rows, 16 new and 56 replayed since the sort: 0.23; 0.31 with rank 1 for all new."""
    magnitude = rng.exponential(size=(64, 4)).astype(np.float32)
    is_open = np.ones((64, 4), bool)
    state = refresh(structure(magnitude, is_open, 1024), 63, 64, ALPHA)
    exact, _ = ranked(magnitude, is_open, 63)
    assert total_variation(rows_of(state, 64), exact) < 1e-6
    for row in range(4):  # the oldest are overwritten
        state, rank = rank_of_new(state, row, np.ones(4, bool), magnitude.max())
        state = priorities.set_rows(
            state, jnp.array([row]), rank[None].astype(jnp.float32) ** -ALPHA
        )
        magnitude[row] = magnitude.max()
    row, env = np.arange(8, 64), rng.integers(0, 4, 56)
    given = magnitude[row, env] * rng.uniform(0.2, 1.0, 56).astype(np.float32)
    state, rank = rank_of(state, row, env, given)
    state = priorities.set_leaves(state, row, env, rank.astype(jnp.float32) ** -ALPHA)
    magnitude[row, env] = given
    exact, _ = ranked(magnitude, is_open, 3)
    distance = total_variation(rows_of(state, 64), exact)
    assert 0.001 < distance < 0.27
    state = refresh(state, 3, 64, ALPHA)
    assert total_variation(rows_of(state, 64), exact) < 1e-6


# Through the replay.

NUM_ROWS, NUM_ENVS, N_STEP, NUM_STACK = 9, 2, 2, 3
BATCH = 8


def ranked_replay(num_rows, num_envs, **overrides):
    config = conftest.tiny(
        **{
            "env__num_envs": num_envs,
            "env__frame_stack": NUM_STACK,
            "network__heads": 2,
            "replay__capacity": num_rows * num_envs,
            "replay__batch_size": BATCH,
            "replay__n_step": N_STEP,
            "replay__prioritization": "rank",
            "replay__priority_exponent": ALPHA,
            "replay__priority_epsilon": 0.25,
            "replay__mask_distribution": "poisson",
            "agent__target_period_steps": 16 * num_envs,
            "train__update_period_steps": num_envs,
            "train__learning_starts_steps": 16 * num_envs,
        }
        | overrides
    )
    return config, replay.make_replay(config, conftest.vector_spec(1, NUM_STACK))


@functools.cache
def compiled():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(priorities, "BLOCK_LEAVES", 8)  # several blocks even here
        _, memory = ranked_replay(NUM_ROWS, NUM_ENVS)
        state = memory.init(jax.random.key(7))
    return state, *map(jax.jit, (memory.add, memory.sample, memory.update, memory.refresh))


def empty_steps(*shape):
    no, zero = np.zeros(shape, bool), np.zeros(shape, np.float32)
    return Timestep(zero[..., None], zero, no, no, no)


class RankTwin:
    """What may be drawn, how it ranks and what was remembered, by definition."""

    def __init__(self):
        self.last, self.masks = [], []
        self.leaf, self.magnitude = {}, {}  # by time and environment
        self.sorted, self.added, self.max_priority = [], 0, np.float32(1)

    def add(self, last, mask):
        self.last.append(last)
        self.masks.append(mask)
        now = len(self.last) - 1
        opening, lost = now - N_STEP, now - NUM_ROWS + NUM_STACK - 1
        for env in range(NUM_ENVS):
            if opening >= 0 and not self.last[opening][env] and np.any(self.masks[opening][env]):
                self.added += 1
                self.leaf[opening, env] = self.added**-ALPHA
                self.magnitude[opening, env] = self.max_priority
            for t in range(now - NUM_ROWS, lost + 1):
                self.leaf.pop((t, env), None)

    def update(self, drawn, errors):
        values = errors + np.float32(0.25)
        for place, value in zip(reversed(drawn), reversed(values), strict=True):
            self.leaf[place] = (1 + sum(old > value for old in self.sorted)) ** -ALPHA
            self.magnitude[place] = value
        self.max_priority = max(self.max_priority, min(values.max(), np.float32(100)))

    def refresh(self):
        places = sorted(self.leaf, key=lambda p: (-self.magnitude[p], -p[0], p[1]))
        self.leaf = {place: (1 + i) ** -ALPHA for i, place in enumerate(places)}
        self.sorted, self.added = [self.magnitude[place] for place in places], 0

    def leaves(self):
        leaves = np.zeros((NUM_ROWS, NUM_ENVS))
        for (t, env), leaf in self.leaf.items():
            leaves[t % NUM_ROWS, env] = leaf
        return leaves


EVENT = st.tuples(
    st.lists(st.sampled_from([False, False, False, True]), min_size=2, max_size=2),
    st.one_of(st.none(), st.lists(st.sampled_from([0.0, 0.5, 0.5, 3.0, 250.0]), min_size=1)),
    st.sampled_from([False, False, True]),
)


@given(st.lists(EVENT, min_size=6, max_size=40), st.integers(0, 99))
@settings(max_examples=25)
def test_ranks_agree_with_a_naive_twin(events, seed):
    state, add, sample, update, sort = compiled()
    state = state.replace(key=jax.random.key(seed))
    twin = RankTwin()
    for tick, (last, errors, refreshes) in enumerate(events):
        last = np.array(last)
        step = empty_steps(NUM_ENVS)._replace(last=last)
        state = add(state, step, np.zeros(NUM_ENVS, np.int32), tick)
        twin.add(last, np.asarray(state.mask)[tick % NUM_ROWS])
        np.testing.assert_allclose(rows_of(state.priorities, NUM_ROWS), twin.leaves(), rtol=1e-5)
        if refreshes:
            state = sort(state, tick)
            twin.refresh()
        if errors is not None:
            batch = sample(state, priorities.uniforms(jax.random.key(tick), BATCH), tick)
            errors = np.resize(np.float32(errors), BATCH)
            state = update(state, batch, errors)
            if twin.leaf:
                row, env = np.asarray(batch.row), np.asarray(batch.env)
                drawn = list(zip((tick - (tick - row) % NUM_ROWS).tolist(), env, strict=True))
                assert {(t, int(e)) for t, e in drawn} <= set(twin.leaf)
                twin.update(drawn, errors)
        np.testing.assert_allclose(rows_of(state.priorities, NUM_ROWS), twin.leaves(), rtol=1e-5)
        sums = np.asarray(state.priorities.leaves).sum(axis=(1, 2))
        np.testing.assert_allclose(state.priorities.sums, sums, rtol=1e-5)
        assert state.priorities.ranks.added == twin.added
        assert state.max_priority == twin.max_priority


def test_draws_right_after_a_refresh_have_the_exact_frequencies(rng):
    num_rows, num_envs, ticks, size = 32, 4, 45, 250
    config, memory = ranked_replay(
        num_rows, num_envs, replay__batch_size=100, train__steps=100 * ticks
    )
    steps = empty_steps(ticks, num_envs)
    steps = steps._replace(last=rng.random((ticks, num_envs)) < 0.1)
    error = rng.exponential(size=(num_rows, num_envs)).astype(np.float32)

    @jax.jit
    def run(steps, error):
        def add(state, x):
            tick, step = x
            return memory.add(state, step, jnp.zeros(num_envs, jnp.int32), tick), None

        def replayed(state, key):
            batch = memory.sample(state, priorities.uniforms(key, 100), 0)
            return memory.update(state, batch, error[batch.row, batch.env]), None

        def count(carry, key):
            counts, _ = carry
            batch = memory.sample(state, priorities.uniforms(key, 100), ticks)
            return (counts.at[batch.row, batch.env].add(1), batch), None

        state = memory.init(jax.random.key(0))
        state = jax.lax.scan(add, state, (jnp.arange(ticks), steps))[0]
        # Sorted half-way, so that rare rows are replayed too.
        state = jax.lax.scan(replayed, state, keys_of(20))[0]
        state = memory.refresh(state, ticks - 1)
        state = jax.lax.scan(replayed, state, keys_of(20, 1))[0]
        state = memory.refresh(state, ticks - 1)
        first = memory.sample(state, priorities.uniforms(keys_of(1)[0], 100), 0)
        start = jnp.zeros((num_rows, num_envs), jnp.int32), first
        return state, *jax.lax.scan(count, start, keys_of(size, 2))[0]

    state, counts, batch = jax.device_get(run(steps, error))
    magnitude = state.priorities.ranks.magnitude.reshape(-1, num_envs)[:num_rows]
    is_open = rows_of(state.priorities, num_rows) > 0
    known = np.isclose(magnitude, error + 0.25)
    assert is_open.sum() > 80
    assert np.mean(known[is_open]) > 0.9
    expected, _ = ranked(magnitude, is_open, (ticks - 1) % num_rows)
    expected /= expected.sum()
    assert counts.sum() == 100 * size
    assert np.all(counts[~is_open] == 0)
    assert stats.chisquare(counts[is_open], counts.sum() * expected[is_open]).pvalue > 1e-3
    # (n·P)^-β over the batch's maximum.
    beta = float(replay.importance_exponent(config, ticks))
    weight = expected[batch.row, batch.env] ** -beta
    np.testing.assert_allclose(batch.weight, weight / weight.max(), rtol=1e-4)


# --- Masks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("exponent", [0.0, 0.7])
def test_poisson_masks_and_rows_without_one(exponent):
    num_rows, num_envs, heads = 16, 64, 40
    rule = "rank" if exponent else "proportional"
    _, memory = ranked_replay(
        num_rows,
        num_envs,
        network__heads=heads,
        replay__priority_exponent=exponent,
        replay__prioritization=rule,
    )
    _, few = ranked_replay(
        num_rows, num_envs, replay__priority_exponent=exponent, replay__prioritization=rule
    )

    @functools.partial(jax.jit, static_argnums=0)
    def filled(memory, steps):
        def add(state, x):
            return memory.add(state, x[1], jnp.zeros(num_envs, jnp.int32), x[0]), None

        start = memory.init(jax.random.key(2))
        return jax.lax.scan(add, start, (jnp.arange(num_rows), steps))[0]

    steps = empty_steps(num_rows, num_envs)
    mask = np.asarray(filled(memory, steps).mask)
    assert mask.dtype == np.uint8
    assert mask.shape == (num_rows, num_envs, heads)
    assert mask.mean() == pytest.approx(1.0, abs=0.025)
    assert mask.var() == pytest.approx(1.0, abs=0.045)
    counts = np.bincount(mask.ravel(), minlength=5)
    observed = [*counts[:5], counts[5:].sum()]
    expected = [*stats.poisson.pmf(range(5), 1), stats.poisson.sf(4, 1)]
    assert stats.chisquare(observed, mask.size * np.array(expected)).pvalue > 1e-3
    for axis in range(3):  # rows, environments and heads each draw their own
        moved = np.moveaxis(mask, axis, 0)
        assert np.mean(moved[0] == moved[1]) < 0.5

    state = filled(few, steps)
    has_sample = np.asarray(state.mask).any(axis=-1)
    leaves = rows_of(state.priorities, num_rows)
    drawable = np.arange(NUM_STACK - 1, num_rows - N_STEP)  # the oldest stacks are incomplete
    assert (~has_sample[drawable]).sum() > 50  # e^-2 of them
    assert np.all(leaves[~has_sample] == 0)
    assert np.all(leaves[drawable][has_sample[drawable]] > 0)
