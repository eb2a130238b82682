"""Games to look at: they are those of an evaluation, and every moment says what happens."""

import numpy as np
import pytest
from helpers import tiny
from trained_helpers import drawn

from jdqn import envs, learning
from jdqn.config import ConfigError
from jdqn.runs import evaluation
from jdqn.tools import games
from jdqn.tools.games import Film, Moment, Opinion

pytestmark = pytest.mark.usefixtures("quick_compilation")
SEED = 20_003
IMPLICIT = {"network__value_head": "implicit_quantile"}


@pytest.fixture(scope="module")
def chain():
    """A bootstrapped agent that was never trained, and who plays with it."""
    config = tiny(
        "jdqn/Chain", "bootstrapped", network__heads=3, train__seed=3, agent__epsilon_eval=0.3
    )
    env = envs.make_env(config, num_envs=1)
    agent, state = drawn(config, env.spec, 3)
    return config, agent, state, games.make_brain(config, agent, state)


@pytest.fixture(scope="module")
def evaluate(chain):
    config, agent, *_ = chain
    return evaluation.make_evaluator(tiny_of(config, episodes=1), agent)


def tiny_of(config, episodes):
    from jdqn.config import with_overrides

    return with_overrides(config, train__eval_episodes=episodes)


def test_a_game_on_the_host_is_the_one_of_the_evaluation_of_its_run():
    """Whose environments lie apart from those of runs with other seeds."""
    config = tiny(train__seed=3, train__eval_episodes=1, agent__epsilon_eval=0.5)
    env = envs.make_env(config, num_envs=1)
    env.close()
    agent, state = drawn(config, env.spec, 1)
    offset = evaluation.COMMAND_SEED_OFFSET
    want = evaluation.make_evaluator(config, agent)(state, 3, offset, "vote")
    seed = envs.first_seed("CartPole-v1", 3) + offset
    brain = games.make_brain(config, agent, state)
    moments = list(games.play(config, brain, seed=seed, policy="vote"))
    assert moments[-1].score == want.return_mean


@pytest.mark.parametrize("policy", ["vote", "mean", "head_1"])
def test_the_game_is_the_one_that_an_evaluation_plays(chain, evaluate, policy):
    config, _, state, brain = chain
    moments = list(games.play(config, brain, seed=SEED, policy=policy))
    want = evaluate(state, 3, SEED - 3, policy)
    assert (moments[-1].score, moments[-1].step) == (want.return_mean, want.length_mean)
    assert [moment.step for moment in moments] == list(range(len(moments)))
    assert any(moment.opinion.explores for moment in moments)
    actions = {moment.action for moment in moments[:-1]}
    assert actions == {0, 1}
    assert moments[-1].action is None
    first = moments[0]
    assert first.opinion.q.shape == (3, 2)
    assert first.opinion.probabilities is None
    assert first.stack.shape == (2, 10)
    np.testing.assert_array_equal(first.stack, [[1, 1] + [0] * 8] * 2)
    # What is said of a moment is what the network says of its stack.
    q = brain.agent.output(state, moments[5].stack[None]).q[0]
    np.testing.assert_allclose(moments[5].opinion.q, q, rtol=1e-5)


def test_one_head_is_drawn_for_each_game(chain):
    config, *_, brain = chain
    heads = [
        next(games.play(config, brain, seed=seed, policy="head")).opinion.head for seed in range(12)
    ]
    assert set(heads) == {0, 1, 2}


def test_distributions_are_told():
    config = tiny("jdqn/Chain", "c51", network__atoms=11)
    env = envs.make_env(config, num_envs=1)
    brain = games.make_brain(config, *drawn(config, env.spec, 0))
    opinion = next(games.play(config, brain, seed=0, policy="mean")).opinion
    returns = games.returns_of(config)
    assert opinion.probabilities.shape == (1, 2, 11)
    np.testing.assert_allclose(opinion.probabilities @ returns, opinion.q, rtol=1e-3, atol=1e-3)
    assert games.returns_of(tiny("jdqn/Chain")) is None


def test_quantiles_are_told():
    config = tiny("jdqn/Chain", network__value_head="quantile", network__atoms=4)
    env = envs.make_env(config, num_envs=1)
    brain = games.make_brain(config, *drawn(config, env.spec, 0))
    opinion = next(games.play(config, brain, seed=0, policy="mean")).opinion
    assert opinion.probabilities is None
    assert opinion.quantiles.shape == (1, 2, 4)
    np.testing.assert_allclose(opinion.quantiles.mean(axis=2), opinion.q, rtol=1e-5)
    assert games.returns_of(config) is None


def test_what_is_told_of_drawn_quantiles_is_what_acted():
    """Two of them, drawn anew at each step: others would find another action best."""
    few = {"network__quantile_samples_acting": 2, "network__quantile_cosines": 4}
    config = tiny("jdqn/Chain", agent__epsilon_eval=0.0, **IMPLICIT, **few)
    env = envs.make_env(config, num_envs=1)
    brain = games.make_brain(config, *drawn(config, env.spec, 0))
    moments = list(games.play(config, brain, seed=0, policy="mean"))
    assert not any(moment.opinion.explores for moment in moments)
    assert len({moment.action for moment in moments[:-1]}) == 2
    quantiles = [moment.opinion.quantiles for moment in moments]
    assert quantiles[0].shape == (1, 2, 2)
    assert np.unique(quantiles).size == np.size(quantiles)


def test_a_random_agent_needs_no_network():
    config = tiny("jdqn/Chain")
    moments, again = (list(games.play(config, None, seed=4, policy="vote")) for _ in range(2))
    assert len(moments) == 20
    assert [moment.action for moment in moments] == [moment.action for moment in again]
    assert {moment.action for moment in moments} == {0, 1, None}
    assert all(moment.opinion is None for moment in moments)
    newest = moments[7].stack
    np.testing.assert_array_equal(newest[0], moments[6].stack[1])


@pytest.mark.parametrize(
    ("head", "best"),
    [
        (0, [True, False, False]),
        (1, [False, True, True]),
        (learning.ALL_VOTE, [True, True, False]),  # a tie
        (learning.ALL_MEAN, [False, True, False]),
    ],
)
def test_what_a_policy_may_find_best(head, best):
    q = np.array([[3.0, 2.0, 1.0], [0.0, 4.0, 4.0]])
    assert [games.is_best(q, head, action) for action in range(3)] == best


@pytest.mark.parametrize("policy", ["vote", "mean", "head", "head_0", "head_4"])
def test_policies_of_five_heads(policy):
    games.check_policy(policy, 5)


@pytest.mark.parametrize("policy", ["best", "head_5", "head_", "0", "head_-1"])
def test_other_policies_are_refused(policy):
    with pytest.raises(ConfigError, match=f"--policy '{policy}': must be vote, mean, head_0 to"):
        games.check_policy(policy, 5)


def moment(step, rng, action=0):
    picture = rng.integers(256, size=(5, 4, 3), dtype=np.uint8)
    stack = rng.normal(size=(2, 3)).astype(np.float32)
    opinion = Opinion(np.zeros((1, 2)), None, 0, False)
    return Moment(0, step, 0.0, picture, stack, opinion, action)


def test_a_film_gives_back_what_it_was_given(rng):
    moments = [moment(i, rng, None if i == 3 else 0) for i in range(6)]
    film = Film(0, None)
    for one in moments:
        film.append(one)
    assert (len(film), film.seen, film.ends, len(film.opinions)) == (6, 6, [3], 6)
    for i, one in enumerate(moments):
        np.testing.assert_array_equal(film[i].picture, one.picture)
        np.testing.assert_array_equal(film[i].stack, one.stack)
        assert film[i].step == i
    np.testing.assert_array_equal(
        film.most, np.max([np.abs(one.stack).max(axis=0) for one in moments], axis=0)
    )


def test_a_film_keeps_the_part_that_is_asked_for(rng):
    film = Film(2, 3)
    for i in range(9):
        film.append(moment(i, rng))
    assert [film[i].step for i in range(len(film))] == [2, 3, 4]
    assert film.seen == 9


def test_pictures_are_kept_small():
    film = Film(0, None)
    flat = np.zeros((210, 160, 3), np.uint8)
    film.append(Moment(0, 0, 0.0, flat, np.zeros((4, 84, 84), np.uint8), None, 0))
    assert sum(len(packed[0]) for packed in film._pictures[0]) < 2_000
