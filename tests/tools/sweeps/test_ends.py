"""How trials have ended."""

from jdqn.tools.sweeps import ends
from jdqn.tools.sweeps.folders import Folder


def test_a_run_of_a_sweep_has_the_result_of_its_trial(tmp_path):
    trial = Folder(tmp_path / "trials" / "a")
    number = trial.claim()
    assert ends.of_run(trial.run) == {}  # it has not ended
    trial.write_result(number, {"status": "failed"})
    assert ends.of_run(trial.run) == {"attempt": 1, "status": "failed"}
    assert ends.of_run(trial.path) == {}
    assert ends.of_run(tmp_path / "run") == {}


def test_what_failed_has_no_score():
    result = {"status": "done", "score": 1.0, "score_of": "training", "sentence": ""}
    assert ends.told(result) == "done, 1.00 (training)"
    failed = result | {"status": "failed", "sentence": "a traceback"}
    assert ends.told(failed) == "failed: a traceback"
    assert ends.told(result | {"score": None}) == "done"


def test_seeds_of_one_setting_have_it_in_common():
    first = {"game": "a", "agent": "dqn", "settings": {"x": 1, "y": [2]}, "seed": 0}
    same = {"game": "a", "agent": "dqn", "settings": {"y": [2], "x": 1}, "seed": 1}
    assert ends.setting_of(first) == ends.setting_of(same)
    assert ends.setting_of(first) != ends.setting_of(same | {"settings": {"x": 1}})
