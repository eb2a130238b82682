"""Torsos: from observations `[B, S, *frame_shape]` to features `[B, F]` that all heads share.

A new torso is one class with these fields, and one entry in `TORSOS`.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import chex
import flax.linen as nn
import flax.traverse_util
import jax.numpy as jnp

from jdqn import kernels
from jdqn.config.schema import Network
from jdqn.networks import layers, pooling

SPECTRAL_NORM = "spectral_norm"  # the collection of its power iterations


class Torso(nn.Module):
    """What every torso is told."""

    scale: float  # what a frame is multiplied by
    hidden: Sequence[int]  # `network.torso_hidden`, for those that have a choice
    for_cpu: bool
    compute_dtype: str = "float32"  # or bfloat16: of what is multiplied
    # For `impala`, `network.torso_width`, `torso_pool` and `spectral_norm`:
    width: int = 1
    pool: int = 0
    spectral_norm: bool = False

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


class ImpalaTorso(Torso):
    """The residual network of Espeholt et al. 2018, figure 3, without its dense layer and LSTM.

    An image too small for the nature torso goes through the first of the three stages alone, and
    through no adaptive pool.
    """

    stages: ClassVar[tuple[int, ...]] = (16, 32, 32)  # channels of width 1

    @nn.compact
    def __call__(self, obs: chex.Array) -> chex.Array:
        """Images of bytes or floats, `[B, S, H, W]` or `[B, S, H, W, C]`."""
        x = kernels.stack_to_channels(obs)
        scale = self.scale
        is_large = has_all_stages(x.shape[1:])
        for channels in self.stages if is_large else self.stages[:1]:
            x = pooling.max_pool(self._conv(channels * self.width)(x, scale))
            scale = 1.0
            for _ in range(2):
                x += self._residual(self._residual(x))
        x = nn.relu(x)
        if self.pool and is_large:
            x = pooling.adaptive_max_pool(x, self.pool)
        return x.reshape(x.shape[0], -1)

    def _conv(self, channels: int) -> layers.Conv:
        """A convolution that keeps rows and columns."""
        return layers.Conv(channels, 3, 1, self.for_cpu, self.compute_dtype, "SAME")

    def _residual(self, x: chex.Array) -> chex.Array:
        """Half of a residual block; the kernel perhaps divided by its largest singular value.

        As in Miyato et al. 2018: a step of power iteration in each pass, remembered where learning
        lets the network state change.
        """
        conv = self._conv(x.shape[-1])
        if not self.spectral_norm:
            return conv(nn.relu(x))
        normalised = nn.SpectralNorm(conv, collection_name=SPECTRAL_NORM)
        return normalised(nn.relu(x), update_stats=self.is_mutable_collection(SPECTRAL_NORM))


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
    "impala": ImpalaTorso,
    "mlp": MlpTorso,
    "none": FlatTorso,
}


def largest_singular_values(network_state: Any) -> list[chex.Array]:
    """What the spectral norm divides by, of each kernel; none without it."""
    flat = flax.traverse_util.flatten_dict(network_state.get(SPECTRAL_NORM, {}))
    return [value for path, value in flat.items() if path[-1].endswith("/sigma")]


def flatten(obs: chex.Array, scale: float) -> chex.Array:
    """`[B, ...]` to `[B, F]` f32."""
    return obs.reshape(obs.shape[0], -1).astype(jnp.float32) * scale


def chosen(torso: str, frame_shape: tuple[int, ...]) -> str:
    """The torso that a name stands for: `auto` by the smaller side of an image, channels last.

    `impala` is for images, vectors get the mlp all the same.
    """
    side = smaller_side(frame_shape)
    if not side and torso in ("auto", "impala"):
        return "mlp"
    if torso == "auto":
        return "nature" if side >= NatureTorso.smallest_side else "minatar"
    return torso


def says_torso(fields: Network, frame_shape: tuple[int, ...]) -> list[str]:
    """What a run says of the torso it has in place of the one that was asked for."""
    torso = chosen(fields.torso, frame_shape)
    if fields.torso not in ("auto", torso):
        asked = f'network.torso = "{fields.torso}"'
        return [f"{asked} is for images: observations of {frame_shape} get the mlp"]
    of_impala = {"torso_width": 1, "torso_pool": 0, "spectral_norm": False}  # off
    given = [f"network.{name}" for name, off in of_impala.items() if getattr(fields, name) != off]
    if torso == "impala" or not given:
        return []
    return [f"of the impala torso, not of {torso}: {', '.join(given)}"]


def has_all_stages(frame_shape: tuple[int, ...]) -> bool:
    """Whether an image is large enough for all stages and the adaptive pool of `impala`."""
    return smaller_side(frame_shape) >= NatureTorso.smallest_side


def smaller_side(frame_shape: tuple[int, ...]) -> int:
    """Of an image `(H, W)` or `(H, W, C)`; 0 for a vector."""
    return min(frame_shape[:2]) if len(frame_shape) >= 2 else 0
