"""The files of a run directory, without a run."""

import importlib.metadata
import pathlib
import re
import tomllib

import jax
import pytest
from helpers import tiny
from runs_helpers import log, table

import jdqn
from jdqn.config import ConfigError, load_config
from jdqn.runs import checkpoint, directory, files
from jdqn.runs.episodes import Episode, Evaluation

TABLES = {"metrics.jsonl", "episodes.csv", "evaluations.csv"}


def write(path, config):
    """A directory with one log event, two episodes and an evaluation of seed 3."""
    return write_into(directory.make_run_dir(path, config), config)


def write_into(path, config):
    """Writes into a directory that is there."""
    written = directory.RunDirectory(path, config, "the command")
    written.episodes(40, 3, [Episode(1.5, 7, 0), Episode(-2.0, 9, 3)])
    written.log(40, {"seed": 3, "loss": 0.25, "episode_return": None, "q_mean": float("nan")})
    written.evaluation(40, 3, "vote", Evaluation(2, 1.0, 1.5, 0.5, 8.0))
    written.close()
    return written


def test_config_toml_holds_the_configuration_and_where_it_comes_from(tmp_path):
    config = tiny(train__seed=3, agent__double=True)
    write(tmp_path / "new" / "run", config)
    file = tmp_path / "new" / "run" / "config.toml"
    assert load_config(file=file) == config
    recorded = tomllib.loads(file.read_text(encoding="utf-8"))["versions"]
    assert recorded["command"] == "the command"
    assert recorded["jax"] == jax.__version__
    assert {"jdqn", "python", "numpy", "envpool", "gymnasium", "git"} <= recorded.keys()


def test_a_checkout_that_is_not_installed_can_be_run(tmp_path, monkeypatch):
    def version(package):
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "version", version)
    write(tmp_path, tiny())
    recorded = directory.read_record(tmp_path)["versions"]
    assert (recorded["jdqn"], recorded["envpool"]) == (jdqn.__version__, "not installed")
    assert checkpoint.versions()["jdqn"] == jdqn.__version__


def test_tables_hold_what_they_were_told(tmp_path):
    write(tmp_path, tiny())
    assert {path.name for path in tmp_path.iterdir() if "tfevents" not in path.name} == {
        "config.toml",
        *TABLES,
    }
    first, second = table(tmp_path / "episodes.csv")
    assert first == {"steps": "40", "seed": "3", "return": "1.5", "length": "7"}
    assert second == {"steps": "40", "seed": "3", "return": "-2.0", "length": "9"}
    (row,) = table(tmp_path / "evaluations.csv")
    assert (row["steps"], row["seed"], row["policy"]) == ("40", "3", "vote")
    assert (row["episodes"], row["return_mean"], row["length_mean"]) == ("2", "1.0", "8.0")
    # JSON has no NaN.
    assert log(tmp_path) == [
        {"steps": 40, "seed": 3, "loss": 0.25, "episode_return": None, "q_mean": None}
    ]


@pytest.mark.parametrize(("num_seeds", "suffix"), [(1, b""), (2, b"/seed_3")])
def test_tensorboard_tells_several_seeds_apart(tmp_path, num_seeds, suffix):
    write(tmp_path, tiny("gymnax/CartPole-v1", train__num_seeds=num_seeds))
    (events,) = tmp_path.glob("events.out.tfevents*")
    written = events.read_bytes()
    assert b"loss/loss" + suffix in written
    assert b"evaluation/return_mean" + suffix in written
    assert (b"/seed_" in written) == bool(suffix)
    assert b"episode/" not in written  # nothing to draw


def test_the_default_directory_names_environment_agent_seed_and_time():
    of_module = directory.default_run_dir(tiny("my.module:ns/MyEnv-v0"))
    assert of_module.name.startswith("my.module_ns_MyEnv-v0-dqn-0-")
    path = directory.default_run_dir(tiny("gymnax/CartPole-v1", train__seed=5))
    assert path.parts[0] == "runs"
    assert re.fullmatch(r"gymnax_CartPole-v1-dqn-5-\d{8}-\d{6}", path.name)
    path = directory.default_run_dir(tiny("jax:my_module:make"))
    assert path.name.startswith("jax_my_module_make-dqn-0-")


def test_a_directory_that_is_taken_is_refused_and_left_alone(tmp_path):
    used = tmp_path / "used"
    used.mkdir()
    (used / "notes.txt").write_text("mine")
    file = tmp_path / "file"
    file.write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    for path, words in ((used, "already used"), (file, "is a file"), (file / "run", "file")):
        with pytest.raises(ConfigError, match=words):
            directory.make_run_dir(path, tiny())
    with pytest.raises(ConfigError, match="already used"):
        directory.check_run_dir(used)
    directory.check_run_dir(tmp_path / "new")
    directory.check_run_dir(None)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("is_named", [True, False])
def test_the_names_of_new_folders_outlive_a_power_failure(tmp_path, monkeypatch, is_named):
    monkeypatch.chdir(tmp_path)
    synced = []
    monkeypatch.setattr(files, "sync_folder", lambda folder: synced.append(folder.resolve()))
    monkeypatch.setattr(directory, "sync_folder", files.sync_folder)
    made = directory.make_run_dir("runs/mine" if is_named else None, tiny())
    assert {made.resolve().parent, tmp_path} <= set(synced)
    assert tmp_path.parent not in synced  # was there


def test_two_default_directories_of_one_second_are_two(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(directory, "default_run_dir", lambda _: pathlib.Path("runs") / "same")
    made = [directory.make_run_dir(None, tiny()) for _ in range(3)]
    assert [path.name for path in made] == ["same", "same-2", "same-3"]
    assert all(path.is_dir() for path in made)


@pytest.mark.parametrize("name", ["a b", "[x]", "a*?", "100%", "größe-∞", "n" * 200, "-x", "'q'"])
def test_every_name_works(tmp_path, name):
    config = tiny()
    path = directory.make_run_dir(tmp_path / name, config)
    write_into(path, config)
    run_id = directory.run_id_of(path)
    assert run_id
    again = directory.RunDirectory(path, config, "more", resumed_steps=40, lengths={})
    again.close()
    assert again.run_id == directory.run_id_of(path) == run_id


def test_a_directory_that_is_gone_on_with_is_cut_back_to_what_belongs_to_it(tmp_path):
    config = tiny()
    first = directory.RunDirectory(tmp_path, config, "start")
    first.log(40, {"loss": 1.0})
    lengths = first.sync()
    first.episodes(80, 0, [Episode(1.0, 2, 0)])
    first.log(80, {"loss": 2.0})
    first.close()
    again = directory.RunDirectory(tmp_path, config, "more", resumed_steps=40, lengths=lengths)
    again.log(84, {"loss": 3.0})
    again.close()
    assert [row["steps"] for row in log(tmp_path)] == [40, 84]
    assert table(tmp_path / "episodes.csv") == []
    assert (tmp_path / "episodes.csv").read_text().splitlines() == ["steps,seed,return,length"]
    (tmp_path / "evaluations.csv").unlink()  # made anew, with its header
    directory.RunDirectory(tmp_path, config, "", resumed_steps=84, lengths=lengths).close()
    assert (tmp_path / "evaluations.csv").read_text().startswith("steps,seed,policy,")
