"""Torsos: from observations `[B, S, *frame_shape]` to features `[B, F]` that all heads share.

A new torso is one class with these three fields, and one entry in `TORSOS`.
"""

from collections.abc import Sequence
from typing import ClassVar

import chex
import flax.linen as nn
import jax.numpy as jnp

from jdqn import kernels
from jdqn.networks import layers


class Torso(nn.Module):
    """What every torso is told."""

    scale: float  # what a frame is multiplied by
    hidden: Sequence[int]  # `network.torso_hidden`, for those that have a choice
    for_cpu: bool
    compute_dtype: str = "float32"  # or bfloat16: of what is multiplied

    smallest_side: ClassVar[int] = 0  # of an image, channels last; 0: takes anything


class ConvTorso(Torso):
    """Convolutions with ReLU over the channels of all stacked frames."""

    convolutions: ClassVar[tuple[tuple[int, int, int], ...]]  # channels, size, stride of each

    @nn.compact
    def __call__(self, obs: chex.Array) -> chex.Array:
        """Images of bytes or floats, `[B, S, H, W]` or `[B, S, H, W, C]`."""
        x = kernels.stack_to_channels(obs)
        scale = self.scale
        for channels, size, stride in self.convolutions:
            conv = layers.Conv(channels, size, stride, self.for_cpu, self.compute_dtype)
            x = nn.relu(conv(x, scale))
            scale = 1.0
        return x.reshape(x.shape[0], -1)


class NatureTorso(ConvTorso):
    """The three convolutions of Mnih et al. 2015."""

    smallest_side: ClassVar[int] = 36
    convolutions = ((32, 8, 4), (64, 4, 2), (64, 3, 1))


class MinAtarTorso(ConvTorso):
    """The one convolution of Young & Tian 2019."""

    smallest_side: ClassVar[int] = 3
    convolutions = ((16, 3, 1),)


class FlatTorso(Torso):
    """Nothing shared: the observation as it is, scaled."""

    @nn.compact
    def __call__(self, obs: chex.Array) -> chex.Array:
        """Anything."""
        return flatten(obs, self.scale)


class MlpTorso(Torso):
    """Dense layers with ReLU."""

    @nn.compact
    def __call__(self, obs: chex.Array) -> chex.Array:
        """Anything."""
        x = flatten(obs, self.scale)
        for width in self.hidden:
            init = layers.fan_in_uniform(x.shape[-1])
            product = kernels.dot_general(self.compute_dtype)
            dense = nn.Dense(width, kernel_init=init, bias_init=init, dot_general=product)
            x = nn.relu(dense(x))
        return x


TORSOS: dict[str, type[Torso]] = {
    "nature": NatureTorso,
    "minatar": MinAtarTorso,
    "mlp": MlpTorso,
    "none": FlatTorso,
}


def flatten(obs: chex.Array, scale: float) -> chex.Array:
    """`[B, ...]` to `[B, F]` f32."""
    return obs.reshape(obs.shape[0], -1).astype(jnp.float32) * scale


def by_observation(frame_shape: tuple[int, ...]) -> str:
    """The torso that `auto` stands for: by the smaller side of an image, channels last."""
    side = smaller_side(frame_shape)
    if not side:
        return "mlp"
    return "minatar" if side < NatureTorso.smallest_side else "nature"


def smaller_side(frame_shape: tuple[int, ...]) -> int:
    """Of an image `(H, W)` or `(H, W, C)`; 0 for a vector."""
    return min(frame_shape[:2]) if len(frame_shape) >= 2 else 0
