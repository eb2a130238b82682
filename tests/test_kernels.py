"""What depends on the backend: convolutions and products in both forms, options of `jit`."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import QUICK

from jdqn import kernels

# 9 rows of the matmul, which is odd, 16, 12 of packed channels and 1.
BYTES = [(1, 5, 3, 3, 1), (1, 6, 3, 3, 1), (3, 12, 4, 8, 4), (1, 8, 4, 8, 4)]


@functools.partial(jax.jit, static_argnums=(0, 3))
def value_and_gradients(form, x, kernel, stride):
    """A convolution, and gradients of a function of it by all that is float."""

    def summed(x, kernel):
        y = form(x, kernel, stride)
        # Bytes make large numbers, whose sines would be noise.
        y = y if x.dtype == jnp.float32 else y / 100
        return jnp.sum(jnp.sin(y)), y

    wanted = (0, 1) if x.dtype == jnp.float32 else 1
    (_, y), gradients = jax.value_and_grad(summed, argnums=wanted, has_aux=True)(x, kernel)
    return y, gradients


@pytest.mark.parametrize(("size", "stride", "height"), [(8, 4, 84), (4, 2, 21), (3, 1, 9)])
def test_both_convolutions_agree_in_value_and_gradient(rng, size, stride, height):
    x = jnp.asarray(rng.random((2, height, height, 3)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(size, size, 3, 5)), jnp.float32)
    y, gradients = value_and_gradients(kernels.conv_for_cpu, x, kernel, stride)
    want, want_gradients = value_and_gradients(kernels.conv_by_library, x, kernel, stride)
    chex.assert_trees_all_close(y, want, rtol=1e-4, atol=1e-4)
    chex.assert_trees_all_close(gradients, want_gradients, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("batch", "height", "channels", "size", "stride"), BYTES)
def test_both_convolutions_agree_on_images_of_bytes(rng, batch, height, channels, size, stride):
    x = jnp.asarray(rng.integers(0, 256, (batch, height, height, channels)), jnp.uint8)
    kernel = jnp.asarray(rng.normal(size=(size, size, channels, 5)), jnp.float32)
    got = value_and_gradients(kernels.conv_for_cpu, x, kernel, stride)
    want = value_and_gradients(kernels.conv_by_library, x, kernel, stride)
    chex.assert_trees_all_close(got, want, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("for_cpu", [False, True])
def test_the_form_is_the_one_that_is_asked_for_and_the_image_is_scaled(monkeypatch, rng, for_cpu):
    x = jnp.asarray(rng.integers(0, 256, (1, 6, 3, 1)), jnp.uint8)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 1, 2)), jnp.float32)
    want = 0.5 * kernels.conv_by_library(x, kernel, 1)
    other = "conv_by_library" if for_cpu else "conv_for_cpu"
    monkeypatch.setattr(kernels, other, None)
    got = kernels.convolve(x, kernel, 1, scale=0.5, for_cpu=for_cpu)
    chex.assert_trees_all_close(got, want, rtol=1e-5)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="this form is for a CPU")
def test_patches_of_bytes_are_built_once():
    x = jnp.zeros((32, 10, 10, 4), jnp.uint8)
    kernel = jnp.zeros((3, 3, 4, 16))
    gradient = jax.jit(jax.grad(lambda k: jnp.sum(jnp.sin(kernels.conv_for_cpu(x, k, 1)))))
    text = gradient.lower(kernel).compile().as_text()
    assert "f32[2,1024,36]" in text and "f32[2048,36]" not in text


@pytest.mark.parametrize("channels", [4, 3])
def test_patches_are_what_each_output_sees(rng, channels):
    """One kernel that picks out one pixel of the window, for every pixel."""
    x = rng.integers(0, 256, (2, 12, 12, channels)).astype(np.uint8)
    identity = np.eye(4 * 4 * channels, dtype=np.float32).reshape(4, 4, channels, -1)

    @jax.jit
    def by_patches(x, kernel):
        return kernels.conv_patches(x, 4, 2) @ kernels.kernel_matrix(kernel, 2)

    want = kernels.conv_by_library(jnp.asarray(x), jnp.asarray(identity), 2)
    np.testing.assert_array_equal(by_patches(x, identity), want)


def rounded(x):
    """To the nearest number of 8 significant bits, as f32."""
    return np.asarray(x).astype(jnp.bfloat16).astype(np.float32)


def test_products_in_bf16_are_sums_in_f32_of_rounded_factors_and_so_are_their_gradients(rng):
    """Compiled as in training, where XLA may leave out a conversion there and back."""
    x = rng.normal(size=(6, 3, 50)).astype(np.float32)
    kernel = rng.normal(size=(3, 4, 50)).astype(np.float32)
    pull = rng.normal(size=(6, 3, 4)).astype(np.float32)

    @jax.jit
    def products(x, kernel, pull):
        y, pull_back = jax.vjp(lambda *of: kernels.dense(*of, "bfloat16"), x, kernel)
        return y, *pull_back(pull)

    rx, rk, rp = map(rounded, (x, kernel, pull))
    want = (
        np.einsum("bki,koi->bko", rx, rk),
        np.einsum("bko,koi->bki", rp, rk),
        np.einsum("bko,bki->koi", rp, rx),
    )
    # Each head by its own features, one head of its own, heads that share features.
    chex.assert_trees_all_close(products(x, kernel, pull), want, rtol=1e-4, atol=1e-4)
    one = products(x[:, :1], kernel[:1], pull[:, :1])
    want_one = (want[0][:, :1], want[1][:, :1], want[2][:1])
    chex.assert_trees_all_close(one, want_one, rtol=1e-4, atol=1e-4)
    shared = products(x[:, 0], kernel, pull)
    assert {array.dtype for array in jax.tree.leaves((one, shared))} == {np.dtype(np.float32)}
    want_shared = np.einsum("bi,koi->bko", rx[:, 0], rk)
    np.testing.assert_allclose(shared[0], want_shared, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(shared[1], np.einsum("bko,koi->bi", rp, rk), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions_in_bf16_are_of_rounded_factors(rng, dtype, stride):
    """The gradient too; the library rounds its results besides, to a 256th."""
    x = rng.integers(0, 256, (2, 8, 8, 3)).astype(dtype)
    x = x if dtype == np.uint8 else x / np.float32(77)
    kernel = rng.normal(size=(4, 4, 3, 5)).astype(np.float32)
    pull = rng.normal(size=(2, 4 // stride + 1, 4 // stride + 1, 5)).astype(np.float32)
    pull = pull[:, : (8 - 4) // stride + 1, : (8 - 4) // stride + 1]

    @functools.partial(jax.jit, static_argnums=(0, 4))
    def convolved(form, x, kernel, pull, dtype):
        wanted = (x, kernel) if x.dtype == jnp.float32 else (kernel,)
        y, pull_back = jax.vjp(lambda *of: form(*(x, *of)[-2:], stride, dtype), *wanted)
        return y, *pull_back(pull)

    want = convolved(
        kernels.conv_by_library, rounded(x).astype(dtype), rounded(kernel), rounded(pull), "float32"
    )
    for form, error in ((kernels.conv_for_cpu, 1e-4), (kernels.conv_by_library, 2**-8)):
        got = convolved(form, x, kernel, pull, "bfloat16")
        for ours, theirs in zip(got, want, strict=True):
            assert ours.dtype == jnp.float32
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=error * np.abs(theirs).max())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("of_bytes", [True, False])
def test_padded_convolutions_agree_in_value_and_gradient(rng, of_bytes, dtype):
    """In bfloat16 both are of rounded factors, whose results the library would round besides."""
    x = rng.integers(0, 256, (2, 5, 6, 3)).astype(np.uint8)
    x = x if of_bytes else x / np.float32(77)
    kernel = rng.normal(size=(3, 3, 3, 4)).astype(np.float32)
    pull = rng.normal(size=(2, 5, 6, 4)).astype(np.float32)

    @functools.partial(jax.jit, static_argnums=(0,), compiler_options=QUICK)
    def convolved(form, x, kernel, pull):
        wanted = (kernel,) if of_bytes else (x, kernel)
        y, pull_back = jax.vjp(lambda *of: form(*(x, *of)[-2:]), *wanted)
        return y, *pull_back(pull)

    def for_cpu(x, kernel):
        return kernels.convolve(x, kernel, 1, for_cpu=True, dtype=dtype, padding="SAME")

    def by_library(x, kernel):
        return kernels.convolve(x, kernel, 1, for_cpu=False, padding="SAME")

    got = convolved(for_cpu, x, kernel, pull)
    exact = (x, kernel, pull)
    if dtype == "bfloat16":
        exact = (x if of_bytes else rounded(x), rounded(kernel), rounded(pull))
    for ours, theirs in zip(got, convolved(by_library, *exact), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


def test_a_stride_that_does_not_divide_the_kernel_is_refused():
    with pytest.raises(ValueError, match="stride 2 does not divide"):
        kernels.conv_patches(jnp.zeros((1, 9, 9, 1)), 3, 2)


def test_gradient_of_matmul(rng):
    x = jnp.asarray(rng.normal(size=(5, 7)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 7)), jnp.float32)

    def summed(multiply):
        def loss(x, kernel):
            return jnp.sum(jnp.sin(multiply(x, kernel)))

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(x, kernel)

    want = summed(lambda x, kernel: jnp.einsum("bi,oi->bo", x, kernel))
    chex.assert_trees_all_close(summed(kernels.matmul), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("stack", "dtype"), [(4, np.uint8), (3, np.uint8), (4, np.float32)])
def test_stack_becomes_channels(monkeypatch, rng, stack, dtype):
    obs = rng.integers(0, 256, (2, stack, 5, 6)).astype(dtype)
    coloured = obs[..., None].repeat(3, -1)
    moved, moved_coloured = jax.tree.map(jax.jit(kernels.stack_to_channels), (obs, coloured))
    np.testing.assert_array_equal(moved, np.moveaxis(obs, 1, -1))
    np.testing.assert_array_equal(moved_coloured, np.moveaxis(obs, 1, -1).repeat(3, -1))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    np.testing.assert_array_equal(kernels.stack_to_channels(obs), moved)


@pytest.mark.parametrize("factor", [0.0, 0.3, 2.0])
def test_norm_and_clipping_are_optax_s_on_an_accelerator_too(monkeypatch, rng, factor):
    shapes = {"kernel": (1, 5, 7), "bias": (1, 5), "scalar": (), "long": (4, 9)}
    tree = {name: np.float32(rng.normal(size=shape)) for name, shape in shapes.items()}
    want = optax.tree.norm(tree)
    state = optax.EmptyState()
    clipped, _ = optax.clip_by_global_norm(factor * want).update(tree, state)
    monkeypatch.setattr(kernels, "SMALL_LEAF", 20)
    for backend in ("cpu", "gpu"):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        np.testing.assert_allclose(kernels.norm(tree), want, rtol=1e-6)
        clip = kernels.clip_by_norm(factor * want)
        assert clip.init(tree) == state
        chex.assert_trees_all_close(clip.update(tree, state)[0], clipped, rtol=1e-5)


def test_the_mean_is_numpy_s_in_both_forms(monkeypatch, rng):
    x = rng.normal(size=(2, 3, 50)).astype(np.float32)
    for on_cpu in (True, False):
        monkeypatch.setattr(kernels, "on_cpu", lambda on_cpu=on_cpu: on_cpu)
        np.testing.assert_allclose(kernels.mean(x), x.mean(axis=-1), rtol=1e-5, atol=1e-6)


def test_a_ring_is_told_how_to_lie_on_a_tpu_alone(monkeypatch):
    ring = jnp.zeros((3, 2, 128))

    def constraints(backend):
        monkeypatch.setattr(jax, "default_backend", lambda: backend)
        return str(jax.make_jaxpr(lambda x: kernels.in_row_order(x))(ring)).count("major_to_minor")

    assert (constraints("cpu"), constraints("gpu"), constraints("tpu")) == (0, 0, 1)


def test_an_option_that_xla_does_not_know_is_left_out(monkeypatch):
    jit = jax.jit

    def of_another_xla(function, compiler_options=None, **rest):
        def refused():
            raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: No such compile option")

        return refused if compiler_options else jit(function, **rest)

    monkeypatch.setattr(jax, "jit", of_another_xla)
    assert kernels.jit_learning(lambda x: x + 1, ())(1) == 2
