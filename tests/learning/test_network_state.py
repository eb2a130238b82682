"""Network state that no gradient trains: a running mean of what reaches the heads."""

import functools
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny
from learning_helpers import (
    SPEC,
    assert_finite,
    batch_of,
    build,
    equal_to_the_bit,
    quick_jit,
    timestep_of,
    update_keys,
)

from jdqn import envs, learning, replay
from jdqn.learning import losses, values
from jdqn.loops import fused
from jdqn.runs import checkpoint

RATE = 0.1
UPDATES = 4  # of one call
OPTIONS = {
    "env__num_envs": 8,
    "train__update_period_steps": 2,
    "agent__target_period_steps": 16,
    "agent__double": True,
    "network__torso": "none",  # what reaches the layer is the observation
    "network__heads": 3,
    "network__noisy": "factorised",
    "network__prior_scale": 1.0,
}
EARLY = 50  # a tick whose call of learn copies no target
DUE = 51  # a tick whose call does


class RunningMean(nn.Module):
    """Subtracts the running mean of its inputs so far."""

    mutable_in: tuple = ()  # notes for every pass whether it may change the state

    @nn.compact
    def __call__(self, features, _):
        mean = self.variable("stats", "mean", jnp.zeros, features.shape[-1:])
        passes = self.variable("stats", "passes", jnp.zeros, (), jnp.int32)
        centred = features - mean.value[None]
        if not self.is_initializing():
            is_mutable = self.is_mutable_collection("stats")
            for note in self.mutable_in:
                note(is_mutable)
            if is_mutable:
                newest = jnp.mean(features, axis=0)
                mean.value = (1 - RATE) * mean.value + RATE * newest
                passes.value += 1
        return centred[:, None]


def curious_loss(calls, batch):
    """Q-learning that asks everything there is to ask."""
    for call in calls:
        for obs in (batch.obs, batch.next_obs):
            call(obs)
    return values.bootstrapped(losses.q_learning(losses.huber))(calls, batch)


def centred_head(note=None):
    layer = functools.partial(RunningMean, mutable_in=() if note is None else (note,))
    return values.expectation(losses.huber)._replace(loss=curious_loss, layer=layer)


@pytest.fixture(scope="module")
def learned():
    """An agent, its state at first, after a call without and after one with a target copy."""
    made = build(tiny(**OPTIONS), value_head=centred_head())
    first, actor = made.agent.init(jax.random.key(0))
    ring = made.fill()
    early, ring, _ = made.agent.learn(first, ring, EARLY)
    due, *_ = made.agent.learn(early, ring, DUE)
    return types.SimpleNamespace(
        made=made, actor=actor, ring=ring, first=first, early=early, due=due
    )


def same(one, other):
    return all(equal_to_the_bit(one, other))


def stats(network_state):
    return jax.device_get(network_state["stats"]["value_layer"])


def test_it_begins_as_the_layer_says_in_both_networks(learned):
    for state in (learned.first.network_state, learned.first.target_network_state):
        assert set(state) == {"stats"}
        assert stats(state)["passes"] == 0
        np.testing.assert_array_equal(stats(state)["mean"], np.zeros(6))
    pair = (learned.first.network_state, learned.first.target_network_state)
    for online, target in zip(*map(jax.tree.leaves, pair), strict=True):
        assert online.unsafe_buffer_pointer() != target.unsafe_buffer_pointer()  # both are donated
    assert set(learned.first.params) == {"params"}


def test_learning_changes_it_once_an_update_by_the_online_pass_over_obs(learned):
    """Against NumPy, over the batches of two calls; losses asked for more passes than that one."""
    made = learned.made
    mean = np.zeros(6)
    states = {EARLY: learned.early, DUE: learned.due}
    for calls, (tick, state) in enumerate(states.items(), start=1):
        for keys in update_keys(learned.first.key, tick, UPDATES):
            batch = batch_of(made, learned.ring, keys[0], tick)
            seen = np.asarray(batch.obs).reshape(8, 6)
            mean = (1 - RATE) * mean + RATE * seen.mean(axis=0)
        found = stats(state.network_state)
        assert found["passes"] == calls * UPDATES
        np.testing.assert_allclose(found["mean"], mean, rtol=1e-5, atol=1e-6)
        assert np.abs(mean).max() > 0.01


def test_the_target_gets_it_when_and_only_when_it_gets_the_parameters(learned):
    assert same(learned.early.target_params, learned.first.params)
    assert same(learned.early.target_network_state, learned.first.network_state)
    assert not same(learned.early.network_state, learned.first.network_state)
    assert same(learned.due.target_params, learned.due.params)
    assert same(learned.due.target_network_state, learned.due.network_state)
    assert not same(learned.due.network_state, learned.early.network_state)


def test_priors_keep_theirs(learned):
    assert "stats" in learned.first.prior_params
    assert same(learned.due.prior_params, learned.first.prior_params)


def test_no_pass_but_the_online_one_over_obs_may_change_it():
    noted = []
    config = tiny(**OPTIONS)
    memory = replay.make_replay(config, SPEC)
    agent = learning.make_agent(config, SPEC, memory, centred_head(noted.append))
    state, actor = jax.eval_shape(agent.init, jax.random.key(0))
    obs = jnp.zeros((5, 2, 3))
    timestep = timestep_of(8)

    def passes(function, *arguments):
        noted.clear()
        jax.eval_shape(function, *arguments)
        return list(noted)

    for function, arguments in (
        (agent.act, (state, actor, timestep, 0)),
        (agent.act_in_evaluation, (state, actor, timestep, 0)),
        (agent.diagnose, (state, obs)),
        (agent.output, (state, obs)),
    ):
        found = passes(function, *arguments)
        assert found
        assert not any(found)
    ring = jax.eval_shape(memory.init, jax.random.key(0))
    found = passes(agent.learn, state, ring, EARLY)
    # A trace of an update: online, target and selector, present and future, and their priors.
    assert len(found) % 12 == 0
    assert sum(found) * 12 == len(found)


def moved(network_state):
    return jax.tree.map(lambda x: x + jnp.ones_like(x), network_state)


def test_acting_evaluation_and_diagnostics_read_the_online_networks(learned):
    agent = learned.made.agent
    state = learned.early
    changed = state.replace(network_state=moved(state.network_state))
    other_target = state.replace(target_network_state=moved(state.target_network_state))
    obs = jnp.ones((5, 2, 3))
    before = np.asarray(agent.output(state, obs).q)
    assert (np.asarray(agent.output(changed, obs).q) != before).all()
    np.testing.assert_array_equal(agent.output(other_target, obs).q, before)
    held_out = agent.diagnose(state, obs)["q_heldout"]
    np.testing.assert_allclose(held_out, before.max(axis=-1).mean(), rtol=1e-5)
    assert agent.diagnose(changed, obs)["q_heldout"] != held_out
    assert agent.diagnose(other_target, obs)["q_heldout"] == held_out


@pytest.mark.parametrize("function", ["act", "act_in_evaluation"])
def test_actions_follow_it(function):
    """A head that looks at one number, centred: the action is its sign."""
    silent = {"agent__epsilon_start": 0.0, "agent__epsilon_end": 0.0, "agent__epsilon_eval": 0.0}
    config = tiny(network__torso="none", network__hidden=[], **silent)
    made = build(config, value_head=centred_head())
    state, actor = made.agent.init(jax.random.key(0))
    params = jax.tree.map(jnp.zeros_like, state.params)
    params["params"]["q"]["kernel"] = params["params"]["q"]["kernel"].at[0, 1, 0].set(1.0)
    act = getattr(made.agent, function)
    seen = []
    for mean in (0.0, 2.0):  # frames are of ones
        network_state = {
            "stats": {
                "value_layer": {"mean": jnp.full(6, mean), "passes": jnp.zeros((), jnp.int32)}
            }
        }
        both = state.replace(params=params, network_state=network_state)
        action, _ = act(both, actor, timestep_of(4, first=True), 0)
        seen.append(action.tolist())
    assert seen == [[1] * 4, [0] * 4]


def test_the_target_answers_by_its_own(learned):
    agent = learned.made.agent
    state = learned.early
    other_target = state.replace(target_network_state=moved(state.target_network_state))
    metrics = [agent.learn(s, learned.ring, EARLY)[2] for s in (state, other_target)]
    assert metrics[0]["loss"] != metrics[1]["loss"]
    assert metrics[0]["q_mean"] != 0


def test_a_checkpoint_keeps_both(learned, tmp_path):
    assert not same(learned.early.network_state, learned.early.target_network_state)
    checkpoints = checkpoint.Checkpoints(tiny(**OPTIONS), tmp_path, "run")
    checkpoints.save_best(408, 408 // tiny(**OPTIONS).env.num_envs, [learned.early], 0.0)
    found = checkpoint.find(tmp_path, "best", run_id="run", agents_only=True)
    (state,) = checkpoint.load_states(found, learned.first, 1)
    assert jax.tree.structure(state) == jax.tree.structure(learned.early)
    assert same(state.network_state, learned.early.network_state)
    assert same(state.target_network_state, learned.early.target_network_state)
    assert same(state.params, learned.early.params)


def test_the_fused_loop_carries_it():
    config = tiny("jdqn/Chain", env__size=5, network__torso="none")
    env = envs.make_native_env(config, num_envs=4)
    memory = replay.make_replay(config, env.spec)
    agent = learning.make_agent(config, env.spec, memory, centred_head())
    parts = fused.Parts(config, env, memory, agent, max_ticks=8)

    @quick_jit
    def run():
        carry, _ = fused.warm_up(parts, fused.init(parts, 0), 0, 8)
        return fused.act_and_learn(parts, carry, 8, 8)

    carry, _, metrics = run()
    assert_finite((carry.state.params, carry.state.network_state, metrics))
    found = stats(carry.state.network_state)
    assert found["passes"] == 8
    assert found["mean"].max() > 0.1
    assert same(carry.state.target_network_state, carry.state.network_state)  # 64 steps: copied


def test_without_it_there_is_none():
    agent = build(tiny()).agent
    state, _ = jax.eval_shape(agent.init, jax.random.key(0))
    assert state.network_state == {}
    assert state.target_network_state == {}
