"""`network.compute_dtype`: what is multiplied in bfloat16, and what stays float32."""

import re

import jax
import numpy as np
import optax
import pytest
from helpers import tiny
from learning_helpers import SPEC, quick_jit, shapes

from jdqn import learning, replay
from jdqn.learning import agent as agent_module
from jdqn.records import EnvSpec

IMAGE = EnvSpec((6, 6, 2), np.dtype(np.uint8), 2, 3, 1 / 255)
EVERYTHING = {
    "network__heads": 2,
    "network__dueling": "mean",
    "network__noisy": "factorised",
    "network__atoms": 5,
    "network__prior_scale": 3.0,
    "agent__double": True,
    "replay__priority_exponent": 0.5,
}
AGENTS = pytest.mark.parametrize(
    ("spec", "overrides"), [(IMAGE, {}), (IMAGE, EVERYTHING), (SPEC, {"network__heads": 2})]
)


def make(dtype, spec, overrides, value_head=None):
    """An agent, and the states that it learns from, as shapes."""
    config = tiny(network__compute_dtype=dtype, **overrides)
    memory = replay.make_replay(config, spec)
    agent = learning.make_agent(config, spec, memory, value_head and value_head(config))
    key = jax.random.key(0)
    return agent, jax.eval_shape(agent.init, key)[0], jax.eval_shape(memory.init, key)


def seen_floats(tree):
    return {x.dtype for x in jax.tree.leaves(tree) if jax.numpy.issubdtype(x.dtype, np.floating)}


@AGENTS
def test_parameters_gradients_optimiser_answers_targets_and_losses_are_float32(
    monkeypatch, spec, overrides
):
    seen = []
    make_optimizer = agent_module.make_optimizer

    def watched_optimizer(config):
        optimizer = make_optimizer(config)

        def update(gradients, state, params):
            seen.append(gradients)
            return optimizer.update(gradients, state, params)

        return optax.GradientTransformation(optimizer.init, update)

    def watched_head(config):
        head = learning.make_value_head(config)

        def loss(calls, batch):
            seen.append((calls.online(batch.obs), calls.target(batch.next_obs)))
            seen.append(calls.selector(batch.next_obs))
            seen.append(head.loss(calls, batch))
            return seen[-1]

        return head._replace(loss=loss)

    monkeypatch.setattr(agent_module, "make_optimizer", watched_optimizer)
    answers = {}
    for dtype in ("float32", "bfloat16"):
        agent, state, ring = make(dtype, spec, overrides, watched_head)
        answers[dtype] = jax.eval_shape(agent.learn, state, ring, 24)
        assert shapes(answers[dtype][:2]) == shapes((state, ring))
    assert len(seen) == 2 * 4
    assert seen_floats((seen, answers)) == {np.dtype(np.float32)}
    assert shapes(answers["bfloat16"]) == shapes(answers["float32"])


@AGENTS
def test_every_product_of_a_gpus_program_but_outputs_is_in_bf16_when_it_is_asked_for(
    monkeypatch, spec, overrides
):
    """The factors are; a dot gives float32, a convolution what cuDNN can give."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    atoms = overrides.get("network__atoms", 1)
    outputs = {str(spec.num_actions * atoms), *([str(atoms)] if atoms > 1 else [])}
    for dtype in ("float32", "bfloat16"):
        agent, state, ring = make(dtype, spec, overrides)
        lowered = jax.jit(agent.learn).trace(state, ring, 24).lower(lowering_platforms=("cuda",))
        text = lowered.as_text()
        found = re.findall(
            r"stablehlo.(dot_general|convolution).* : \(tensor<(\S*)x(\w+)>, tensor<(\S*)x(\w+)>\)"
            r" -> tensor<\S*x(\w+)>",
            text,
        )
        assert len(found) == len(re.findall("stablehlo.(?:dot_general|convolution)", text)) > 6
        short = "bf16" if dtype == "bfloat16" else "f32"
        expected = {("dot_general", short, short, "f32"), ("convolution", short, short, short)}
        for kind, x, x_dtype, y, y_dtype, result in found:
            if kind == "dot_general" and outputs & {*x.split("x"), *y.split("x")}:
                assert (x_dtype, y_dtype) == ("f32", "f32")
            else:
                assert (kind, x_dtype, y_dtype, result) in expected
        assert ("bf16" in text) == (dtype == "bfloat16")


def test_values_in_bf16_are_near_those_in_float32():
    """Factors of 8 significant bits are off by at most a 512th, a product by a 256th.

    Three layers of them, whose errors have either sign, stay within a 64th of the largest value.
    """
    obs = np.random.default_rng(0).normal(size=(64, 2, 3)).astype(np.float32)
    q = {}
    for dtype in ("float32", "bfloat16"):
        config = tiny(network__compute_dtype=dtype, network__hidden=[256], network__heads=2)
        agent = learning.make_agent(config, SPEC, replay.make_replay(config, SPEC))

        def ask(obs, agent=agent):
            return agent.output(agent.init(jax.random.key(0))[0], obs).q

        q[dtype] = np.asarray(quick_jit(ask)(obs))
    errors = np.abs(q["bfloat16"] - q["float32"])
    assert 0 < errors.max() < np.abs(q["float32"]).max() / 64
    assert (errors > 0).mean() > 0.9
