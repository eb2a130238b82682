"""Tables of a report over many runs."""

from report_helpers import write_run

from jdqn.tools import groups, scoring, tables
from jdqn.tools.sweeps.folders import Folder


def read(folder):
    environments = groups.read_groups([str(folder)])
    return environments, [scoring.final(env, None) for env in environments]


def test_games_by_agents(tmp_path):
    write_run(tmp_path / "a", "CartPole-v1", "dqn", seeds=(0, 1), level=10.0)
    write_run(tmp_path / "b", "CartPole-v1", "double", level=20.0)
    write_run(tmp_path / "c", "Acrobot-v1", "dqn", level=5.0)
    found = tables.games_by_agents(*read(tmp_path))
    assert found["names"] == ["dqn", "double"]
    rows = {title: cells for title, cells in found["rows"]}
    (dqn, is_best), (double, is_better) = rows["CartPole-v1"]
    assert dqn.startswith("21")  # twice the level plus the seed, the mean of two
    assert "[" in dqn
    assert double == "40.0"
    assert (is_best, is_better) == (False, True)
    assert rows["Acrobot-v1"] == [("10.0", True), ("–", False)]


def test_who_has_the_same_score_is_marked_as_well(tmp_path):
    write_run(tmp_path / "a", "CartPole-v1", "dqn", level=4.75)
    write_run(tmp_path / "b", "CartPole-v1", "double", level=4.7501)
    write_run(tmp_path / "c", "Acrobot-v1", "dqn")
    rows = dict(tables.games_by_agents(*read(tmp_path))["rows"])
    assert rows["CartPole-v1"] == [("9.50", True), ("9.50", True)]


def test_of_one_game_or_too_many_agents_there_is_no_table(tmp_path, monkeypatch):
    write_run(tmp_path / "a", "CartPole-v1", "dqn")
    assert tables.games_by_agents(*read(tmp_path)) is None
    write_run(tmp_path / "b", "Acrobot-v1", "double")
    assert tables.games_by_agents(*read(tmp_path)) is not None
    monkeypatch.setattr(tables, "MOST_AGENTS", 1)
    assert tables.games_by_agents(*read(tmp_path)) is None


def test_the_best_settings_come_first_and_what_was_given_up_last(tmp_path):
    for n_step, level, steps in ((1, 10.0, 1_000), (3, 30.0, 1_000), (5, 99.0, 500)):
        for seed in (0, 1):
            path = tmp_path / f"{n_step}-{seed}"
            write_run(path, seeds=(seed,), level=level, steps=steps, replay__n_step=n_step)
    write_run(tmp_path / "single", agent="double")
    environments, finals = read(tmp_path)
    rows = tables.best_settings(environments[0], finals[0])
    assert [(row["agent"], row["settings"], row["seeds"]) for row in rows] == [
        ("dqn", "replay.n_step 3", "2"),
        ("dqn", "replay.n_step 1", "2"),
        ("dqn", "replay.n_step 5", "2"),
    ]
    assert [row["agent steps"] for row in rows] == ["1,000", "1,000", "500"]
    assert rows[0]["score"].startswith("61.0 [")


def test_what_was_done_early_is_not_given_up(tmp_path):
    """Such as by `train.stop_return`."""
    for n_step, level, steps in ((1, 10.0, 1_000), (3, 30.0, 500)):
        trial = Folder(tmp_path / "trials" / str(n_step))
        write_run(trial.run, level=level, steps=steps, replay__n_step=n_step)
        trial.write_result(trial.claim(), {"status": "done"})
    environments, finals = read(tmp_path)
    rows = tables.best_settings(environments[0], finals[0])
    assert [row["settings"] for row in rows] == ["replay.n_step 3", "replay.n_step 1"]


def test_what_failed_with_a_seed_is_not_the_best_of_a_game(tmp_path):
    for game in ("CartPole-v1", "Acrobot-v1"):
        for agent, level, status in (("dqn", 1.0, "done"), ("double", 9.0, "failed")):
            trial = Folder(tmp_path / "trials" / f"{game}-{agent}")
            write_run(trial.run, game, agent, level=level)
            trial.write_result(trial.claim(), {"status": status, "sentence": ""})
            write_run(tmp_path / "more" / f"{game}-{agent}", game, agent, seeds=(1,), level=level)
    found = tables.games_by_agents(*read(tmp_path))
    for _, cells in found["rows"]:
        of_agent = dict(zip(found["names"], cells, strict=True))
        assert of_agent["dqn"][1]
        assert of_agent["double"] == ("20.0 (1 failed)", False)
