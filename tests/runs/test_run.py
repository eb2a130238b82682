"""What a run keeps and shows: tables, log events, evaluations, checkpoints, its end."""

import errno
import os
import re
import signal
import tomllib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny
from runs_helpers import EPISODES, log, metrics, plain, table
from scripted import ScriptedEnv, maker

from jdqn.config import RunError, load_config
from jdqn.envs import chain
from jdqn.loops import shared
from jdqn.runs import checkpoint, evaluation, run, store
from jdqn.runs.episodes import Evaluation
from jdqn.train import train

pytestmark = pytest.mark.usefixtures("quick_compilation")

# Else the length of a run would be a constant in what is compiled for it.
SAME_PROGRAMS = {"replay__importance_anneal_steps": 400}


@pytest.fixture(scope="module")
def scripted(tmp_path_factory):
    """A run of 50 ticks in the scripted environment: configuration, result, `make_env`."""
    config = tiny(
        train__seed=3,
        train__steps=198,
        train__log_period_steps=40,
        train__eval_period_steps=100,
        train__checkpoint_period_steps=80,
        train__checkpoint_keep=2,
        **SAME_PROGRAMS,
    )
    make_env = maker(EPISODES)
    path = tmp_path_factory.mktemp("scripted") / "new" / "run"
    result = train(config, run_dir=path, make_env=make_env, command="the command")
    return config, result, make_env


def test_what_a_run_leaves(scripted):
    _, result, make_env = scripted
    files = {path.name.partition(".tfevents")[0] for path in result.run_dir.iterdir()}
    tables = {"metrics.jsonl", "episodes.csv", "evaluations.csv"}
    assert files == {"config.toml", *tables, "events.out", "checkpoints"}
    assert result.steps == 200  # 198, rounded up to whole ticks
    # Due at the first tick at or after 80 and 160, and at the end; the newest two are kept.
    kept = {path.name for path in (result.run_dir / "checkpoints").iterdir()}
    assert kept == {"160.manifest", "200.manifest", "best.manifest", "blobs"}
    assert all(env.closed for _, env in make_env.made)


def test_config_toml_repeats_the_run(scripted):
    config, result, _ = scripted
    file = result.run_dir / "config.toml"
    assert load_config(file=file) == config
    recorded = tomllib.loads(file.read_text(encoding="utf-8"))["versions"]
    assert recorded["command"] == "the command"
    assert recorded["jax"] == jax.__version__
    assert {"jdqn", "python", "numpy", "envpool", "gymnasium", "git"} <= recorded.keys()


def expected_episodes(num_envs, num_ticks):
    """`(steps, return, length)` of every episode that ends, in order."""
    rows = []
    for env in range(num_envs):
        number = env
        tick = len(EPISODES[env % len(EPISODES)])
        while tick < num_ticks:
            episode = EPISODES[number % len(EPISODES)]
            rows.append((tick, env, sum(reward for reward, *_ in episode), len(episode)))
            number += 1
            tick += 1 + len(EPISODES[number % len(EPISODES)])  # the reset takes a tick
    return [((tick + 1) * num_envs, total, length) for tick, _, total, length in sorted(rows)]


def test_episodes_are_true_games(scripted):
    _, result, _ = scripted
    rows = table(result.run_dir / "episodes.csv")
    assert list(rows[0]) == ["steps", "seed", "return", "length"]
    assert {row["seed"] for row in rows} == {"3"}
    got = [(int(row["steps"]), float(row["return"]), int(row["length"])) for row in rows]
    assert got == expected_episodes(4, 50)
    assert result.episodes == len(got)


def test_log_events_say_how_the_run_stands(scripted):
    config, result, _ = scripted
    rows = metrics(result.run_dir)
    assert [row["steps"] for row in rows] == [40, 80, 120, 160, 200]
    for row in rows:
        assert {"epsilon", "loss", "q_mean"} <= row.keys()
        ended = [e for e in expected_episodes(4, 50) if e[0] <= row["steps"]]
        assert row["episodes"] == len(ended)
        assert row["episode_return"] == pytest.approx(np.mean([e[1] for e in ended]))
        assert row["episode_length"] == pytest.approx(np.mean([e[2] for e in ended]))
    last = config.agent.epsilon_end
    assert rows[0]["epsilon"] == pytest.approx(
        1 - (1 - last) * (36 - 32) / 100
    )  # of the last action
    assert rows[-1]["epsilon"] == pytest.approx(config.agent.epsilon_end)
    assert result.mean_return == rows[-1]["episode_return"]


def test_evaluations_are_not_counted_against_the_speed(scripted):
    _, result, _ = scripted
    rows = log(result.run_dir)
    seconds = [row["seconds"] for row in rows]
    rates = [row["steps_per_second"] for row in rows]
    assert 0 < seconds[0] < seconds[-1]
    assert sorted(seconds) == seconds
    periods = np.diff(seconds)
    # The evaluation at 100 steps is not counted against the speed from 80 to 120; no other
    # period holds one.
    assert 40 / rates[2] < 0.9 * periods[1]
    np.testing.assert_allclose(40 / np.array(rates)[[1, 3, 4]], periods[[0, 2, 3]], rtol=1e-6)


def test_evaluations_are_written_and_play_in_environments_of_their_own(scripted):
    config, result, make_env = scripted
    rows = table(result.run_dir / "evaluations.csv")
    columns = "steps seed policy episodes return_mean return_median return_std_error length_mean"
    assert list(rows[0]) == columns.split()
    assert [row["steps"] for row in rows] == ["100", "200"]
    assert {(row["seed"], row["episodes"]) for row in rows} == {("3", "3")}
    assert float(rows[-1]["return_mean"]) == result.evaluation.return_mean
    # One environment for training; the others' seeds are far from its.
    (seed, training), *others = make_env.made
    assert (seed, len(training.actions), len(others)) == (3, 50, 2)
    assert all(seed >= 10_000 + config.train.seed for seed, _ in others)


def test_tensorboard_gets_the_metrics(scripted):
    _, result, _ = scripted
    (events,) = result.run_dir.glob("events.out.tfevents*")
    written = events.read_bytes()
    assert all(
        name in written for name in [b"loss/loss", b"episode/return", b"evaluation/return_mean"]
    )


def test_no_evaluation_where_none_is_asked_for(tmp_path):
    config = tiny(train__eval_episodes=0, train__steps=8, **SAME_PROGRAMS)
    make_env = maker(EPISODES)
    result = train(config, run_dir=tmp_path, make_env=make_env)
    assert result.evaluation is None
    assert table(tmp_path / "evaluations.csv") == []
    assert len(make_env.made) == 1


def test_a_run_stops_where_it_has_reached_its_goal(tmp_path, capsys):
    rising = [[(float(number), True, False, False)] for number in range(300)]
    config = tiny(
        train__stop_return=20.0, train__steps=4000, train__eval_episodes=0, **SAME_PROGRAMS
    )
    result = train(config, run_dir=tmp_path, make_env=maker(rising))
    rows = table(tmp_path / "episodes.csv")
    steps = np.array([int(row["steps"]) for row in rows])
    returns = np.array([float(row["return"]) for row in rows])
    means = {step: returns[steps <= step][-100:].mean() for step in np.unique(steps)}
    reached = min(s for s, m in means.items() if m >= 20.0 and (steps <= s).sum() >= 100)
    assert means[reached - 8] < 20.0
    # It stops where a log period ends.
    assert result.steps == -(-reached // 80) * 80 < 4000
    *_, said, done, report = capsys.readouterr().out.splitlines()
    assert done.startswith(f"done: {result.steps:,} steps in 0:0")
    # `make_env` is not known to commands that play.
    assert report.endswith(f"report {tmp_path} --out report.html")
    assert re.search(rf"reached a mean return of 20 .* after {reached:,} steps.* \d+ s", said)


# --- Checkpoints ----------------------------------------------------------------------------------


def manifests(run_dir):
    """Names of the checkpoints there are, and their manifests."""
    store = checkpoint.store_of(run_dir)
    return {name: store.read_manifest(name) for name in [*store.names(), "best"]}


def test_the_best_checkpoint_is_that_of_the_best_evaluation(tmp_path, monkeypatch):
    scores = iter([1.0, 3.0, 2.0, 3.0, -5.0])
    monkeypatch.setattr(
        evaluation, "make_evaluator", lambda *_: lambda *_: Evaluation(1, next(scores), 0, 0, 1)
    )
    config = tiny(
        train__steps=200,
        train__eval_period_steps=40,
        train__checkpoint_period_steps=40,
        train__checkpoint_keep=1,
        **SAME_PROGRAMS,
    )
    train(config, run_dir=tmp_path, make_env=maker(EPISODES))
    found = manifests(tmp_path)
    # Of equal ones the first; and it is not among those that are too many.
    assert {name: manifest["steps"] for name, manifest in found.items()} == {"200": 200, "best": 80}
    assert found["best"]["return_mean"] == 3.0
    assert found["best"]["parts"].keys() == {"0/state"}
    named = {blob for manifest in found.values() for blob in store.blobs_of(manifest)}
    assert {path.name for path in (tmp_path / "checkpoints" / "blobs").iterdir()} == named


@pytest.mark.parametrize(("period", "first"), [(160, {"4", "160"}), (0, set())])
def test_a_first_checkpoint_does_not_wait_for_its_period(tmp_path, monkeypatch, period, first):
    monkeypatch.setattr(run, "FIRST_CHECKPOINT_SECONDS", 0.0)
    config = tiny(
        train__steps=200,
        train__eval_episodes=0,
        train__checkpoint_period_steps=period,
        **SAME_PROGRAMS,
    )
    train(config, run_dir=tmp_path, make_env=maker(EPISODES))
    assert set(checkpoint.store_of(tmp_path).names()) == first | {"200"}


def test_a_first_checkpoint_that_fails_is_tried_again_at_the_next_period(tmp_path, monkeypatch):
    tried = []

    def full(checkpoints, steps, *_):
        tried.append(steps)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(run, "FIRST_CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint.Checkpoints, "save", full)
    fields = {"train__eval_episodes": 0, "train__checkpoint_period_steps": 160}
    config = tiny(train__steps=400, **fields, **SAME_PROGRAMS)
    with pytest.raises(RunError):
        train(config, run_dir=tmp_path, make_env=maker(EPISODES))
    assert tried == [4, 160, 320, 400]


# --- What cannot go on ----------------------------------------------------------------------------


class Failing(ScriptedEnv):
    """Raises at one step; `made` counts from the first."""

    def recv(self):
        if len(self.actions) == 30 and self.fails:
            raise ValueError("the power\nwent out")
        return super().recv()

    fails = True


def test_an_environment_that_fails_leaves_a_checkpoint_from_which_the_run_goes_on(
    tmp_path, monkeypatch, capsys
):
    config = tiny(train__steps=200, train__eval_episodes=0, **SAME_PROGRAMS)
    with pytest.raises(RunError) as info:
        train(config, run_dir=tmp_path, make_env=maker(EPISODES, Failing))
    for words in [
        'environment "CartPole-v1"',
        "ValueError: the power went out",
        "at 120 steps",
        f"go on: jdqn.train.train(config, run_dir='{tmp_path}', resumes=True)",
    ]:
        assert words in str(info.value)
    assert info.value.status == 1
    assert checkpoint.store_of(tmp_path).names() == ["120"]
    monkeypatch.setattr(Failing, "fails", False)
    result = train(config, run_dir=tmp_path, make_env=maker(EPISODES, Failing), resumes=True)
    assert result.steps == 200
    assert "start new episodes" in capsys.readouterr().out
    # The row before the failure was sealed: it is the last of its episode.
    found = checkpoint.find(tmp_path, run_id=None, agents_only=False)
    assert found.manifest["steps"] == 200


def test_an_environment_that_fails_in_an_evaluation_leaves_a_checkpoint(tmp_path):
    class FailsOften(Failing):
        def __init__(self, *arguments, **keywords):
            super().__init__(*arguments, **keywords)
            self.fails = len(make_env.made) > 0

    make_env = maker([[(0.0, False, False, False)] * 50 + [(0.0, True, False, False)]], FailsOften)
    config = tiny(train__steps=200, train__eval_period_steps=40, **SAME_PROGRAMS)
    with pytest.raises(RunError, match=r"in evaluation.*at 40 steps.*resumes=True"):
        train(config, run_dir=tmp_path, make_env=make_env)
    assert checkpoint.store_of(tmp_path).names() == ["40"]


@pytest.mark.parametrize("learning_rate", [1e20, 1e36])
def test_a_loss_that_is_not_finite_ends_the_run_and_saves_nothing(tmp_path, learning_rate):
    config = tiny(
        train__steps=4000,
        train__eval_episodes=0,
        train__log_period_steps=80,
        train__checkpoint_period_steps=28,
        optimizer__learning_rate=learning_rate,
        agent__loss="squared",
        **SAME_PROGRAMS,
    )
    with pytest.raises(RunError) as info:
        train(config, run_dir=tmp_path, make_env=maker(EPISODES))
    said = re.fullmatch(
        r"the (loss|gradient norm) is not finite since update (\d+), found at (\d+) steps; the "
        r"checkpoint of step (\d+) is kept; go on: .*",
        str(info.value),
    )
    _, update, found_steps, kept_steps = said.groups()
    assert int(found_steps) <= 112
    assert 1 <= int(update) <= 20
    assert int(kept_steps) == 28  # before learning starts
    assert checkpoint.store_of(tmp_path).names() == ["28"]
    (state,) = checkpoint.load_states(
        checkpoint.find(tmp_path, run_id=None, agents_only=True), initial_state(config), 1
    )
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(plain(state)))


def initial_state(config):
    """The abstract state of an agent."""
    env = maker(EPISODES)(config)
    _, agent = shared.build(config, env.spec)
    return jax.eval_shape(lambda key: agent.init(key)[0], jax.random.key(0))


def test_a_reward_that_is_not_finite_ends_a_fused_run_and_names_the_step(tmp_path, monkeypatch):
    step_env = chain.Chain.step_env

    def broken(self, key, state, action, params):
        observation, state, reward, *rest = step_env(self, key, state, action, params)
        return observation, state, jnp.where(state.time == 9, jnp.nan, reward), *rest

    monkeypatch.setattr(chain.Chain, "step_env", broken)
    config = tiny("jdqn/Chain", train__eval_episodes=0, train__checkpoint_period_steps=20)
    with pytest.raises(RunError) as info:
        train(config, run_dir=tmp_path)
    # Nine steps after the first observation, of four environments.
    assert 'environment "jdqn/Chain": its reward is not finite at step 40' in str(info.value)
    assert "the checkpoint of step 20 is kept" in str(info.value)


def test_a_stop_during_an_evaluation_owes_it(tmp_path, monkeypatch):
    config = tiny(train__steps=80, train__eval_period_steps=40, **SAME_PROGRAMS)
    straight = train(config, run_dir=tmp_path / "straight", make_env=maker(EPISODES))
    make_evaluator = evaluation.make_evaluator

    def stopped(*arguments):
        evaluate = make_evaluator(*arguments)

        def stop(*one):
            signal.raise_signal(signal.SIGTERM)
            return evaluate(*one)

        return stop

    monkeypatch.setattr(evaluation, "make_evaluator", stopped)
    result = train(config, run_dir=tmp_path / "resumed", make_env=maker(EPISODES))
    assert (result.steps, result.evaluation) == (40, None)
    monkeypatch.setattr(evaluation, "make_evaluator", make_evaluator)
    result = train(config, run_dir=tmp_path / "resumed", make_env=maker(EPISODES), resumes=True)
    assert result.evaluation == straight.evaluation
    files = [(tmp_path / d / "evaluations.csv").read_text() for d in ("straight", "resumed")]
    assert files[0] == files[1]
    assert len(files[0].splitlines()) == 3
