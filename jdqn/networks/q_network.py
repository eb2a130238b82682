"""The Q-network: a torso, then K heads.

K is an axis, never a loop: one torso, head kernels stored `[K, out, in]`, and the first head layer
is ONE matmul `[K·out, in] × [in, B]`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jdqn import kernels
from jdqn.config import Config, ConfigError
from jdqn.networks import layers, noise, torsos
from jdqn.records import EnvSpec

# Makes a module of features [B, F] and samples, to [B, n, F'].
Layer = Callable[..., nn.Module]


class QNetwork(nn.Module):
    """Torso, what the value head puts between, then K heads of hidden layers and outputs."""

    num_actions: int
    torso: str  # a name of `torsos.TORSOS`
    torso_hidden: Sequence[int]
    hidden: Sequence[int]
    heads: int
    scale: float
    for_cpu: bool
    num_outputs: int = 1  # Z of each action: what the value head reads Q from
    layer: Layer | None = None
    dueling: str = "none"  # none, mean, max or sum
    noisy: str = "none"
    noisy_sigma: float = 0.5
    compute_dtype: str = "float32"  # or bfloat16: of what layers below the outputs multiply
    torso_width: int = 1
    torso_pool: int = 0
    spectral_norm: bool = False

    @nn.compact
    def __call__(self, obs: chex.Array, samples: Any = None) -> chex.Array:
        """Raw output of every head.

        Args:
          obs: `[B, S, H, W]`, `[B, S, H, W, C]` (u8 or f32) or `[B, S, D]`.
          samples: what the value head drew, for `layer` alone.

        Returns:
          `[B, K, A, Z]` f32, or `[B, K, A, n·Z]` of `n` samples; the value head reads them.
        """
        told = (self.scale, self.torso_hidden, self.for_cpu, self.compute_dtype)
        of_impala = (self.torso_width, self.torso_pool, self.spectral_norm)
        x = torsos.TORSOS[self.torso](*told, *of_impala)(obs)
        num_samples = 1
        if self.layer is not None:
            x = self.layer(name="value_layer")(x, samples)
            num_samples = x.shape[1]
            x = x.reshape(-1, x.shape[2])
        # The heads' gradients are averaged, not summed, in the shared torso (Osband et al. 2016,
        # appendix D), and those of two streams divided by √2 (Wang et al. 2015, section 4.2).
        streams = 1 if self.dueling == "none" else 2
        x = optax.scale_gradient(x, 1.0 / (self.heads * math.sqrt(streams)))
        if self.dueling == "none":
            raw = self._stream("q", x, self.num_actions, num_samples)
        else:
            value = self._stream("value", x, 1, num_samples)
            advantage = self._stream("advantage", x, self.num_actions, num_samples)
            raw = value + centred(advantage, self.dueling)
        return raw if self.layer is None else samples_last(raw, num_samples)

    def _stream(self, name: str, x: chex.Array, outputs: int, num_samples: int) -> chex.Array:
        """Hidden layers and an output of each head, `[B, K, outputs, Z]`.

        Outputs are multiplied in float32 always, also where the default is TF32 (GPU) or bfloat16
        (TPU): what tells actions apart is small beside Q-values.
        """

        def dense(width: int, name: str, dtype: str) -> layers.HeadDense:
            noisy = (self.noisy, self.noisy_sigma, num_samples)
            return layers.HeadDense(width, self.heads, *noisy, dtype, name=name)

        for i, width in enumerate(self.hidden):
            x = nn.relu(dense(width, f"{name}_hidden_{i}", self.compute_dtype)(x))
        with jax.default_matmul_precision("highest"):
            x = dense(outputs * self.num_outputs, name, "float32")(x)
        return x.reshape(*x.shape[:2], outputs, self.num_outputs)


def samples_last(raw: chex.Array, num_samples: int) -> chex.Array:
    """`[B·n, K, A, Z]` to `[B, K, A, n·Z]`."""
    apart = raw.reshape(-1, num_samples, *raw.shape[1:])
    moved = jnp.moveaxis(apart, 1, 3)
    return moved.reshape(*moved.shape[:3], -1)


def centred(advantage: chex.Array, dueling: str) -> chex.Array:
    """Advantages `[B, K, A, Z]` less their mean or maximum over actions (Wang et al., eq. 8, 9)."""
    if dueling == "mean":
        return advantage - jnp.mean(advantage, axis=2, keepdims=True)
    if dueling == "max":
        # Not jnp.max: its gradient looks for the maximum in values that a compiler may have
        # computed twice, differently, and divides by none found.
        best = jnp.argmax(advantage, axis=2, keepdims=True)
        return advantage - jnp.take_along_axis(advantage, best, axis=2)
    return advantage  # sum: eq. 7


def make_network(
    config: Config,
    spec: EnvSpec,
    *,
    num_outputs: int = 1,
    layer: Layer | None = None,
) -> QNetwork:
    """The network of a configuration; the convolution's form follows from the backend.

    Args:
      config: uses section `network`.
      spec: the shape of a frame, its scale, A.
      num_outputs: Z, the value head's.
      layer: the value head's, or none.

    Raises:
      ConfigError: images too small for the torso's convolutions.
    """
    fields = config.network
    torso = torsos.chosen(fields.torso, spec.frame_shape)
    smallest = torsos.TORSOS[torso].smallest_side
    if torsos.smaller_side(spec.frame_shape) < smallest:
        raise ConfigError(
            f"network.torso = {fields.torso!r}: the {torso} torso needs images of at least "
            f"{smallest} × {smallest} pixels, channels last; this environment gives "
            f"{spec.frame_shape}"
        )
    return QNetwork(
        num_actions=spec.num_actions,
        torso=torso,
        torso_hidden=tuple(fields.torso_hidden),
        hidden=tuple(fields.hidden),
        heads=fields.heads,
        scale=spec.scale,
        for_cpu=kernels.on_cpu(),
        num_outputs=num_outputs,
        layer=layer,
        dueling=fields.dueling,
        noisy=fields.noisy,
        noisy_sigma=fields.noisy_sigma or noise.SIGMAS.get(fields.noisy, 0.0),
        compute_dtype=fields.compute_dtype,
        torso_width=fields.torso_width,
        torso_pool=fields.torso_pool,
        spectral_norm=fields.spectral_norm,
    )
