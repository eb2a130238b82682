"""What only a GPU can show; without one these tests are skipped. `.ci/gpu` runs them."""

import functools
import os
import re
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny
from learning_helpers import quick_jit

from jdqn import kernels, learning, replay
from jdqn.records import EnvSpec, Timestep
from jdqn.runs import memory

pytestmark = pytest.mark.skipif(
    jax.default_backend() != "gpu", reason="needs a GPU that jax can use"
)
SPEC = EnvSpec((40, 40), np.dtype(np.uint8), 4, 3, 1 / 255)
TICKS = 24


def on_each(monkeypatch, make):
    """What `make()` returns on the CPU, in the forms for a CPU, and on the GPU, as NumPy arrays."""
    answers = []
    for platform in ("cpu", "gpu"):
        monkeypatch.setattr(jax, "default_backend", lambda platform=platform: platform)
        device = jax.local_devices(backend=platform)[0]
        with jax.default_device(device), jax.default_matmul_precision("highest"):
            answers.append(jax.tree.map(np.asarray, make()))
    return answers


def assert_near(one, other, error):
    """Each leaf, to a share of its largest entry."""
    for x, y in zip(*map(jax.tree.leaves, (one, other)), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=error * np.abs(y).max())


@pytest.mark.parametrize("agent", ["dqn", "rainbow", "bootstrapped"])
def test_an_update_is_that_of_a_cpu(monkeypatch, rng, agent):
    config = tiny("Breakout", agent=agent, env__frame_stack=4)
    shape = (TICKS, config.env.num_envs)
    no = np.zeros(shape, bool)
    frame = rng.integers(0, 256, (*shape, 40, 40), np.uint8)
    reward = rng.normal(size=shape).astype(np.float32)
    first = no.copy()
    first[0] = True
    steps = Timestep(frame, reward, no, no, first)
    action = rng.integers(0, 3, shape).astype(np.int32)

    def learned():
        ring = replay.make_replay(config, SPEC)
        made = learning.make_agent(config, SPEC, ring)
        state, _ = quick_jit(made.init)(jax.random.key(0))
        filled = quick_jit(ring.init)(jax.random.key(1))
        add = quick_jit(ring.add)
        for tick in range(TICKS):
            of_tick = jax.tree.map(lambda x, tick=tick: x[tick], (steps, action))
            filled = add(filled, *of_tick, tick)
        state, filled, metrics = jax.jit(made.learn)(state, filled, TICKS)
        return state.params, state.opt_state, filled.priorities.leaves, metrics

    on_cpu, on_gpu = on_each(monkeypatch, learned)
    assert_near(on_gpu, on_cpu, 1e-5)


@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-5), ("bfloat16", 2**-7)])
def test_products_and_convolutions_are_those_of_a_cpu_with_their_gradients(
    monkeypatch, rng, dtype, error
):
    """In bf16 a GPU rounds what a convolution gives too."""
    image = rng.integers(0, 256, (32, 20, 20, 4)).astype(np.uint8)
    second = rng.normal(size=(32, 9, 9, 16)).astype(np.float32)
    weights = [
        rng.normal(size=shape).astype(np.float32) / 20
        for shape in ((4, 4, 4, 16), (3, 3, 16, 8), (10, 16, 8), (10, 3, 16))
    ]

    def values():
        convolve = functools.partial(kernels.convolve, for_cpu=kernels.on_cpu(), dtype=dtype)

        def summed(weights, second):
            first = convolve(image, weights[0], 2, scale=1 / 255)
            x = convolve(first + second, weights[1], 1).mean(axis=(1, 2))
            x = kernels.dense(kernels.dense(x, weights[2], dtype), weights[3], dtype)
            return jnp.sum(jnp.sin(x)), x

        gradient = jax.jit(jax.value_and_grad(summed, argnums=(0, 1), has_aux=True))
        return gradient(weights, second)

    on_cpu, on_gpu = on_each(monkeypatch, values)
    assert_near(on_gpu, on_cpu, error)
    chex.assert_tree_all_finite(on_gpu)


def test_what_is_said_to_be_left_is_what_can_be_had():
    def fill(num_bytes):
        jnp.zeros((num_bytes >> 20, 2**20), jnp.uint8).block_until_ready()

    left = memory.available().num_bytes
    fill(int(0.9 * left))
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        fill(left + 2**28)


def test_a_replay_above_the_share_that_jax_takes_is_refused():
    """A twentieth of the GPU; the limit is in proportion to that of this process."""
    share = os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION", "") or "0.75"
    whole = jax.local_devices()[0].memory_stats()["bytes_limit"] / float(share)
    capacity = int(0.1 * whole / 400)
    command = [sys.executable, "-m", "jdqn.train", "--env", "minatar/Breakout"]
    answer = subprocess.run(
        [*command, "--replay.capacity", str(capacity)],
        env=os.environ | {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.05"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 2
    assert f"replay.capacity = {capacity}: the run needs " in answer.stderr
    limit = re.search(r"jax's limit of ([\d,]+) bytes on ", answer.stderr)
    assert limit is not None
    np.testing.assert_allclose(int(limit[1].replace(",", "")), 0.05 * whole, rtol=0.02)
