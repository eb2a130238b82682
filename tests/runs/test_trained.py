"""What was trained, read from a run or from an exported folder."""

import pytest
from helpers import tiny
from trained_helpers import write_run

from jdqn.config import ConfigError, to_toml
from jdqn.runs.trained import load_run


def test_a_configuration_that_is_not_that_of_the_checkpoint_is_refused(tmp_path):
    write_run(tmp_path, tiny(agent__epsilon_eval=0.3))
    file = tmp_path / "config.toml"
    text = file.read_text()
    assert "epsilon_eval = 0.3" in text
    file.write_text(text.replace("epsilon_eval = 0.3", "epsilon_eval = 0.4"))
    with pytest.raises(ConfigError, match=r"agent.epsilon_eval = 0.4, .* written with 0.3"):
        load_run(tmp_path)
    file.write_text(text.replace("eval_episodes = 3", "eval_episodes = 4"))
    found = load_run(tmp_path, agent__epsilon_eval=0.5)
    assert (found.config.train.eval_episodes, found.config.agent.epsilon_eval) == (4, 0.5)


def test_code_beside_a_configuration_without_checkpoints_is_never_imported(
    module, tmp_path, monkeypatch
):
    folder = tmp_path / "run"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    name = module("raise SystemExit('a stranger')", folder=folder)
    (folder / "config.toml").write_text(to_toml(tiny(f"jax:{name}:make")), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"run has no checkpoint"):
        load_run(folder)
