"""Draws the pictures beside this file from the tables there.

python results/pictures.py [FOLDER]    writes into FOLDER, by default beside the tables
"""

import csv
import pathlib
import sys
from collections import defaultdict
from typing import Any

import numpy as np
from matplotlib import figure

from jdqn.tools import curves

HERE = pathlib.Path(__file__).parent
CONTROL = "dqn_epsilon"  # DQN with the epsilons of `double`, as the others
EXPLORERS = {
    "bootstrapped_prior": "Bootstrapped, twenty heads with priors",
    "dqn": "DQN, epsilon-greedy",
}
BEHAVIOURS = {
    "head": "Bootstrapped, a head for each episode",
    "head_per_step": "Bootstrapped, a head for each step",
    "vote": "Bootstrapped, vote",
    "dqn": "DQN, epsilon-greedy",
}
MOST_EPISODES = 2_000  # of a run on the chain
PANELS_A_ROW = 5


def table(name: str) -> list[dict[str, str]]:
    """The rows of a CSV file of this folder."""
    with open(HERE / name, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def minatar_breakout() -> figure.Figure:
    """Training returns of each agent, with 95% bands, beside those of DQN with their epsilons."""
    points = defaultdict(lambda: defaultdict(list))
    for row in table("minatar_curves.csv"):
        if row["env"] == "minatar/Breakout" and row["training_return"]:
            point = (float(row["steps"]), float(row["training_return"]))
            points[row["agent"]][row["seed"]].append(point)
    read = {}
    for agent, seeds in points.items():
        steps = np.linspace(0, min(seed[-1][0] for seed in seeds.values()), 101)[1:]
        returns = [np.interp(steps, *np.transpose(seed)) for seed in seeds.values()]
        read[agent] = (steps, *curves.interval(np.stack(returns)))
    drawn, panels = grid(len(read))
    for (agent, (steps, mean, half)), axes in zip(read.items(), panels, strict=True):
        axes.plot(read[CONTROL][0], read[CONTROL][1], color="grey", lw=0.8, ls=":")
        axes.plot(steps, mean, color="C0")
        axes.fill_between(steps, mean - half, mean + half, color="C0", alpha=0.25, lw=0)
        axes.set_title(f"{agent}, {len(points[agent])} seeds", fontsize=9)
        axes.grid(alpha=0.3)
    drawn.supxlabel(f"agent steps, an update every four (dotted: {CONTROL})")
    drawn.supylabel("training return, 100 games")
    return drawn


def grid(number: int) -> tuple[figure.Figure, list[Any]]:
    """A figure with so many panels, all on the same axes."""
    num_rows = -(-number // PANELS_A_ROW)
    drawn = figure.Figure(figsize=(12, 2.3 * num_rows), layout="constrained")
    panels = list(drawn.subplots(num_rows, PANELS_A_ROW, sharex=True, sharey=True).flat)
    for axes in panels[number:]:
        axes.axis("off")
    return drawn, panels[:number]


def cartpole() -> figure.Figure:
    """Evaluations of every agent in JAX: mean over seeds, 95% band, each seed as a thin line."""
    points = defaultdict(lambda: defaultdict(list))
    for row in table("cartpole_evaluations.csv"):
        if row["env"] == "gymnax/CartPole-v1":
            points[row["agent"]][row["seed"]].append((int(row["steps"]), float(row["return_mean"])))
    drawn, panels = grid(len(points))
    for (agent, seeds), axes in zip(points.items(), panels, strict=True):
        steps, returns = np.moveaxis(np.array(list(seeds.values())), -1, 0)
        mean, half = curves.interval(returns)
        axes.plot(steps[0], returns.T, color="C0", alpha=0.2, lw=0.6)
        axes.plot(steps[0], mean, color="C0")
        axes.fill_between(steps[0], mean - half, mean + half, color="C0", alpha=0.25, lw=0)
        axes.set_title(f"{agent}, {len(returns)} seeds", fontsize=9)
        axes.set_ylim(0, 515)  # bands end where returns do
        axes.grid(alpha=0.3)
    drawn.supxlabel("agent steps")
    drawn.supylabel("evaluation, mean of 20 games")
    return drawn


def mark(axes: Any, place: Any, height: Any, reached: Any, *, color: str, label: str) -> None:
    """A dot for what was reached, a cross for what was not."""
    axes.scatter(place[reached], height[reached], color=color, label=label, s=25)
    axes.scatter(place[~reached], height[~reached], color=color, marker="x", s=35)


def chain() -> figure.Figure:
    """Episodes until ten optimal ones in a row, a point for each of five seeds."""
    drawn = figure.Figure(**curves.FIGURE)
    axes = drawn.subplots()
    for i, (behaviour, label) in enumerate(BEHAVIOURS.items()):
        rows = [
            row for row in table("chain_episodes_to_learn.csv") if row["behaviour"] == behaviour
        ]
        place = np.array([float(row["length"]) for row in rows]) + 1.2 * (i - 1.5)
        learned = np.array([row["episodes_until_ten_optimal"] != "" for row in rows])
        episodes = [float(row["episodes_until_ten_optimal"] or MOST_EPISODES) for row in rows]
        height = np.array(episodes)
        mark(axes, place, height, learned, color=f"C{i}", label=label)
    axes.axhline(MOST_EPISODES, color="grey", lw=0.8, ls=":")
    axes.set_yscale("log")
    axes.set_xlabel("length N of the chain")
    axes.set_ylabel("episodes until ten optimal in a row (x: not in 2,000)")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper right", bbox_to_anchor=(1, 0.9))
    return drawn


def deep_sea() -> figure.Figure:
    """Episodes until DeepSea is solved against its size, a point for each of five seeds."""
    drawn = figure.Figure(**curves.FIGURE)
    axes = drawn.subplots()
    for i, (agent, label) in enumerate(EXPLORERS.items()):
        rows = [row for row in table("deep_sea_scaling.csv") if row["agent"] == agent]
        place = np.array([float(row["env.size"]) for row in rows]) + 0.8 * (i - 0.5)
        solved = np.array([row["solved_episode"] != "" for row in rows])
        height = np.array([float(row["solved_episode"] or row["episodes"]) for row in rows])
        mark(axes, place, height, solved, color=f"C{i}", label=label)
    sizes = np.linspace(10, 18, 9)
    axes.plot(sizes, 2.0**sizes, color="grey", lw=0.8, ls=":", label="random actions, 2^size")
    axes.set_yscale("log")
    axes.set_xlabel("size of the sea")
    axes.set_ylabel("episodes until solved (x: not in so many)")
    axes.grid(alpha=0.3)
    axes.legend()
    return drawn


def main(folder: pathlib.Path) -> None:
    """Writes all."""
    for draw in (cartpole, chain, deep_sea, minatar_breakout):
        draw().savefig(folder / f"{draw.__name__}.png", dpi=120)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
