"""The host loop: reproducibility, units, signals, and refusals."""

import os
import signal

import chex
import jax
import numpy as np
import optax
import pytest
from helpers import tiny
from runs_helpers import EPISODES, metrics, plain, table
from scripted import ScriptedEnv, maker

from jdqn.config import ConfigError
from jdqn.runs import checkpoint
from jdqn.train import train as train_in

pytestmark = pytest.mark.usefixtures("quick_compilation")

PONG = {
    "env": "Pong",
    "env__frame_stack": 4,
    "network__torso": "mlp",
    "env__sticky_probability": 0.25,
    "env__max_episode_steps": 30,
    "train__steps": 320,
    "train__eval_period_steps": 160,
    "train__eval_episodes": 2,
}
CARTPOLE = {"env": "CartPole-v1"}


def bits(tree):
    """The leaves as bytes."""
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """Trains in a new folder, once for each set of overrides and `repeat`."""
    finished = {}

    def run(repeat=0, **overrides):
        key = (repeat, *sorted(overrides.items()))
        if key not in finished:
            path = tmp_path_factory.mktemp("run")
            finished[key] = train_in(tiny(**overrides), run_dir=path)
        return finished[key]

    return run


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
    base = train(**environment)
    changed = train(**environment | change)
    chex.assert_trees_all_equal(plain(base.state), plain(changed.state))
    episodes = [(run.run_dir / "episodes.csv").read_bytes() for run in (base, changed)]
    assert episodes[0] == episodes[1]
    by_steps = {row["steps"]: row for row in metrics(changed.run_dir)}
    for row in metrics(base.run_dir):
        assert by_steps[row["steps"]] == row


def test_another_seed_is_another_run(train):
    base = train(**CARTPOLE)
    other = train(**CARTPOLE, train__seed=1)
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

    def save(_, steps, position, *__):
        saved[steps] = jax.device_get(plain(position.carries[0].state))

    monkeypatch.setattr(checkpoint.Checkpoints, "save", save)
    train_in(config, run_dir=tmp_path, make_env=maker(EPISODES))
    assert list(saved) == list(range(num_envs, 201, num_envs))
    counts = optax.tree.get_all_with_path(saved[200].opt_state, "count")
    assert {int(count) for _, count in counts} == {updates}
    assert metrics(tmp_path)[-1]["updates"] == updates

    stride = max(num_envs, update_period)
    copied = saved[num_envs].params
    num_copies = 0
    num_stale = 0
    for steps, state in saved.items():
        if steps >= 32 and steps % stride == 0:  # `learn` was called
            # The first call at or after a multiple of the period.
            due = any(m % target_period == 0 for m in range(steps - stride + 1, steps + 1))
            num_copies += due
            num_stale += not due
            assert due or bits(state.params) != bits(copied)
            copied = state.params if due else copied
        assert bits(state.target_params) == bits(copied)
    assert num_copies >= 7
    assert num_stale >= 7


# --- Signals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_run_between_ticks_with_a_checkpoint(tmp_path, capsys, number):
    class Signalled(ScriptedEnv):
        def recv(self):
            if len(self.actions) == 20:
                os.kill(os.getpid(), number)
            return super().recv()

    def unexpected(*_):
        raise AssertionError("the signal was not caught")

    config = tiny(agent__target_period_steps=20, train__steps=200)  # compiled above
    make_env = maker(EPISODES, Signalled)
    before = signal.signal(number, unexpected)
    try:
        result = train_in(config, run_dir=tmp_path, make_env=make_env)
        assert signal.getsignal(number) is unexpected
    finally:
        signal.signal(number, before)
    assert result.steps == 80
    assert result.evaluation is None
    assert result.stopped_by == number
    ((_, env),) = make_env.made
    assert env.closed
    found = checkpoint.find(tmp_path, run_id=None, agents_only=True)
    assert found.manifest["steps"] == 80
    (state,) = checkpoint.load_states(found, result.state, 1)
    chex.assert_trees_all_equal(plain(state), plain(result.state))
    said = capsys.readouterr().out.splitlines()[-1]
    assert f"stopped by {signal.Signals(number).name} at 80 steps" in said
    assert f"train(config, run_dir='{tmp_path}', resumes=True)" in said


# --- Refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(35, 84), (3, 84, 84)])
def test_images_too_small_for_the_convolutions_are_refused(tmp_path, shape):
    class Small(ScriptedEnv):
        def __init__(self, *arguments, **keywords):
            super().__init__(*arguments, **keywords)
            self.spec = self.spec._replace(frame_shape=shape, frame_dtype=np.dtype(np.uint8))

    config = tiny(network__torso="nature")
    with pytest.raises(ConfigError, match="36"):
        train_in(config, run_dir=tmp_path, make_env=maker(EPISODES, Small))
    assert list(tmp_path.iterdir()) == []


def test_several_seeds_of_an_emulator_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="several seeds at once need an environment written in"):
        train_in(tiny("CartPole-v1", train__num_seeds=2), run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
