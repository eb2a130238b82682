"""Evaluation and checkpoints: full games, a fixed number for each environment, saved runs."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny
from scripted import maker

from jdqn import checkpoint, evaluate, metrics
from jdqn import train as train_lib
from jdqn.agent import ActorState, AgentState, make_agent
from jdqn.envs import make_env
from jdqn.replay import make_replay


def game(*rewards, lost_lives=()):
    """A full game of `rewards`; a life is lost at the given steps."""
    last = len(rewards) - 1
    return [(float(r), i == last, False, i in lost_lives) for i, r in enumerate(rewards)]


def play(config, make_env, seed=0):
    """Evaluates untrained parameters."""
    env = make_env(config, num_envs=1)
    env.close()
    agent = make_agent(config, env.spec, make_replay(config, env.spec))
    state, _ = agent.init(jax.random.key(0))
    return evaluate.make_evaluator(config, agent, make_env)(state, seed, "vote")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short CartPole run: its configuration and result."""
    config = tiny(train__seed=4, train__steps=80, agent__epsilon_eval=0.3)
    return config, train_lib.train(config, run_dir=tmp_path_factory.mktemp("run"))


@pytest.fixture
def refusal(capsys):
    """The line with which the command refuses."""

    def refused(*argv):
        with pytest.raises(SystemExit) as info:
            evaluate.main([str(argument) for argument in argv])
        printed = capsys.readouterr()
        assert info.value.code == 2
        assert printed.out == ""
        assert printed.err.count("\n") == 1
        return printed.err

    return refused


def test_each_environment_plays_a_fixed_number_of_games(monkeypatch):
    """Four games on two environments; the first four to finish would be environment 1's."""
    monkeypatch.setattr(evaluate, "MAX_PARALLEL_GAMES", 2)
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
    assert seed == 9
    assert env.closed


def test_games_that_do_not_divide_evenly(monkeypatch):
    monkeypatch.setattr(evaluate, "MAX_PARALLEL_GAMES", 2)
    result = play(tiny(train__eval_episodes=3), maker([game(1), game(10), game(100)]))
    assert result.episodes == 3
    assert result.return_mean == (1 + 10 + 10) / 3  # games 0 and 1, and game 1


def test_one_game_has_no_standard_error():
    result = play(tiny(train__eval_episodes=1), maker([game(3, 4)]))
    assert result == (1, 7.0, 7.0, 0.0, 2.0)


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
    result = evaluate.make_evaluator(config, idle)(AgentState(*[None] * 5), 0, "vote")
    assert result == (2, 0.0, 0.0, 0.0, 25.0)


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
    loaded, agent, steps, state = evaluate.load_run(result.run_dir)
    assert (loaded, steps) == (config, 80)
    assert jax.tree.structure(state) == jax.tree.structure(result.state)
    want = evaluate.make_evaluator(config, agent)(result.state, 6, "vote")
    assert evaluate.make_evaluator(loaded, agent)(state, 6, "vote") == want
    # And the training's own evaluation at the last step can be repeated.
    again = evaluate.make_evaluator(loaded, agent)(state, 4 + 10_000, config.agent.eval_policy)
    assert again == result.evaluation


def test_the_command(run, capsys):
    _, result = run
    evaluate.main([str(result.run_dir), "--episodes", "5", "--epsilon", "0.5"])
    first, second = capsys.readouterr().out.splitlines()
    for words in ["CartPole-v1", "dqn", "seed 4", "80 steps", "5 full games", "epsilon 0.5"]:
        assert words in first
    loaded, agent, _, state = evaluate.load_run(
        result.run_dir, train__eval_episodes=5, agent__epsilon_eval=0.5
    )
    want = evaluate.make_evaluator(loaded, agent)(state, 4 + 20_000, loaded.agent.eval_policy)
    assert second.startswith(loaded.agent.eval_policy)
    for value in (want.return_mean, want.return_std_error, want.return_median):
        assert f"{value:.2f}" in second
    assert f"{want.length_mean:.0f} steps" in second
    assert want != result.evaluation


def test_what_is_no_run_is_refused(tmp_path, refusal, run):
    config_toml = run[1].run_dir / "config.toml"
    (tmp_path / "config.toml").write_bytes(config_toml.read_bytes())
    assert "no checkpoint" in refusal(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    assert "no finished checkpoint" in refusal(tmp_path)
    for path in (tmp_path / "checkpoints", tmp_path / "none"):
        message = refusal(path)
        assert f"{path} is not a run directory" in message


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--episodes", "0"], ["episodes", "0", "at least 1"]),
        (["--episodes", "few"], ["episodes", "'few'", "integer"]),
        (["--epsilon", "2"], ["epsilon", "2", "less than or equal to 1"]),
        (["--episode", "3"], ['"--episode"', '"--episodes"']),
    ],
)
def test_wrong_options_are_refused(run, refusal, options, said):
    message = refusal(run[1].run_dir, *options)
    for words in said:
        assert words in message


def test_a_checkpoint_comes_back_to_the_bit(tmp_path):
    tree = {
        "key": jax.random.key(3),
        "keys": jax.random.split(jax.random.key(4), 3),
        "f32": jnp.array([0.1, -0.0, 1e-40, jnp.inf, jnp.nan], jnp.float32),
        "u8": jnp.arange(256, dtype=jnp.uint8).reshape(2, -1),
        "i32": jnp.array(-(2**31), jnp.int32),
        "flag": jnp.array([True, False]),
    }
    checkpoint.save(tmp_path, 12, tree, keep=1)
    steps, restored = checkpoint.restore(tmp_path, jax.eval_shape(lambda: tree))
    assert steps == 12
    for name, leaf in tree.items():
        assert restored[name].dtype == leaf.dtype
        is_key = "key" in name
        pair = [jax.random.key_data(x) if is_key else x for x in (leaf, restored[name])]
        assert np.asarray(pair[0]).tobytes() == np.asarray(pair[1]).tobytes()
        assert pair[0].shape == pair[1].shape


def test_the_newest_checkpoints_are_kept(tmp_path):
    for steps in (5, 10, 100):
        checkpoint.save(tmp_path, steps, {"x": jnp.array([steps])}, keep=2)
    checkpoint.save(tmp_path, 100, {"x": jnp.array([0])}, keep=2)  # already there
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"10", "100"}
    steps, restored = checkpoint.restore(tmp_path, {"x": jnp.zeros(1, jnp.int32)})
    assert (steps, restored["x"].tolist()) == (100, [100])


def test_an_interrupted_checkpoint_is_not_read(tmp_path):
    checkpoint.save(tmp_path, 5, {"x": jnp.array([5])}, keep=2)
    (tmp_path / "checkpoints" / "7.orbax-checkpoint-tmp-1").mkdir()
    steps, _ = checkpoint.restore(tmp_path, {"x": jnp.zeros(1, jnp.int32)})
    assert steps == 5


def test_evaluation_environments_are_apart_from_training(run):
    config, _ = run
    frames = [
        env.reset().frame
        for env in (make_env(config), make_env(config, num_envs=4, seed=4 + 10_000))
    ]
    assert (frames[0] != frames[1]).any(axis=1).all()


def test_human_normalised_score():
    assert metrics.human_normalised("Breakout", 1.7) == 0
    assert metrics.human_normalised("Pong", 14.6) == pytest.approx(1)
    assert metrics.human_normalised("Breakout", 401.2) == pytest.approx(13.87, abs=0.01)
    assert metrics.human_normalised("CartPole-v1", 500) is None
