"""Noise on the weights (Fortunato et al. 2017): the one draw that a batch shares in learning."""

import math
from collections.abc import Sequence
from typing import Any

import chex
import flax.traverse_util
import jax
import jax.numpy as jnp

SIGMAS = {"factorised": 0.5, "independent": 0.017}  # Fortunato et al. 2017, section 3.2


def factor_noise(key: chex.PRNGKey, shape: Sequence[int]) -> chex.Array:
    """sign(ε)·√|ε| of normal ε, the f of factorised noise.

    The sign is that of the uniform number behind ε: XLA stores the root and repeats only what is
    cheap where the noise is used, else it would repeat most of the draw for every weight.
    """
    uniform = jax.random.uniform(key, shape, minval=-1.0 + 2.0**-24, maxval=1.0)
    return jnp.sign(uniform) * jnp.sqrt(math.sqrt(2) * jnp.abs(jax.lax.erf_inv(uniform)))


Noise = dict[tuple[str, ...], tuple[chex.Array, chex.Array]]


def draw_noise(params: Any, key: chex.PRNGKey, independent: bool) -> Noise:
    """One draw for every noisy layer, each head its own, by the layer's path.

    Independent: noise of the kernel `[K, out, in]` and the bias `[K, out]`. Factorised: f(ε) of the
    inputs `[K, in]` and the outputs `[K, out]`.
    """
    flat = flax.traverse_util.flatten_dict(params)
    draw = jax.random.normal if independent else factor_noise
    noise: Noise = {}
    for i, path in enumerate(sorted(path for path in flat if path[-1] == "kernel_sigma")):
        shape = flat[path].shape
        heads, features, width = shape
        in_key, out_key = jax.random.split(jax.random.fold_in(key, i))
        first = draw(in_key, shape if independent else (heads, width))
        noise[path[:-1]] = (first, draw(out_key, (heads, features)))
    return noise


def perturbed(params: Any, noise: Noise) -> Any:
    """Parameters for the network without noise: μ + σ∘ε for each layer that `noise` names.

    Outside the network, so that the gradient of σ, ε times that of μ, need not be stored.
    """
    flat = flax.traverse_util.flatten_dict(params)
    for layer, (of_kernel, of_bias) in noise.items():
        if of_kernel.ndim == 2:
            of_kernel = of_bias[:, :, None] * of_kernel[:, None]
        flat[*layer, "kernel"] += flat.pop((*layer, "kernel_sigma")) * of_kernel
        flat[*layer, "bias"] += flat.pop((*layer, "bias_sigma")) * of_bias
    return flax.traverse_util.unflatten_dict(flat)


def signal_to_noise(params: Any) -> dict[str, chex.Array]:
    """RMS(μ) / RMS(σ) of every noisy layer's kernel, by the layer's name."""
    flat = flax.traverse_util.flatten_dict(params)
    return {
        path[-2]: jnp.linalg.norm(flat[*path[:-1], "kernel"]) / jnp.linalg.norm(sigma)
        for path, sigma in flat.items()
        if path[-1] == "kernel_sigma"
    }
