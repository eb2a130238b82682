"""What tests of learning share: agents compiled once, filled rings, a plain DQN to compare with."""

import functools
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from helpers import QUICK, tiny, vector_spec

from jdqn import config as config_lib
from jdqn import kernels, learning, replay
from jdqn.records import Timestep
from jdqn.replay import priorities

SPEC = vector_spec()


def accepted(options):
    """Those options of the compiler that this release of XLA knows."""
    known = {}
    for name, value in options.items():
        try:
            jax.jit(lambda: 0, compiler_options={name: value})()
        except jax.errors.JaxRuntimeError:
            continue
        known[name] = value
    return known


# The older code generator of XLA's CPU backend compiles in half the time; newer releases lack it.
QUICKER = QUICK | accepted({"xla_cpu_use_fusion_emitters": False})
quick_jit = functools.partial(jax.jit, compiler_options=QUICKER)


class Built(NamedTuple):
    """An agent with its replay; every function is compiled, when first called."""

    config: config_lib.Config
    replay: replay.Replay
    agent: learning.Agent
    fill: Any  # () or (steps, actions) -> a ring of them


def build(config, spec=SPEC, *, value_head=None, jit_learn=quick_jit):
    """Replay and agent of a configuration, all but `learn` compiled in a hurry."""
    memory = replay.make_replay(config, spec)
    made = learning.make_agent(config, spec, memory, value_head)
    agent = made._replace(
        init=quick_jit(made.init),
        act=quick_jit(made.act),
        act_in_evaluation=quick_jit(made.act_in_evaluation),
        learn=jit_learn(made.learn),
        output=quick_jit(made.output),
        diagnose=quick_jit(made.diagnose),
    )
    compiled = memory._replace(
        init=quick_jit(memory.init),
        sample=quick_jit(memory.sample),
        update=quick_jit(memory.update),
    )
    add_all = quick_jit(fill(memory))

    def ring_of(*steps_and_actions):
        return add_all(*(steps_and_actions or random_steps(config.env.num_envs)))

    return Built(config, compiled, agent, ring_of)


def program(config, spec=SPEC):
    """What an agent does, before it is compiled: its start and its learning."""
    memory = replay.make_replay(config, spec)
    made = learning.make_agent(config, spec, memory)
    key = jax.random.key(0)
    state, _ = jax.eval_shape(made.init, key)
    ring = jax.eval_shape(memory.init, key)
    parts = [jax.make_jaxpr(made.init)(key), jax.make_jaxpr(made.learn)(state, ring, 24)]
    texts = [f"{part} {part.consts}" for part in parts]
    return re.sub(r" at 0x[0-9a-f]+", "", "".join(texts))


@functools.cache
def built(**overrides):
    """The same of tiny settings, once for each set of them."""
    return build(tiny(**overrides))


@functools.cache
def optimised(**overrides):
    """The same with `learn` as training compiles it, but nothing donated."""
    return build(tiny(**overrides), jit_learn=lambda learn: kernels.jit_learning(learn, ()))


def random_steps(num_envs, ticks=20):
    """Random steps `[ticks, E]` with some ends, and random actions."""
    rng = np.random.default_rng(0)
    shape = (ticks, num_envs)
    last = rng.random(shape) < 0.1
    steps = Timestep(
        frame=rng.normal(size=(*shape, 3)).astype(np.float32),
        reward=rng.normal(size=shape).astype(np.float32),
        terminated=last & (rng.random(shape) < 0.5),
        last=last,
        first=np.concatenate([np.ones((1, num_envs), bool), last[:-1]]),
    )
    return steps, rng.integers(0, SPEC.num_actions, shape).astype(np.int32)


def fill(memory):
    """A function of steps `[ticks, E]` and actions: a ring with all of them added."""

    def run(steps, actions):
        def add(state, x):
            return memory.add(state, *x), None

        ticks = jnp.arange(len(actions))
        return jax.lax.scan(add, memory.init(jax.random.key(5)), (steps, actions, ticks))[0]

    return run


def timestep_of(num_envs, first=False):
    """A step of frames of ones, without reward or end."""
    no = np.zeros(num_envs, bool)
    frame = np.ones((num_envs, 3), np.float32)
    return Timestep(frame, no.astype(np.float32), no, no, no | first)


@functools.partial(jax.jit, static_argnums=2)
def update_keys(key, tick, num_updates=1):
    """`[updates, 4]` keys of a call: of the batch, the online network, the target, the selector."""
    keys = jax.random.split(jax.random.fold_in(key, tick), num_updates)
    return jax.vmap(lambda key: jax.random.split(key, 4))(keys)


def batch_of(made, ring, key, tick):
    """The batch that an update draws with the first of its keys."""
    uniform = priorities.uniforms(key, made.config.replay.batch_size)
    return made.replay.sample(ring, uniform, tick)


def with_outputs(state, q):
    """A state whose heads answer `q` `[K, A]` whatever they see."""
    params = jax.tree.map(jnp.zeros_like, state.params)
    params["params"]["q"]["bias"] = jnp.asarray(q, jnp.float32)
    return state.replace(params=params)


def assert_finite(tree):
    for x in jax.tree.leaves(tree):
        assert np.all(np.isfinite(np.asarray(x)))


def equal_to_the_bit(one, other):
    """Whether each leaf is."""
    pairs = list(zip(*map(jax.tree.leaves, (one, other)), strict=True))
    assert pairs
    return [np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in pairs]


def shapes(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


def plain_q(params, obs):
    """Q `[B, A]` of one head as in a tutorial."""
    p = params["params"]
    x = obs.reshape(obs.shape[0], -1)
    first = p["MlpTorso_0"]["Dense_0"]
    x = jax.nn.relu(x @ first["kernel"] + first["bias"][None])
    x = jax.nn.relu(x @ p["q_hidden_0"]["kernel"][0].T + p["q_hidden_0"]["bias"])
    return x @ p["q"]["kernel"][0].T + p["q"]["bias"]


class PlainDqn:
    """DQN as in a tutorial: one head, one-step targets, no replay of ours, no scan."""

    def __init__(self, params, optimizer, *, double=False):
        self.online = params
        self.target = params
        self.opt_state = quick_jit(optimizer.init)(params)
        self._optimizer = optimizer
        self._double = double
        self._step = quick_jit(self._take_step)

    def errors(self, params, target_params, batch):
        rows = jnp.arange(batch.action.shape[0])
        q_next = plain_q(target_params, batch.next_obs)
        chooser = plain_q(params, batch.next_obs) if self._double else q_next
        target = batch.reward + batch.discount * q_next[rows, jnp.argmax(chooser, axis=1)]
        return jax.lax.stop_gradient(target) - plain_q(params, batch.obs)[rows, batch.action]

    def update(self, batch):
        """One step of the optimiser; returns the gradient's norm and the |TD errors| before."""
        stepped = self._step(self.online, self.target, self.opt_state, batch)
        self.online, self.opt_state, norm, priority = stepped
        return norm, priority

    def _take_step(self, params, target_params, opt_state, batch):
        def loss(params):
            error = self.errors(params, target_params, batch)
            absolute = jnp.abs(error)
            penalty = jnp.where(absolute <= 1, 0.5 * error**2, absolute - 0.5)
            return jnp.mean(penalty), absolute

        gradient, priority = jax.grad(loss, has_aux=True)(params)
        steps, opt_state = self._optimizer.update(gradient, opt_state)
        return optax.apply_updates(params, steps), opt_state, optax.tree.norm(gradient), priority
