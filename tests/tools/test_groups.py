"""Which runs belong together, and which are told apart, left out or refused."""

import numpy as np
import pytest
from report_helpers import write_run

from jdqn.config import ConfigError
from jdqn.tools import groups


def shape(environments):
    """Titles, labels and seeds."""
    return {
        env.title: {group.label: [seed.number for seed in group.seeds] for group in env.groups}
        for env in environments
    }


def test_runs_are_put_together_by_environment_and_agent(tmp_path):
    write_run(tmp_path / "a", seeds=(0,))
    write_run(tmp_path / "b", seeds=(1,), train__log_period_steps=7)
    write_run(tmp_path / "c", agent="double", seeds=(0,))
    write_run(tmp_path / "deep/d", env="Acrobot-v1", seeds=(3, 4))
    assert shape(groups.read_groups([str(tmp_path)])) == {
        "CartPole-v1": {"dqn": [0, 1], "double": [0]},
        "Acrobot-v1": {"dqn": [3, 4]},
    }


def test_what_was_logged_is_read_by_seed(tmp_path):
    write_run(tmp_path / "a", seeds=(3, 4), level=5.0)
    _, seed = groups.read_run(tmp_path / "a").seeds
    assert seed.number == 4
    assert seed.episodes.shape == (10, 2)
    np.testing.assert_array_equal(seed.metrics["loss"][:2], [[200, 1.0], [400, 0.5]])
    np.testing.assert_allclose(seed.evaluations["vote"][-1], [1_000, 18])


def test_other_settings_are_another_curve_that_says_which(tmp_path):
    write_run(tmp_path / "a", seeds=(0,), replay__n_step=1)
    write_run(tmp_path / "b", seeds=(0,), replay__n_step=2)
    assert shape(groups.read_groups([str(tmp_path)])) == {
        "CartPole-v1": {"dqn, n_step 1": [0], "dqn, n_step 2": [0]}
    }


def test_schedules_of_other_lengths_are_other_settings_but_not_added_steps(tmp_path):
    write_run(tmp_path / "a", seeds=(0,), train__steps=1_000)
    write_run(tmp_path / "b", seeds=(1,), train__steps=3_000)
    write_run(tmp_path / "c", seeds=(2,), train__steps=3_000, train__schedule_steps=1_000)
    assert shape(groups.read_groups([str(tmp_path / "a"), str(tmp_path / "c")])) == {
        "CartPole-v1": {"dqn": [0, 2]}
    }
    assert shape(groups.read_groups([str(tmp_path / "a"), str(tmp_path / "b")])) == {
        "CartPole-v1": {"dqn, schedule_steps 1,000": [0], "dqn, schedule_steps 3,000": [1]}
    }


@pytest.mark.parametrize("seeds", [(0, 0, 0), (0, 1, 2)])
def test_runs_as_long_by_schedules_of_other_lengths_are_curves_that_say_so(tmp_path, seeds):
    """Whether they went on or not, and whether or not they have a seed in common."""
    for seed, schedule in zip(seeds, (0, 1_200, 1_400), strict=True):
        lengths = {"train__steps": 2_000, "train__schedule_steps": schedule}
        write_run(tmp_path / str(schedule), seeds=(seed,), **lengths)
    assert shape(groups.read_groups([str(tmp_path)])) == {
        "CartPole-v1": {
            "dqn, schedule_steps 2,000": [seeds[0]],
            "dqn, schedule_steps 1,200": [seeds[1]],
            "dqn, schedule_steps 1,400": [seeds[2]],
        }
    }
    whole = [str(tmp_path / str(schedule)) for schedule in (0, 1_200)]
    if not any(seeds):
        with pytest.raises(ConfigError, match=r"both have seed 0 .* differ in train.schedule_step"):
            groups.read_groups([f"mine={','.join(whole)}"])


@pytest.mark.parametrize(
    ("field", "values", "labels"),
    [
        ("agent__discount", (0.99, 0.990000001), ["discount 0.99", "discount 0.990000001"]),
        ("env__kwargs", ({"a": 90 * "b"}, {"a": 99 * "b"}), ["settings 1", "settings 2"]),
    ],
)
def test_settings_that_read_alike_make_no_curve_in_common(tmp_path, field, values, labels):
    for i, value in enumerate(values):
        write_run(tmp_path / str(i), seeds=(i,), **{field: value})
    (found,) = shape(groups.read_groups([str(tmp_path)])).values()
    assert found == {f"dqn, {label}": [i] for i, label in enumerate(labels)}


def test_where_many_settings_differ_they_are_numbered(tmp_path):
    write_run(tmp_path / "a")
    other = {"replay__n_step": 2, "agent__discount": 0.5, "agent__double": True}
    write_run(tmp_path / "b", **other)
    assert list(shape(groups.read_groups([str(tmp_path)]))["CartPole-v1"]) == [
        "dqn, settings 1",
        "dqn, settings 2",
    ]


def test_a_label_holds_on_every_environment(tmp_path):
    a = write_run(tmp_path / "a", seeds=(0,))
    b = write_run(tmp_path / "b", env="Acrobot-v1", seeds=(0,))
    assert shape(groups.read_groups([f"mine={a},{b}"])) == {
        "CartPole-v1": {"mine": [0]},
        "Acrobot-v1": {"mine": [0]},
    }


def test_games_by_other_rules_are_kept_apart_with_a_word(tmp_path, capsys):
    a = write_run(tmp_path / "a", env="Pong", env__sticky_probability=0.25)
    b = write_run(tmp_path / "b", env="Pong", env__sticky_probability=0.0)
    assert shape(groups.read_groups([f"mine={a},{b}"])) == {
        "Pong (sticky_probability 0.25)": {"mine": [0]},
        "Pong (sticky_probability 0)": {"mine": [0]},
    }
    assert "note: Pong is played by different rules (sticky_prob" in capsys.readouterr().err


def test_what_only_atari_has_tells_no_runs_of_others_apart(tmp_path, capsys):
    write_run(tmp_path / "a", seeds=(0,))
    only_ataris = {
        "env__backend": "ale",
        "env__frame_skip": 3,
        "env__sticky_probability": 0.125,
        "env__full_action_space": True,
        "env__noop_max": 7,
        "env__fire_on_reset": True,
        "env__life_loss_terminates": True,
    }
    write_run(tmp_path / "b", seeds=(1,), **only_ataris)
    environments = groups.read_groups([str(tmp_path)])
    assert shape(environments) == {"CartPole-v1": {"dqn": [0, 1]}}
    assert groups.differing(environments[0].groups[0].runs) == []
    assert capsys.readouterr().err == ""


def test_of_the_same_seed_twice_the_longer_run_is_taken(tmp_path, capsys):
    write_run(tmp_path / "a", seeds=(0,), steps=500)
    write_run(tmp_path / "b", seeds=(0,), steps=1_000)
    (env,) = groups.read_groups([str(tmp_path)])
    assert [run.path.name for run in env.groups[0].runs] == ["b"]
    assert f"warning: left out: {tmp_path / 'a'} has seed 0 of dqn" in capsys.readouterr().err


def test_in_a_folder_what_cannot_be_shown_is_left_out_with_a_word(tmp_path, capsys):
    write_run(tmp_path / "a")
    (write_run(tmp_path / "b") / "metrics.jsonl").write_text("")
    assert shape(groups.read_groups([str(tmp_path)])) == {"CartPole-v1": {"dqn": [0]}}
    assert capsys.readouterr().err == (
        f"warning: left out: {tmp_path / 'b' / 'metrics.jsonl'}: nothing has been logged\n"
    )


def test_a_seed_without_a_finished_game_is_left_out_with_a_word(tmp_path, capsys):
    path = write_run(tmp_path / "a", seeds=(0, 1))
    lines = (path / "episodes.csv").read_text().splitlines(keepends=True)
    (path / "episodes.csv").write_text("".join(line for line in lines if ",1," not in line))
    assert shape(groups.read_groups([str(path)])) == {"CartPole-v1": {"dqn": [0]}}
    assert capsys.readouterr().err == (
        f"note: {path}: seed 1 is left out, none of its games has ended\n"
    )


def test_figures_that_cannot_be_drawn_are_left_out(tmp_path):
    path = write_run(tmp_path / "a")
    with (path / "metrics.jsonl").open("a") as file:
        for value in ("NaN", "1e308", "1" + 400 * "0"):
            file.write(f'{{"steps": 2000, "seconds": {value}, "loss": {value}}}\n')
    (seed,) = groups.read_run(path).seeds
    assert seed.metrics["loss"][-1].tolist() == [1_000, 0.2]
    assert seed.metrics["seconds"].shape == (5, 2)


def test_names_of_strangers_do_not_steer_the_terminal(tmp_path, capsys):
    for i, path in enumerate([tmp_path / "a", tmp_path / "b"]):
        config = write_run(path, seeds=(i,), env__max_episode_steps=80 + i) / "config.toml"
        config.write_text(config.read_text().replace("CartPole-v1", "Cart\\u001b[2J"))
    groups.read_groups([str(tmp_path)])
    assert capsys.readouterr().err.startswith(r"note: Cart\x1b[2J is played by different rules (ma")


def test_runs_of_one_label_that_share_a_seed_are_refused(tmp_path):
    a = write_run(tmp_path / "a", agent="dqn")
    b = write_run(tmp_path / "b", agent="double")
    with pytest.raises(ConfigError, match="both have seed 0 on CartPole-v1 and differ in agent"):
        groups.read_groups([f"mine={a},{b}"])


def test_values_are_shown_as_people_write_them(tmp_path):
    run = groups.read_run(write_run(tmp_path / "a", network__hidden=[8, 9]))
    names = ["network.hidden", "network.noisy_sigma", "agent.double", "env.kwargs"]
    shown = [groups.value_of(run, name) for name in names]
    assert shown == ["8, 9", "none", "false", "{}"]
    assert groups.value_of(run, "env.max_episode_steps") == "27,000"
