"""Networks: both convolution forms, the head axis, gradients."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny, vector_spec

from jdqn import networks
from jdqn.records import EnvSpec

IMAGE = EnvSpec((84, 84), np.dtype(np.uint8), 4, 6, 1 / 255)


def network(heads=1, torso="mlp", hidden=(8,), for_cpu=True, num_actions=3, scale=1.0):
    return networks.QNetwork(num_actions, torso, (8,), hidden, heads, scale, for_cpu)


@pytest.mark.parametrize(("size", "stride", "height"), [(8, 4, 84), (4, 2, 21), (3, 1, 9)])
def test_both_convolutions_agree_in_value_and_gradient(rng, size, stride, height):
    x = jnp.asarray(rng.random((2, height, height, 3)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(size, size, 3, 5)), jnp.float32)

    def summed(form):
        def f(x, kernel):
            y = form(x, kernel, stride)
            return jnp.sum(jnp.sin(y)), y

        return jax.jit(jax.value_and_grad(f, argnums=(0, 1), has_aux=True))(x, kernel)

    (_, y), gradients = summed(networks.conv_for_cpu)
    (_, want), want_gradients = summed(networks.conv_by_library)
    chex.assert_trees_all_close(y, want, rtol=1e-4, atol=1e-4)
    chex.assert_trees_all_close(gradients, want_gradients, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("batch", "height", "channels", "size", "stride"),
    # 9 rows of the matmul, which is odd, 16, 12 of packed channels and 1.
    [(1, 5, 3, 3, 1), (1, 6, 3, 3, 1), (3, 12, 4, 8, 4), (1, 8, 4, 8, 4)],
)
def test_both_convolutions_agree_on_images_of_bytes(rng, batch, height, channels, size, stride):
    x = jnp.asarray(rng.integers(0, 256, (batch, height, height, channels)), jnp.uint8)
    kernel = jnp.asarray(rng.normal(size=(size, size, channels, 5)), jnp.float32)

    def value_and_gradient(form):
        def f(kernel):
            y = form(x, kernel, stride) / 100
            return jnp.sum(jnp.sin(y)), y

        (_, y), gradient = jax.jit(jax.value_and_grad(f, has_aux=True))(kernel)
        return y, gradient

    got, want = map(value_and_gradient, (networks.conv_for_cpu, networks.conv_by_library))
    chex.assert_trees_all_close(got, want, rtol=1e-3, atol=1e-3)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="this form is for a CPU")
def test_patches_of_bytes_are_built_once():
    x, kernel = jnp.zeros((32, 10, 10, 4), jnp.uint8), jnp.zeros((3, 3, 4, 16))
    gradient = jax.jit(jax.grad(lambda k: jnp.sum(jnp.sin(networks.conv_for_cpu(x, k, 1)))))
    text = gradient.lower(kernel).compile().as_text()
    assert "f32[2,1024,36]" in text and "f32[2048,36]" not in text


def test_gradient_of_matmul(rng):
    x = jnp.asarray(rng.normal(size=(5, 7)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 7)), jnp.float32)

    def loss(multiply):
        return lambda x, kernel: jnp.sum(jnp.sin(multiply(x, kernel)))

    got = jax.jit(jax.value_and_grad(loss(networks.matmul), argnums=(0, 1)))(x, kernel)
    plain = loss(lambda x, kernel: jnp.einsum("bi,oi->bo", x, kernel))
    want = jax.value_and_grad(plain, argnums=(0, 1))(x, kernel)
    chex.assert_trees_all_close(got, want, rtol=1e-5, atol=1e-6)


def test_nature_network_is_the_same_in_both_forms(rng):
    obs = jnp.asarray(rng.integers(0, 256, (2, 4, 84, 84)), jnp.uint8)
    by_patches = network(torso="nature", scale=1 / 255)
    by_library = network(torso="nature", scale=1 / 255, for_cpu=False)
    params = by_patches.init(jax.random.key(0), obs)
    chex.assert_trees_all_equal_shapes(params, by_library.init(jax.random.key(0), obs))

    def loss(net):
        def f(params):
            return jnp.sum(net.apply(params, obs) ** 2)

        return jax.jit(jax.value_and_grad(f))(params)

    chex.assert_trees_all_close(loss(by_patches), loss(by_library), rtol=1e-3, atol=1e-5)


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


@pytest.mark.parametrize(("stack", "dtype"), [(4, np.uint8), (3, np.uint8), (4, np.float32)])
def test_stack_becomes_channels(rng, stack, dtype):
    obs = rng.integers(0, 256, (2, stack, 5, 6)).astype(dtype)
    moved = networks.stack_to_channels(jnp.asarray(obs))
    np.testing.assert_array_equal(moved, np.moveaxis(obs, 1, -1))
    coloured = networks.stack_to_channels(jnp.asarray(obs[..., None].repeat(3, -1)))
    np.testing.assert_array_equal(coloured, np.moveaxis(obs, 1, -1).repeat(3, -1))


@pytest.mark.parametrize("channels", [4, 3])
def test_patches_are_what_each_output_sees(rng, channels):
    """One kernel that picks out one pixel of the window, for every pixel."""
    x = rng.integers(0, 256, (2, 12, 12, channels)).astype(np.uint8)
    identity = jnp.eye(4 * 4 * channels).reshape(4, 4, channels, -1)
    want = networks.conv_by_library(jnp.asarray(x), identity, 2)
    patches = networks.conv_patches(jnp.asarray(x), 4, 2)
    got = patches @ networks._kernel_matrix(identity, 2)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(("torso", "side"), [("nature", 84), ("minatar", 10), ("none", 5)])
def test_pixels_are_scaled_once(torso, side):
    """A white image under 1/255 is an image of ones."""
    white = jnp.full((1, 4, side, side), 255, jnp.uint8)
    net = network(torso=torso, scale=1 / 255)
    params = net.init(jax.random.key(0), white)
    ones = network(torso=torso).apply(params, white / 255)
    chex.assert_trees_all_close(net.apply(params, white), ones, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("torso", ["mlp", "none"])
def test_heads_are_independent_networks_over_one_torso(rng, torso):
    """Head k of a K-headed network is the single-headed network with head k's parameters."""
    obs = jnp.asarray(rng.normal(size=(4, 2, 3)), jnp.float32)
    many, one = network(heads=3, torso=torso), network(heads=1, torso=torso)
    params = many.init(jax.random.key(1), obs)
    q = many.apply(params, obs)[..., 0]
    assert q.shape == (4, 3, 3)

    def only(path, leaf, k):
        if path[1].key not in ("q_hidden_0", "q"):
            return leaf
        return leaf[k : k + 1]

    for k in range(3):
        single = jax.tree.map_with_path(lambda path, leaf, k=k: only(path, leaf, k), params)
        chex.assert_trees_all_close(
            one.apply(single, obs)[:, 0, :, 0], q[:, k], rtol=1e-5, atol=1e-6
        )
    assert not np.allclose(q[:, 0], q[:, 1])


def test_torso_gradient_is_scaled_by_one_over_k_and_the_heads_is_not(rng):
    """Checked on raw gradients, since Adam hides a factor."""
    obs = jnp.asarray(rng.normal(size=(4, 2, 3)), jnp.float32)
    heads = 4
    net = network(heads=heads)
    params = net.init(jax.random.key(1), obs)

    def unscaled(params):
        x = networks.MlpTorso((8,)).apply({"params": params["MlpTorso_0"]}, obs.reshape(4, -1))
        for name, last in (("q_hidden_0", False), ("q", True)):
            x = networks.HeadDense(params[name]["kernel"].shape[1], heads).apply(
                {"params": params[name]}, x
            )
            x = x if last else jax.nn.relu(x)
        return jnp.sum(x**2)

    want = jax.grad(unscaled)(params["params"])
    got = jax.grad(lambda p: jnp.sum(net.apply({"params": p}, obs) ** 2))(params["params"])
    want["MlpTorso_0"] = jax.tree.map(lambda x: x / heads, want["MlpTorso_0"])
    chex.assert_trees_all_close(got, want, rtol=1e-4, atol=1e-6)


def test_initial_parameters_lie_within_one_over_root_fan_in():
    net = network(heads=2, hidden=(64,))
    obs = jnp.zeros((1, 2, 3))
    head = net.init(jax.random.key(0), obs)["params"]["q_hidden_0"]
    bound = 1 / np.sqrt(8)
    for leaf in jax.tree.leaves(head):
        assert np.abs(leaf).max() <= bound
        assert np.abs(leaf).max() > 0.8 * bound


def test_auto_torso_follows_the_observation():
    assert networks.make_network(tiny(), vector_spec()).torso == "mlp"
    assert networks.make_network(tiny(), IMAGE).torso == "nature"


def test_a_stride_that_does_not_divide_the_kernel_is_refused():
    with pytest.raises(ValueError, match="stride 2 does not divide"):
        networks.conv_patches(jnp.zeros((1, 9, 9, 1)), 3, 2)
