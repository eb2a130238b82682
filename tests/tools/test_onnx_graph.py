"""Q of `model.onnx` in onnxruntime is Q of jdqn, whatever the agent and the observations."""

import math

import jax
import numpy as np
import onnx
import onnxruntime
import pytest
from envs_helpers import interface_of
from gymnasium import spaces
from helpers import QUICK, vector_spec

from jdqn import config as config_lib
from jdqn.config import ConfigError
from jdqn.envs.interface import Interface
from jdqn.learning import make_agent, values
from jdqn.records import EnvSpec
from jdqn.replay import make_replay
from jdqn.tools import onnx_graph

BYTES = np.dtype(np.uint8)
FLOATS = np.dtype(np.float32)
VECTORS = Interface(vector_spec(3), (3,), FLOATS)
ONE_VECTOR = Interface(vector_spec(3, frame_stack=1), (3,), FLOATS)
ATARI = Interface(EnvSpec((84, 84), BYTES, 4, 4, 1 / 255), (84, 84), BYTES)
LARGE = Interface(EnvSpec((36, 45), BYTES, 2, 3, 1 / 255), (36, 45), BYTES)
COLOURS = Interface(EnvSpec((5, 6, 3), BYTES, 2, 3, 1 / 255), (5, 6, 3), BYTES)
FLAGS = Interface(EnvSpec((10,), BYTES, 1, 2, 1.0), (5, 2), np.dtype(bool))
TWO = spaces.Discrete(2)
CLASSES = interface_of(spaces.Discrete(4, start=-1), TWO, env__frame_stack=2)
BOUNDED = interface_of(
    spaces.Box(-4, 8, (2, 3)), TWO, env__frame_stack=2, env__observation_scale="bounds"
)
FAR = interface_of(  # its entries would all be the same in float32
    spaces.Box(1.6e9, 1.6e9 + 20, (3,), np.float64), TWO, env__observation_scale="bounds"
)
IN_PARTS = interface_of(spaces.Tuple([spaces.Discrete(3), spaces.Box(-4, 8, (2,))]), TWO)
BATCH = 3

AGENTS = config_lib.names("agents")
QUICK_ON_ATARI = ("dqn", "bootstrapped_rainbow")
PLACES = [
    *((agent, VECTORS) for agent in AGENTS),
    *((agent, ATARI) for agent in QUICK_ON_ATARI),
    ("dqn", ONE_VECTOR),
    ("rainbow", COLOURS),
    ("dqn", FLAGS),
    ("bootstrapped_prior", CLASSES),
    ("dqn", BOUNDED),
    ("dqn", FAR),
    ("dqn", IN_PARTS),
]

IDS = [f"{agent}-{between.shape}" for agent, between in PLACES]


def small(agent, **fields):
    """A configuration of an agent with few heads, atoms and units."""
    full = config_lib.load_config(agent=agent)
    smaller = {
        "network.heads": min(full.network.heads, 3),
        "network.hidden": [8, 8],
        "network.torso_hidden": [8, 8],
        "network.atoms": min(full.network.atoms, 11),
        "env.frame_stack": 4,
    }
    dotted = {name.replace("__", "."): value for name, value in fields.items()}
    return config_lib.load_config(agent=agent, overrides=smaller | dotted)


def observations(between):
    """Some raw ones `[B, S, *raw]`, and what the agent sees of them."""
    rng = np.random.default_rng(0)
    shape = (BATCH, between.spec.frame_stack, *between.shape)
    if between.first_class is not None:
        raw = rng.integers(between.first_class, between.first_class + 4, shape)
    elif between.affine is not None:
        space = between.codec.observation_space
        raw = rng.uniform(space.low, space.high, shape).astype(space.dtype)
    elif between.dtype == FLOATS:
        raw = rng.normal(size=shape).astype(np.float32)
    else:
        raw = rng.integers(0, 256 if between.dtype == BYTES else 2, shape).astype(between.dtype)
    several = raw.reshape(-1, *between.shape)
    one_by_one = several if between.takes_frames else between.frames(several)
    seen = one_by_one.reshape(*shape[:2], *between.spec.frame_shape)
    return (raw[:, 0] if between.spec.frame_stack == 1 else raw), seen


PROGRAMS = {}  # several agents differ in their loss alone


def drawn(config, between):
    """Q of a state and observations, compiled, and a state of random numbers."""
    key = (config.network, between.spec)
    if key not in PROGRAMS:
        agent = make_agent(config, between.spec, make_replay(config, between.spec))
        like = jax.eval_shape(agent.init, jax.random.key(1))[0]
        rng = np.random.default_rng(1)

        def random(leaf):
            fan_in = leaf.shape[-1] if leaf.ndim == 3 else math.prod(leaf.shape[:-1])
            return np.float32(rng.normal(size=leaf.shape) / math.sqrt(fan_in))

        weights = {
            "params": like.params,
            "prior_params": like.prior_params,
            "network_state": like.network_state,
        }
        rest = dict.fromkeys(["opt_state", "target_params", "key", "non_finite"])
        state = like.replace(**jax.tree.map(random, weights), **rest)
        PROGRAMS[key] = (jax.jit(agent.output, compiler_options=QUICK), state)
    return PROGRAMS[key]


def check(config, between, dtype="float32", tolerance=1e-5):
    """Compares the two, up to a share of the largest value; returns the model."""
    output, state = drawn(config, between)
    made = onnx_graph.to_onnx(config, between, state, dtype)
    if dtype == "float16":
        state = jax.tree.map(lambda x: np.float32(np.float16(x)), state)
    raw, seen = observations(between)
    want = np.asarray(output(state, seen).q)
    session = onnxruntime.InferenceSession(made, providers=["CPUExecutionProvider"])
    fields = config.network
    v_max = abs(fields.v_max) if fields.value_head == "auto" and fields.atoms > 1 else 0.0
    largest = max(1.0, np.abs(want).max(), v_max, fields.prior_scale)
    for rows in (slice(0, BATCH), slice(1, 2)):
        (q,) = session.run(None, {"observation": raw[rows]})
        assert q.shape == want[rows].shape
        assert np.abs(q - want[rows]).max() <= tolerance * largest
    assert want.std() > 1e-4 * largest  # something is compared
    return onnx.load_from_string(made)


@pytest.mark.parametrize(("agent", "between"), PLACES, ids=IDS)
def test_q_is_that_of_jdqn(agent, between):
    check(small(agent), between)


@pytest.mark.slow
@pytest.mark.parametrize("agent", AGENTS)
def test_q_is_that_of_jdqn_on_atari_in_full_size(agent):
    check(config_lib.load_config(agent=agent), ATARI)


@pytest.mark.parametrize("dueling", ["max", "sum"])
def test_streams_put_together_in_other_ways(dueling):
    check(small("dueling", network__dueling=dueling, network__torso="none"), VECTORS)


@pytest.mark.parametrize(
    ("agent", "between", "num_convolutions", "num_pooled_axes"),
    [("bootstrapped_prior", COLOURS, 2 * 5, 0), ("dqn", LARGE, 3 * 5, 2)],
)
def test_impala_of_one_stage_and_of_three_with_spectral_norm_and_pool(
    agent, between, num_convolutions, num_pooled_axes
):
    """Priors have convolutions, too."""
    fields = {"network__torso": "impala", "network__torso_pool": 4}
    model = check(small(agent, **fields, network__spectral_norm=True), between)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("Conv") == num_convolutions
    assert kinds.count("Concat") == num_pooled_axes


def test_a_network_that_multiplies_in_bf16_is_written_down_in_float32():
    """Four layers, whose factors were rounded to a 512th."""
    config = small("bootstrapped_rainbow", network__compute_dtype="bfloat16")
    check(config, VECTORS, tolerance=2**-6)
    with pytest.raises(AssertionError, match="<="):
        check(config, VECTORS)


def test_half_precision_is_for_weights_alone():
    model = check(small("bootstrapped_prior"), VECTORS, "float16")
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    sizes = [math.prod(t.dims) for t in model.graph.initializer if t.data_type == 10]
    assert onnx.TensorProto.FLOAT16 == 10
    assert set(kinds.values()) == {10, onnx.TensorProto.FLOAT, onnx.TensorProto.INT64}
    assert sum(sizes) > 300
    (output,) = model.graph.output
    assert output.type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def test_the_batch_is_open_and_the_stack_stands_before_the_frame():
    config = small("dqn")
    for between, shape in {ATARI: ["B", 4, 84, 84], ONE_VECTOR: ["B", 3]}.items():
        _, state = drawn(config, between)
        model = onnx.load_from_string(onnx_graph.to_onnx(config, between, state, "float32"))
        (given,) = model.graph.input
        sizes = given.type.tensor_type.shape.dim
        assert [size.dim_param or size.dim_value for size in sizes] == shape


def test_a_network_of_ones_own_is_refused(monkeypatch):
    config = small("dqn")
    head = values.make_value_head(config)._replace(support=None)
    _, state = drawn(config, VECTORS)
    monkeypatch.setattr(onnx_graph, "make_value_head", lambda _: head)
    with pytest.raises(ConfigError, match=r"one of its own: leave it out with --no-onnx"):
        onnx_graph.to_onnx(config, VECTORS, state, "float32")


def test_without_onnx_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(ConfigError, match=r"pip install -e '.\[onnx\]' .* leave it out with --no"):
        onnx_graph.require_onnx()
