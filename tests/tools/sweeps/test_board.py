"""What a sweep shows."""

import rich.console
from sweeps_helpers import make_plan

from jdqn.runs import stopping
from jdqn.tools.sweeps import board, folders
from jdqn.tools.sweeps.attempt import Job, Outcome
from jdqn.tools.sweeps.folders import Standing


def result(status="done", score=1.0, game="jdqn/Chain", **settings):
    words = {"score_of": "evaluation", "agent": "dqn", "seed": 0, "settings": settings}
    return {"status": status, "score": score, "game": game, **words}


RESULTS = {
    "a": result(score=2.0, n_step=3),
    "b": result(score=5.0, n_step=1),
    "c": result("failed", None),
    "d": result("pruned", 9.0, "Pong", n_step=1),
    "e": result("failed", 11.0, "Pong", n_step=2),
    "f": result("done", 7.0, "Pong"),
    "g": result("failed", 99.0, "Breakout"),
}


def test_the_best_of_each_game(tmp_path):
    assert board.best_of(RESULTS) == [
        "jdqn/Chain 5.00 by dqn, n_step 1",
        "Pong 7.00 by dqn",
    ]
    assert board.summary(1, 2, RESULTS) == "3 done, 1 pruned, 3 failed, 1 running, 2 waiting"
    assert board.summary(0, 2, {}) == "0 done, 0 running, 2 waiting"


def test_settings_are_compared_by_the_mean_over_their_seeds(tmp_path):
    whole = {str(seed): result(score=seed, n_step=1) for seed in range(3)}
    lucky = {"lucky": result(score=50.0, n_step=3), "its other": result("failed", 60.0, n_step=3)}
    begun = {"begun": result(score=99.0, n_step=5)}
    one = ["jdqn/Chain 1.00 by dqn, n_step 1, mean of 3 seeds"]
    assert board.best_of(whole | lucky | begun) == one
    assert board.best_of({"whole": whole["1"]} | lucky) == ["jdqn/Chain 1.00 by dqn, n_step 1"]
    # Where there is nothing else, what has been done of what failed.
    assert board.best_of(lucky) == ["jdqn/Chain 50.00 by dqn, n_step 3"]


def test_equals_of_the_best_are_counted():
    three = {str(n): result(score=500.0, n_step=n) for n in (1, 3, 5)}
    assert board.best_of(three) == ["jdqn/Chain 500.00 by dqn, n_step 1 and 2 more"]


def test_scores_of_two_kinds_are_not_compared(tmp_path):
    evaluated = result(score=20.0, n_step=1) | {"training": 9.0}
    trained = result(score=10.0, n_step=3) | {"training": 10.0, "score_of": "training"}
    both = {"a": evaluated, "b": trained}
    assert board.best_of(both) == ["jdqn/Chain 10.00 by dqn, n_step 3"]
    assert board.best_of({"a": evaluated}) == ["jdqn/Chain 20.00 by dqn, n_step 1"]


def test_a_line_and_a_table_say_where_it_all_is(tmp_path):
    trials = make_plan(tmp_path, seeds=30).trials()
    standings = {trials[0].name: Standing(500, 1.25, {100: 3.0, 200: 4.5})}
    total = trials[0].steps
    assert board.line([(Job(trials[0]), 2)], standings, 3, RESULTS) == (
        f"3 done, 1 pruned, 3 failed, 1 running (at 500 of {total:,} steps), 3 waiting; "
        "best: jdqn/Chain 5.00 by dqn, n_step 1"
    )
    running = [(Job(trial), 2) for trial in trials]
    console = rich.console.Console(width=120, force_terminal=False)
    with console.capture() as capture:
        console.print(board.table(running, standings, 3, RESULTS))
    lines = capture.get().splitlines()
    assert lines[0].split() == ["trial", "attempt", "steps", "return", "evaluation"]
    assert lines[1].startswith("jdqn/Chain, dqn, seed 0")
    assert lines[1].split()[-1] == "4.50"
    assert lines[1].split()[-2] == "1.25"
    assert lines[2].split()[-2:] == ["–", "–"]
    assert "and 10 more" in capture.get()
    assert "best: Pong 7.00" in capture.get()


def test_in_a_pipe_everything_is_a_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(board, "LINE_SECONDS", 0.0)
    (trial,) = make_plan(tmp_path).trials()
    shown = board.Board(tmp_path / "sweep", stopping.Stop())
    shown.began(Job(trial, 400))
    shown.show([(Job(trial), 1)], 0, {})
    shown.ended(Job(trial), Outcome(folders.CRASHED, 1, None, "a\nb"))
    shown.ended(Job(trial), Outcome(folders.DONE, 2, result(score=2.0)))
    shown.stopping(1)
    shown.close()
    told = "jdqn/Chain, dqn, seed 0"
    assert capsys.readouterr().out.splitlines() == [
        f"begins: {told}, until it is evaluated at 400",
        f"0 done, 1 running (at 0 of {trial.steps:,} steps), 0 waiting",
        f"crashed, begins again: {told}: a\\nb",
        f"done: {told}, 2.00 (evaluation)",
        "stopping: 1 trial will save a checkpoint first",
    ]
