"""The floor of an update: its operations and bytes, and the two forms of the convolutions."""

import types

import jax
import numpy as np
import pytest
from helpers import tiny, vector_spec

from jdqn.tools import floor

pytestmark = pytest.mark.usefixtures("quick_compilation")

WIDE = {"network__torso_hidden": [64], "network__hidden": [64]}
# Multiply-adds for one observation, of the layers 2 × 3 → 64 → 64 → 3.
LAYERS = np.array([6 * 64, 64 * 64, 64 * 3])
BATCH = 8


def test_the_operations_of_an_update_are_those_of_its_layers():
    """The gradient: each layer forward and for its weights, all but the first for its input."""
    configs = [tiny(agent__double=double, **WIDE) for double in (False, True)]
    found = [floor.update_flops(config, vector_spec()) for config in configs]
    forward = 2 * BATCH * LAYERS.sum()
    gradient = 2 * forward + 2 * BATCH * LAYERS[1:].sum()
    assert found[0] == pytest.approx(gradient + forward, rel=0.05)  # biases, ReLU
    assert found[1] - found[0] == pytest.approx(forward, rel=0.05)


def test_the_operations_of_impala_are_those_of_its_convolutions_and_its_heads():
    """On images of 10 × 10, whose padding is not multiplied: one stage, whose pool leaves 5 × 5."""
    config = tiny(network__torso="impala", network__hidden=[])
    spec = vector_spec()._replace(frame_shape=(10, 10, 3), frame_dtype=np.dtype(np.uint8))
    first = (3 * 10 - 2) ** 2 * 6 * 16
    residual = 4 * (3 * 5 - 2) ** 2 * 16 * 16
    rest = residual + 25 * 16 * 3
    forward = 2 * BATCH * (first + rest)
    gradient = 2 * forward + 2 * BATCH * rest
    found = floor.update_flops(config, spec)
    # Biases, ReLU, pools.
    assert forward + gradient < found < 1.1 * (forward + gradient)


def test_each_pass_is_counted_with_its_own_number_of_quantiles():
    """Only where an action is asked for, K; the heads answer for each, the torso once."""
    wide = WIDE | {"network__torso": "none", "network__hidden": [256, 256]}
    names = [f"network__quantile_samples{end}" for end in ("", "_target", "_acting")]
    heads = 2 * BATCH * (256 * 256)  # of one fraction; the layers before and behind are small

    def count(*numbers):
        head = {"network__value_head": "implicit_quantile", "network__quantile_cosines": 1}
        config = tiny(**wide, **head, **dict(zip(names, numbers, strict=True)))
        return floor.update_flops(config, vector_spec())

    one = count(2, 2, 2)
    assert count(2, 12, 2) - one == pytest.approx(10 * heads, rel=0.1)
    assert count(2, 2, 12) - one == pytest.approx(10 * heads, rel=0.1)
    assert count(12, 2, 2) - one == pytest.approx(3 * 10 * heads, rel=0.1)


@pytest.mark.parametrize("double", [False, True])
def test_priors_are_counted_once_for_each_observation(double):
    """Forward: of `obs` beside the online network, of `next_obs` beside the target."""
    with_, without = (
        floor.update_flops(
            tiny(network__prior_scale=scale, agent__double=double, **WIDE), vector_spec()
        )
        for scale in (1.0, 0.0)
    )
    forward = 2 * BATCH * LAYERS.sum()
    assert with_ - without == pytest.approx(2 * forward, rel=0.05)


@pytest.mark.parametrize(
    ("flops", "floor_ms"),
    [(5e6, 5.0), (1e6, 3.6)],
    ids=["by arithmetic", "by memory"],
)
def test_the_floor_is_the_slower_of_arithmetic_and_memory(monkeypatch, flops, floor_ms):
    monkeypatch.setattr(floor, "update_flops", lambda *_: flops)
    monkeypatch.setattr(floor, "_matmul_rate", lambda _, dtype: 1e9 if dtype == "bfloat16" else 0)
    monkeypatch.setattr(floor, "_bandwidth", lambda: 1e9)
    params = {"kernel": np.zeros((300, 300)), "bias": np.zeros(10_000)}  # 4 bytes, nine times
    config = tiny(network__compute_dtype="bfloat16")
    rows = floor.floor_of_an_update(config, vector_spec(), params, update_ms=10.0)
    found = {row.stage: row.value for row in rows}
    assert found == pytest.approx(
        {
            "bfloat16 matmul": 1.0,
            "memory bandwidth": 1.0,
            "floor of an update": floor_ms,
            "update / floor": 10.0 / floor_ms,
        }
    )


def test_rates_are_operations_and_bytes_in_a_second(monkeypatch):
    monkeypatch.setattr(floor, "median_ms", lambda *_: 500.0)
    ones = types.SimpleNamespace(nbytes=100)
    monkeypatch.setattr(floor.jnp, "ones", lambda *_: ones)
    assert floor._matmul_rate(10, "bfloat16") == 2 * 1000 / 0.5
    assert floor._bandwidth() == 2 * 100 / 0.5


def test_both_forms_of_the_convolutions_are_measured_forward_and_backward(monkeypatch):
    """The programs are looked at and not run."""
    programs = []

    def look(call, _):
        programs.append(str(jax.make_jaxpr(call)(0)))
        return 1.0

    monkeypatch.setattr(floor, "median_ms", look)
    spec = vector_spec()._replace(frame_shape=(10, 10, 2), frame_dtype=np.dtype(np.uint8))
    rows = list(floor.convolutions(tiny(network__torso="minatar"), spec))
    pairs = zip(rows, programs, strict=True)
    library = {row.stage: text.count("conv_general_dilated[") for row, text in pairs}
    assert library == {
        "forward, by patches": 0,
        "gradient, by patches": 0,
        "forward, by library": 1,
        "gradient, by library": 2,
    }
