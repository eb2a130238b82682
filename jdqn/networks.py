"""Flax modules: torsos, heads, the Q-network.

K is an axis, never a loop: one torso, head kernels stored `[K, out, in]`, and the first head layer
is ONE matmul `[K·out, in] × [in, B]`.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import chex
import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import optax

from jdqn.config import Config, ConfigError
from jdqn.records import EnvSpec, QOutput


def fan_in_uniform(fan_in: int) -> nn.initializers.Initializer:
    """U(±1/√fan_in) for kernels and biases alike: Torch's default of 2013, hence Nature DQN's."""
    return uniform(1.0 / math.sqrt(fan_in))


def uniform(bound: float) -> nn.initializers.Initializer:
    """U(±bound)."""

    def init(key: chex.PRNGKey, shape: Sequence[int], dtype: Any = jnp.float32) -> chex.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


SIGMAS = {"factorised": 0.5, "independent": 0.017}  # Fortunato et al. 2017, section 3.2


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
    """The same by patches and a matmul; patches are space-to-depth: `stride` must divide `k`."""
    return _conv_forward(x, kernel, stride)[0]


Residuals = tuple[chex.Array, chex.Array, chex.Array]


def _conv_forward(x: chex.Array, kernel: chex.Array, stride: int) -> tuple[chex.Array, Residuals]:
    patches, matrix = conv_patches(x, kernel.shape[0], stride), _kernel_matrix(kernel, stride)
    shape, of_bytes = patches.shape[:3], not jnp.issubdtype(x.dtype, jnp.floating)
    # The first layer has many rows for few outputs: XLA would leave its gradient to one core. It is
    # split in two here already, or XLA would build the patches twice, whole and split.
    parts = (2 - math.prod(shape) % 2,) if of_bytes else ()
    patches = patches.reshape(*parts, -1, len(matrix))
    y = patches @ jnp.broadcast_to(matrix, (*parts, *matrix.shape))
    return y.reshape(*shape, -1), (x, kernel, patches)


def _conv_backward(
    stride: int, residuals: Residuals, dy: chex.Array
) -> tuple[chex.Array | None, chex.Array]:
    x, kernel, patches = residuals
    rows = dy.reshape(*patches.shape[:-1], -1)
    matrix, kernel_vjp = jax.vjp(lambda k: _kernel_matrix(k, stride), kernel)
    # As (dYᵀ·X)ᵀ: XLA's CPU backend runs Xᵀ·dY slower, and without the barrier its simplifier
    # turns the first into the second.
    product = jax.lax.optimization_barrier(jnp.einsum("...no,...np->...op", rows, patches))
    if patches.ndim == 3:  # of bytes
        return None, kernel_vjp(jnp.sum(product, axis=0).T)[0]
    (d_kernel,) = kernel_vjp(product.T)
    _, patches_vjp = jax.vjp(lambda x: conv_patches(x, kernel.shape[0], stride), x)
    (d_x,) = patches_vjp((rows @ matrix.T).reshape(*dy.shape[:3], -1))
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
    elif not jnp.issubdtype(x.dtype, jnp.floating):
        # Few channels: what lies side by side is joined first, and moves in longer pieces.
        x = x.astype(jnp.float32)
        x = jnp.concatenate([x[:, :, j : j + out_w] for j in range(reach)], axis=-1)
        return jnp.concatenate([x[:, i : i + out_h] for i in range(reach)], axis=-1)
    slices = [x[:, i : i + out_h, j : j + out_w] for i in range(reach) for j in range(reach)]
    return jnp.concatenate(slices, axis=-1).astype(jnp.float32)


def _kernel_matrix(kernel: chex.Array, stride: int) -> chex.Array:
    """A HWIO kernel as the matrix that multiplies `conv_patches`, `[k·k·C, O]`."""
    size, _, channels, features = kernel.shape
    reach = size // stride
    blocks = kernel.reshape(reach, stride, reach, stride, channels, features)
    return blocks.transpose(0, 2, 1, 3, 4, 5).reshape(-1, features)


class HeadDense(nn.Module):
    """A dense layer of K heads, kernel `[K, out, in]`, bias `[K, out]`, perhaps noisy.

    Maps features shared by all heads `[B, in]` or each head's own `[B, K, in]` to `[B, K, out]`.

    Noise (Fortunato et al. 2017) comes with a key: `rngs={"noise_per_env": key}` draws for each
    input, as for acting, without building weight matrices. Without it the mean weights act; the one
    draw that a batch shares in learning is made by `perturbed`.
    """

    features: int
    heads: int
    noisy: str = "none"  # none, factorised or independent
    sigma: float = 0.5

    @nn.compact
    def __call__(self, x: chex.Array) -> chex.Array:
        """Applies the layer."""
        chex.assert_rank(x, {2, 3})
        width, independent = x.shape[-1], self.noisy == "independent"
        init = uniform(math.sqrt(3 / width)) if independent else fan_in_uniform(width)
        shape = (self.heads, self.features, width)
        kernel = self.param("kernel", init, shape)
        bias = self.param("bias", init, shape[:2])
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
            variance = dense(jnp.square(x), jnp.square(kernel_sigma)) + jnp.square(bias_sigma)[None]
            return mean + jax.random.normal(out_key, mean.shape) * jnp.sqrt(variance)
        own = x if x.ndim == 3 else x[:, None]
        in_noise = factor_noise(in_key, (x.shape[0], self.heads, width))
        noisy = dense(own * in_noise, kernel_sigma) + bias_sigma[None]
        return mean + noisy * factor_noise(out_key, mean.shape)


def dense(x: chex.Array, kernel: chex.Array) -> chex.Array:
    """`[B, in]` or `[B, K, in]` times `[K, out, in]`, to `[B, K, out]`."""
    heads, features, width = kernel.shape
    if x.ndim == 2:
        return matmul(x, kernel.reshape(-1, width)).reshape(-1, heads, features)
    if heads == 1:  # a batched matmul of batch 1 is slower on a CPU
        return matmul(x[:, 0], kernel[0])[:, None]
    return jnp.einsum("bki,koi->bko", x, kernel)


@jax.custom_vjp
def matmul(x: chex.Array, kernel: chex.Array) -> chex.Array:
    """`[B, in]` times `[out, in]`, to `[B, out]`.

    On a CPU as (W·Xᵀ)ᵀ behind a barrier: for X·Wᵀ XLA would first pack the large matrix, at several
    times the cost of the product for ten heads of Nature's size.
    """
    on_cpu = jax.default_backend() == "cpu"
    return jax.lax.optimization_barrier(kernel @ x.T).T if on_cpu else x @ kernel.T


def _matmul_forward(x: chex.Array, kernel: chex.Array) -> tuple[chex.Array, tuple]:
    return matmul(x, kernel), (x, kernel)


def _matmul_backward(residuals: tuple, dy: chex.Array) -> tuple[chex.Array, chex.Array]:
    x, kernel = residuals
    return dy @ kernel, dy.T @ x


matmul.defvjp(_matmul_forward, _matmul_backward)


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
    flat, noise = flax.traverse_util.flatten_dict(params), {}
    draw = jax.random.normal if independent else factor_noise
    for i, path in enumerate(sorted(path for path in flat if path[-1] == "kernel_sigma")):
        heads, features, width = shape = flat[path].shape
        in_key, out_key = jax.random.split(jax.random.fold_in(key, i))
        first = draw(in_key, shape if independent else (heads, width))
        noise[path[:-1]] = first, draw(out_key, (heads, features))
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

    scale: float
    for_cpu: bool

    @nn.compact
    def __call__(self, x: chex.Array) -> chex.Array:
        """Applies the torso."""
        x = nn.relu(Conv(16, 3, 1, self.for_cpu)(x, self.scale))
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
    """Torso, then K heads of hidden layers and outputs, dueling or not."""

    num_actions: int
    torso: str  # nature, minatar, mlp or none
    torso_hidden: Sequence[int]
    hidden: Sequence[int]
    heads: int
    scale: float
    for_cpu: bool
    atoms: int = 1  # 1: Q-values; more: logits of a distribution over them
    dueling: str = "none"  # none, mean, max or sum
    noisy: str = "none"
    noisy_sigma: float = 0.5

    @nn.compact
    def __call__(self, obs: chex.Array) -> chex.Array:
        """Raw output of every head.

        Args:
          obs: `[B, S, H, W]`, `[B, S, H, W, C]` (u8 or f32) or `[B, S, D]`.

        Returns:
          `[B, K, A, Z]` f32: Q-values with one atom, else logits; `q_output` reads them.
        """
        if self.torso == "nature":
            x = NatureTorso(self.scale, self.for_cpu)(stack_to_channels(obs))
        elif self.torso == "minatar":
            x = MinAtarTorso(self.scale, self.for_cpu)(stack_to_channels(obs))
        else:
            x = obs.reshape(obs.shape[0], -1).astype(jnp.float32) * self.scale
            x = MlpTorso(self.torso_hidden)(x) if self.torso == "mlp" else x
        # The heads' gradients are averaged, not summed, in the shared torso (Osband et al. 2016,
        # appendix D), and those of two streams divided by √2 (Wang et al. 2015, section 4.2).
        streams = 1 if self.dueling == "none" else 2
        x = optax.scale_gradient(x, 1.0 / (self.heads * math.sqrt(streams)))
        if self.dueling == "none":
            return self._stream("q", x, self.num_actions)
        value = self._stream("value", x, 1)
        advantage = self._stream("advantage", x, self.num_actions)
        return value + centred(advantage, self.dueling)

    def _stream(self, name: str, x: chex.Array, outputs: int) -> chex.Array:
        """Hidden layers and an output of each head, `[B, K, outputs, Z]`."""
        for i, width in enumerate(self.hidden):
            x = nn.relu(self._dense(width, f"{name}_hidden_{i}")(x))
        x = self._dense(outputs * self.atoms, name)(x)
        return x.reshape(*x.shape[:2], outputs, self.atoms)

    def _dense(self, width: int, name: str) -> HeadDense:
        return HeadDense(width, self.heads, self.noisy, self.noisy_sigma, name=name)


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


def q_output(raw: chex.Array, atoms: chex.Array) -> QOutput:
    """Reads raw outputs `[B, K, A, Z]`: Q-values, or logits over the values `atoms` `[Z]`."""
    if atoms.size == 1:
        return QOutput(raw[..., 0], None)
    return QOutput(jnp.sum(jax.nn.softmax(raw, axis=-1) * atoms[None, None, None], axis=-1), raw)


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
        atoms=fields.atoms,
        dueling=fields.dueling,
        noisy=fields.noisy,
        noisy_sigma=fields.noisy_sigma or SIGMAS.get(fields.noisy, 0.0),
    )
