"""A trained agent outside of training plays as `evaluate` does, from raw observations."""

import importlib
import inspect

import gymnasium
import jax
import numpy as np
import pytest
from helpers import tiny
from scripted import ScriptedEnv, maker
from trained_helpers import drawn, write_run

import jdqn
from jdqn import envs
from jdqn.config import ConfigError
from jdqn.records import EnvSpec
from jdqn.runs import evaluation
from jdqn.runs.player import TrainedAgent
from jdqn.runs.trained import load_run

pytestmark = pytest.mark.usefixtures("quick_compilation")

HEADS = {"agent": "bootstrapped", "network__heads": 3}
SEED = 11


class Images(ScriptedEnv):
    """Frames of bytes, one of a kind for each environment, episode and step."""

    def __init__(self, episodes, num_envs, num_actions=3, frame_stack=2):
        super().__init__(episodes, num_envs, num_actions, frame_stack)
        self.spec = EnvSpec((6, 6), np.dtype(np.uint8), frame_stack, num_actions, 1 / 255)

    def _frame(self):
        numbers = super()._frame() @ [1, 7, 101]
        return np.stack(
            [np.random.default_rng(int(n)).integers(0, 256, (6, 6), np.uint8) for n in numbers]
        )


GAMES = [
    [(1.0, False, False, step == 2) for step in range(length)] + [(0.0, True, False, False)]
    for length in (9, 3, 14, 5)
]


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory):
    """A run on CartPole with three heads."""
    return write_run(tmp_path_factory.mktemp("cartpole"), tiny(**HEADS))


def evaluated(path, num_episodes, monkeypatch, make_env=envs.make_env):
    """The games that `evaluate` plays, by environment."""
    fields = {"agent__epsilon_eval": 0.0, "train__eval_episodes": num_episodes}
    found = load_run(path, make_env=make_env, **fields)
    seen = []
    summary = evaluation.summary
    monkeypatch.setattr(evaluation, "summary", lambda games: seen.extend(games) or summary(games))
    evaluation.make_evaluator(found.config, found.agent, make_env)(found.states[0], SEED, 0, "mean")
    assert len(seen) == num_episodes
    return sorted(seen, key=lambda game: game.env)


def test_each_game_is_that_of_evaluate_in_an_environment_of_ones_own(cartpole, monkeypatch):
    games = evaluated(cartpole, 4, monkeypatch)
    agent = jdqn.load(str(cartpole))
    env = gymnasium.make("CartPole-v1")
    for i, game in enumerate(games):
        observation, _ = env.reset(seed=envs.first_seed("CartPole-v1", SEED) + i)
        agent.reset()
        steps = 0
        over = False
        while not over:
            action = agent.act(observation)
            assert type(action) is int
            observation, _, terminated, truncated, _ = env.step(action)
            steps += 1
            over = terminated or truncated
        assert (game.env, game.length) == (i, steps)
    env.close()


def played(agent, env, num_ticks):
    """What an agent does in environments side by side that reset on the next step."""
    actions = []
    timestep = env.reset()
    for _ in range(num_ticks):
        agent.reset(np.asarray(timestep.first))
        actions.append(agent.act(np.asarray(timestep.frame)))
        env.send(actions[-1])
        timestep = env.recv()
        yield timestep


def test_frames_of_bytes_side_by_side_are_stacked_for_each_environment(tmp_path, monkeypatch):
    make_env = maker(GAMES, Images)
    config = tiny(**HEADS)
    path = write_run(tmp_path, config, make_env)
    evaluated(path, 4, monkeypatch, make_env)
    want = make_env.made[-1][1].actions
    agent = TrainedAgent(load_run(path, make_env=make_env), 0)
    env = Images(GAMES, 4)
    list(played(agent, env, len(want)))
    assert len({*np.ravel(want)}) > 1
    np.testing.assert_array_equal(env.actions, want)


def test_an_environment_in_jax(tmp_path, monkeypatch):
    config = tiny("jdqn/Chain", env__size=5, env__max_episode_steps=9, **HEADS)
    path = write_run(tmp_path, config)
    games = evaluated(path, 3, monkeypatch)
    env = envs.make_env(config, num_envs=3, seed=SEED)
    timesteps = list(played(jdqn.load(path), env, games[0].length))
    returns = np.sum([timestep.reward for timestep in timesteps], axis=0)
    np.testing.assert_allclose(returns, [game.episode_return for game in games])
    assert {game.length for game in games} == {len(timesteps)}


def test_q_values_are_those_of_the_heads_and_remember_nothing(cartpole):
    agent = jdqn.load(cartpole)
    first = np.array([0.1, -0.2, 0.3, 0.4])
    second = 2 * first
    found = load_run(cartpole)
    stacks = np.array([[first, first], [first, second]], np.float32)
    want = np.asarray(jax.jit(found.agent.output)(found.states[0], stacks).q)  # [2, K, A]
    assert agent.q_values(first, heads=True).shape == (3, 2)
    np.testing.assert_allclose(agent.q_values(first, heads=True), want[0], rtol=1e-5)
    np.testing.assert_allclose(agent.q_values(first), want[0].mean(axis=0), rtol=1e-5)
    assert agent.act(first) == want[0].mean(axis=0).argmax()
    for _ in range(2):
        np.testing.assert_allclose(agent.q_values(second), want[1].mean(axis=0), rtol=1e-5)
    agent.reset()
    several = agent.q_values(np.stack([first] * 3), heads=True)
    np.testing.assert_allclose(several, np.stack([want[0]] * 3), rtol=1e-5)
    assert agent.q_values(np.stack([first] * 3)).shape == (3, 2)


def test_where_one_frame_is_seen_at_once_any_number_may_be_asked_about(tmp_path):
    agent = jdqn.load(write_run(tmp_path, tiny(env__frame_stack=1)))
    rows = np.random.default_rng(0).normal(size=(5, 4))
    agent.act(rows[0])
    several = agent.q_values(rows)
    np.testing.assert_allclose(several, [agent.q_values(row) for row in rows], rtol=1e-5)
    with pytest.raises(ConfigError, match=r"^5 observations after 1: reset\(\) comes before"):
        agent.act(rows)


def test_an_episode_starts_where_the_mask_says(cartpole):
    agent = jdqn.load(cartpole)
    rows = np.random.default_rng(0).normal(size=(2, 2, 4))
    agent.act(rows[0])
    agent.reset(np.array([False, True]))
    values = agent.q_values(rows[1], heads=True)
    alone = jdqn.load(cartpole)
    for i, before in enumerate((rows[0, 0], rows[1, 1])):
        alone.reset()
        alone.act(before)
        np.testing.assert_allclose(alone.q_values(rows[1, i], heads=True), values[i], rtol=1e-4)
    agent.act(rows[1])  # and the episode has begun
    assert not agent._first.any()


def test_epsilon_1_is_random_and_repeatable(cartpole):
    agents = [jdqn.load(cartpole) for _ in range(2)]
    rows = np.zeros((200, 4))
    first, second = (agent.act(rows, epsilon=1.0) for agent in agents)
    np.testing.assert_array_equal(first, second)
    assert 60 < first.sum() < 140
    assert first.dtype == np.int64


def test_what_is_wrong_is_one_sentence(cartpole):
    agent = jdqn.load(cartpole)
    with pytest.raises(ConfigError, match=r"observation of shape \(3,\): expected .*\(4,\)"):
        agent.act(np.zeros(3))
    with pytest.raises(ConfigError, match="epsilon = 2: must be from 0 to 1"):
        agent.act(np.zeros(4), epsilon=2)
    with pytest.raises(ConfigError, match="epsilon = 'much': must be from 0 to 1"):
        agent.act(np.zeros(4), epsilon="much")
    agent.act(np.zeros((2, 4)))
    with pytest.raises(ConfigError, match=r"^3 observations after 2: reset\(\) comes before"):
        agent.act(np.zeros((3, 4)))
    for mask in ([True], [1, 0], True):
        with pytest.raises(ConfigError, match=r"^reset\(.*: expected 2 booleans"):
            agent.reset(mask)


@pytest.mark.parametrize("which", [7_000, "last"])
def test_a_checkpoint_that_is_not_there_is_named_as_an_argument(cartpole, which):
    with pytest.raises(ConfigError) as info:
        jdqn.load(cartpole, checkpoint=which)
    assert str(info.value) == (
        f"checkpoint = {which!r}: expected agent steps or best (there are: 80, best)"
    )


def test_what_the_agent_sees_can_be_looked_at(cartpole):
    agent = jdqn.load(cartpole)
    np.testing.assert_array_equal(agent.frames([0, 1, 2, 3]), np.arange(4, dtype=np.float32))
    assert agent.frames(np.zeros((5, 4))).shape == (5, 4)


def test_it_says_what_it_is(cartpole):
    what = "bootstrapped on CartPole-v1, seed 0, 80 steps, mean of 3 heads"
    assert repr(jdqn.load(cartpole, checkpoint=80)) == f"<jdqn agent {what}, from {cartpole}>"
    assert ", mean" not in repr(TrainedAgent(load_run(cartpole)._replace(config=tiny()), 0))


def test_one_of_several_seeds(tmp_path):
    config = tiny("jdqn/Chain", train__num_seeds=2, train__seed=4)
    write_run(tmp_path, config)
    found = load_run(tmp_path)
    states = [drawn(config, found.interface.spec, seed)[1] for seed in (4, 5)]
    for seed, number in {None: 0, 4: 0, 5: 1}.items():
        agent = TrainedAgent(found, found.number_of(seed))
        assert agent.seed == 4 + number
        jax.tree.map(np.testing.assert_array_equal, agent._state.params, states[number].params)
    for seed in (3, 6, "4"):
        with pytest.raises(ConfigError, match=r"^seed = .*: .* has seeds 4 to 5$"):
            jdqn.load(tmp_path, seed=seed, checkpoint="best")


def test_load_is_a_function_beside_modules_that_stay_modules():
    assert jdqn.load.__module__ == "jdqn.runs.player"
    assert {"load", "load_config", "make_env"} == set(jdqn.__all__)
    assert inspect.ismodule(importlib.import_module("jdqn.train"))
    assert inspect.ismodule(importlib.import_module("jdqn.evaluate"))
