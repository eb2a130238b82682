"""Layers with Torch's initial values: a convolution, and a dense layer of K heads."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from jdqn import kernels
from jdqn.networks import noise


def fan_in_uniform(fan_in: int) -> nn.initializers.Initializer:
    """U(±1/√fan_in) for kernels and biases alike: Torch's default of 2013, hence Nature DQN's."""
    return uniform(1.0 / math.sqrt(fan_in))


def uniform(bound: float) -> nn.initializers.Initializer:
    """U(±bound)."""

    def init(key: chex.PRNGKey, shape: Sequence[int], dtype: Any = jnp.float32) -> chex.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Conv(nn.Module):
    """Convolution over `[B, H, W, C]` with a HWIO kernel, in either form of `kernels`.

    Parameters are the same in both forms, so checkpoints do not depend on the backend.
    """

    features: int
    size: int
    stride: int
    for_cpu: bool
    compute_dtype: str = "float32"  # or bfloat16: of what is multiplied
    padding: str = "VALID"  # or SAME, of stride 1 alone

    @nn.compact
    def __call__(self, x: chex.Array, scale: float = 1.0) -> chex.Array:
        """Convolves `x`, u8 or f32, multiplied by `scale`; returns `[B, H', W', features]` f32."""
        chex.assert_rank(x, 4)
        channels = x.shape[-1]
        init = fan_in_uniform(self.size * self.size * channels)
        shape = (self.size, self.size, channels, self.features)
        kernel = self.param("kernel", init, shape)
        bias = self.param("bias", init, (self.features,))
        convolve = functools.partial(kernels.convolve, for_cpu=self.for_cpu, scale=scale)
        y = convolve(x, kernel, self.stride, dtype=self.compute_dtype, padding=self.padding)
        return y + bias[None, None, None, :]


class HeadDense(nn.Module):
    """A dense layer of K heads, kernel `[K, out, in]`, bias `[K, out]`, perhaps noisy.

    Maps features shared by all heads `[B, in]` or each head's own `[B, K, in]` to `[B, K, out]`.

    Noise (Fortunato et al. 2017) comes with a key: `rngs={"noise_per_env": key}` draws for each
    environment, as for acting, without building weight matrices. Without it the mean weights act;
    the one draw that a batch shares in learning is made by `noise.perturbed`.
    """

    features: int
    heads: int
    noisy: str = "none"  # none, factorised or independent
    sigma: float = 0.5
    inputs_per_env: int = 1  # rows of `x` in a row that share an environment's noise
    compute_dtype: str = "float32"  # or bfloat16: of what is multiplied

    @nn.compact
    def __call__(self, x: chex.Array) -> chex.Array:
        """Applies the layer."""
        chex.assert_rank(x, {2, 3})
        width = x.shape[-1]
        independent = self.noisy == "independent"
        init = uniform(math.sqrt(3 / width)) if independent else fan_in_uniform(width)
        shape = (self.heads, self.features, width)
        kernel = self.param("kernel", init, shape)
        bias = self.param("bias", init, shape[:2])
        dense = functools.partial(kernels.dense, dtype=self.compute_dtype)
        if self.noisy == "none":
            return dense(x, kernel) + bias[None]
        sigma = self.sigma if independent else self.sigma / math.sqrt(width)
        kernel_sigma = self.param("kernel_sigma", nn.initializers.constant(sigma), shape)
        bias_sigma = self.param("bias_sigma", nn.initializers.constant(sigma), shape[:2])
        mean = dense(x, kernel) + bias[None]
        if not self.has_rng("noise_per_env"):
            return mean
        in_key, out_key = jax.random.split(self.make_rng("noise_per_env"))
        if independent:  # a sum of independent normals is a normal
            variance = dense(jnp.square(x), jnp.square(kernel_sigma))
            variance += jnp.square(bias_sigma)[None]
            normal = self._for_each(jax.random.normal, out_key, mean.shape)
            return mean + normal * jnp.sqrt(variance)
        own = x if x.ndim == 3 else x[:, None]
        in_noise = self._for_each(noise.factor_noise, in_key, (x.shape[0], self.heads, width))
        noisy = dense(own * in_noise, kernel_sigma) + bias_sigma[None]
        return mean + noisy * self._for_each(noise.factor_noise, out_key, mean.shape)

    def _for_each(self, draw: Any, key: chex.PRNGKey, shape: tuple[int, ...]) -> chex.Array:
        """Noise `[B, ...]`, drawn once for each environment."""
        if self.inputs_per_env == 1:
            return draw(key, shape)
        drawn = draw(key, (shape[0] // self.inputs_per_env, *shape[1:]))
        return jnp.repeat(drawn, self.inputs_per_env, axis=0)


class QuantileEmbedding(nn.Module):
    """Features `[B, F]` times an embedding of each fraction `[B, n]`, to `[B, n, F]`.

    Dabney et al. 2018, eq. 4, with cosines of 1 to n in place of 0 to n - 1, as in DQN Zoo and
    Dopamine: the one of 0 is a bias.
    """

    num_cosines: int
    compute_dtype: str = "float32"  # or bfloat16: of what is multiplied

    @nn.compact
    def __call__(self, features: chex.Array, fractions: chex.Array) -> chex.Array:
        """Embeds each fraction on its own."""
        chex.assert_rank([features, fractions], 2)
        waves = jnp.pi * jnp.arange(1, self.num_cosines + 1)
        cosines = jnp.cos(fractions.reshape(-1, 1) * waves[None])
        init = fan_in_uniform(self.num_cosines)
        product = kernels.dot_general(self.compute_dtype)
        width = features.shape[-1]
        dense = nn.Dense(
            width, kernel_init=init, bias_init=init, dot_general=product, name="embedding"
        )
        embedding = nn.relu(dense(cosines)).reshape(*fractions.shape, width)
        return features[:, None] * embedding
