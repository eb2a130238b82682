"""Going on with a run: to the bit, from the newest checkpoint that verifies, or not at all."""

import shutil
import signal
import tomllib

import jax
import numpy as np
import pytest
from helpers import tiny
from runs_helpers import EPISODES, assert_same, metrics, newest, table
from scripted import ScriptedEnv, maker

from jdqn import envs, loops
from jdqn.config import ConfigError, load_config, with_overrides
from jdqn.replay import make_replay
from jdqn.runs import checkpoint, files, resume, slices
from jdqn.runs.run import Run

pytestmark = pytest.mark.usefixtures("quick_compilation")

LENGTH = {
    "train__steps": 480,
    "train__log_period_steps": 80,
    "train__eval_period_steps": 120,
    "train__eval_episodes": 2,
    "train__checkpoint_period_steps": 200,
}


@pytest.fixture
def stop_at(monkeypatch):
    """Lets a signal come while a tick is counted."""
    count = Run.count

    def stop(tick):
        def counted(self, now, timesteps):
            if now == tick:
                signal.raise_signal(signal.SIGINT)
            return count(self, now, timesteps)

        monkeypatch.setattr(Run, "count", counted)

    return stop


def straight_and_resumed(tmp_path, stop_at, config, ticks, **keywords):
    """Directories of a run without a stop, and of one stopped at each of some ticks."""
    loops.train(config, run_dir=tmp_path / "straight", **keywords)
    stop_at(ticks[0])
    result = loops.train(config, run_dir=tmp_path / "resumed", **keywords)
    for tick in [*ticks[1:], None]:
        assert result.stopped_by == signal.SIGINT
        assert not resume.is_finished(tmp_path / "resumed")
        stop_at(tick)
        result = loops.train(config, run_dir=tmp_path / "resumed", resumes=True, **keywords)
    assert result.stopped_by == 0
    assert resume.is_finished(tmp_path / "resumed")
    return tmp_path / "straight", tmp_path / "resumed"


BY_RANK = {
    "replay__mask_probability": 0.5,
    "replay__prioritization": "rank",
    "replay__priority_exponent": 0.7,
    "replay__rank_refresh_updates": 20,
}
EVERY_SECOND_TICK = {"train__update_period_steps": 8}
TWO_SEEDS = {"train__num_seeds": 2}
EVERYTHING = EVERY_SECOND_TICK | TWO_SEEDS | BY_RANK | {"network__heads": 3}


# Where they are stopped: before learning starts, between two calls of `learn`, after one.
@pytest.mark.parametrize(
    ("agent", "switches", "ticks"),
    [
        pytest.param("bootstrapped_prior", EVERYTHING, [4, 71], id="all at once"),
        pytest.param("dqn", EVERY_SECOND_TICK, [4, 71], marks=pytest.mark.slow),
        pytest.param("rainbow", TWO_SEEDS, [70], marks=pytest.mark.slow),
        pytest.param("bootstrapped_prior", BY_RANK, [70], marks=pytest.mark.slow),
    ],
)
def test_the_fused_loop_goes_on_to_the_bit(tmp_path, stop_at, agent, switches, ticks):
    config = tiny("jdqn/Chain", agent, **LENGTH | {"network__hidden": [8]} | switches)
    assert_same(*straight_and_resumed(tmp_path, stop_at, config, ticks))


PONG = {
    "env": "Pong",
    "env__frame_stack": 4,
    "env__max_episode_steps": 30,  # so that games end
    "network__torso": "mlp",
    "train__steps": 320,
    "train__eval_period_steps": 160,
    "train__eval_episodes": 2,
}


def test_emulators_go_on_to_the_bit(tmp_path, stop_at, capsys):
    assert_same(*straight_and_resumed(tmp_path, stop_at, tiny(**PONG), [50]))
    assert "the environments go on exactly where they were" in capsys.readouterr().out


def test_where_an_environment_cannot_be_brought_back_new_episodes_start(tmp_path, stop_at, capsys):
    config = tiny("CartPole-v1", env__max_episode_steps=8, **LENGTH | {"train__steps": 320})
    _, resumed = straight_and_resumed(tmp_path, stop_at, config, [20])
    assert "cannot be brought back: they start new episodes" in capsys.readouterr().out
    rows = table(resumed / "episodes.csv")
    ended = [int(row["steps"]) // 4 for row in rows]
    # 21 ticks, of which the third episode's last 3 are lost; then anew, a reset between them.
    assert {int(row["length"]) for row in rows} == {8}
    assert sorted(set(ended)) == [9, 18, *(21 + 9 * n for n in range(1, 7))]


def test_the_host_loop_goes_on_to_the_bit(tmp_path, stop_at):
    config = tiny(**LENGTH)
    ticks = [3, 90]
    keywords = {"make_env": maker(EPISODES)}
    assert_same(*straight_and_resumed(tmp_path, stop_at, config, ticks, **keywords))


def test_the_host_loop_goes_on_to_the_bit_with_an_environment_in_jax(tmp_path, stop_at):
    config = tiny("jdqn/Chain", **LENGTH)
    assert_same(*straight_and_resumed(tmp_path, stop_at, config, [77], on_host=True))


def test_a_log_event_between_two_calls_of_learn_says_what_it_would_have(tmp_path, stop_at):
    """An update every fourth tick, a log event every sixth."""
    odd = {"train__update_period_steps": 16, "train__log_period_steps": 24}
    config = tiny(**LENGTH | odd | {"train__steps": 240})
    assert_same(*straight_and_resumed(tmp_path, stop_at, config, [40], make_env=maker(EPISODES)))


def test_a_run_stopped_in_its_last_tick_logs_its_last_line(tmp_path, stop_at):
    config = tiny(**LENGTH | {"train__steps": 220, "train__eval_episodes": 0})
    assert_same(*straight_and_resumed(tmp_path, stop_at, config, [54], make_env=maker(EPISODES)))


def test_a_goal_that_was_reached_where_it_was_stopped_ends_the_run(tmp_path, stop_at):
    config = tiny(**LENGTH | {"train__stop_return": -1000.0, "train__steps": 4800})
    keywords = {"make_env": maker(EPISODES)}
    end = loops.train(config, run_dir=tmp_path / "once", **keywords).steps
    straight, resumed = straight_and_resumed(tmp_path, stop_at, config, [end // 4 - 1], **keywords)
    assert_same(straight, resumed)
    with pytest.raises(ConfigError, match=r"train.stop_return = -1000: .* has reached it"):
        loops.train(config, run_dir=resumed, resumes=True, **keywords)


class Odd(ScriptedEnv):
    """Rewards of another type; `save` raises, or gives what cannot be saved."""

    def recv(self):
        timestep = super().recv()
        return timestep._replace(reward=timestep.reward.astype(np.float64))

    def save(self):
        if self.raises:
            raise ValueError("no")
        return {"generator": 3}

    raises = False


@pytest.mark.parametrize("raises", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_an_environment_that_cannot_be_saved_costs_nothing_but_its_episodes(
    tmp_path, stop_at, monkeypatch, capsys, raises
):
    monkeypatch.setattr(Odd, "raises", raises)
    config = tiny(**LENGTH | {"train__steps": 240})
    straight_and_resumed(tmp_path, stop_at, config, [40], make_env=maker(EPISODES, Odd))
    assert "they start new episodes" in capsys.readouterr().out


def test_going_on_needs_a_run():
    with pytest.raises(ConfigError, match="run_dir is None"):
        loops.train(tiny(**LENGTH), make_env=maker(EPISODES), resumes=True)


# --- What may change, and what not ---------------------------------------------------------------


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run on the host that has ended after 240 steps: its configuration and directory."""
    config = tiny(**LENGTH | {"train__steps": 240, "train__checkpoint_keep": 2})
    path = tmp_path_factory.mktemp("stopped") / "run"
    loops.train(config, run_dir=path, make_env=maker(EPISODES))
    return config, path


@pytest.fixture
def copied(stopped, tmp_path):
    """A copy of it that a test may change."""
    config, path = stopped
    return config, shutil.copytree(path, tmp_path / "copy")


def go_on(config, path, **overrides):
    """Goes on with a run in the scripted environment."""
    config = with_overrides(config, **overrides)
    return loops.train(config, run_dir=path, make_env=maker(EPISODES), resumes=True)


def test_a_longer_run_keeps_the_schedules_it_was_started_with(tmp_path, copied, capsys):
    config, path = copied
    go_on(config, path, train__steps=480)
    said = capsys.readouterr().out
    assert "from step 240 to 480" in said
    assert "schedules keep the length they were started with, 240 steps" in said
    longer = with_overrides(config, train__steps=480, train__schedule_steps=240)
    assert load_config(file=path / "config.toml") == longer
    loops.train(longer, run_dir=tmp_path / "straight", make_env=maker(EPISODES))
    assert_same(tmp_path / "straight", path)
    recorded = tomllib.loads((path / "config.toml").read_text())["resumed"]
    assert [entry["steps"] for entry in recorded] == [240]
    # Longer still, without a word about schedules.
    go_on(load_config(file=path / "config.toml"), path, train__steps=488)
    assert load_config(file=path / "config.toml").train.schedule_steps == 240


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"replay__batch_size": 4}, ["replay.batch_size = 4", "started with 8"]),
        ({"env__num_envs": 8}, ["env.num_envs = 8", "started with 4"]),
        ({"agent__double": True}, ["agent.double = true", "started with false"]),
        ({"train__seed": 1}, ["train.seed = 1", "started with 0"]),
        ({"train__schedule_steps": 7, "train__steps": 480}, ["train.schedule_steps = 7"]),
        ({"train__steps": 120}, ["train.steps = 120", "has done 240 steps", "--steps"]),
        ({}, ["train.steps = 240", "has done 240 steps", "--steps"]),
    ],
)
def test_a_change_of_what_has_been_is_refused_and_nothing_is_touched(stopped, change, said):
    config, path = stopped
    before = {file: file.stat().st_mtime_ns for file in path.rglob("*")}
    with pytest.raises(ConfigError) as info:
        go_on(config, path, **change)
    for words in said:
        assert words in str(info.value)
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*")} == before


def test_what_cannot_alter_the_past_may_change(copied):
    config, path = copied
    changes = {
        "env__num_threads": 1,
        "env__vectorization": "async",
        "train__stop_return": -1000.0,
        "train__log_period_steps": 40,
        "train__eval_period_steps": 0,
        "train__eval_episodes": 1,
        "train__checkpoint_period_steps": 40,
        "train__checkpoint_keep": 5,
        "train__checkpoint_replay": False,
    }
    result = go_on(config, path, train__steps=480, **changes)
    # A goal that is reached at once: a log period after it is known, the run ends.
    assert 240 < result.steps < 480
    assert load_config(file=path / "config.toml").train.checkpoint_keep == 5


def test_a_run_in_use_is_refused(copied):
    config, path = copied
    with files.lock(path), pytest.raises(ConfigError, match="in use by another process"):
        go_on(config, path, train__steps=480)
    go_on(config, path, train__steps=244)


def test_other_cores_are_said_to_give_other_digits(copied, capsys, monkeypatch):
    config, path = copied
    cores = envs.usable_cores()
    go_on(config, path, train__steps=244)
    assert "warning" not in capsys.readouterr().out
    monkeypatch.setattr(envs, "usable_cores", lambda: cores + 1)
    go_on(config, path, train__steps=248)
    said = capsys.readouterr().out
    assert f"written with cores {cores}, this is " in said
    assert f"cores {cores + 1}: the run may differ in its last digits" in said


def test_what_is_no_run_is_refused(tmp_path, stopped):
    config, path = stopped
    for name, words in {"none": "no such folder", "empty": "no config.toml"}.items():
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(ConfigError, match=words):
            go_on(config, tmp_path / name)
    shutil.copy(path / "config.toml", tmp_path / "empty")
    with pytest.raises(ConfigError, match="has no checkpoint"):
        go_on(config, tmp_path / "empty")
    # What jdqn wrote before it had a store of its own.
    (tmp_path / "empty" / "checkpoints" / "240" / "default").mkdir(parents=True)
    with pytest.raises(ConfigError, match="Orbax") as info:
        go_on(config, tmp_path / "empty")
    assert "\n" not in str(info.value)


# --- Without all that was there -------------------------------------------------------------------


def test_from_a_damaged_checkpoint_it_goes_on_from_the_one_before(stopped, copied, capsys):
    _, untouched = stopped
    config, path = copied
    damaged = path / "checkpoints" / "240.manifest"
    damaged.write_bytes(damaged.read_bytes().replace(b'"tick": 60', b'"tick": 61'))
    go_on(config, path)
    said = capsys.readouterr().out
    assert f"warning: {damaged} has changed since it was written" in said
    assert "from step 200 to 240" in said
    # The damaged one is written anew, and the logs have neither gap nor double line.
    assert_same(untouched, path)
    assert [p.name for p in sorted((path / "checkpoints").glob("*.manifest"))] == [
        "200.manifest",
        "240.manifest",
        "best.manifest",
    ]


@pytest.mark.slow
def test_without_the_replay_new_episodes_start_in_the_fused_loop_too(tmp_path):
    """No stack reaches beyond the first row of the new replay."""
    config = tiny("jdqn/Chain", env__frame_stack=3, train__steps=200, train__eval_episodes=0)
    config = with_overrides(config, train__checkpoint_replay=False)
    loops.train(config, run_dir=tmp_path)
    again = with_overrides(config, train__steps=240, train__checkpoint_replay=True)
    loops.train(again, run_dir=tmp_path, resumes=True)
    found = checkpoint.find(tmp_path, run_id=None, agents_only=False)
    entry = found.manifest["parts"]["0/replay_state"]
    assert entry  # with priorities: it holds a replay again
    replay = make_replay(again, envs.make_native_env(again, num_envs=4).spec)
    empty = jax.jit(replay.init)(jax.random.key(0)).rows
    (rows,) = slices.restore(found.store, [empty], 1, 60, found.manifest["rows"])
    first = 50 % len(rows.age)
    assert not rows.age[first].any()
    assert rows.age[first + 1].all()


def test_without_the_replay_learning_waits_until_there_is_a_new_one(tmp_path, capsys):
    config = tiny(agent="prioritized_rank", **LENGTH | {"train__steps": 240})
    config = with_overrides(config, train__checkpoint_replay=False)
    make_env = maker(EPISODES)
    loops.train(config, run_dir=tmp_path, make_env=make_env)
    assert newest(tmp_path)["rows"] == []
    loops.train(
        with_overrides(config, train__steps=400), run_dir=tmp_path, make_env=make_env, resumes=True
    )
    said = capsys.readouterr().out
    assert "the checkpoint holds no replay; learning starts again after 32 new steps" in said
    updates = {row["steps"]: row["updates"] for row in metrics(tmp_path)}
    before = updates[240]
    assert before == 53  # at 32, 36 ... 240 steps
    # At 272, 276 ... 320; and so on.
    assert (updates[320], updates[400]) == (before + 13, before + 33)
