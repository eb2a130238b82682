"""An exported folder: whole or not there, and read by everything that reads a run."""

import pathlib
import re

import numpy as np
import onnxruntime
import pytest
from helpers import tiny
from trained_helpers import write_run

import jdqn
from jdqn import loops
from jdqn.config import ConfigError, load_config
from jdqn.runs import directory, exported
from jdqn.runs.start_from import prepare
from jdqn.runs.trained import load_run
from jdqn.tools import exporting

pytestmark = pytest.mark.usefixtures("quick_compilation")

AGENTS = pathlib.Path(__file__).parents[2] / "results" / "agents"
AGENT = {"agent": "bootstrapped_prior", "network__heads": 2}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that was trained for a moment."""
    config = tiny(train__steps=48, train__seed=3, **AGENT)
    return loops.train(config, run_dir=tmp_path_factory.mktemp("run")).run_dir


def test_the_folder_is_the_agent(trained, tmp_path):
    folder = exporting.export(trained, tmp_path / "folder")
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "config.toml",
        "model.onnx",
        "model.safetensors",
    }
    assert directory.run_id_of(folder) == directory.run_id_of(trained)
    assert load_config(file=folder / "config.toml") == load_config(file=trained / "config.toml")
    observations = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    values = []
    for path in (trained, folder):
        agent = jdqn.load(path)
        values.append(agent.q_values(observations, heads=True))
        assert (agent.steps, agent.seed) == (48, 3)
    np.testing.assert_array_equal(*values)
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    stacks = np.stack([observations] * 2, axis=1)  # an episode's first frame fills the stack
    (q,) = session.run(["q"], {"observation": stacks})
    np.testing.assert_allclose(q, values[0], atol=1e-5 * max(1, abs(values[0]).max(), 10))
    started = prepare(folder, tiny(**AGENT))
    assert started.record["steps"] == 48
    assert started.record["run"] == directory.run_id_of(trained)


def test_an_export_of_an_export_in_half_precision(trained, tmp_path):
    first = exporting.export(trained, tmp_path / "first", onnx=False)
    second = exporting.export(first, tmp_path / "second", onnx=False, dtype="float16")
    sizes = [(path / exported.FILE).stat().st_size for path in (first, second)]
    assert sizes[1] < sizes[0]
    one = load_run(first).states[0].params["params"]["q"]["kernel"]
    two = load_run(second).states[0].params["params"]["q"]["kernel"]
    assert two.dtype == np.float32
    np.testing.assert_array_equal(two, one.astype(np.float16))
    assert exported.read_about(second).evaluations == exported.read_about(first).evaluations
    text = (second / "README.md").read_text(encoding="utf-8")
    assert "| parameters | kept in float16 |" in text
    assert "## Training" in text
    with pytest.raises(ConfigError, match=r"^--checkpoint 'best': .* is an exported agent"):
        load_run(first, "best")


def test_one_seed_of_several_becomes_an_agent_of_one(tmp_path):
    run = write_run(tmp_path / "run", tiny("jdqn/Chain", train__num_seeds=2, train__seed=4))
    folder = exporting.export(run, tmp_path / "folder", seed=5, onnx=False)
    found = load_run(folder)
    assert (found.config.train.seed, found.config.train.num_seeds) == (5, 1)
    theirs = load_run(run).states[1].params["params"]["q"]["bias"]
    np.testing.assert_array_equal(found.states[0].params["params"]["q"]["bias"], theirs)
    text = (folder / "config.toml").read_text().replace("num_seeds = 1", "num_seeds = 2")
    (folder / "config.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"train.num_seeds = 2, an exported agent has one seed"):
        load_run(folder)


def test_another_configuration_beside_the_parameters_is_refused(trained, tmp_path):
    folder = exporting.export(trained, tmp_path / "folder", onnx=False)
    text = (folder / "config.toml").read_text()
    (folder / "config.toml").write_text(text.replace("prior_scale = 10.0", "prior_scale = 1.0"))
    with pytest.raises(ConfigError, match=r"network.prior_scale = 1.0, .* written with 10.0"):
        load_run(folder)


def test_a_folder_that_is_used_is_left_alone(trained, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match=r"^DIR .* is not empty, expected a new or empty"):
        exporting.export(trained, tmp_path)
    with pytest.raises(ConfigError, match=r"^DIR .*file is a file"):
        exporting.export(trained, tmp_path / "file")
    with pytest.raises(ConfigError, match=r"^cannot (use|write) DIR .*: Not a directory"):
        exporting.export(trained, tmp_path / "file" / "folder", onnx=False)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_nothing_half_written_is_left(trained, tmp_path, monkeypatch):
    written = []

    def write(path, data):
        written.append(path.name)
        if len(written) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting, "write_whole", write)
    (tmp_path / "folder").mkdir()  # empty: may be used
    with pytest.raises(ConfigError, match=r"^cannot write DIR .*folder: No space left on device"):
        exporting.export(trained, tmp_path / "folder", onnx=False)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert not [*(tmp_path / "folder").iterdir()]


@pytest.mark.parametrize("folder", sorted(AGENTS.iterdir()), ids=lambda folder: folder.name)
def test_an_agent_that_comes_along_is_small_whole_and_measured(folder):
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 10_000_000
    assert "## Scores of these files" in (folder / "README.md").read_text(encoding="utf-8")
    assert not re.search(r"run-dir ['\"]?/", (folder / "config.toml").read_text())
    found = load_run(folder)
    assert found.steps > 0
    assert f"| seed | {found.config.train.seed} |" in (folder / "README.md").read_text()
