"""Value heads that the package does not know: written here, they touch no other module.

One is deterministic and asks the target about `obs` too, in the spirit of Munchausen; one draws
samples and has a layer of its own, in the spirit of implicit quantile networks.
"""

import functools
from typing import Any, NamedTuple

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
    fill,
    quick_jit,
    random_steps,
    timestep_of,
    update_keys,
)

from jdqn import envs, learning, replay
from jdqn.learning import losses, model, update, values
from jdqn.loops import fused
from jdqn.runs import evaluation

# --- The heads ----------------------------------------------------------------------------------

TEMPERATURE = 0.5


def two_outputs_loss(calls, batch):
    """Two outputs of an action learn one target, which rewards likely actions."""
    online = calls.online(batch.obs)
    now = calls.target(batch.obs)
    then = calls.target(batch.next_obs)
    action = batch.action[:, None, None]
    log_policy = jax.nn.log_softmax(now.q / TEMPERATURE)
    bonus = TEMPERATURE * jnp.take_along_axis(log_policy, action, axis=2)[:, :, 0]
    value = TEMPERATURE * jax.nn.logsumexp(then.q / TEMPERATURE, axis=2)
    target = batch.reward[:, None] + bonus + batch.discount[:, None] * value
    chosen = jnp.take_along_axis(online.raw, action[..., None], axis=2)[:, :, 0]
    error = jax.lax.stop_gradient(target)[:, :, None] - chosen
    return losses.Loss(jnp.sum(error**2, axis=2), jnp.mean(jnp.abs(error), axis=2))


def mean_of(raw, _):
    return jnp.mean(raw, axis=-1)


def two_outputs():
    """Deterministic: the mean of two outputs is Q."""
    return learning.ValueHead(num_outputs=2, read=mean_of, loss=two_outputs_loss)


class Cosines(nn.Module):
    """Features times an embedding of each quantile."""

    @nn.compact
    def __call__(self, features, quantile):  # [B, F], [B, n]
        waves = jnp.cos(jnp.pi * jnp.arange(1, 5)[None, None, :] * quantile[:, :, None])
        embedding = nn.relu(1.0 + nn.Dense(features.shape[-1], name="embedding")(waves))
        return features[:, None, :] * embedding


def quantile_loss(online, action, reward, discount, target, selector):
    """Quantile regression of one transition and one head, by the samples of both networks."""
    bootstrap = target.raw[jnp.argmax(selector.q)]
    goal = jax.lax.stop_gradient(reward + discount * bootstrap)
    error = goal[None, :] - online.raw[action][:, None]
    weight = jnp.abs(online.samples[:, None] - (error < 0))
    cost = jnp.mean(weight * losses.huber(error))
    return losses.Loss(cost, jnp.mean(jnp.abs(error)))


NUMBERS = {"acting": 4, "online": 6, "target": 5}


QUANTILE_LOSS = values.bootstrapped(quantile_loss)


def sampled(numbers=NUMBERS, drawn=None, loss=QUANTILE_LOSS):
    """Draws quantiles, `numbers` of them by purpose; notes every draw in `drawn`."""

    def draw(key, purpose, batch_size):
        if drawn is not None:
            drawn.append((purpose, batch_size))
        return jax.random.uniform(key, (batch_size, numbers[purpose]))

    return learning.ValueHead(num_outputs=1, read=mean_of, loss=loss, draw=draw, layer=Cosines)


HEADS = {"two outputs": two_outputs, "sampled": sampled}


# --- Learning and acting ------------------------------------------------------------------------


class Trained(NamedTuple):
    """What some calls of `learn` did, and how the agent then acts."""

    before: learning.AgentState
    after: learning.AgentState
    metrics: Any
    acted: Any
    evaluated: Any


def train_some(value_head, **overrides):
    """Four calls of `learn` on a ring of random steps; then acts greedily, one program for all."""
    silent = {"agent__epsilon_start": 0.0, "agent__epsilon_end": 0.0, "agent__epsilon_eval": 0.0}
    config = tiny(**{"network__heads": 3, "agent__target_period_steps": 400} | silent | overrides)
    memory = replay.make_replay(config, SPEC)
    agent = learning.make_agent(config, SPEC, memory, value_head)

    def call(states, tick):
        *states, metrics = agent.learn(*states, tick)
        return tuple(states), metrics

    @quick_jit
    def run(steps, actions):
        before, actor = agent.init(jax.random.key(0))
        ring = fill(memory)(steps, actions)
        (after, _), metrics = jax.lax.scan(call, (before, ring), 20 + jnp.arange(4))
        timestep = timestep_of(4, first=True)
        acted = agent.act(after, actor, timestep, 24)
        evaluated = agent.act_in_evaluation(after, actor, timestep, 24)
        return Trained(before, after, metrics, acted, evaluated)

    return run(*random_steps(4))


ALL_TOGETHER = {
    "agent__double": True,
    "network__dueling": "max",
    "network__noisy": "independent",
    "network__prior_scale": 1.0,
    "replay__priority_exponent": 0.5,
}


def one_switch(name, **company):
    return pytest.param("sampled", company, id=f"sampled, {name}", marks=pytest.mark.slow)


# Alone: below, in the chain.
@pytest.mark.parametrize(
    ("kind", "company"),
    [
        pytest.param("two outputs", ALL_TOGETHER, id="two outputs, all together"),
        pytest.param("sampled", ALL_TOGETHER, id="sampled, all together"),
        one_switch("double", agent__double=True),
        one_switch("dueling", network__dueling="mean"),
        one_switch("noisy", network__noisy="factorised"),
    ],
)
def test_a_head_of_ones_own_learns_and_acts(kind, company):
    found = train_some(HEADS[kind](), **company)
    assert_finite((found.after.params, found.after.opt_state, found.metrics))
    assert (found.metrics["loss"] > 0).all()
    assert (found.metrics["priority_mean"] > 0).all()
    assert not any(equal_to_the_bit(found.after.params, found.before.params))  # every leaf learns
    assert all(equal_to_the_bit(found.after.target_params, found.before.params))
    names = {path[-2].key for path, _ in jax.tree.leaves_with_path(found.after.params)}
    assert ("embedding" in names) == (kind == "sampled")
    for action, _ in (found.acted, found.evaluated):
        assert action.shape == (4,)
        assert ((action >= 0) & (action < SPEC.num_actions)).all()


@pytest.mark.parametrize("kind", HEADS)
def test_a_head_of_ones_own_trains_and_is_evaluated_in_the_chain(kind):
    """By the fused loop's functions and by the evaluator, which know nothing of it."""
    config = tiny("jdqn/Chain", env__size=5, network__heads=3, train__eval_episodes=2)
    env = envs.make_native_env(config, num_envs=4)
    memory = replay.make_replay(config, env.spec)
    agent = learning.make_agent(config, env.spec, memory, HEADS[kind]())
    parts = fused.Parts(config, env, memory, agent, max_ticks=8)

    @quick_jit
    def run():
        start = fused.init(parts, 0)
        carry, _ = fused.warm_up(parts, start, 0, 8)
        carry, _, metrics = fused.act_and_learn(parts, carry, 8, 8)
        return start.state, carry.state, metrics

    before, after, metrics = run()
    assert_finite((after.params, metrics))
    assert not any(equal_to_the_bit(after.params, before.params))
    result = evaluation.make_evaluator(config, agent)(after, 0, 0, "mean")
    assert result.episodes == 2
    assert result.length_mean == 5 + 9


# --- What a loss may ask ------------------------------------------------------------------------


def test_a_loss_may_ask_the_target_about_the_present():
    """The loss of an update is that of NumPy, with a target apart from the online network."""
    made = build(tiny(network__heads=3), value_head=two_outputs())
    state, _ = made.agent.init(jax.random.key(0))
    apart = jax.tree.map(lambda x: -2.0 * x, state.target_params)
    state = state.replace(target_params=apart)
    ring = made.fill()
    batch = jax.device_get(batch_of(made, ring, update_keys(state.key, 20)[0, 0], 20))
    as_target = state.replace(params=apart)
    now = np.asarray(made.agent.output(as_target, batch.obs).q) / TEMPERATURE
    then = np.asarray(made.agent.output(as_target, batch.next_obs).q) / TEMPERATURE
    raw = np.asarray(made.agent.output(state, batch.obs).raw)
    row = np.arange(8)
    log_policy = now - np.log(np.exp(now).sum(axis=2, keepdims=True))
    value = TEMPERATURE * np.log(np.exp(then).sum(axis=2))
    target = batch.reward[:, None] + TEMPERATURE * log_policy[row, :, batch.action]
    target += batch.discount[:, None] * value
    error = target[:, :, None] - raw[row, :, batch.action]
    found = made.agent.learn(state, ring, 20)[2]
    np.testing.assert_allclose(found["loss"], (error**2).sum(axis=(1, 2)).mean(), rtol=1e-4)
    np.testing.assert_allclose(found["priority_mean"], np.abs(error).mean(), rtol=1e-4)


@pytest.mark.parametrize("double", [False, True])
def test_what_is_asked_twice_is_computed_once(monkeypatch, double):
    passes = []
    ask = model.ask

    def spy(*arguments, purpose="acting", **rest):
        passes.append(purpose)
        return ask(*arguments, purpose=purpose, **rest)

    def loss(calls, batch):
        before = len(passes)
        assert passes[-1] == "online"  # of batch.obs, already made
        for _ in range(2):
            for obs in (batch.obs, batch.next_obs):
                calls.online(obs)
                calls.target(obs)
                calls.selector(obs)
                assert calls.target(obs) is calls.target(obs)
                assert (calls.selector(obs) is calls.target(obs)) != double
        asked = sorted(passes[before:])
        # The selector acts: it picks an action.
        assert asked == ["acting"] * (2 * double) + ["online"] + ["target"] * 2
        return values.bootstrapped(losses.q_learning(losses.huber))(calls, batch)

    monkeypatch.setattr(update, "ask", spy)
    head = values.expectation(losses.huber)._replace(loss=loss)
    config = tiny(agent__double=double)
    memory = replay.make_replay(config, SPEC)
    agent = learning.make_agent(config, SPEC, memory, head)
    state, _ = jax.eval_shape(agent.init, jax.random.key(0))
    jax.eval_shape(agent.learn, state, jax.eval_shape(memory.init, jax.random.key(0)), 20)
    assert passes


# --- Samples ------------------------------------------------------------------------------------


@pytest.mark.parametrize("double", [False, True])
def test_each_purpose_has_its_own_number_of_samples(double):
    """The selector draws as for acting, also where the target selects (Dabney et al. 2018)."""
    drawn = []
    shapes = []

    def loss(calls, batch):
        online = calls.online(batch.obs)
        target = calls.target(batch.next_obs)
        selector = calls.selector(batch.next_obs)
        shapes.append([(x.samples.shape, x.raw.shape) for x in (online, target, selector)])
        return QUANTILE_LOSS(calls, batch)

    config = tiny(network__heads=3, agent__double=double)
    memory = replay.make_replay(config, SPEC)
    agent = learning.make_agent(config, SPEC, memory, sampled(drawn=drawn, loss=loss))
    state, actor = jax.eval_shape(agent.init, jax.random.key(0))
    ring = jax.eval_shape(memory.init, jax.random.key(0))

    def purposes(function, *arguments):
        drawn.clear()
        answer = jax.eval_shape(function, *arguments)
        return answer, set(drawn)

    _, asked = purposes(agent.learn, state, ring, 20)
    assert asked == {("online", 8), ("target", 8), ("acting", 8)}
    for of_online, of_target, of_selector in shapes:
        assert of_online == ((8, 6), (8, 3, 3, 6))
        assert of_target == ((8, 5), (8, 3, 3, 5))
        assert of_selector == ((8, 4), (8, 3, 3, 4))
    for act in (agent.act, agent.act_in_evaluation):
        assert purposes(act, state, actor, timestep_of(4), 0)[1] == {("acting", 4)}
    obs = jnp.zeros((7, 2, 3))
    said, asked = purposes(agent.output, state, obs)
    assert asked == {("acting", 7)}
    assert said.samples.shape == (7, 4)
    assert said.raw.shape == (7, 3, 3, 4)
    assert said.q.shape == (7, 3, 3)
    assert purposes(agent.diagnose, state, obs)[1] == {("acting", 7)}


def test_no_two_draws_are_alike():
    """Of online, target and selector, asked about present and future, in every update."""
    seen = []

    def loss(calls, batch):
        answers = [call(obs) for call in calls for obs in (batch.obs, batch.next_obs)]
        jax.debug.callback(lambda *drawn: seen.extend(drawn), *[x.samples for x in answers])
        return QUANTILE_LOSS(calls, batch)

    made = build(
        tiny(env__num_envs=8, train__update_period_steps=4, agent__double=True),
        value_head=sampled(dict.fromkeys(NUMBERS, 5), loss=loss),
    )
    state, _ = made.agent.init(jax.random.key(0))
    ring = made.fill()
    for tick in (20, 21):
        jax.block_until_ready(made.agent.learn(state, ring, tick))
    jax.effects_barrier()
    assert len(seen) == 2 * 2 * 6  # calls, updates, answers
    everything = np.stack(seen).ravel()
    assert np.unique(everything).size == everything.size


def test_acting_draws_anew_in_each_tick_and_environment():
    drawn = []

    def read(raw, samples):
        jax.debug.callback(lambda x: drawn.append(np.asarray(x)), samples)
        return mean_of(raw, samples)

    config = tiny()
    head = sampled()._replace(read=read)
    agent = learning.make_agent(config, SPEC, replay.make_replay(config, SPEC), head)

    @quick_jit
    def run(tick):
        state, actor = agent.init(jax.random.key(0))
        acted = agent.act(state, actor, timestep_of(4), tick)
        return acted, agent.act_in_evaluation(state, actor, timestep_of(4), tick)

    for tick in range(3):
        jax.block_until_ready(run(tick))
    jax.effects_barrier()
    assert np.shape(drawn) == (3 * 2, 4, 4)  # a tick acts in training and in evaluation
    by_tick = np.asarray(drawn).reshape(3, 2 * 4 * 4)
    assert np.unique(by_tick).size == 3 * 4 * 4
    assert [np.unique(row).size for row in by_tick] == [4 * 4] * 3


@functools.cache
def network_of_samples(noisy):
    """A model of two outputs with samples, and its variables."""
    config = tiny(network__heads=3, network__noisy=noisy)
    head = sampled()._replace(num_outputs=2)
    made = model.make_model(config, SPEC, head)
    params, _ = quick_jit(functools.partial(model.init_variables, made))(
        jax.random.key(0), jnp.zeros((1, 2, 3))
    )
    return made, params


def test_a_sample_is_answered_as_if_it_were_alone(rng):
    """`[B, K, A, n·Z]` keeps the outputs of a sample together, in the order of samples."""
    made, params = network_of_samples("none")
    obs = rng.normal(size=(4, 2, 3)).astype(np.float32)
    quantile = rng.random((4, 5)).astype(np.float32)
    network = quick_jit(made.network.apply)
    together = network(params, obs, quantile)
    assert together.shape == (4, 3, 3, 10)
    for i in range(5):
        alone = network(params, obs, quantile[:, i : i + 1])
        np.testing.assert_allclose(together[..., 2 * i : 2 * i + 2], alone, rtol=1e-5, atol=1e-6)
    assert (np.asarray(together).reshape(4, 3, 3, 5, 2).std(axis=3) > 0).all()


@pytest.mark.parametrize("noisy", ["factorised", "independent"])
def test_samples_of_an_environment_share_its_noise_in_acting(noisy):
    """With an embedding that does not tell quantiles apart only noise could."""
    made, params = network_of_samples(noisy)
    embedding = params["params"]["value_layer"]["embedding"]
    silent = jax.tree.map(jnp.zeros_like, embedding)
    params = {"params": params["params"] | {"value_layer": {"embedding": silent}}}

    @quick_jit
    def asked(params, obs):
        keys = {"key": jax.random.key(1), "noise_key": jax.random.key(2)}
        return model.ask(made, params, None, obs, **keys)[0].raw

    raw = np.asarray(asked(params, jnp.ones((6, 2, 3)))).reshape(6, 3, 3, 4, 2)
    np.testing.assert_allclose(raw, np.broadcast_to(raw[:, :, :, :1], raw.shape), rtol=1e-5)
    assert (raw.std(axis=0) > 0).all()  # environments see the same, their noise is their own
