"""Bootstrapped DQN: what must hold beyond a head axis."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import TINY, tiny, vector_spec

from jdqn import agent, config, exploration, priorities, replay, train
from jdqn.records import Timestep


def parts(**overrides):
    cfg = tiny(**overrides)
    spec = vector_spec()
    return cfg, agent.make_agent(cfg, spec, replay.make_replay(cfg, spec))


def timestep_of(num_envs, first=False):
    no = np.zeros(num_envs, bool)
    frame = np.ones((num_envs, 3), np.float32)
    return Timestep(frame, no.astype(np.float32), no, no, no | first)


def played(memory, brightness):
    """A ring of one episode of four environments, a tick for each brightness of the frame."""
    ring, add = memory.init(jax.random.key(2)), jax.jit(memory.add)
    for tick, scale in enumerate(brightness):
        seen = timestep_of(4, first=tick == 0)
        seen = seen._replace(frame=seen.frame * np.float32(scale))
        ring = add(ring, seen, jnp.zeros(4, jnp.int32), tick)
    return ring


def with_outputs(state, q):
    """A state whose heads answer `q` `[K, A]` whatever they see."""
    params = jax.tree.map(jnp.zeros_like, state.params)
    params["params"]["q"]["bias"] = jnp.asarray(q, jnp.float32)
    return state.replace(params=params)


def test_one_head_is_double_dqn_to_the_bit(tmp_path):
    """200 ticks."""
    runs = []
    for name, more in (("double", {}), ("bootstrapped", {"network.heads": 1})):
        same = {"agent.epsilon_eval": 0.0, "train.eval_episodes": 0, "train.steps": 800}
        cfg = config.load_config(env="gymnax/CartPole-v1", agent=name, overrides=TINY | same | more)
        runs.append(train.train(cfg, run_dir=tmp_path / name))
    chex.assert_trees_all_equal(runs[0].state, runs[1].state)


def test_more_heads_take_no_random_number_from_one():
    """The same random actions and the same rows in every batch, whatever K is."""
    acted, drawn = [], []
    for heads in (1, 3):
        cfg, _ = parts(network__heads=heads)
        memory = replay.make_replay(cfg, vector_spec())
        rows = []

        def sample(state, uniform, tick, memory=memory, rows=rows):
            batch = memory.sample(state, uniform, tick)
            jax.debug.callback(lambda row: rows.append(np.asarray(row)), batch.row)
            return batch

        learner = agent.make_agent(cfg, vector_spec(), memory._replace(sample=sample))
        state, actor = jax.jit(learner.init)(jax.random.key(0))
        act = jax.jit(learner.act)
        acted.append([act(state, actor, timestep_of(4), tick)[0] for tick in range(5)])
        ring = played(memory, [1.0] * 10)
        learn = jax.jit(learner.learn)
        for tick in (10, 11):
            jax.block_until_ready(learn(state, ring, tick))
        jax.effects_barrier()
        drawn.append(np.stack(rows))
    np.testing.assert_array_equal(*acted)  # epsilon is 1 before learning starts
    assert np.unique(acted[0]).size == 3
    np.testing.assert_array_equal(*drawn)


def test_a_tie_of_votes_is_broken_at_random():
    q = jnp.tile(jnp.array([[[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]]]), (4_000, 1, 1))
    action = np.argmax(exploration.vote(jax.random.key(0), q), axis=1)
    np.testing.assert_allclose(np.bincount(action, minlength=3) / 4_000, [0.5, 0.5, 0], atol=0.04)


Q = [[3.0, 1.0, 0.0], [2.0, 3.0, 0.0], [0.0, 3.0, 0.0], [0.0, 2.5, 9.0]]  # votes 0, 1, 1, 2


@pytest.mark.parametrize(
    ("policy", "action"), [(agent.ALL_VOTE, 1), (agent.ALL_MEAN, 1), (0, 0), (1, 1), (3, 2)]
)
def test_who_acts_in_evaluation(policy, action):
    _, learner = parts(network__heads=4, agent__epsilon_eval=0.0)
    state, actor = learner.init(jax.random.key(0))
    actor = actor.replace(head=jnp.full_like(actor.head, policy))
    chosen, after = learner.act_in_evaluation(with_outputs(state, Q), actor, timestep_of(4), 0)
    assert chosen.tolist() == [action] * 4
    assert (after.head == policy).all()


def test_the_mean_is_not_the_vote():
    _, learner = parts(network__heads=4, agent__epsilon_eval=0.0)
    state, actor = learner.init(jax.random.key(0))
    loud = [[0.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 99.0]]
    for policy, action in ((agent.ALL_VOTE, 1), (agent.ALL_MEAN, 2)):
        head = jnp.full_like(actor.head, policy)
        chosen, _ = learner.act_in_evaluation(
            with_outputs(state, loud), actor.replace(head=head), timestep_of(4), 0
        )
        assert chosen.tolist() == [action] * 4


def test_behaviour_in_training():
    """Each head wants its own action, so that the actions show who acted."""
    own = 10.0 * np.eye(3)
    ticks, seen = 60, {}
    for behaviour in ("head", "head_per_step", "vote"):
        _, learner = parts(
            network__heads=3,
            agent__behaviour=behaviour,
            agent__epsilon_start=0.0,
            agent__epsilon_end=0.0,
        )
        state, actor = learner.init(jax.random.key(0))
        state = with_outputs(
            state, own if behaviour != "vote" else [[0, 1, 0], [0, 1, 0], [1, 0, 0]]
        )
        act = jax.jit(learner.act)
        chosen = []
        for tick in range(ticks):
            action, actor = act(state, actor, timestep_of(4, first=tick % 20 == 0), tick)
            chosen.append(action)
        seen[behaviour] = np.array(chosen)  # [ticks, E]
    episodes = seen["head"].reshape(3, 20, 4)
    assert (episodes == episodes[:, :1]).all()  # one head for an episode
    assert len(np.unique(episodes[:, 0])) == 3
    changes = (np.diff(seen["head_per_step"], axis=0) != 0).mean()
    assert 0.5 < changes < 0.8  # two in three, a new head each step
    assert (seen["vote"] == 1).all()


def test_priors_move_the_values_and_are_never_trained():
    cfg, learner = parts(network__heads=3, network__prior_scale=2.0, train__update_period_steps=1)
    memory = replay.make_replay(cfg, vector_spec())
    state, _ = learner.init(jax.random.key(0))
    obs = jax.random.normal(jax.random.key(1), (5, 2, 3))
    bare = learner.q_heads(state.replace(prior_params=None), obs)
    prior = learner.q_heads(with_outputs(state, np.zeros((3, 3))), obs)
    np.testing.assert_allclose(learner.q_heads(state, obs), bare + prior, rtol=1e-5, atol=1e-6)
    assert (np.asarray(prior).std(axis=1) > 1e-3).all()  # heads have priors of their own
    ring = played(memory, [1.0] * 10)
    after, *_ = jax.jit(learner.learn)(state, ring, 10)
    chex.assert_trees_all_equal(after.prior_params, state.prior_params)
    before = jax.tree.leaves(state.params)
    assert all((a != b).any() for a, b in zip(jax.tree.leaves(after.params), before, strict=True))
    # The optimiser does not know of the priors: as many moments as parameters.
    moments = [x for x in jax.tree.leaves(after.opt_state) if x.ndim > 0]
    assert len(moments) == 2 * len(before)


def test_priors_tell_states_apart():
    """With biases a thirtieth of a prior over these one-hot cells tells one from another."""
    fields = {"torso": "none", "hidden": [50, 50], "heads": 3, "prior_scale": 1.0}
    cfg = tiny(env__frame_stack=1, **{f"network__{name}": x for name, x in fields.items()})
    spec = vector_spec(width=900, frame_stack=1)
    learner = agent.make_agent(cfg, spec, replay.make_replay(cfg, spec))
    state, _ = learner.init(jax.random.key(0))
    state = state.replace(params=jax.tree.map(jnp.zeros_like, state.params))
    prior = np.asarray(learner.q_heads(state, jnp.eye(900)[:, None]))
    same = prior.mean(axis=0)
    assert (prior - same).std() > 0.5 * np.sqrt((same**2).mean())


@pytest.mark.parametrize(("torso", "shape"), [("mlp", (3,)), ("minatar", (10, 10, 4))])
def test_priors_start_with_biases_of_zero(torso, shape):
    cfg = tiny(network__torso=torso, network__heads=2, network__prior_scale=1.0)
    spec = vector_spec()._replace(frame_shape=shape, frame_dtype=np.dtype(np.uint8))
    learner = agent.make_agent(cfg, spec, replay.make_replay(cfg, spec))
    prior = learner.init(jax.random.key(0))[0].prior_params
    for path, x in jax.tree.leaves_with_path(prior):
        assert bool(x.any()) == (path[-1].key == "kernel"), path


def test_priors_stand_beside_the_target_too():
    """Networks that answer 0: what is left of the error is between the priors."""
    cfg, learner = parts(network__heads=3, network__prior_scale=2.0, agent__loss="squared")
    memory = replay.make_replay(cfg, vector_spec())
    state, _ = learner.init(jax.random.key(0))
    zero = jax.tree.map(jnp.zeros_like, state.params)
    state = state.replace(params=zero, target_params=zero)
    ring = played(memory, np.sin(np.arange(12)))
    key = jax.random.split(jax.random.fold_in(state.key, 12), 1)[0]
    batch = memory.sample(ring, priorities.uniforms(jax.random.split(key, 4)[0], 8), 12)
    now, then = (np.asarray(learner.q_heads(state, x)) for x in (batch.obs, batch.next_obs))
    error = batch.reward[:, None] + batch.discount[:, None] * then.max(axis=-1) - now[:, :, 0]
    assert np.abs(then).max() > 0.1
    found = jax.jit(learner.learn)(state, ring, 12)[2]
    np.testing.assert_allclose(found["loss"], 0.5 * (error**2).sum(axis=1).mean(), rtol=1e-4)


def test_priors_of_a_distribution_are_added_to_its_logits():
    atoms = {"network__atoms": 5, "network__v_min": -2.0, "network__v_max": 2.0}
    _, learner = parts(network__heads=2, network__prior_scale=3.0, **atoms)
    state, _ = learner.init(jax.random.key(0))
    obs = jax.random.normal(jax.random.key(1), (4, 2, 3))
    both = learner.distribution(state, obs)
    bare = learner.distribution(state.replace(prior_params=None), obs)
    zero = jax.tree.map(jnp.zeros_like, state.params)
    prior = learner.distribution(state.replace(params=zero), obs)
    want = bare * prior / jnp.sum(bare * prior, axis=-1, keepdims=True)
    np.testing.assert_allclose(both, want, rtol=1e-4)
    assert np.abs(both - bare).max() > 0.01


def test_the_spread_between_heads_is_measured():
    _, learner = parts(network__heads=4)
    state, _ = learner.init(jax.random.key(0))
    found = learner.diagnose(with_outputs(state, Q), jnp.zeros((5, 2, 3)))
    np.testing.assert_allclose(found["q_spread"], np.std(Q, axis=0).mean(), rtol=1e-6)
    np.testing.assert_allclose(found["disagreement"], 0.5)  # two of four for the favourite
    np.testing.assert_allclose(found["q_heldout"], np.max(Q, axis=1).mean(), rtol=1e-6)
