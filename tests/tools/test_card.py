"""The `README.md` of an exported folder."""

import pytest
from helpers import tiny, vector_spec

from jdqn.config import load_config
from jdqn.envs.interface import Interface
from jdqn.runs import exported
from jdqn.runs.episodes import Evaluation
from jdqn.tools import card

BETWEEN = Interface(vector_spec(4), (4,), vector_spec().frame_dtype)

WON = Evaluation(100, 21.0, 21.0, 0.0, 1_700.0)


def row(steps, mean):
    """A row of evaluations.csv."""
    return {
        "steps": str(steps),
        "seed": "3",
        "policy": "vote",
        "episodes": "20",
        "return_mean": str(mean),
        "return_median": "1",
        "return_std_error": "0.256",
        "length_mean": "17.0",
    }


def text(config, evaluations, onnx=True):
    about = exported.about(config, run_id="abc", steps=2_000, seed=3, evaluations=evaluations)
    return card.text(config, about, BETWEEN, "float32", onnx)


def test_it_says_what_the_agent_is_how_it_did_and_how_to_load_it():
    written = text(tiny(agent="bootstrapped", network__heads=3), [row(1_000, 10), row(2_000, 1e3)])
    for words in [
        "# bootstrapped on CartPole-v1",
        "| agent | `bootstrapped`, 3 heads |",
        "| agent steps | 2,000 |",
        "| seed | 3 |",
        "| run | `abc` |",
        "| layers | multiply in float32 |",
        "| protocol | games of at most 500 agent steps |",
        'agent = jdqn.load("',
        "| 1,000 | vote | 20 | 10 | 0.26 | 17 |",
        "| 2,000 | vote | 20 | 1,000 |",
        "`observation` `[B, 2, 4]` (float32)",
        "the newest last",
        "`q` `[B, 3, 3]`",
    ]:
        assert words in written
    assert "| layers | multiply in bfloat16 |" in text(tiny(network__compute_dtype="bfloat16"), [])
    assert "human" not in written
    assert not any(line.endswith(" ") for line in written.splitlines())


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (tiny(env__max_episode_steps=40), "games of at most 40 agent steps"),
        (tiny("CliffWalking-v1"), "games of at most 27,000 agent steps"),
        (tiny("jdqn/Chain"), "games that have not ended before are cut after 27,000 agent steps"),
    ],
)
def test_games_are_as_long_as_the_environment_lets_them_be(config, words):
    assert f"| protocol | {words} |" in text(config, [])


def test_of_atari_the_protocol_and_the_human_score():
    written = text(tiny("Breakout", env__sticky_probability=0.25), [row(2_000, 16.1)], onnx=False)
    assert "4 frames a step, sticky actions 0.25, 1 to 30 no-ops" in written
    by = text(load_config(env="Pong", protocol="machado"), [])
    assert "| protocol | `machado`: games of at most 4,500 agent steps, 4 frames" in by
    assert "The last is 50.0 % human-normalised." in written
    assert "model.onnx" not in written


def test_many_results_are_cut_and_odd_ones_do_no_harm():
    many = text(tiny(), [row(i, i) for i in range(1, 31)])
    assert "the last 20 of 30" in many
    assert many.count("| vote |") == 20
    odd = text(tiny("Breakout"), [{"steps": "1|2", "return_mean": "x\ny"}])
    assert "| 12 |  |  | x y |" in odd
    assert "No evaluation is on record." in text(tiny(), [])


def test_scores_of_the_files_are_told_apart_from_those_in_training():
    config = tiny("Pong", agent="bootstrapped", network__heads=2)
    about = exported.about(config, run_id="abc", steps=2_000, seed=3, evaluations=[row(2_000, 9)])
    measured = [("mean", Evaluation(100, 16.1, 17.0, 0.5, 4_321.0)), ("vote", WON)]
    written = card.text(config, about, BETWEEN, "float16", False, measured)
    scores, training = written.split("## Scores of these files")[1].split("## Training")
    assert "100 full games by each policy, raw reward, epsilon" in scores
    assert "| mean | 16.10 | 0.50 | 17.00 | 4,321.00 | 104.2 % |" in scores
    assert "| vote | 21.00 |" in scores
    assert "| 2,000 | vote | 20 | 9 |" in training
    assert "Scores of these files" not in text(config, [row(2_000, 9)])
    plain = card.text(tiny(), about, BETWEEN, "float16", False, [("vote", WON)])
    assert "human" not in plain
