"""Flax modules: torsos, heads, the Q-network.

K is an axis, never a loop: one torso, head kernels stored `[in, K, out]`, and the first head layer
is ONE matmul `[B, in] × [in, K·out]`.
"""

import math
from collections.abc import Sequence
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jdqn.config import Config
from jdqn.records import EnvSpec, QOutput


def fan_in_uniform(fan_in: int) -> nn.initializers.Initializer:
    """U(±1/√fan_in) for kernels and biases alike: Torch's default of 2013, hence Nature DQN's."""
    bound = 1.0 / math.sqrt(fan_in)

    def init(key: chex.PRNGKey, shape: Sequence[int], dtype: Any = jnp.float32) -> chex.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Conv(nn.Module):
    """Unpadded convolution over `[B, H, W, C]` with a HWIO kernel, in one of two forms.

    The parameters and the result are the same. XLA's CPU backend runs the library convolution's
    gradient inside a scan as a naive loop, several times slower than the matmul form; on an
    accelerator the library is the fast one.
    """

    features: int
    size: int
    stride: int
    as_matmul: bool

    @nn.compact
    def __call__(self, x: chex.Array, scale: float = 1.0) -> chex.Array:
        """Convolves `x`, u8 or f32, multiplied by `scale`; returns `[B, H', W', features]` f32."""
        chex.assert_rank(x, 4)
        channels = x.shape[-1]
        init = fan_in_uniform(self.size * self.size * channels)
        shape = (self.size, self.size, channels, self.features)
        kernel = self.param("kernel", init, shape) * scale  # smaller than scaling x
        bias = self.param("bias", init, (self.features,))
        convolve = conv_as_matmul if self.as_matmul else conv_by_library
        return convolve(x, kernel, self.stride) + bias[None, None, None, :]


def conv_by_library(x: chex.Array, kernel: chex.Array, stride: int) -> chex.Array:
    """XLA's convolution of `[B, H, W, C]` with `[k, k, C, O]`, unpadded."""
    return jax.lax.conv_general_dilated(
        x.astype(jnp.float32),
        kernel,
        (stride, stride),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def conv_as_matmul(x: chex.Array, kernel: chex.Array, stride: int) -> chex.Array:
    """The same as space-to-depth, slices and one matmul; `stride` must divide `k`.

    Patches are built in the dtype of `x` (a quarter of the traffic for u8) and cast once.
    """
    batch, height, width, channels = x.shape
    size, _, _, features = kernel.shape
    if size % stride:
        raise ValueError(f"stride {stride} does not divide the kernel size {size}")
    out_h, out_w, reach = (
        (height - size) // stride + 1,
        (width - size) // stride + 1,
        size // stride,
    )
    if stride > 1:
        rows, columns = out_h + reach - 1, out_w + reach - 1
        x = x[:, : rows * stride, : columns * stride]
        x = x.reshape(batch, rows, stride, columns, stride, channels)
        x = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows, columns, -1)
    slices = [x[:, i : i + out_h, j : j + out_w] for i in range(reach) for j in range(reach)]
    patches = jnp.concatenate(slices, axis=-1).reshape(batch * out_h * out_w, -1)
    weights = kernel.reshape(reach, stride, reach, stride, channels, features)
    weights = weights.transpose(0, 2, 1, 3, 4, 5).reshape(-1, features)
    return matmul(patches.astype(jnp.float32), weights).reshape(batch, out_h, out_w, features)


@jax.custom_vjp
def matmul(x: chex.Array, w: chex.Array) -> chex.Array:
    """`x @ w` for a tall `x`, whose weight gradient is computed as (dYᵀ·X)ᵀ.

    XLA's CPU backend runs Xᵀ·dY four times slower than dYᵀ·X; without the barrier its simplifier
    turns the second back into the first.
    """
    return x @ w


def _matmul_forward(
    x: chex.Array, w: chex.Array
) -> tuple[chex.Array, tuple[chex.Array, chex.Array]]:
    return x @ w, (x, w)


def _matmul_backward(
    residuals: tuple[chex.Array, chex.Array], dy: chex.Array
) -> tuple[chex.Array, chex.Array]:
    x, w = residuals
    return dy @ w.T, jax.lax.optimization_barrier(dy.T @ x).T


matmul.defvjp(_matmul_forward, _matmul_backward)


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
    as_matmul: bool

    @nn.compact
    def __call__(self, x: chex.Array) -> chex.Array:
        """Applies the torso to u8 or f32 images."""
        x = nn.relu(Conv(32, 8, 4, self.as_matmul)(x, self.scale))
        x = nn.relu(Conv(64, 4, 2, self.as_matmul)(x))
        x = nn.relu(Conv(64, 3, 1, self.as_matmul)(x))
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
    torso: str  # nature, mlp or none
    torso_hidden: Sequence[int]
    hidden: Sequence[int]
    heads: int
    scale: float
    as_matmul: bool

    @nn.compact
    def __call__(self, obs: chex.Array) -> QOutput:
        """Q-values of every head.

        Args:
          obs: `[B, S, H, W]`, `[B, S, H, W, C]` (u8 or f32) or `[B, S, D]`.

        Returns:
          `q` of shape `[B, K, A]` f32.
        """
        if self.torso == "nature":
            x = NatureTorso(self.scale, self.as_matmul)(stack_to_channels(obs))
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
    if obs.ndim == 4:
        return jnp.moveaxis(obs, 1, -1)
    moved = jnp.moveaxis(obs, 1, -2)
    return moved.reshape(*moved.shape[:3], -1)


def make_network(config: Config, spec: EnvSpec) -> QNetwork:
    """The network of a configuration; the convolution's form follows from the backend."""
    fields = config.network
    torso = fields.torso
    if torso == "auto":
        torso = "nature" if len(spec.frame_shape) >= 2 else "mlp"
    return QNetwork(
        num_actions=spec.num_actions,
        torso=torso,
        torso_hidden=tuple(fields.torso_hidden),
        hidden=tuple(fields.hidden),
        heads=fields.heads,
        scale=spec.scale,
        as_matmul=jax.default_backend() == "cpu",
    )
