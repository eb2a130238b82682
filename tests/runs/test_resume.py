"""Going on with a run: to the bit, from the newest checkpoint that verifies, or not at all."""

import signal

import pytest
from helpers import tiny
from runs_helpers import EPISODES, metrics, table
from scripted import maker

from jdqn import loops
from jdqn.runs import checkpoint
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


def newest(run_dir):
    """The manifest of the newest checkpoint."""
    return checkpoint.find(run_dir, run_id=None, agents_only=False).manifest


def assert_same(one, two):
    """Two runs left the same, wall-clock apart: agents, replays, actors, environments, logs."""
    first, second = newest(one), newest(two)
    assert first["tick"] == second["tick"]
    assert first["rows"] == second["rows"]
    assert first["parts"].keys() == second["parts"].keys()
    for name, part in first["parts"].items():
        if name != "counters":  # with the seconds it took
            assert part == second["parts"][name], name
    assert metrics(one) == metrics(two)
    for name in ("episodes.csv", "evaluations.csv"):
        assert (one / name).read_bytes() == (two / name).read_bytes()


def straight_and_resumed(tmp_path, stop_at, config, ticks, **keywords):
    """Directories of a run without a stop, and of one stopped at each of some ticks."""
    loops.train(config, run_dir=tmp_path / "straight", **keywords)
    stop_at(ticks[0])
    result = loops.train(config, run_dir=tmp_path / "resumed", **keywords)
    for tick in [*ticks[1:], None]:
        assert result.stopped_by == signal.SIGINT
        stop_at(tick)
        result = loops.train(config, run_dir=tmp_path / "resumed", resumes=True, **keywords)
    assert result.stopped_by == 0
    return tmp_path / "straight", tmp_path / "resumed"


FUSED = {
    "dqn": {},
    "rainbow": {"agent": "rainbow", "network__hidden": [8]},
    "bootstrapped_prior": {"agent": "bootstrapped_prior", "replay__mask_probability": 0.5},
    "by rank": {"agent": "prioritized_rank", "replay__rank_refresh_updates": 20},
    "three seeds": {"train__num_seeds": 3},
    "an update every second tick": {"train__update_period_steps": 8},
}


@pytest.mark.parametrize("switches", FUSED.values(), ids=FUSED.keys())
def test_the_fused_loop_goes_on_to_the_bit(tmp_path, stop_at, switches):
    pytest.importorskip("gymnax")  # an extra
    config = tiny("gymnax/CartPole-v1", **LENGTH | switches)
    # Before learning starts; and after.
    assert_same(*straight_and_resumed(tmp_path, stop_at, config, [5, 70]))


PONG = {
    "env": "Pong",
    "env__frame_stack": 4,
    "env__max_episode_steps": 30,  # so that games end
    "train__steps": 320,
    "train__eval_period_steps": 160,
    "train__eval_episodes": 2,
}


def test_emulators_go_on_to_the_bit(tmp_path, stop_at, capsys):
    paths = straight_and_resumed(tmp_path, stop_at, tiny(**PONG), [20, 50])
    assert_same(*paths)
    assert capsys.readouterr().out.count("the environments go on exactly where they were") == 2


def test_where_games_cannot_be_brought_back_new_ones_start(tmp_path, stop_at, capsys):
    config = tiny(**PONG, env__sticky_probability=0.25)
    _, resumed = straight_and_resumed(tmp_path, stop_at, config, [20])
    assert "cannot be brought back: they start new episodes" in capsys.readouterr().out
    lengths = [int(row["length"]) for row in table(resumed / "episodes.csv")]
    # Of 80 ticks: 21, then anew one whole game, its reset, and 28 of the next.
    assert lengths == [30] * 4


def test_the_host_loop_goes_on_to_the_bit(tmp_path, stop_at):
    config = tiny(**LENGTH)
    ticks = [3, 40, 90]
    keywords = {"make_env": maker(EPISODES)}
    assert_same(*straight_and_resumed(tmp_path, stop_at, config, ticks, **keywords))


def test_the_host_loop_goes_on_to_the_bit_with_an_environment_in_jax(tmp_path, stop_at):
    pytest.importorskip("gymnax")  # an extra
    config = tiny("gymnax/CartPole-v1", **LENGTH)
    assert_same(*straight_and_resumed(tmp_path, stop_at, config, [3, 77], on_host=True))
