"""What depends on the backend: each form with its reason, and the choice between them.

Convolutions, dense products, the packing of bytes, the gradient's norm, options of `jit`, how the
ring lies in memory. The forms for a CPU were measured on two AVX-512 cores; elsewhere the library's
own forms run.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
from jax.experimental.layout import Layout, with_layout_constraint

LANES = 128  # of a TPU's vector registers, which hold the last axis of an array
SMALL_LEAF = (
    2**17
)  # entries of a parameter; elsewhere than on a CPU they are copied to save a kernel


def on_cpu() -> bool:
    """Whether programs run on a CPU: asked when they are built."""
    return jax.default_backend() == "cpu"


def on_tpu() -> bool:
    """Whether programs run on a TPU."""
    return jax.default_backend() == "tpu"


def stored_width(num_entries: int) -> int:
    """Entries of a row that a ring stores for `num_entries`: on a TPU perhaps a few more.

    Where the last axis does not fill the lanes, XLA puts another axis there, and copies the ring
    into the layout that a gather wants. Small rows would become many times as long.
    """
    if not on_tpu() or num_entries < LANES:
        return num_entries
    return -(-num_entries // LANES) * LANES


def in_row_order(ring: chex.Array) -> chex.Array:
    """A ring `[T, E, ...]` in a loop: on a TPU told to lie there as it is gathered from.

    The loop would take the layout of what is written last, and copy the ring for each gather.
    """
    if not on_tpu():
        return ring
    return with_layout_constraint(ring, Layout(major_to_minor=tuple(range(ring.ndim))))


def operand(x: chex.Array, dtype: str) -> chex.Array:
    """`x` f32 as a factor of a product in `dtype`: rounded, for bfloat16.

    On a CPU it stays f32: XLA has no products of bf16 there, or converts back and leaves out both
    conversions. The results are the same.
    """
    if dtype == "bfloat16" and on_cpu():
        return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)
    return x.astype(dtype)


def convolve(
    x: chex.Array,
    kernel: chex.Array,
    stride: int,
    *,
    scale: float = 1.0,
    for_cpu: bool,
    dtype: str = "float32",
    padding: str = "VALID",
) -> chex.Array:
    """Convolution of `scale` times `[B, H, W, C]`, u8 or f32, with `[k, k, C, O]`.

    Unpadded on a CPU it is a matmul over patches: XLA runs the library's convolution on one core
    there, and its gradient inside a scan as a naive loop. Results are the same in both forms, and
    f32; `dtype` is that of what is multiplied. Padded, `"SAME"`, `k` is odd and `stride` 1.
    """
    if for_cpu or dtype != "float32":  # the kernel is smaller than x, and bytes are exact in bf16
        kernel = kernel * scale
    else:
        x = x.astype(jnp.float32) * scale  # converted anyway
    if padding == "SAME" and for_cpu:
        return same_conv_for_cpu(x, kernel, dtype)
    if for_cpu:
        return conv_for_cpu(x, kernel, stride, dtype)
    return conv_by_library(x, kernel, stride, dtype, padding)


def conv_by_library(
    x: chex.Array,
    kernel: chex.Array,
    stride: int,
    dtype: str = "float32",
    padding: str = "VALID",
) -> chex.Array:
    """XLA's convolution of `[B, H, W, C]`, u8 or f32, with `[k, k, C, O]`.

    Its result is rounded to `dtype` too: cuDNN has no other, and for one in float32 XLA would not
    round the operands.
    """
    result = jax.lax.conv_general_dilated(
        x.astype(dtype),
        kernel.astype(dtype),
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return result.astype(jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv_for_cpu(
    x: chex.Array, kernel: chex.Array, stride: int, dtype: str = "float32"
) -> chex.Array:
    """The same by patches and a matmul; patches are space-to-depth: `stride` must divide `k`."""
    return _conv_forward(x, kernel, stride, dtype)[0]


Residuals = tuple[chex.Array, chex.Array, chex.Array]


def _conv_forward(
    x: chex.Array, kernel: chex.Array, stride: int, dtype: str
) -> tuple[chex.Array, Residuals]:
    of_bytes = not jnp.issubdtype(x.dtype, jnp.floating)
    matrix = operand(kernel_matrix(kernel, stride), dtype)
    rounded = x if of_bytes else operand(x, dtype)  # bytes are exact in bf16
    patches = conv_patches(rounded, kernel.shape[0], stride).astype(matrix.dtype)
    shape = patches.shape[:3]
    # The first layer has many rows for few outputs: XLA would leave its gradient to one core. It is
    # split in two here already, or XLA would build the patches twice, whole and split.
    parts = (2 - math.prod(shape) % 2,) if of_bytes else ()
    patches = patches.reshape(*parts, -1, len(matrix))
    y = multiply(patches, jnp.broadcast_to(matrix, (*parts, *matrix.shape)))
    return y.reshape(*shape, -1), (x, kernel, patches)


def _conv_backward(
    stride: int, dtype: str, residuals: Residuals, dy: chex.Array
) -> tuple[chex.Array | None, chex.Array]:
    x, kernel, patches = residuals
    rows = operand(dy.reshape(*patches.shape[:-1], -1), dtype)
    matrix, kernel_vjp = jax.vjp(lambda k: kernel_matrix(k, stride), kernel)
    # As (dYᵀ·X)ᵀ: XLA's CPU backend runs Xᵀ·dY slower, and without the barrier its simplifier
    # turns the first into the second.
    product = jax.lax.optimization_barrier(
        jnp.einsum("...no,...np->...op", rows, patches, preferred_element_type=jnp.float32)
    )
    if patches.ndim == 3:  # of bytes
        return None, kernel_vjp(jnp.sum(product, axis=0).T)[0]
    (d_kernel,) = kernel_vjp(product.T)
    _, patches_vjp = jax.vjp(lambda x: conv_patches(x, kernel.shape[0], stride), x)
    (d_x,) = patches_vjp(multiply(rows, operand(matrix, dtype).T).reshape(*dy.shape[:3], -1))
    return d_x, d_kernel


conv_for_cpu.defvjp(_conv_forward, _conv_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def same_conv_for_cpu(x: chex.Array, kernel: chex.Array, dtype: str = "float32") -> chex.Array:
    """The library's padded convolution of stride 1, with a gradient that is quick in a scan.

    Forward it takes half the time of patches (3 × 3, 16 or 32 channels). They are built for the
    kernel's gradient alone: kept, those of fifteen layers would be 290 MB for a batch of 32.
    """
    return _same_conv_forward(x, kernel, dtype)[0]


def _same_conv_forward(
    x: chex.Array, kernel: chex.Array, dtype: str
) -> tuple[chex.Array, tuple[chex.Array, chex.Array]]:
    rounded = operand(x.astype(jnp.float32), dtype)
    y = conv_by_library(rounded, operand(kernel, dtype), 1, padding="SAME")
    return y, (x, kernel)


def _same_conv_backward(
    dtype: str, residuals: tuple[chex.Array, chex.Array], dy: chex.Array
) -> tuple[chex.Array | None, chex.Array]:
    x, kernel = residuals
    dy = operand(dy, dtype)
    around = kernel.shape[0] // 2
    padded = jnp.pad(x, ((0, 0), (around, around), (around, around), (0, 0)))
    patches = operand(conv_patches(padded, kernel.shape[0], 1), dtype)
    # As in `_conv_backward`, barrier and all.
    rows = dy.reshape(-1, dy.shape[-1])
    columns = jax.lax.optimization_barrier(patches).reshape(len(rows), -1)
    d_kernel = jax.lax.optimization_barrier(multiply(rows.T, columns)).T.reshape(kernel.shape)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return None, d_kernel
    turned = operand(kernel[::-1, ::-1].swapaxes(2, 3), dtype)
    return conv_by_library(dy, turned, 1, padding="SAME"), d_kernel


same_conv_for_cpu.defvjp(_same_conv_forward, _same_conv_backward)


def conv_patches(x: chex.Array, size: int, stride: int) -> chex.Array:
    """What each output of a convolution sees: `[B, H, W, C]` to `[B, H', W', k·k·C]` f32.

    Built in the dtype of `x` (a quarter of the traffic for u8) and cast once.
    """
    batch, height, width, channels = x.shape
    if size % stride:
        raise ValueError(f"stride {stride} does not divide the kernel size {size}")
    reach = size // stride
    out_h = (height - size) // stride + 1
    out_w = (width - size) // stride + 1
    if stride > 1:  # space to depth
        rows = out_h + reach - 1
        columns = out_w + reach - 1
        x = x[:, : rows * stride, : columns * stride]
        packed = x.dtype == jnp.uint8 and channels == 4
        if packed:  # four channels move as one word
            x = jax.lax.bitcast_convert_type(x, jnp.uint32)[..., None]
        x = x.reshape(batch, rows, stride, columns, stride, -1).transpose(0, 1, 3, 2, 4, 5)
        if packed:
            # Without the barrier XLA would transpose once for each slice below.
            x = jax.lax.bitcast_convert_type(jax.lax.optimization_barrier(x), jnp.uint8)
        x = x.reshape(batch, rows, columns, -1)
    elif not jnp.issubdtype(x.dtype, jnp.floating):
        # Few channels: what lies side by side is joined first, and moves in longer pieces.
        x = x.astype(jnp.float32)
        x = jnp.concatenate([x[:, :, j : j + out_w] for j in range(reach)], axis=-1)
        return jnp.concatenate([x[:, i : i + out_h] for i in range(reach)], axis=-1)
    slices = [x[:, i : i + out_h, j : j + out_w] for i in range(reach) for j in range(reach)]
    return jnp.concatenate(slices, axis=-1).astype(jnp.float32)


def kernel_matrix(kernel: chex.Array, stride: int) -> chex.Array:
    """A HWIO kernel as the matrix that multiplies `conv_patches`, `[k·k·C, O]`."""
    size, _, channels, features = kernel.shape
    reach = size // stride
    blocks = kernel.reshape(reach, stride, reach, stride, channels, features)
    return blocks.transpose(0, 2, 1, 3, 4, 5).reshape(-1, features)


def dense(x: chex.Array, kernel: chex.Array, dtype: str = "float32") -> chex.Array:
    """`[B, in]` or `[B, K, in]` times `[K, out, in]`, multiplied in `dtype`, to `[B, K, out]`."""
    heads, features, width = kernel.shape
    if x.ndim == 2:
        return matmul(x, kernel.reshape(-1, width), dtype).reshape(-1, heads, features)
    if heads == 1:  # a batched matmul of batch 1 is slower on a CPU
        return matmul(x[:, 0], kernel[0], dtype)[:, None]
    if dtype == "float32":
        return jnp.einsum("bki,koi->bko", x, kernel)
    of_each = functools.partial(matmul, dtype=dtype)
    return jax.vmap(of_each, in_axes=(1, 0), out_axes=1)(x, kernel)


def multiply(x: chex.Array, y: chex.Array) -> chex.Array:
    """A matrix product, summed up in f32 whatever the factors are."""
    return jnp.matmul(x, y, preferred_element_type=jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def matmul(x: chex.Array, kernel: chex.Array, dtype: str = "float32") -> chex.Array:
    """`[B, in]` times `[out, in]`, multiplied in `dtype`, to `[B, out]` f32.

    On a CPU as (W·Xᵀ)ᵀ behind a barrier: for X·Wᵀ XLA would first pack the large matrix, at several
    times the cost of the product for ten heads of Nature's size.
    """
    return _matmul_forward(x, kernel, dtype)[0]


def _matmul_forward(x: chex.Array, kernel: chex.Array, dtype: str) -> tuple[chex.Array, tuple]:
    x = operand(x, dtype)
    kernel = operand(kernel, dtype)
    if on_cpu():
        return jax.lax.optimization_barrier(multiply(kernel, x.T)).T, (x, kernel)
    return multiply(x, kernel.T), (x, kernel)


def _matmul_backward(dtype: str, residuals: tuple, dy: chex.Array) -> tuple[chex.Array, chex.Array]:
    x, kernel = residuals
    dy = operand(dy, dtype)
    return multiply(dy, kernel), multiply(dy.T, x)


matmul.defvjp(_matmul_forward, _matmul_backward)


def dot_general(dtype: str) -> Callable[..., chex.Array]:
    """What `flax.linen.Dense` multiplies `[B, in]` and `[in, out]` by."""
    if dtype == "float32":
        return jax.lax.dot_general
    return lambda x, kernel, *_, **__: matmul(x, kernel.T, dtype)


def mean(x: chex.Array) -> chex.Array:
    """The mean over the last axis, `[..., Z]` f32 to `[...]`.

    On a CPU as a product: XLA's sums over the pairs of quantiles took seven times as long there.
    """
    if not on_cpu():
        return jnp.mean(x, axis=-1)
    return x @ jnp.full(x.shape[-1:], 1.0 / x.shape[-1], x.dtype)


def stack_to_channels(obs: chex.Array) -> chex.Array:
    """`[B, S, H, W]` to `[B, H, W, S]`, `[B, S, H, W, C]` to `[B, H, W, S·C]`."""
    chex.assert_rank(obs, {4, 5})
    if obs.ndim == 5:
        moved = jnp.moveaxis(obs, 1, -2)
        return moved.reshape(*moved.shape[:3], -1)
    if obs.dtype != jnp.uint8 or obs.shape[1] != 4 or not on_cpu():
        return jnp.moveaxis(obs, 1, -1)
    # Four frames are shifted into one word, which vectorises where a transposition of bytes does
    # not; the barrier keeps XLA from doing it again for each use.
    words = functools.reduce(
        jnp.bitwise_or, [obs[:, i].astype(jnp.uint32) << (8 * i) for i in range(4)]
    )
    return jax.lax.optimization_barrier(jax.lax.bitcast_convert_type(words, jnp.uint8))


def norm(tree: chex.ArrayTree) -> chex.Array:
    """The global norm of a tree; not on a CPU in few kernels, one for all small leaves."""
    if on_cpu():
        return optax.tree.norm(tree)
    leaves = jax.tree.leaves(tree)
    parts = [jnp.linalg.norm(x, axis=-1) if x.size > SMALL_LEAF else x for x in leaves]
    return jnp.linalg.norm(jnp.concatenate([x.reshape(-1) for x in parts]))


def clip_by_norm(max_norm: float) -> optax.GradientTransformation:
    """`optax.clip_by_global_norm`, by `norm`."""

    def clip(gradients: chex.ArrayTree, _: Any = None) -> chex.ArrayTree:
        factor = jnp.minimum(max_norm / norm(gradients), 1.0)
        return jax.tree.map(lambda x: x * factor, gradients)

    return optax.clip_by_global_norm(max_norm) if on_cpu() else optax.stateless(clip)


def norm_if(wanted: chex.Array, gradients: Callable[[], chex.ArrayTree]) -> chex.Array:
    """The global norm, or 0: a log event wants one in thousands, and it costs 5% of an update."""
    if not on_cpu():  # a branch would wait for the device
        return wanted * norm(gradients())
    return jax.lax.cond(wanted, lambda: norm(gradients()), lambda: jnp.zeros(()))


def jit_learning(
    function: Callable[..., Any], donate_argnums: int | tuple[int, ...], **options_of_jit: Any
) -> Any:
    """`jax.jit` of a program with `learn` in it.

    Without this analysis XLA's CPU backend copies all parameters at every update of the scan.
    """
    options = {"xla_cpu_copy_insertion_use_region_analysis": True}
    try:
        jax.jit(lambda: 0, compiler_options=options)()
    except jax.errors.JaxRuntimeError:  # an XLA that does not know it
        options = {}
    return jax.jit(
        function, donate_argnums=donate_argnums, compiler_options=options, **options_of_jit
    )
