"""What tests of runs and loops share: tables of a run directory, scripted episodes, states."""

import csv
import json

import jax

from jdqn.runs import checkpoint

# Steps are (reward, terminated, truncated, lost life).
EPISODES = [
    [(1.5, False, False, False), (2.0, False, False, True), (0.0, True, False, False)],
    [(-4.0, False, True, False)],
    [(10.0, False, False, False)] * 5 + [(0.0, True, True, False)],
]
WALL_CLOCK = {"seconds", "steps_per_second"}


def table(path):
    """A CSV file as one dictionary a row."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def log(run_dir):
    """metrics.jsonl, one dictionary a line."""
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def metrics(run_dir, seed=None):
    """metrics.jsonl without what the clock says; of several seeds one's, its name left out."""
    rows = [row for row in log(run_dir) if seed is None or row["seed"] == seed]
    left_out = WALL_CLOCK if seed is None else WALL_CLOCK | {"seed"}
    return [{k: v for k, v in row.items() if k not in left_out} for row in rows]


def plain(state):
    """An agent state that NumPy can compare."""
    return state.replace(key=jax.random.key_data(state.key))


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
