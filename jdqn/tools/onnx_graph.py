"""A Q-network as an ONNX graph, from raw observations to Q, priors included.

Written node by node from the network's fields and the names of its parameters: what a converter
would make of the forms for a CPU (`kernels`) is neither small nor readable, and needs a converter.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jdqn import networks
from jdqn.config import Config, ConfigError, is_own
from jdqn.envs.interface import Interface
from jdqn.learning import AgentState, make_value_head
from jdqn.learning.model import Model, make_model, online_variables
from jdqn.networks import pooling
from jdqn.networks.torsos import (
    SPECTRAL_NORM,
    ConvTorso,
    FlatTorso,
    ImpalaTorso,
    MlpTorso,
    has_all_stages,
)
from jdqn.records import EnvSpec

OPSET = 18
IR_VERSION = 10  # of that opset: older runtimes refuse newer ones
INPUT = "observation"
OUTPUT = "q"


def require_onnx() -> None:
    """Raises ConfigError where the package is missing."""
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise ConfigError(
            "model.onnx needs the package onnx: pip install -e '.[onnx]' in the checkout of jdqn; "
            "or leave it out with --no-onnx"
        ) from None


def to_onnx(config: Config, interface: Interface, state: AgentState, dtype: str) -> bytes:
    """The graph of one seed's online network with its mean weights.

    Args:
      config: of the agent.
      interface: what observations are like.
      state: whose parameters, priors and network state are kept in the graph.
      dtype: in which they are kept, `float16` or `float32`; computed is in float32.

    Returns:
      A model whose input `observation` is `[B, S, *raw]`, `[B, *raw]` where S is 1, and whose
      output `q` is `[B, K, A]` f32.

    Raises:
      ConfigError: onnx is missing, or a part of the network is not jdqn's own.
    """
    require_onnx()
    import onnx

    model = make_model(config, interface.spec, make_value_head(config))
    _check_known(config, model)
    graph = _Graph(dtype)
    frames = _frames(graph, interface)
    if issubclass(networks.TORSOS[model.network.torso], (ConvTorso, ImpalaTorso)):
        frames = _channels_first(graph, interface.spec, frames)
    sides = interface.spec.frame_shape[:2]
    fixed = model.value_head.fixed
    fractions = None if fixed is None else np.asarray(fixed(1))
    variables = online_variables(state)
    raw = _network(graph, model.network, variables, frames, sides, fractions)
    if model.prior_scale:
        prior = _network(graph, model.prior_network, state.prior_params, frames, sides, fractions)
        scaled = graph.add("Mul", prior, graph.number(model.prior_scale))
        raw = graph.add("Add", raw, scaled)
    _read(graph, model, raw)
    stacked = [interface.spec.frame_stack] * (interface.spec.frame_stack > 1)
    shape: list[str | int | None] = ["B", *stacked, *interface.shape]
    in_type = onnx.helper.np_dtype_to_tensor_dtype(interface.dtype)
    network = model.network
    q_shape: list[str | int | None] = ["B", network.heads, network.num_actions]
    made = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes,
            "jdqn",
            [onnx.helper.make_tensor_value_info(INPUT, in_type, shape)],
            [onnx.helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, q_shape)],
            graph.weights,
        ),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="jdqn",
    )
    onnx.checker.check_model(made, full_check=True)
    return made.SerializeToString()


def _check_known(config: Config, model: Model) -> None:
    """Raises ConfigError for a network that this module cannot write down."""
    head = model.value_head
    torso = networks.TORSOS[model.network.torso]
    known = torso in (FlatTorso, MlpTorso, ImpalaTorso) or issubclass(torso, ConvTorso)
    known &= head.layer is None or not is_own(config.network.value_head)
    if head.support is None or not known:
        raise ConfigError(
            "model.onnx is written for the networks that ship with jdqn; this agent has one of "
            "its own: leave it out with --no-onnx"
        )


class _Graph:
    """Nodes and weights so far; a value is known by its name."""

    def __init__(self, dtype: str):
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self._dtype = np.dtype(dtype)

    def add(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Adds a node; returns its one output."""
        import onnx

        name = output or f"{kind}_{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(kind, inputs, [name], **attributes))
        return name

    def constant(self, array: Any) -> str:
        """Adds an array as it is."""
        import onnx

        name = f"constant_{len(self.weights)}"
        self.weights.append(onnx.numpy_helper.from_array(np.asarray(array), name))
        return name

    def number(self, value: float) -> str:
        """Adds a float32."""
        return self.constant(np.float32(value))

    def weight(self, array: Any) -> str:
        """Adds parameters in the dtype in which they are kept."""
        name = self.constant(np.ascontiguousarray(array, self._dtype))
        return name if self._dtype == np.float32 else self.cast(name)

    def cast(self, value: str) -> str:
        """As float32."""
        import onnx

        return self.add("Cast", value, to=onnx.TensorProto.FLOAT)

    def reshape(self, value: str, *shape: int) -> str:
        """Of a whole number of elements; -1 is the batch."""
        return self.add("Reshape", value, self.constant(np.array(shape, np.int64)))

    def transpose(self, value: str, *axes: int) -> str:
        """With axes in another order."""
        return self.add("Transpose", value, perm=list(axes))

    def convolution(self, value: str, layer: Any, **attributes: Any) -> str:
        """Of `[B, C, H, W]`, with a bias."""
        kernel = self.weight(np.transpose(layer["kernel"], (3, 2, 0, 1)))
        return self.add("Conv", value, kernel, self.weight(layer["bias"]), **attributes)

    def maximum(self, value: str, axis: int, start: int, end: int) -> str:
        """Of a part of an axis, which is kept."""
        limits = [self.constant(np.array([number], np.int64)) for number in (start, end, axis)]
        return self.add("ReduceMax", self.add("Slice", value, *limits), limits[2], keepdims=1)

    def flat(self, value: str) -> str:
        """`[B, C, H, W]` to `[B, F]`, channels last, as heads have learned them."""
        return self.add("Flatten", self.transpose(value, 0, 2, 3, 1), axis=1)

    def affine(self, value: str, kernel: Any, bias: Any) -> str:
        """A matrix product and a bias."""
        return self.add("Add", self.add("MatMul", value, self.weight(kernel)), self.weight(bias))


def _frames(graph: _Graph, interface: Interface) -> str:
    """Scaled f32 frames `[B, S, *frame_shape]`."""
    spec = interface.spec
    value = INPUT
    if interface.first_class is not None:
        (num_classes,) = spec.frame_shape
        classes = interface.first_class + np.arange(num_classes)
        column = graph.reshape(value, -1, 1)
        value = graph.add("Equal", column, graph.constant(classes.astype(interface.dtype)))
    value = graph.reshape(value, -1, spec.frame_stack, *spec.frame_shape)
    if interface.affine is not None and spec.frame_dtype == np.float32:
        value = _scaled(graph, value, *interface.affine)
    value = graph.cast(value)
    return value if spec.scale == 1 else graph.add("Mul", value, graph.number(spec.scale))


def _scaled(graph: _Graph, value: str, factor: Any, offset: Any) -> str:
    """Raw entries times a factor plus an offset, in double precision where there is an offset.

    Else little would be left of entries whose bounds lie far from 0 and near each other.
    """
    import onnx

    dtype: Any = np.float64 if np.any(offset) else np.float32
    if np.all(np.equal(factor, 1)) and dtype == np.float32:
        return value
    value = graph.add("Cast", value, to=onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
    value = graph.add("Mul", value, graph.constant(np.asarray(factor, dtype)))
    if not np.any(offset):
        return value
    return graph.add("Add", value, graph.constant(np.asarray(offset, dtype)))


def _channels_first(graph: _Graph, spec: EnvSpec, frames: str) -> str:
    """The channels of all stacked frames before rows and columns, `[B, S·C, H, W]`."""
    if len(spec.frame_shape) == 2:  # the stack itself is the channels
        return frames
    height, width, channels = spec.frame_shape
    moved = graph.transpose(frames, 0, 1, 4, 2, 3)
    return graph.reshape(moved, -1, spec.frame_stack * channels, height, width)


def _network(
    graph: _Graph,
    network: networks.QNetwork,
    variables: Any,
    frames: str,
    sides: tuple[int, ...],
    fractions: np.ndarray | None,
) -> str:
    """Raw output `[B, K, A, Z]`, see `networks.QNetwork`; `sides` are those of an image."""
    params = variables["params"]
    x = _torso(graph, network, variables, frames, sides)
    if fractions is None:
        return _heads(graph, network, params, x)
    x = _embedded(graph, network, params["value_layer"], x, fractions)
    raw = _heads(graph, network, params, x)
    shape = (-1, fractions.size, network.heads, network.num_actions)
    return graph.transpose(graph.reshape(raw, *shape), 0, 2, 3, 1)


def _embedded(
    graph: _Graph, network: networks.QNetwork, params: Any, x: str, fractions: np.ndarray
) -> str:
    """Features times what the layer makes of each fraction, `[B·n, F]`."""
    assert network.layer is not None
    width = params["embedding"]["bias"].size
    ones = np.ones((1, width), np.float32)
    embedding = network.layer().apply({"params": params}, ones, fractions)
    apart = graph.reshape(x, -1, 1, width)
    return graph.reshape(graph.add("Mul", apart, graph.weight(embedding)), -1, width)


def _heads(graph: _Graph, network: networks.QNetwork, params: Any, x: str) -> str:
    """Raw output `[B, K, A, Z]` of features `[B, F]`."""
    if network.dueling == "none":
        return _stream(graph, network, params, "q", x, network.num_actions)
    value = _stream(graph, network, params, "value", x, 1)
    advantage = _stream(graph, network, params, "advantage", x, network.num_actions)
    if network.dueling in ("mean", "max"):
        axis = graph.constant(np.array([2], np.int64))
        centre = graph.add(f"Reduce{network.dueling.title()}", advantage, axis, keepdims=1)
        advantage = graph.add("Sub", advantage, centre)
    return graph.add("Add", value, advantage)


def _torso(
    graph: _Graph, network: networks.QNetwork, variables: Any, frames: str, sides: tuple[int, ...]
) -> str:
    """Features `[B, F]`."""
    torso = networks.TORSOS[network.torso]
    name = f"{torso.__name__}_0"
    layers = variables["params"].get(name, {})
    if torso is ImpalaTorso:
        if network.spectral_norm:
            layers = _normalised(layers, variables[SPECTRAL_NORM][name])
        pool = network.torso_pool if has_all_stages(sides) else 0
        return _impala(graph, layers, frames, sides, pool)
    if issubclass(torso, ConvTorso):
        return _convolutions(graph, torso.convolutions, layers, frames)
    x = graph.add("Flatten", frames, axis=1)
    for i in range(len(layers)):
        layer = layers[f"Dense_{i}"]
        x = graph.add("Relu", graph.affine(x, layer["kernel"], layer["bias"]))
    return x


def _convolutions(
    graph: _Graph, convolutions: Sequence[tuple[int, int, int]], layers: Any, frames: str
) -> str:
    """Features `[B, F]` of images, channels first in between."""
    x = frames
    for i, (_, _, stride) in enumerate(convolutions):
        x = graph.add("Relu", graph.convolution(x, layers[f"Conv_{i}"], strides=[stride, stride]))
    return graph.flat(x)


def _impala(graph: _Graph, layers: Any, frames: str, sides: tuple[int, ...], pool: int) -> str:
    """Features `[B, F]` of images, see `torsos.ImpalaTorso`."""
    convolutions = (layers[f"Conv_{i}"] for i in range(len(layers)))
    around = {"pads": [1, 1, 1, 1]}
    x = frames
    for _ in range(len(layers) // 5):  # stages
        x = graph.convolution(x, next(convolutions), **around)
        x = graph.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER")
        sides = tuple(-(-side // 2) for side in sides)
        for _ in range(2):
            y = x
            for _ in range(2):
                y = graph.convolution(graph.add("Relu", y), next(convolutions), **around)
            x = graph.add("Add", x, y)
    x = graph.add("Relu", x)
    for axis, side in enumerate(sides, start=2) if pool else ():
        maxima = [graph.maximum(x, axis, *window) for window in pooling.windows(side, pool)]
        x = graph.add("Concat", *maxima, axis=axis)
    return graph.flat(x)


def _normalised(layers: Any, iterations: Any) -> Any:
    """Layers with kernels divided as `flax.linen.SpectralNorm` does where it changes no state."""
    divided = dict(layers)
    for variables in iterations.values():
        path, u = next((path, u) for path, u in variables.items() if path.endswith("/u"))
        name = path.partition("/")[0]
        kernel = np.asarray(layers[name]["kernel"])
        matrix = kernel.reshape(-1, kernel.shape[-1])
        left = matrix @ np.asarray(u)[0]
        singular_value = np.linalg.norm(left @ matrix) / np.linalg.norm(left)
        divided[name] = {**layers[name], "kernel": kernel / singular_value}
    return divided


def _stream(
    graph: _Graph, network: networks.QNetwork, params: Any, name: str, x: str, outputs: int
) -> str:
    """Hidden layers and an output of each head, `[B, K, outputs, Z]`.

    The first layer is one product for all heads; the others are one for each, heads first.
    """
    names = [*(f"{name}_hidden_{i}" for i in range(len(network.hidden))), name]
    heads = network.heads
    for i, layer in enumerate(params[name] for name in names):
        kernel = np.swapaxes(layer["kernel"], 1, 2)  # [K, in, out]
        bias = np.asarray(layer["bias"])  # [K, out]
        if i == 0:
            width = kernel.shape[1]
            joined = np.swapaxes(kernel, 0, 1).reshape(width, -1)
            x = graph.affine(x, joined, bias.reshape(-1))
            x = graph.transpose(graph.reshape(x, -1, heads, bias.shape[1]), 1, 0, 2)
        else:
            x = graph.affine(graph.add("Relu", x), kernel, bias[:, None])
    x = graph.transpose(x, 1, 0, 2)
    return graph.reshape(x, -1, heads, outputs, network.num_outputs)


def _read(graph: _Graph, model: Model, raw: str) -> None:
    """Q `[B, K, A]`, the output of the graph."""
    support = np.asarray(model.value_head.support, np.float32)
    if support.size:
        weights = graph.add("Softmax", raw, axis=-1)
        raw = graph.add("MatMul", weights, graph.constant(support[:, None]))
    axis = graph.constant(np.array([3], np.int64))
    graph.add("ReduceMean", raw, axis, keepdims=0, output=OUTPUT)
