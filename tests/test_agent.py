"""The agent: acting, learning against a plain DQN, target copies, heads."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import leaves_of_row, tiny, vector_spec

from jdqn import agent as agent_lib
from jdqn import exploration, networks
from jdqn.config import with_overrides
from jdqn.priorities import uniforms
from jdqn.records import Timestep
from jdqn.replay import make_replay

SPEC = vector_spec()


@functools.lru_cache
def built(**overrides):
    """Configuration, replay and jitted agent, compiled once for each set of overrides."""
    config = tiny(**overrides)
    replay = make_replay(config, SPEC)
    agent = agent_lib.make_agent(config, SPEC, replay)
    agent = agent._replace(act=jax.jit(agent.act), learn=agent_lib.jit_learning(agent.learn, ()))
    return config, replay._replace(add=jax.jit(replay.add)), agent


def random_timestep(rng, num_envs, tick):
    last = rng.random(num_envs) < 0.1
    return Timestep(
        frame=rng.normal(size=(num_envs, 3)).astype(np.float32),
        reward=rng.normal(size=num_envs).astype(np.float32),
        terminated=last & (rng.random(num_envs) < 0.5),
        last=last,
        first=np.full(num_envs, tick == 0),
    )


def filled(config, replay, rng, ticks=20):
    state = replay.init(jax.random.key(5))
    num_envs = config.env.num_envs
    for tick in range(ticks):
        action = jnp.asarray(rng.integers(0, SPEC.num_actions, num_envs), jnp.int32)
        state = replay.add(state, random_timestep(rng, num_envs, tick), action, tick)
    return state


class PlainDqn:
    """DQN as in a tutorial: one head, one-step targets, no replay of ours, no scan."""

    def __init__(self, params, optimizer, discount, double):
        self.online, self.target = params, params
        self.optimizer, self.opt_state = optimizer, optimizer.init(params)
        self.discount, self.double = discount, double
        self.gradient = jax.jit(jax.grad(self.loss))

    @staticmethod
    def q(params, obs):
        p = params["params"]
        x = obs.reshape(obs.shape[0], -1)
        x = jax.nn.relu(
            x @ p["MlpTorso_0"]["Dense_0"]["kernel"] + p["MlpTorso_0"]["Dense_0"]["bias"][None]
        )
        x = jax.nn.relu(x @ p["q_hidden_0"]["kernel"][0].T + p["q_hidden_0"]["bias"])
        return x @ p["q"]["kernel"][0].T + p["q"]["bias"]

    def errors(self, params, target_params, batch):
        rows = jnp.arange(batch.action.shape[0])
        q_next = self.q(target_params, batch.next_obs)
        chooser = self.q(params, batch.next_obs) if self.double else q_next
        target = batch.reward + batch.discount * q_next[rows, jnp.argmax(chooser, axis=1)]
        return jax.lax.stop_gradient(target) - self.q(params, batch.obs)[rows, batch.action]

    def loss(self, params, target_params, batch):
        error = self.errors(params, target_params, batch)
        absolute = jnp.abs(error)
        return jnp.mean(jnp.where(absolute <= 1, 0.5 * error**2, absolute - 0.5))

    def update(self, batch):
        gradient = self.gradient(self.online, self.target, batch)
        updates, self.opt_state = self.optimizer.update(gradient, self.opt_state)
        self.online = optax.apply_updates(self.online, updates)
        return optax.tree.norm(gradient)


@pytest.mark.parametrize("double", [False, True])
def test_twenty_updates_agree_with_a_plain_dqn(rng, double):
    config, replay, agent = built(agent__double=double, optimizer__learning_rate=1e-3)
    replay_state = filled(config, replay, rng)
    state, _ = agent.init(jax.random.key(0))
    optimizer = optax.adam(
        optax.linear_schedule(1e-3, config.optimizer.learning_rate_final, 92), eps=1e-8
    )
    plain = PlainDqn(state.params, optimizer, config.agent.discount, double)
    sample = jax.jit(replay.sample)
    for update in range(1, 21):
        tick = 100 + update
        key = jax.random.split(jax.random.fold_in(state.key, tick), 1)[0]
        sample_key = jax.random.split(key, 4)[0]
        norm = plain.update(sample(replay_state, uniforms(sample_key, 8), tick))
        state, replay_state, found = agent.learn(state, replay_state, tick)
        tolerance = 1e-5 if update == 1 else 1e-4
        chex.assert_trees_all_close(state.params, plain.online, atol=tolerance, rtol=tolerance)
        np.testing.assert_allclose(found["gradient_norm"], norm, rtol=1e-3)
        if agent_lib.is_due(config, tick, config.agent.target_period_steps):
            plain.target = plain.online
    assert not np.allclose(*(jax.tree.leaves(p)[0] for p in (state.params, plain.target)))


def test_double_changes_nothing_while_online_and_target_are_equal(rng):
    results = []
    for double in (False, True):
        config, replay, agent = built(agent__double=double)
        state, _ = agent.init(jax.random.key(0))
        replay_state = filled(config, replay, np.random.default_rng(0))
        results.append(agent.learn(state, replay_state, 100)[0].params)
    chex.assert_trees_all_close(*results, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("num_envs", "period", "target_period"), [(4, 4, 16), (8, 2, 20), (2, 8, 24), (4, 4, 4)]
)
def test_target_is_copied_at_the_first_learn_call_at_or_after_each_multiple(
    num_envs, period, target_period
):
    config = tiny(
        env__num_envs=num_envs,
        train__update_period_steps=period,
        agent__target_period_steps=target_period,
    )
    copies = [
        (tick + 1) * num_envs
        for tick in range(200)
        if agent_lib.learns_at(config, tick) and agent_lib.is_due(config, tick, target_period)
    ]
    first = config.train.learning_starts_steps
    stride = max(num_envs, period)
    want = []
    for multiple in range(target_period, 200 * num_envs + 1, target_period):
        at = -(-multiple // stride) * stride
        if at >= first and at <= 200 * num_envs and at not in want:
            want.append(at)
    assert copies == want


def test_learn_copies_the_target_when_due_and_not_before(rng):
    config, replay, agent = built()
    replay_state = filled(config, replay, rng)
    state, _ = agent.init(jax.random.key(0))
    before = jax.tree.map(np.asarray, state.target_params)
    state, replay_state, _ = agent.learn(state, replay_state, 20)  # 84 steps, period 16
    chex.assert_trees_all_equal(state.target_params, before)
    state, _, _ = agent.learn(state, replay_state, 23)  # 96 steps
    chex.assert_trees_all_equal(state.target_params, state.params)


@pytest.mark.parametrize("exponent", [0.0, 0.6])
def test_a_call_makes_every_update_it_owes(rng, exponent):
    """Each draws by the priorities that the one before has left."""
    config, replay, agent = built(
        env__num_envs=8,
        train__update_period_steps=2,
        replay__priority_exponent=exponent,
        replay__importance_exponent=0.0,
        replay__importance_exponent_final=0.0,
    )
    ring = filled(config, replay, rng)
    first, _ = agent.init(jax.random.key(0))
    state, learned, found = agent.learn(first, ring, 50)
    plain = PlainDqn(first.params, agent_lib.make_optimizer(config), config.agent.discount, False)
    sample = jax.jit(replay.sample)
    for key in jax.random.split(jax.random.fold_in(first.key, 50), 4):
        batch = sample(ring, uniforms(jax.random.split(key, 4)[0], 8), 50)
        priority = jnp.abs(plain.errors(plain.online, plain.target, batch))
        norm = plain.update(batch)
        ring = replay.update(ring, batch, priority)
    chex.assert_trees_all_close(learned.priorities, ring.priorities, rtol=1e-4)
    np.testing.assert_allclose(learned.max_priority, ring.max_priority, rtol=1e-4)
    np.testing.assert_allclose(found["gradient_norm"], norm, rtol=1e-3)  # of the last of them
    chex.assert_trees_all_close(state.params, plain.online, atol=1e-4, rtol=1e-4)
    assert [int(x) for x in optax.tree.get_all_with_path(state.opt_state, "count")[0][1:]] == [4]


def test_updates_of_a_call_have_noise_of_their_own(rng, monkeypatch):
    config = tiny(env__num_envs=8, train__update_period_steps=2, network__noisy="factorised")
    replay, drawn, draw_noise = make_replay(config, SPEC), [], networks.draw_noise

    def spy(params, key, independent):
        jax.debug.callback(
            lambda data: drawn.append(tuple(data.tolist())), jax.random.key_data(key)
        )
        return draw_noise(params, key, independent)

    monkeypatch.setattr(networks, "draw_noise", spy)
    agent = agent_lib.make_agent(config, SPEC, replay)
    state, _ = agent.init(jax.random.key(0))
    jax.block_until_ready(jax.jit(agent.learn)(state, filled(config, replay, rng), 50))
    jax.effects_barrier()
    keys = jax.random.split(jax.random.fold_in(state.key, 50), 4)
    wanted = [jax.random.key_data(jax.random.split(key, 4)[1:]).tolist() for key in keys]
    assert sorted(drawn) == sorted(tuple(data) for update in wanted for data in update)


def test_gradients_are_clipped_to_the_global_norm():
    config = tiny(optimizer__max_gradient_norm=0.5, optimizer__name="adam")
    optimizer = agent_lib.make_optimizer(config)
    small, large = {"w": jnp.array([3.0, 4.0]) * 0.05}, {"w": jnp.array([3.0, 4.0]) * 1e3}
    state = optimizer.init(small)

    def first_moment(gradient):
        return optax.tree.get(optimizer.update(gradient, state)[1], "mu")["w"]

    chex.assert_trees_all_close(first_moment(large), 0.1 * jnp.array([0.3, 0.4]), rtol=1e-5)
    chex.assert_trees_all_close(first_moment(small), 0.1 * small["w"], rtol=1e-5)


def test_adam_is_that_of_optax(rng):
    ours, theirs = agent_lib.scale_by_adam(1e-3), optax.scale_by_adam(eps=1e-3)
    params = {"w": jnp.ones((3, 4)), "b": jnp.ones((4,))}
    state, their_state = ours.init(params), theirs.init(params)
    for _ in range(5):
        gradients = jax.tree.map(
            lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), params
        )
        updates, state = ours.update(gradients, state)
        want, their_state = theirs.update(gradients, their_state)
        chex.assert_trees_all_close((updates, state), (want, their_state), rtol=1e-5)


def test_rmsprop_is_centred_as_in_nature():
    config = tiny(
        optimizer__name="rmsprop",
        optimizer__learning_rate=0.1,
        optimizer__learning_rate_final="none",
        optimizer__eps=0.01,
        optimizer__decay=0.95,
    )
    optimizer = agent_lib.make_optimizer(config)
    params = jnp.array([1.0])
    state, square, mean = optimizer.init(params), 0.0, 0.0
    for gradient in (2.0, -1.0, 0.5):
        updates, state = optimizer.update(jnp.array([gradient]), state)
        square = 0.95 * square + 0.05 * gradient**2
        mean = 0.95 * mean + 0.05 * gradient
        want = -0.1 * gradient / np.sqrt(square - mean**2 + 0.01)
        np.testing.assert_allclose(updates, [want], rtol=1e-5)


def test_epsilon_is_linear_from_the_start_of_learning():
    def at(steps):
        return float(
            exploration.epsilon(steps, start=1.0, end=0.1, decay_steps=100, delay_steps=50)
        )

    assert [at(s) for s in (0, 50, 150, 10_000)] == pytest.approx([1, 1, 0.1, 0.1])
    assert at(100) == pytest.approx(0.55)


def test_epsilon_greedy_frequencies():
    q = jnp.tile(jnp.array([[0.0, 2.0, 1.0, -1.0]]), (40_000, 1))
    action = np.asarray(exploration.epsilon_greedy(jax.random.key(0), q, 0.4))
    np.testing.assert_allclose(np.bincount(action) / action.size, [0.1, 0.7, 0.1, 0.1], atol=0.01)
    assert np.all(np.asarray(exploration.epsilon_greedy(jax.random.key(0), q, 0.0)) == 1)


def test_heads_are_redrawn_at_true_episode_starts_only():
    head = jnp.arange(20_000, dtype=jnp.int32) % 10
    first = jnp.arange(20_000) >= 10_000
    drawn = np.asarray(exploration.redraw_heads(jax.random.key(0), head, first, 10))
    np.testing.assert_array_equal(drawn[:10_000], np.asarray(head[:10_000]))
    np.testing.assert_allclose(np.bincount(drawn[10_000:]) / 10_000, 0.1, atol=0.012)


def test_a_lost_life_keeps_the_head_and_the_stack(rng):
    config, _, agent = built(network__heads=5, agent__epsilon_start=0.0)
    num_envs = config.env.num_envs
    state, actor = agent.init(jax.random.key(0))
    no = np.zeros(num_envs, bool)
    timesteps = [random_timestep(rng, num_envs, tick) for tick in range(3)]
    heads = []
    for tick, timestep in enumerate(timesteps):
        lost = timestep._replace(terminated=~no, last=no)
        _, actor = agent.act(state, actor, lost, tick)
        heads.append(np.asarray(actor.head))
    np.testing.assert_array_equal(heads[0], heads[2])
    assert len(set(heads[0])) > 1
    want = np.stack([timesteps[1].frame, timesteps[2].frame], axis=1)
    np.testing.assert_array_equal(actor.stack, want)


def test_a_first_frame_fills_the_stack(rng):
    config, _, agent = built()
    state, actor = agent.init(jax.random.key(0))
    timestep = random_timestep(rng, config.env.num_envs, 0)
    _, actor = agent.act(state, actor, timestep, 0)
    np.testing.assert_array_equal(actor.stack[:, 0], timestep.frame)
    np.testing.assert_array_equal(actor.stack[:, 1], timestep.frame)


def test_each_environment_acts_by_its_own_head(rng):
    config, _, agent = built(network__heads=5, agent__epsilon_start=0.0)
    state, actor = agent.init(jax.random.key(0))
    timestep = random_timestep(rng, config.env.num_envs, 0)
    action, actor = agent.act(state, actor, timestep, 0)
    q = np.asarray(agent.q_heads(state, actor.stack))
    assert q.shape == (4, 5, 3)
    want = [q[e, int(actor.head[e])].argmax() for e in range(config.env.num_envs)]
    np.testing.assert_array_equal(action, want)


def test_initial_target_is_a_copy_not_the_same_buffer():
    _, _, agent = built()
    state, _ = agent.init(jax.random.key(0))
    for online, target in zip(
        *map(jax.tree.leaves, (state.params, state.target_params)), strict=True
    ):
        assert online.unsafe_buffer_pointer() != target.unsafe_buffer_pointer()
        np.testing.assert_array_equal(online, target)


def test_learning_lowers_the_loss_on_a_fixed_problem(rng):
    """γ = 0 makes it regression on the clipped reward."""
    config, replay, agent = built(
        agent__discount=0.0,
        agent__reward_clip=1.0,
        optimizer__learning_rate=1e-2,
        optimizer__learning_rate_final="none",
    )
    replay_state = filled(config, replay, rng)
    state, _ = agent.init(jax.random.key(0))
    seen = []
    for tick in range(200, 500):
        state, replay_state, metrics = agent.learn(state, replay_state, tick)
        seen.append(float(metrics["loss"]))
    assert np.mean(seen[-20:]) < 0.5 * np.mean(seen[:20])


def test_with_overrides_checks_again():
    with pytest.raises(ValueError, match="heads"):
        with_overrides(tiny(), network__heads=0)


def noise_alone(params):
    """The parameters of a noisy network with every mean at zero: what it answers is its noise."""
    return jax.tree.map_with_path(
        lambda path, x: x if "sigma" in path[-1].key else jnp.zeros_like(x), params
    )


def test_noise_acts_in_training_anew_for_each_step_and_environment_and_not_in_evaluation():
    silent = {"agent__epsilon_start": 0.0, "agent__epsilon_end": 0.0, "agent__epsilon_eval": 0.0}
    _, _, agent = built(network__noisy="factorised", **silent)
    state, actor = agent.init(jax.random.key(0))
    state = state.replace(params=noise_alone(state.params))
    no = np.zeros(4, bool)
    timestep = Timestep(np.ones((4, 3), np.float32), no.astype(np.float32), no, no, ~no)
    acted = np.stack([agent.act(state, actor, timestep, tick)[0] for tick in range(40)])
    assert (acted.std(axis=0) > 0).all()  # over steps
    assert (acted.std(axis=1) > 0).any()  # over environments that see the same
    evaluated = [agent.act_in_evaluation(state, actor, timestep, tick)[0] for tick in range(3)]
    assert (np.stack(evaluated) == 0).all()  # all values alike: the first action


@pytest.mark.parametrize("noisy", ["factorised", "independent"])
def test_online_target_and_selection_have_their_own_noise_and_gradients_go_through_it(rng, noisy):
    config, replay, agent = built(
        network__noisy=noisy, network__noisy_sigma=0.5, agent__double=True
    )
    tick = 34  # its draws choose differently, see below
    state, _ = jax.jit(agent.init)(jax.random.key(0))
    ring = filled(config, replay, rng)
    update_key = jax.random.split(jax.random.fold_in(state.key, tick), 1)[0]
    sample_key, *noise_keys = jax.random.split(update_key, 4)
    batch = jax.jit(replay.sample)(ring, uniforms(sample_key, 8), tick)
    rows = np.arange(batch.action.size)

    def noisy_q(params, i, obs):
        noise = networks.draw_noise(params, noise_keys[i], noisy == "independent")
        return PlainDqn.q(networks.perturbed(params, noise), obs)

    @jax.value_and_grad
    def loss_and_gradients(params):
        target, selector = (noisy_q(params, i, batch.next_obs) for i in (1, 2))
        value = batch.reward + batch.discount * target[rows, jnp.argmax(selector, axis=1)]
        error = jax.lax.stop_gradient(value) - noisy_q(params, 0, batch.obs)[rows, batch.action]
        return jnp.mean(optax.huber_loss(error))

    @jax.jit
    def update(params):
        loss, gradients = loss_and_gradients(params)
        optimizer = agent_lib.make_optimizer(config)
        updates, _ = optimizer.update(gradients, optimizer.init(params), params)
        choices = [jnp.argmax(noisy_q(params, i, batch.next_obs), axis=1) for i in range(3)]
        choices.append(jnp.argmax(PlainDqn.q(params, batch.next_obs), axis=1))
        return loss, gradients, optax.apply_updates(params, updates), choices

    # The target's parameters are still those of the online network.
    loss, gradients, params, (by_online, by_target, selected, by_mean) = update(state.params)
    for other in (by_online, by_target, by_mean):  # else this test could not tell them apart
        assert ((other != selected) & (batch.discount > 0)).any()
    sigmas = [x for path, x in jax.tree.leaves_with_path(gradients) if "sigma" in path[-1].key]
    assert len(sigmas) == 4
    assert all(np.abs(x).max() > 1e-4 for x in sigmas)
    learned, _, metrics = agent.learn(state, ring, tick)
    chex.assert_trees_all_close(learned.params, params, rtol=1e-4, atol=1e-6)
    assert float(metrics["loss"]) == pytest.approx(float(loss), rel=1e-4)
    norm = float(optax.tree.norm(gradients))
    assert float(metrics["gradient_norm"]) == pytest.approx(norm, rel=1e-4)


def test_a_priority_is_the_unweighted_error(rng):
    config, replay, agent = built(replay__priority_exponent=0.6, replay__importance_exponent=1.0)
    state, _ = agent.init(jax.random.key(0))
    ring = filled(config, replay, rng)
    batch = replay.sample(ring, uniforms(jax.random.key(1), 8), 20)
    ring = replay.update(ring, batch, jnp.arange(8.0))  # so that weights differ
    key = jax.random.split(jax.random.fold_in(state.key, 20), 1)[0]
    batch = replay.sample(ring, uniforms(jax.random.split(key, 4)[0], 8), 20)
    assert np.ptp(batch.weight) > 0.3
    values = agent.q_heads(state, batch.next_obs)[:, 0].max(axis=-1)
    chosen = np.asarray(agent.q_heads(state, batch.obs))[np.arange(8), 0, batch.action]
    error = np.abs(batch.reward + batch.discount * values - chosen)
    _, ring, _ = agent.learn(state, ring, 20)
    for row, env, magnitude in zip(batch.row, batch.env, error, strict=True):
        leaf = leaves_of_row(ring.priorities, row)[env]
        np.testing.assert_allclose(
            leaf, (magnitude + config.replay.priority_epsilon) ** 0.6, rtol=1e-4
        )


def test_ranks_are_sorted_at_the_first_update_and_then_once_in_their_period(rng):
    config, replay, agent = built(
        replay__prioritization="rank", replay__priority_exponent=0.7, replay__rank_refresh_updates=3
    )
    state, _ = agent.init(jax.random.key(0))
    ring, sorted_at = filled(config, replay, rng), []
    for tick in range(7, 20):  # learning starts at 32 steps of 4 environments, an update a tick
        before = ring.priorities.ranks.sorted
        state, ring, _ = agent.learn(state, ring, tick)
        if (ring.priorities.ranks.sorted != before).any():
            sorted_at.append(tick)
    assert sorted_at == [7, 8, 11, 14, 17]


def test_a_period_beyond_all_steps_is_never_due(rng):
    config, replay, agent = built(
        replay__prioritization="rank",
        replay__priority_exponent=0.7,
        replay__rank_refresh_updates=2_000_000_000,
    )
    assert config.replay.rank_refresh_updates * config.train.update_period_steps > 2**31
    state, _ = agent.init(jax.random.key(0))
    jax.eval_shape(agent.learn, state, filled(config, replay, rng), 20)


def test_an_option_that_xla_does_not_know_is_left_out(monkeypatch):
    jit = jax.jit

    def of_another_xla(function, compiler_options=None, **rest):
        def refused():
            raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: No such compile option")

        return refused if compiler_options else jit(function, **rest)

    monkeypatch.setattr(jax, "jit", of_another_xla)
    assert agent_lib.jit_learning(lambda x: x + 1, ())(1) == 2


def test_value_and_advantage_of_dueling_streams():
    for dueling, value, advantage in (("mean", 2.0, 2.0), ("max", 2.0, 3.0)):
        _, _, agent = built(network__dueling=dueling)
        state, _ = agent.init(jax.random.key(0))
        params = jax.tree.map(jnp.zeros_like, state.params)
        params["params"]["value"]["bias"] += 2.0
        params["params"]["advantage"]["bias"] += jnp.array([[4.0, 1.0, -2.0]])
        found = agent.diagnose(state.replace(params=params), jnp.zeros((5, 2, 3)))
        np.testing.assert_allclose(found["value"], value, rtol=1e-6)
        np.testing.assert_allclose(found["advantage"], advantage, rtol=1e-6)
