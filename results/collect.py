"""Makes the tables beside this file from run directories, and from the folders of sweeps.

python results/collect.py scores FOLDER... > table.csv     the end of each seed
python results/collect.py curves FOLDER... > table.csv     training returns on the way, 100 places
python results/collect.py treasure FOLDER... > table.csv   DeepSea: when it was found, and solved
python results/collect.py iqm TABLE...                     of tables of scores: IQM, 95% intervals
"""

import csv
import sys
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np

from jdqn.tools import curves, groups, statistics

PLACES = 100
SOLVED_BAD_FRACTION = 0.9  # bsuite (Osband et al. 2020): fewer of all episodes so far were bad

Row = dict[str, Any]


def scores(seed: groups.Seed) -> Iterator[Row]:
    """The last 100 training games, and the last evaluation of each policy."""
    end = seed.episodes[-1:, 0]
    row = {
        "steps": int(seed.metrics["seconds"][-1, 0]),
        "seconds": round(float(seed.metrics["seconds"][-1, 1])),
        "episodes": len(seed.episodes),
        "training_return": float(curves.recent_mean(seed.episodes, end)[0]),
    }
    for policy, points in seed.evaluations.items():
        row[f"evaluation_{policy}"] = float(points[-1, 1])
    yield row


def curve(seed: groups.Seed) -> Iterator[Row]:
    """The mean of the last 100 training games, at places of equal distance."""
    steps = np.linspace(0, seed.metrics["seconds"][-1, 0], PLACES + 1)[1:]
    for place, value in zip(steps, curves.recent_mean(seed.episodes, steps), strict=True):
        yield {"steps": round(place), "training_return": "" if np.isnan(value) else round(value, 3)}


def treasure(seed: groups.Seed) -> Iterator[Row]:
    """The first episode with the treasure, and the one from which DeepSea counts as solved."""
    found = seed.episodes[:, 1] > 0.5
    bad_fraction = np.cumsum(~found) / np.arange(1, len(found) + 1)
    yield {
        "episodes": len(found),
        "first_treasure_episode": _first(found),
        "solved_episode": _first(bad_fraction < SOLVED_BAD_FRACTION),
    }


def _first(is_so: np.ndarray) -> int | str:
    """Number, from 1, of the first that is so; empty: none."""
    return int(np.argmax(is_so)) + 1 if is_so.any() else ""


TABLES = {"scores": scores, "curves": curve, "treasure": treasure}


def collect(table: str, folders: list[str]) -> list[Row]:
    """The rows of a table, with what the runs differ in before them."""
    environments = groups.read_groups(folders)
    runs = [
        run for environment in environments for group in environment.groups for run in group.runs
    ]
    names = [name for name in groups.differing(runs) if not _is_told_by_agent(runs, name)]
    return [
        {
            "env": run.config.env.name,
            "agent": run.config.agent.name,
            **{name: groups.value_of(run, name) for name in names},
            "seed": seed.number,
            **row,
        }
        for run in runs
        for seed in sorted(run.seeds, key=lambda seed: seed.number)
        for row in TABLES[table](seed)
    ]


def _is_told_by_agent(runs: list[groups.Run], name: str) -> bool:
    """Whether a field is the same in all runs of each environment and agent."""
    found = {}
    for run in runs:
        key = (run.config.env.name, run.config.agent.name)
        if found.setdefault(key, value := groups.value_of(run, name)) != value:
            return False
    return True


def iqm(paths: list[str]) -> Iterator[Row]:
    """Of each environment and agent the interquartile mean over seeds, and its 95% interval."""
    found = defaultdict(list)
    for path in paths:
        with open(path, encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                found[row["env"], row["agent"]].append(row)
    for (env, agent), rows in found.items():
        told: Row = {"env": env, "agent": agent, "seeds": len(rows)}
        for name in (name for name in rows[0] if name == "training_return" or "evaluation" in name):
            values = np.array([[float(row[name])] for row in rows if row[name]])
            if len(values):
                low, high = statistics.bootstrap(statistics.iqm, values)
                told[name] = f"{statistics.iqm(values):.1f} ({low:.1f} to {high:.1f})"
        yield told


def main(table: str, folders: list[str]) -> None:
    """Writes a table to stdout."""
    rows = list(iqm(folders)) if table == "iqm" else collect(table, folders)
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(sys.stdout, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
