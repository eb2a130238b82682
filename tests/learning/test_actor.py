"""Acting: the stack of frames, whose turn it is, in training and in evaluation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from learning_helpers import built, random_steps, timestep_of, with_outputs

from jdqn import learning

FIVE = {"network__heads": 5, "agent__epsilon_start": 0.0}


def first_timesteps(number):
    steps, _ = random_steps(4)
    return [jax.tree.map(lambda x, i=i: x[i], steps) for i in range(number)]


def test_a_lost_life_keeps_the_head_and_the_stack():
    agent = built(**FIVE).agent
    state, actor = agent.init(jax.random.key(0))
    timesteps = first_timesteps(3)
    no = np.zeros(4, bool)
    heads = []
    for tick, timestep in enumerate(timesteps):
        lost = timestep._replace(terminated=~no, last=no, first=no | (tick == 0))
        _, actor = agent.act(state, actor, lost, tick)
        heads.append(np.asarray(actor.head))
    np.testing.assert_array_equal(heads[0], heads[2])
    assert len(set(heads[0])) > 1
    want = np.stack([timesteps[1].frame, timesteps[2].frame], axis=1)
    np.testing.assert_array_equal(actor.stack, want)


def test_a_first_frame_fills_the_stack():
    agent = built(**FIVE).agent
    state, actor = agent.init(jax.random.key(0))
    timestep = first_timesteps(1)[0]
    _, actor = agent.act(state, actor, timestep, 0)
    np.testing.assert_array_equal(actor.stack[:, 0], timestep.frame)
    np.testing.assert_array_equal(actor.stack[:, 1], timestep.frame)


def test_each_environment_acts_by_its_own_head():
    agent = built(**FIVE).agent
    state, actor = agent.init(jax.random.key(0))
    action, actor = agent.act(state, actor, first_timesteps(1)[0], 0)
    q = np.asarray(agent.output(state, actor.stack).q)
    assert q.shape == (4, 5, 3)
    want = [q[e, int(actor.head[e])].argmax() for e in range(4)]
    np.testing.assert_array_equal(action, want)


def noise_alone(params):
    """The parameters of a noisy network with every mean at zero: what it answers is its noise."""
    return jax.tree.map_with_path(
        lambda path, x: x if "sigma" in path[-1].key else jnp.zeros_like(x), params
    )


def test_noise_acts_in_training_anew_for_each_step_and_environment_and_not_in_evaluation():
    silent = {"agent__epsilon_start": 0.0, "agent__epsilon_end": 0.0, "agent__epsilon_eval": 0.0}
    agent = built(network__noisy="factorised", **silent).agent
    state, actor = agent.init(jax.random.key(0))
    state = state.replace(params=noise_alone(state.params))
    timestep = timestep_of(4, first=True)
    acted = np.stack([agent.act(state, actor, timestep, tick)[0] for tick in range(40)])
    assert (acted.std(axis=0) > 0).all()  # over steps
    assert (acted.std(axis=1) > 0).any()  # over environments that see the same
    evaluated = [agent.act_in_evaluation(state, actor, timestep, tick)[0] for tick in range(3)]
    assert (np.stack(evaluated) == 0).all()  # all values alike: the first action


Q = [[3.0, 1.0, 0.0], [2.0, 3.0, 0.0], [0.0, 3.0, 0.0], [0.0, 2.5, 9.0]]  # votes 0, 1, 1, 2


@pytest.mark.parametrize(
    ("policy", "action"), [(learning.ALL_VOTE, 1), (learning.ALL_MEAN, 1), (0, 0), (1, 1), (3, 2)]
)
def test_who_acts_in_evaluation(policy, action):
    agent = built(network__heads=4, agent__epsilon_eval=0.0).agent
    state, actor = agent.init(jax.random.key(0))
    actor = actor.replace(head=jnp.full_like(actor.head, policy))
    chosen, after = agent.act_in_evaluation(with_outputs(state, Q), actor, timestep_of(4), 0)
    assert chosen.tolist() == [action] * 4
    assert (after.head == policy).all()


def test_the_mean_is_not_the_vote():
    agent = built(network__heads=4, agent__epsilon_eval=0.0).agent
    state, actor = agent.init(jax.random.key(0))
    loud = [[0.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 99.0]]
    state = with_outputs(state, loud)
    for policy, action in ((learning.ALL_VOTE, 1), (learning.ALL_MEAN, 2)):
        head = jnp.full_like(actor.head, policy)
        chosen, _ = agent.act_in_evaluation(state, actor.replace(head=head), timestep_of(4), 0)
        assert chosen.tolist() == [action] * 4


def test_behaviour_in_training():
    """Each head wants its own action, so that the actions show who acted."""
    own = 10.0 * np.eye(3)
    seen = {}
    for behaviour in ("head", "head_per_step", "vote"):
        agent = built(
            network__heads=3,
            agent__behaviour=behaviour,
            agent__epsilon_start=0.0,
            agent__epsilon_end=0.0,
        ).agent
        state, actor = agent.init(jax.random.key(0))
        wanted = own if behaviour != "vote" else [[0, 1, 0], [0, 1, 0], [1, 0, 0]]
        state = with_outputs(state, wanted)
        chosen = []
        for tick in range(60):
            action, actor = agent.act(state, actor, timestep_of(4, first=tick % 20 == 0), tick)
            chosen.append(action)
        seen[behaviour] = np.array(jax.device_get(chosen))  # [ticks, E]
    episodes = seen["head"].reshape(3, 20, 4)
    assert (episodes == episodes[:, :1]).all()  # one head for an episode
    assert len(np.unique(episodes[:, 0])) == 3
    changes = (np.diff(seen["head_per_step"], axis=0) != 0).mean()
    assert 0.5 < changes < 0.8  # two in three, a new head each step
    assert (seen["vote"] == 1).all()
