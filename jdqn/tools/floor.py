"""The least time that an update could take here, and the two forms of the convolutions."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from jdqn import kernels
from jdqn.config import Config
from jdqn.learning import make_value_head
from jdqn.learning.model import ask, init_prior, init_variables, make_model
from jdqn.learning.values import Purpose
from jdqn.records import EnvSpec
from jdqn.tools.figures import Row, median_ms


def floor_of_an_update(
    config: Config, spec: EnvSpec, params: Any, update_ms: float
) -> Iterator[Row]:
    """The least time of one update: its arithmetic or its bytes at the rates measured here."""
    flops = update_flops(config, spec)
    num_params = sum(x.size for x in jax.tree.leaves(params))
    # Parameters, two moments read and written; the gradient written and read; target read.
    num_bytes = 4 * num_params * 9
    size = 2048 if kernels.on_cpu() else 8192
    dtype = config.network.compute_dtype
    rate = _matmul_rate(size, dtype)
    bandwidth = _bandwidth()
    arithmetic_ms = 1e3 * flops / rate
    memory_ms = 1e3 * num_bytes / bandwidth
    floor_ms = max(arithmetic_ms, memory_ms)
    yield Row(f"{dtype} matmul", rate / 1e9, "GFLOP/s", f"{size} × {size}")
    yield Row("memory bandwidth", bandwidth / 1e9, "GB/s", "read + written")
    traffic = f"parameters and moments {num_bytes / 1e6:.0f} MB {memory_ms:.2f} ms"
    note = f"{flops / 1e9:.2f} GFLOP {arithmetic_ms:.2f} ms, {traffic}"
    yield Row("floor of an update", floor_ms, "ms", note)
    yield Row("update / floor", update_ms / floor_ms, "×")


def _matmul_rate(size: int, dtype: str) -> float:
    """FLOP/s of a square product of factors in `dtype`."""
    a = kernels.operand(jax.random.normal(jax.random.key(0), (size, size)), dtype)
    multiply = jax.jit(kernels.multiply)
    return 2 * size**3 / (1e-3 * median_ms(lambda i: multiply(a, a), 10))


def _bandwidth() -> float:
    """Bytes per second, read and written."""
    big = jnp.ones((2**26 if kernels.on_cpu() else 2**28,), jnp.float32)
    num_bytes = big.nbytes
    rewrite = jax.jit(lambda x: x + 1.0, donate_argnums=0)  # in place: no page faults

    def call(_: int) -> jax.Array:
        nonlocal big
        big = rewrite(big)
        return big

    return 2 * num_bytes / (1e-3 * median_ms(call, 10))


def update_flops(config: Config, spec: EnvSpec) -> float:
    """Floating-point operations of one update, counted by XLA on the library's convolutions."""
    params, obs, summed = _summed_network(config, spec, for_cpu=False)
    params, obs = jax.eval_shape(lambda *x: x, params, obs)

    def count(f: Callable[..., Any]) -> float:
        with jax.default_device(jax.local_devices(backend="cpu")[0]):  # others do not count
            analysis = jax.jit(f).lower(params, obs).cost_analysis()
        return float(analysis["flops"] if analysis else "nan")

    # The selector is another pass where it is not the target; Munchausen asks it about `obs` too.
    is_apart = config.agent.double or make_value_head(config).draw is not None
    selections = is_apart + bool(config.agent.munchausen_scale)
    gradient = count(jax.value_and_grad(summed("online")))  # the loss needs the outputs too
    return gradient + count(summed("target")) + selections * count(summed("acting"))


def convolutions(config: Config, spec: EnvSpec) -> Iterator[Row]:
    """The network in both forms of its convolutions; `kernels.convolve` picks one by backend."""
    for name, for_cpu in (("patches", True), ("library", False)):
        params, obs, summed = _summed_network(config, spec, for_cpu=for_cpu)
        forward = summed("online")
        for what, function in (("forward", forward), ("gradient", jax.grad(forward))):
            call = jax.jit(function)
            ms = median_ms(lambda _: call(params, obs), 20)  # noqa: B023
            yield Row(f"{what}, by {name}", ms, "ms", f"network alone, {len(obs)} observations")


def _summed_network(config: Config, spec: EnvSpec, *, for_cpu: bool) -> tuple[Any, jax.Array, Any]:
    """Variables, a batch, and the sum of outputs as a function of both, by a pass's purpose."""
    model = make_model(config, spec, make_value_head(config))
    model = model._replace(mean_network=model.mean_network.clone(for_cpu=for_cpu))
    shape = (config.replay.batch_size, spec.frame_stack, *spec.frame_shape)
    obs = jnp.ones(shape, spec.frame_dtype)
    key = jax.random.key(0)
    params, network_state = init_variables(model, key, obs)
    prior = init_prior(model, key, obs)

    def summed(purpose: Purpose) -> Callable[[Any, jax.Array], jax.Array]:
        # Without samples of its own, the prior has answered the same in the pass before.
        has_answered = purpose == "acting" and model.value_head.draw is None
        of_pass = None if has_answered else prior

        def forward(params: Any, obs: jax.Array) -> jax.Array:
            variables = {**params, **network_state}
            answer, _ = ask(model, variables, of_pass, obs, key=key, purpose=purpose)
            return jnp.sum(jnp.asarray(answer.raw))

        return forward

    return params, obs, summed
