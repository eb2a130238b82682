"""Evaluation: full games, a fixed number for each environment; saved runs play as they were."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import QUICK, tiny
from scripted import ScriptedEnv, maker

from jdqn.config import load_config
from jdqn.envs import EnvError, first_seed, make_env
from jdqn.learning import ActorState, AgentState, make_agent
from jdqn.replay import make_replay
from jdqn.runs import evaluation
from jdqn.runs.episodes import Standing
from jdqn.runs.trained import load_run
from jdqn.train import train

pytestmark = pytest.mark.usefixtures("quick_compilation")


def game(*rewards, lost_lives=()):
    """A full game of `rewards`; a life is lost at the given steps."""
    last = len(rewards) - 1
    return [(float(r), i == last, False, i in lost_lives) for i, r in enumerate(rewards)]


@functools.cache
def untrained(config, spec):
    """An agent and its parameters as they were drawn."""
    agent = make_agent(config, spec, make_replay(config, spec))
    state, _ = jax.jit(agent.init, compiler_options=QUICK)(jax.random.key(0))
    return agent, state


def play(config, make_env, seed=0, watch=None):
    """Evaluates untrained parameters."""
    env = make_env(config, num_envs=1)
    env.close()
    agent, state = untrained(config, env.spec)
    return evaluation.make_evaluator(config, agent, make_env)(state, seed, 0, "vote", watch)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short CartPole run: its configuration and result."""
    config = tiny(train__seed=4, train__steps=80, agent__epsilon_eval=0.3)
    return config, train(config, run_dir=tmp_path_factory.mktemp("run"))


def test_each_environment_plays_a_fixed_number_of_games(monkeypatch):
    """Four games on two environments; the first four to finish would be environment 1's."""
    monkeypatch.setattr(evaluation, "MAX_PARALLEL_GAMES", 2)
    games = [game(*[1] * 20), game(2), game(3), game(5), game(7), game(11)]
    make_env = maker(games)
    result = play(tiny(train__eval_episodes=4), make_env, seed=9)
    returns = [20, 2, 2, 3]  # environment 0 plays games 0 and 1, environment 1 games 1 and 2
    assert result.episodes == 4
    assert result.return_mean == np.mean(returns)
    assert result.return_median == np.median(returns)
    assert result.return_std_error == pytest.approx(np.std(returns, ddof=1) / 2)
    assert result.length_mean == np.mean([20, 1, 1, 1])
    seed, env = make_env.made[-1]
    assert seed == first_seed("scripted", 9)
    assert env.closed


def test_games_that_do_not_divide_evenly(monkeypatch):
    monkeypatch.setattr(evaluation, "MAX_PARALLEL_GAMES", 2)
    result = play(tiny(train__eval_episodes=3), maker([game(1), game(10), game(100)]))
    assert result.episodes == 3
    assert result.return_mean == (1 + 10 + 10) / 3  # games 0 and 1, and game 1


def test_one_game_has_no_standard_error():
    result = play(tiny(train__eval_episodes=1), maker([game(3, 4)]))
    assert result == (1, 7.0, 7.0, 0.0, 2.0)


def test_who_watches_sees_the_games_end_and_changes_nothing(monkeypatch):
    monkeypatch.setattr(evaluation, "MAX_PARALLEL_GAMES", 2)
    monkeypatch.setattr(evaluation, "WATCH_SECONDS", 0.0)
    games = [game(*[1] * 20), game(2), game(3), game(5)]
    seen = []
    result = play(tiny(train__eval_episodes=4), maker(games), watch=seen.append)
    assert result == play(tiny(train__eval_episodes=4), maker(games))
    assert seen[0] == Standing(0, 4, 0, None, False)
    assert [standing.finished for standing in seen[1:4]] == [1, 2, 2]
    assert [standing.finished for standing in seen[-2:]] == [3, 3]
    assert (seen[-1].steps, seen[-1].is_bound) == (22, False)  # 20, 1 and 1; the last one begins
    assert seen[-1].seconds_left > 0


@pytest.mark.parametrize(
    ("length", "left", "finished", "want"),
    [
        ([5, 9], [1, 1], [], (95, True)),  # at most 100 steps a game
        ([5, 9], [2, 1], [], (196, True)),
        ([5, 9], [1, 1], [20, 30], (20, False)),
        ([5, 40], [1, 0], [20, 30], (20, False)),  # that one has played all its games
        ([5, 40], [1, 1], [20, 30], (60, True)),  # it may go on to the end
        ([5, 9], [3, 1], [20], (57, False)),  # a tick between two games
    ],
)
def test_what_is_left_is_told_by_the_games_that_ended(length, left, finished, want):
    assert evaluation.ticks_left(np.array(length), np.array(left), finished, 100) == want


def test_a_lost_life_ends_no_game_and_rewards_are_raw():
    lives = [game(400, -30, 0.5, 2, lost_lives=[0, 2])]
    result = play(tiny(train__eval_episodes=2, agent__reward_clip=1.0), maker(lives))
    assert (result.return_mean, result.length_mean) == (372.5, 4)


def test_evaluation_ends_where_breakout_is_never_launched():
    config = tiny(
        "Breakout", network__torso="mlp", env__max_episode_steps=25, train__eval_episodes=2
    )
    idle = types.SimpleNamespace(
        act_in_evaluation=lambda state, actor, timestep, tick: (jnp.zeros(2, jnp.int32), actor),
        init_actor=lambda key, num_envs: ActorState(None, jnp.zeros(num_envs, jnp.int32), key),
    )
    nothing = AgentState(*[None] * len(AgentState.__dataclass_fields__))
    result = evaluation.make_evaluator(config, idle)(nothing, 0, 0, "vote")
    assert result == (2, 0.0, 0.0, 0.0, 25.0)


def test_an_environment_that_goes_wrong_is_said_to_be_in_evaluation():
    class Broken(ScriptedEnv):
        def recv(self):
            raise OSError("out of ink")

    make_env = maker([game(1)], Broken)
    with pytest.raises(EnvError) as info:
        play(tiny(), make_env)
    expected = 'in evaluation, environment "CartPole-v1": recv raised OSError: out of ink'
    assert str(info.value).startswith(f"{expected} (test_evaluation.py:")
    assert make_env.made[-1][1].closed


def test_environments_that_cannot_be_made_again():
    def make_env(config, *, num_envs, seed=None):
        if seed is not None:  # evaluation's own
            raise OSError("the port is taken")
        return maker([game(1)])(config, num_envs=num_envs)

    with pytest.raises(EnvError, match=r"^in evaluation, .* cannot be made: OSError: the port"):
        play(tiny(), make_env)


def test_exploration_is_epsilon_eval():
    def actions(epsilon):
        make_env = maker([game(*[0] * 200)])
        play(tiny(train__eval_episodes=1, agent__epsilon_eval=epsilon), make_env)
        return np.concatenate(make_env.made[-1][1].actions)

    assert 80 < actions(1.0).sum() < 120
    # A frame shows the environment and the step; an untrained network changes its mind rarely.
    assert np.count_nonzero(np.diff(actions(0.0))) < 10


def test_a_saved_run_plays_as_the_state_in_memory(run):
    config, result = run
    found = load_run(result.run_dir)
    agent = found.agent
    loaded = found.config
    (state,) = found.states
    assert (loaded, found.steps) == (config, 80)
    assert jax.tree.structure(state) == jax.tree.structure(result.state)
    want = evaluation.make_evaluator(config, agent)(result.state, 6, 0, "vote")
    assert evaluation.make_evaluator(loaded, agent)(state, 6, 0, "vote") == want
    # And the training's own evaluation at the last step can be repeated.
    offset = evaluation.TRAINING_SEED_OFFSET
    again = evaluation.make_evaluator(loaded, agent)(state, 4, offset, config.agent.eval_policy)
    assert again == result.evaluation


def test_evaluation_environments_are_apart_from_training():
    assert (evaluation.TRAINING_SEED_OFFSET, evaluation.COMMAND_SEED_OFFSET) == (10_000, 20_000)
    config = tiny(train__seed=4)
    training = make_env(config).reset().frame
    for offset in (evaluation.TRAINING_SEED_OFFSET, evaluation.COMMAND_SEED_OFFSET):
        seed = first_seed("CartPole-v1", 4) + offset
        frame = make_env(config, num_envs=4, seed=seed).reset().frame
        assert (training != frame).any(axis=1).all()


def test_runs_of_neighbouring_seeds_share_no_game():
    starts = []

    def noting(config, **keywords):
        env = make_env(config, **keywords)
        frames = {frame.tobytes() for frame in env.reset().frame}
        starts.extend([frames] * (len(frames) == 4))
        return env

    for seed in (4, 5):
        config = tiny(train__seed=seed, train__eval_episodes=4)
        noting(config)
        play(config, noting, seed)
    assert len(starts) == 4
    assert len(set.union(*starts)) == 8  # games of training and, apart by 0, of evaluation


def test_evaluation_reports_every_head_the_mean_and_the_vote():
    config = load_config(env="jdqn/Chain", agent="bootstrapped", overrides={"network.heads": 2})
    assert evaluation.policies(config) == ["head_0", "head_1", "mean", "vote"]
    one = load_config(env="jdqn/Chain", agent="dqn", overrides={"agent.eval_policy": "mean"})
    assert evaluation.policies(one) == ["mean"]
