"""Flax modules: torsos, heads, the Q-network.

K is an axis, never a loop: one torso, head kernels stored `[in, K, out]`, and the first head layer
is ONE matmul `[B, in] × [in, K·out]`.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jdqn.config import Config, ConfigError
from jdqn.records import EnvSpec, QOutput


def fan_in_uniform(fan_in: int) -> nn.initializers.Initializer:
    """U(±1/√fan_in) for kernels and biases alike: Torch's default of 2013, hence Nature DQN's."""
    bound = 1.0 / math.sqrt(fan_in)

    def init(key: chex.PRNGKey, shape: Sequence[int], dtype: Any = jnp.float32) -> chex.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Conv(nn.Module):
    """Unpadded convolution over `[B, H, W, C]` with a HWIO kernel.

    On a CPU it is a matmul over patches (`conv_for_cpu`): XLA runs the library's convolution on
    one core there, and its gradient inside a scan as a naive loop. Parameters and results are
    the same in both forms.
    """

    features: int
    size: int
    stride: int
    for_cpu: bool

    @nn.compact
    def __call__(self, x: chex.Array, scale: float = 1.0) -> chex.Array:
        """Convolves `x`, u8 or f32, multiplied by `scale`; returns `[B, H', W', features]` f32."""
        chex.assert_rank(x, 4)
        channels = x.shape[-1]
        init = fan_in_uniform(self.size * self.size * channels)
        shape = (self.size, self.size, channels, self.features)
        kernel = self.param("kernel", init, shape) * scale  # smaller than scaling x
        bias = self.param("bias", init, (self.features,))
        convolve = conv_for_cpu if self.for_cpu else conv_by_library
        return convolve(x, kernel, self.stride) + bias[None, None, None, :]


def conv_by_library(x: chex.Array, kernel: chex.Array, stride: int) -> chex.Array:
    """XLA's convolution of `[B, H, W, C]`, u8 or f32, with `[k, k, C, O]`, unpadded."""
    return jax.lax.conv_general_dilated(
        x.astype(jnp.float32),
        kernel,
        (stride, stride),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv_for_cpu(x: chex.Array, kernel: chex.Array, stride: int) -> chex.Array:
    """The same by patches and one matmul; patches are space-to-depth: `stride` must divide `k`."""
    return _conv_forward(x, kernel, stride)[0]


Residuals = tuple[chex.Array, chex.Array, chex.Array]


def _conv_forward(x: chex.Array, kernel: chex.Array, stride: int) -> tuple[chex.Array, Residuals]:
    patches = conv_patches(x, kernel.shape[0], stride)
    y = patches @ _kernel_matrix(kernel, stride)
    return y.reshape(*patches.shape[:3], -1), (x, kernel, patches)


def _conv_backward(
    stride: int, residuals: Residuals, dy: chex.Array
) -> tuple[chex.Array | None, chex.Array]:
    x, kernel, patches = residuals
    rows = dy.reshape(-1, dy.shape[-1])
    matrix, kernel_vjp = jax.vjp(lambda k: _kernel_matrix(k, stride), kernel)
    # As (dYᵀ·X)ᵀ: XLA's CPU backend runs Xᵀ·dY slower, and without the barrier its simplifier
    # turns the first into the second.
    columns = patches.reshape(-1, patches.shape[-1])
    (d_kernel,) = kernel_vjp(jax.lax.optimization_barrier(rows.T @ columns).T)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return None, d_kernel
    _, patches_vjp = jax.vjp(lambda x: conv_patches(x, kernel.shape[0], stride), x)
    (d_x,) = patches_vjp((rows @ matrix.T).reshape(patches.shape))
    return d_x, d_kernel


conv_for_cpu.defvjp(_conv_forward, _conv_backward)


def conv_patches(x: chex.Array, size: int, stride: int) -> chex.Array:
    """What each output of a convolution sees: `[B, H, W, C]` to `[B, H', W', k·k·C]` f32.

    Built in the dtype of `x` (a quarter of the traffic for u8) and cast once.
    """
    batch, height, width, channels = x.shape
    if size % stride:
        raise ValueError(f"stride {stride} does not divide the kernel size {size}")
    reach = size // stride
    out_h, out_w = (height - size) // stride + 1, (width - size) // stride + 1
    if stride > 1:  # space to depth
        rows, columns = out_h + reach - 1, out_w + reach - 1
        x = x[:, : rows * stride, : columns * stride]
        packed = x.dtype == jnp.uint8 and channels == 4
        if packed:  # four channels move as one word
            x = jax.lax.bitcast_convert_type(x, jnp.uint32)[..., None]
        x = x.reshape(batch, rows, stride, columns, stride, -1).transpose(0, 1, 3, 2, 4, 5)
        if packed:
            # Without the barrier XLA would transpose once for each slice below.
            x = jax.lax.bitcast_convert_type(jax.lax.optimization_barrier(x), jnp.uint8)
        x = x.reshape(batch, rows, columns, -1)
    else:
        x = x.astype(jnp.float32)  # small images: one pass less
    slices = [x[:, i : i + out_h, j : j + out_w] for i in range(reach) for j in range(reach)]
    return jnp.concatenate(slices, axis=-1).astype(jnp.float32)


def _kernel_matrix(kernel: chex.Array, stride: int) -> chex.Array:
    """A HWIO kernel as the matrix that multiplies `conv_patches`, `[k·k·C, O]`."""
    size, _, channels, features = kernel.shape
    reach = size // stride
    blocks = kernel.reshape(reach, stride, reach, stride, channels, features)
    return blocks.transpose(0, 2, 1, 3, 4, 5).reshape(-1, features)


class HeadDense(nn.Module):
    """A dense layer of K heads, kernel `[in, K, out]`, bias `[K, out]`.

    Maps features shared by all heads `[B, in]` or each head's own `[B, K, in]` to `[B, K, out]`.
    """

    features: int
    heads: int

    @nn.compact
    def __call__(self, x: chex.Array) -> chex.Array:
        """Applies the layer."""
        chex.assert_rank(x, {2, 3})
        width = x.shape[-1]
        init = fan_in_uniform(width)
        kernel = self.param("kernel", init, (width, self.heads, self.features))
        bias = self.param("bias", init, (self.heads, self.features))
        if x.ndim == 2:
            y = (x @ kernel.reshape(width, -1)).reshape(-1, self.heads, self.features)
        elif self.heads == 1:  # a batched matmul of batch 1 is slower on a CPU
            y = (x[:, 0] @ kernel[:, 0])[:, None]
        else:
            y = jnp.einsum("bki,iko->bko", x, kernel)
        return y + bias[None]


class NatureTorso(nn.Module):
    """The three convolutions of Mnih et al. 2015: `[B, H, W, C]` to `[B, features]`."""

    scale: float
    for_cpu: bool

    @nn.compact
    def __call__(self, x: chex.Array) -> chex.Array:
        """Applies the torso to u8 or f32 images."""
        x = nn.relu(Conv(32, 8, 4, self.for_cpu)(x, self.scale))
        x = nn.relu(Conv(64, 4, 2, self.for_cpu)(x))
        x = nn.relu(Conv(64, 3, 1, self.for_cpu)(x))
        return x.reshape(x.shape[0], -1)


class MinAtarTorso(nn.Module):
    """The one convolution of Young & Tian 2019: `[B, 10, 10, C]` to `[B, features]`."""

    for_cpu: bool

    @nn.compact
    def __call__(self, x: chex.Array) -> chex.Array:
        """Applies the torso."""
        x = nn.relu(Conv(16, 3, 1, self.for_cpu)(x))
        return x.reshape(x.shape[0], -1)


class MlpTorso(nn.Module):
    """Dense layers with ReLU: `[B, in]` to `[B, widths[-1]]`."""

    widths: Sequence[int]

    @nn.compact
    def __call__(self, x: chex.Array) -> chex.Array:
        """Applies the torso."""
        for width in self.widths:
            init = fan_in_uniform(x.shape[-1])
            x = nn.relu(nn.Dense(width, kernel_init=init, bias_init=init)(x))
        return x


class QNetwork(nn.Module):
    """Torso, then K heads of hidden layers and Q-values."""

    num_actions: int
    torso: str  # nature, minatar, mlp or none
    torso_hidden: Sequence[int]
    hidden: Sequence[int]
    heads: int
    scale: float
    for_cpu: bool

    @nn.compact
    def __call__(self, obs: chex.Array) -> QOutput:
        """Q-values of every head.

        Args:
          obs: `[B, S, H, W]`, `[B, S, H, W, C]` (u8 or f32) or `[B, S, D]`.

        Returns:
          `q` of shape `[B, K, A]` f32.
        """
        if self.torso == "nature":
            x = NatureTorso(self.scale, self.for_cpu)(stack_to_channels(obs))
        elif self.torso == "minatar":
            x = MinAtarTorso(self.for_cpu)(stack_to_channels(obs))
        else:
            x = obs.reshape(obs.shape[0], -1).astype(jnp.float32) * self.scale
            x = MlpTorso(self.torso_hidden)(x) if self.torso == "mlp" else x
        # Osband et al. 2016, appendix D: the heads' gradients are averaged, not summed, in the
        # shared torso.
        x = optax.scale_gradient(x, 1.0 / self.heads)
        for width in self.hidden:
            x = nn.relu(HeadDense(width, self.heads)(x))
        return QOutput(q=HeadDense(self.num_actions, self.heads)(x))


def stack_to_channels(obs: chex.Array) -> chex.Array:
    """`[B, S, H, W]` to `[B, H, W, S]`, `[B, S, H, W, C]` to `[B, H, W, S·C]`."""
    chex.assert_rank(obs, {4, 5})
    if obs.ndim == 5:
        moved = jnp.moveaxis(obs, 1, -2)
        return moved.reshape(*moved.shape[:3], -1)
    if obs.dtype != jnp.uint8 or obs.shape[1] != 4:
        return jnp.moveaxis(obs, 1, -1)
    # Four frames are shifted into one word, which vectorises where a transposition of bytes does
    # not; the barrier keeps XLA from doing it again for each use.
    words = functools.reduce(
        jnp.bitwise_or, [obs[:, i].astype(jnp.uint32) << (8 * i) for i in range(4)]
    )
    return jax.lax.optimization_barrier(jax.lax.bitcast_convert_type(words, jnp.uint8))


def make_network(config: Config, spec: EnvSpec) -> QNetwork:
    """The network of a configuration; the convolution's form follows from the backend."""
    fields, shape = config.network, spec.frame_shape
    smallest = {"nature": 36, "minatar": 3}  # side of the smallest image for the convolutions
    side = min(shape[:2]) if len(shape) >= 2 else 0
    torso = fields.torso
    if torso == "auto":
        torso = "mlp" if not side else "minatar" if side < smallest["nature"] else "nature"
    if side < smallest.get(torso, 0):
        raise ConfigError(
            f"network.torso = {fields.torso!r}: the {torso} torso needs images of at least "
            f"{smallest[torso]} × {smallest[torso]} pixels, channels last; this environment gives "
            f"{shape}"
        )
    return QNetwork(
        num_actions=spec.num_actions,
        torso=torso,
        torso_hidden=tuple(fields.torso_hidden),
        hidden=tuple(fields.hidden),
        heads=fields.heads,
        scale=spec.scale,
        for_cpu=jax.default_backend() == "cpu",
    )
