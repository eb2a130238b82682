"""Training: what a run writes, reproducibility, units, signals, and refusals."""

import csv
import itertools
import json
import os
import re
import shlex
import signal
import tomllib

import chex
import jax
import numpy as np
import optax
import pytest
from conftest import tiny, vector_spec
from scripted import ScriptedEnv, maker

from jdqn import bench, checkpoint, evaluate, priorities, replay, run
from jdqn import train as train_lib
from jdqn.config import load_config

# Steps are (reward, terminated, truncated, lost life).
EPISODES = [
    [(1.5, False, False, False), (2.0, False, False, True), (0.0, True, False, False)],
    [(-4.0, False, True, False)],
    [(10.0, False, False, False)] * 5 + [(0.0, True, True, False)],
]
PONG = {
    "env": "Pong",
    "env__frame_stack": 4,
    "env__sticky_probability": 0.25,
    "env__max_episode_steps": 30,
    "train__steps": 320,
    "train__eval_period_steps": 160,
    "train__eval_episodes": 2,
}
CARTPOLE = {"env": "CartPole-v1"}
WALL_CLOCK = {"seconds", "steps_per_second"}


def table(path):
    """A CSV file as one dictionary a row."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def metrics(path):
    """metrics.jsonl without what the clock says."""
    lines = (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(x).items() if k not in WALL_CLOCK} for x in lines]


def plain(state):
    """An agent state that NumPy can compare."""
    return state.replace(key=jax.random.key_data(state.key))


def bits(tree):
    """The leaves as bytes."""
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """Trains in a new folder, once for each set of overrides and `repeat`."""
    finished = {}

    def run(repeat=0, **overrides):
        key = repeat, *sorted(overrides.items())
        if key not in finished:
            path = tmp_path_factory.mktemp("run")
            finished[key] = train_lib.train(tiny(**overrides), run_dir=path)
        return finished[key]

    return run


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
    )
    make_env = maker(EPISODES)
    path = tmp_path_factory.mktemp("scripted") / "new" / "run"
    result = train_lib.train(config, run_dir=path, make_env=make_env, command="the command")
    return config, result, make_env


# --- The run directory --------------------------------------------------------------------------


def test_what_a_run_leaves(scripted):
    _, result, make_env = scripted
    files = {path.name.partition(".tfevents")[0] for path in result.run_dir.iterdir()}
    tables = {"metrics.jsonl", "episodes.csv", "evaluations.csv"}
    assert files == {"config.toml", *tables, "events.out", "checkpoints"}
    assert result.steps == 200  # 198, rounded up to whole ticks
    # Due at the first tick at or after 80 and 160, and at the end; the newest two are kept.
    kept = {path.name for path in (result.run_dir / "checkpoints").iterdir()}
    assert kept == {"160", "200"}
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
        number, tick = env, len(EPISODES[env % len(EPISODES)])
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


def test_metrics(scripted):
    config, result, _ = scripted
    rows = metrics(result.run_dir)
    assert [row["steps"] for row in rows] == [40, 80, 120, 160, 200]
    for row in rows:
        assert {"epsilon", "loss", "q_mean"} <= row.keys()
        ended = [e for e in expected_episodes(4, 50) if e[0] <= row["steps"]]
        assert row["episodes"] == len(ended)
        assert row["episode_return"] == pytest.approx(np.mean([e[1] for e in ended]))
        assert row["episode_length"] == pytest.approx(np.mean([e[2] for e in ended]))
    first, last = rows[0], rows[-1]
    assert first["epsilon"] == pytest.approx(1 - 0.9 * (36 - 32) / 100)  # of the last action
    assert last["epsilon"] == pytest.approx(config.agent.epsilon_end)
    assert result.mean_return == last["episode_return"]


def test_wall_clock_metrics(scripted):
    _, result, _ = scripted
    lines = (result.run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    seconds = [json.loads(line)["seconds"] for line in lines]
    rates = [json.loads(line)["steps_per_second"] for line in lines]
    assert 0 < seconds[0] < seconds[-1]
    assert sorted(seconds) == seconds
    periods = np.diff(seconds)
    # The evaluation at 100 steps is not counted against the speed from 80 to 120; no other
    # period holds one.
    assert 40 / rates[2] < 0.9 * periods[1]
    np.testing.assert_allclose(40 / np.array(rates)[[1, 3, 4]], periods[[0, 2, 3]], rtol=1e-6)


def test_evaluations(scripted):
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
    assert all(name in written for name in [b"loss", b"episode_return", b"evaluation/"])


def test_no_evaluation_where_none_is_asked_for(tmp_path):
    config = tiny(train__eval_episodes=0, train__steps=8)
    make_env = maker(EPISODES)
    result = train_lib.train(config, run_dir=tmp_path, make_env=make_env)
    assert result.evaluation is None
    assert table(tmp_path / "evaluations.csv") == []
    assert len(make_env.made) == 1


def test_stop_return(tmp_path, capsys):
    rising = [[(float(number), True, False, False)] for number in range(300)]
    config = tiny(train__stop_return=20.0, train__steps=4000, train__eval_episodes=0)
    result = train_lib.train(config, run_dir=tmp_path, make_env=maker(rising))
    rows = table(tmp_path / "episodes.csv")
    steps = np.array([int(row["steps"]) for row in rows])
    returns = np.array([float(row["return"]) for row in rows])
    assert result.steps == steps[-1] < 4000
    assert result.mean_return == returns[-100:].mean() >= 20.0
    before = returns[steps < steps[-1]]
    assert len(before) >= 100
    assert before[-100:].mean() < 20.0
    said = capsys.readouterr().out.splitlines()[-1]
    assert re.search(rf"reached a mean return of 20 .* after {result.steps:,} steps.* \d+ s", said)


# --- Reproducibility ----------------------------------------------------------------------------


@pytest.mark.parametrize("environment", [CARTPOLE, PONG], ids=lambda e: e["env"])
def test_same_seed_same_run_to_the_bit(train, environment):
    one, two = (train(repeat, **environment) for repeat in range(2))
    assert one.run_dir != two.run_dir
    assert len(metrics(one.run_dir)) >= 4
    assert metrics(one.run_dir) == metrics(two.run_dir)
    for name in ("episodes.csv", "evaluations.csv"):
        assert table(one.run_dir / name)
        assert (one.run_dir / name).read_bytes() == (two.run_dir / name).read_bytes()
    chex.assert_trees_all_equal(plain(one.state), plain(two.state))


@pytest.mark.parametrize(
    ("environment", "change"),
    [
        pytest.param(CARTPOLE, {"train__eval_period_steps": 12}, id="eval_period_steps"),
        pytest.param(CARTPOLE, {"train__eval_episodes": 0}, id="eval_episodes"),
        pytest.param(CARTPOLE, {"train__log_period_steps": 4}, id="log_period_steps"),
        pytest.param(CARTPOLE, {"train__checkpoint_period_steps": 100}, id="checkpoints"),
        pytest.param(PONG, {"train__eval_period_steps": 100}, id="Pong, eval_period_steps"),
    ],
)
def test_what_is_watched_does_not_change_what_is_learnt(train, environment, change):
    base, changed = train(**environment), train(**environment | change)
    chex.assert_trees_all_equal(plain(base.state), plain(changed.state))
    episodes = [(run.run_dir / "episodes.csv").read_bytes() for run in (base, changed)]
    assert episodes[0] == episodes[1]
    by_steps = {row["steps"]: row for row in metrics(changed.run_dir)}
    for row in metrics(base.run_dir):
        assert by_steps[row["steps"]] == row


def test_another_seed_is_another_run(train):
    base, other = train(**CARTPOLE), train(**CARTPOLE, train__seed=1)
    assert metrics(base.run_dir)[0]["loss"] != metrics(other.run_dir)[0]["loss"]
    first = [table(run.run_dir / "episodes.csv")[0] for run in (base, other)]
    assert first[0] | {"seed": ""} != first[1] | {"seed": ""}
    assert (jax.random.key_data(base.state.key) != jax.random.key_data(other.state.key)).any()


# --- Units --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_envs", "update_period", "target_period", "updates"),
    [
        (4, 4, 20, 43),  # steps 32, 36 ... 200, one each
        (8, 4, 20, 44),  # steps 32, 40 ... 200, two each
        (4, 8, 24, 22),  # steps 32, 40 ... 200, one each
    ],
)
def test_updates_and_target_copies_are_counted_in_agent_steps(
    tmp_path, monkeypatch, num_envs, update_period, target_period, updates
):
    config = tiny(
        env__num_envs=num_envs,
        agent__target_period_steps=target_period,
        train__update_period_steps=update_period,
        train__steps=200,
        train__eval_episodes=0,
        train__checkpoint_period_steps=num_envs,
    )
    saved = {}  # by agent steps, after every tick; fetched, for the next call donates it
    monkeypatch.setattr(
        checkpoint,
        "save",
        lambda _, steps, state, **__: saved.update({steps: jax.device_get(plain(state))}),
    )
    train_lib.train(config, run_dir=tmp_path, make_env=maker(EPISODES))
    assert list(saved) == list(range(num_envs, 201, num_envs))
    counts = optax.tree.get_all_with_path(saved[200].opt_state, "count")
    assert {int(count) for _, count in counts} == {updates}
    assert metrics(tmp_path)[-1]["updates"] == updates

    stride = max(num_envs, update_period)
    copied, num_copies, num_stale = saved[num_envs].params, 0, 0
    for steps, state in saved.items():
        if steps >= 32 and steps % stride == 0:  # `learn` was called
            # The first call at or after a multiple of the period.
            due = any(m % target_period == 0 for m in range(steps - stride + 1, steps + 1))
            num_copies, num_stale = num_copies + due, num_stale + (not due)
            assert due or bits(state.params) != bits(copied)
            copied = state.params if due else copied
        assert bits(state.target_params) == bits(copied)
    assert num_copies >= 7
    assert num_stale >= 7


# --- Signals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_between_ticks_with_a_checkpoint(tmp_path, capsys, number):
    class Signalled(ScriptedEnv):
        def recv(self):
            if len(self.actions) == 20:
                os.kill(os.getpid(), number)
            return super().recv()

    def unexpected(*_):
        raise AssertionError("the signal was not caught")

    config, make_env = tiny(), maker(EPISODES, Signalled)
    before = signal.signal(number, unexpected)
    try:
        result = train_lib.train(config, run_dir=tmp_path, make_env=make_env)
        assert signal.getsignal(number) is unexpected
    finally:
        signal.signal(number, before)
    assert result.steps == 80
    assert result.evaluation is None
    ((_, env),) = make_env.made
    assert env.closed
    steps, state = checkpoint.restore(tmp_path, result.state)
    assert steps == 80
    chex.assert_trees_all_equal(plain(state), plain(result.state))
    said = capsys.readouterr().out.splitlines()[-1]
    assert "80 steps" in said
    assert f"python -m jdqn.evaluate {tmp_path}" in said


# --- The command line ---------------------------------------------------------------------------


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sizes = ["--network.hidden=8,", "--network.torso_hidden", "[8]", "--replay.batch_size=8"]
    argv = ["--env", "CartPole-v1", "--steps", "2_000", "--seed", "5", "--train.eval_episodes=2"]
    argv += sizes
    train_lib.main(argv)
    (path,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"CartPole-v1-dqn-5-\d{8}-\d{6}", path.name)
    config = load_config(file=path / "config.toml")
    assert (config.train.steps, config.train.seed) == (2000, 5)
    assert (config.network.hidden, config.replay.batch_size) == ((8,), 8)
    recorded = tomllib.loads((path / "config.toml").read_text())["versions"]["command"]
    assert recorded == shlex.join(["python", "-m", "jdqn.train", *argv])
    # No terminal here: plain lines, one for each event.
    printed = capsys.readouterr()
    title, *lines = printed.out.splitlines()
    assert printed.err == ""
    assert not {"\x1b", "\r"} & set(printed.out)
    assert all(words in title for words in ["CartPole-v1", "seed 5", "2,000 steps", str(path.name)])
    assert [line.split("  ")[0] for line in lines[:2]] == ["steps 1,000", "steps 2,000"]
    assert lines[2].startswith("evaluation at 2,000 steps: 2 full games")


@pytest.mark.parametrize(
    "command", [train_lib, evaluate, bench], ids=lambda module: module.__name__
)
def test_help(capsys, command):
    with pytest.raises(SystemExit) as info:
        command.main(["--help"])
    assert info.value.code == 0
    printed = capsys.readouterr().out
    assert f"example: python -m {command.__name__}" in printed
    assert "default" in printed


def test_bench_measures_every_stage():
    cfg = tiny()
    rows = [*bench.bench_loop(cfg, steps=64), *bench.bench_stages(cfg, seconds=0.05)]
    found = {row.stage: row.value for row in rows}
    stages = {
        "whole loop",
        "act",
        "add",
        "sample",
        "update",
        "floor of an update",
        "update / floor",
    }
    assert stages < set(found)
    assert all(np.isfinite(value) and value > 0 for value in found.values())


def test_bench_measures_the_sort_of_rank_based_replay():
    rows = bench.bench_stages(
        tiny(replay__prioritization="rank", replay__priority_exponent=0.7), seconds=0.05
    )
    found = {row.stage: row for row in itertools.islice(rows, 6)}
    assert found["refresh of ranks"].value > 0
    assert "once in 1000 updates" in found["refresh of ranks"].note
    assert found["draw + priority update"].value > 0


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--steps x", "--steps x"),
        ("--peer dopamine", "known: sb3"),
        ("--csv nowhere/bench.csv", "nowhere"),
        ("--env CartPol", '"CartPole-v1"'),
    ],
)
def test_bench_refuses_before_it_measures(tmp_path, monkeypatch, capsys, option, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as info:
        bench.main(["--env", "CartPole-v1", *option.split()])
    assert info.value.code == 2
    assert words in capsys.readouterr().err


# Files that the command may be pointed at lie beside the folder in which it runs.
REFUSED = {
    "environment": ("--env CartPol", ['"CartPol"', '"CartPole-v1"']),
    "atari spelling": ("--env PongNoFrameskip-v4", ['"PongNoFrameskip-v4"', '"Pong"']),
    "agent": ("--agent dqm", ['"dqm"', '"dqn"']),
    "preset": ("--preset clasic", ['"clasic"', '"classic"']),
    "continuous actions": ("--env Pendulum-v1", ["Pendulum-v1", "Discrete actions"]),
    "learning rate": (
        "--optimizer.learning_rate -1",
        ["optimizer.learning_rate = -1", "greater than 0"],
    ),
    "steps": ("--steps many", ["train.steps", "'many'", "integer"]),
    "capacity": ("--replay.capacity 1e12", ["replay.capacity", "bytes"]),
    "run directory under a file": ("--run-dir ../file/run", ["../file/run", "run directory"]),
    "run directory is a file": ("--run-dir ../file", ["../file", "is a file"]),
    "run directory is used": ("--run-dir ../used", ["../used", "already used", "--run-dir"]),
    "no such file": ("--config ../none.toml", ["../none.toml", "No such file"]),
    "broken file": ("--config ../broken.toml", ["../broken.toml", "not valid TOML"]),
    "option": ("--replay.batchsize 8", ['"--replay.batchsize"', '"--replay.batch_size"']),
    "shortcut": ("--step 8", ['"--step"', '"--steps"']),
    "argument": ("CartPole-v1", ['"CartPole-v1"']),
    "torso": ("--network.torso nature", ["network.torso", "nature", "image"]),
}


@pytest.mark.parametrize(("command", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_a_mistake_is_answered_in_one_line_and_nothing_is_written(
    tmp_path, monkeypatch, capsys, command, said
):
    work, used = tmp_path / "work", tmp_path / "used"
    work.mkdir()
    used.mkdir()
    (used / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "broken.toml").write_text("[replay")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(work)
    with pytest.raises(SystemExit) as info:
        train_lib.main(["--env=CartPole-v1", "--train.steps=8", *command.split()])
    printed = capsys.readouterr()
    assert info.value.code == 2
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    for words in said:
        assert words in printed.err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_replay_that_cannot_fit_says_what_it_needs_and_what_there_is(tmp_path):
    config = tiny(replay__capacity=10**12)
    with pytest.raises(train_lib.ConfigError) as info:
        train_lib.train(config, run_dir=tmp_path / "run")
    numbers = (int(n.replace(",", "")) for n in re.findall(r"\d[\d,]+", str(info.value)))
    capacity, needed, available = numbers
    assert capacity == 10**12
    assert needed > 16 * 10**12  # the frames alone
    assert 0 < available < needed
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("shape", [(35, 84), (3, 84, 84)])
def test_images_too_small_for_the_convolutions_are_refused(tmp_path, shape):
    class Small(ScriptedEnv):
        def __init__(self, *arguments, **keywords):
            super().__init__(*arguments, **keywords)
            self.spec = self.spec._replace(frame_shape=shape, frame_dtype=np.dtype(np.uint8))

    with pytest.raises(train_lib.ConfigError, match="36"):
        config = tiny(network__torso="nature")
        train_lib.train(config, run_dir=tmp_path, make_env=maker(EPISODES, Small))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_cartpole_is_solved(tmp_path):
    """50,000 steps, the preset as it stands; best of the evaluations in 3 of 3 seeds."""
    for seed in range(3):
        overrides = {"agent.epsilon_eval": 0.0, "train.seed": seed}
        config = load_config(env="CartPole-v1", overrides=overrides)
        train_lib.train(config, run_dir=tmp_path / str(seed))
        with (tmp_path / str(seed) / "evaluations.csv").open() as file:
            assert max(float(row["return_mean"]) for row in csv.DictReader(file)) >= 475


def test_held_out_states_are_drawn_uniformly_whatever_the_leaves_are():
    cfg = tiny(replay__capacity=4_000, replay__prioritization="rank", replay__priority_exponent=0.7)
    memory = replay.make_replay(cfg, vector_spec())
    state, row = memory.init(jax.random.key(0)), np.arange(1_000)
    leaves = np.repeat((1.0 + row[:, None]) ** -0.7, 4, axis=1)
    state = state.replace(
        frame=state.frame + row[:, None, None],
        priorities=priorities.set_rows(state.priorities, row, leaves),
    )
    drawn = np.asarray(run.held_out(memory)(state))[:, -1, 0]
    assert drawn.size == 1_000
    np.testing.assert_allclose(drawn.mean(), 500, atol=40)  # drawn by leaf: about 230
