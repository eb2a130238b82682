"""Draws the pictures beside this file from the tables there.

python results/pictures.py [FOLDER]    writes into FOLDER, by default beside the tables
"""

import csv
import pathlib
import sys
from collections import defaultdict

import numpy as np
from matplotlib import figure

from jdqn.tools import curves

HERE = pathlib.Path(__file__).parent
AGENTS = {
    "dqn": "DQN",
    "double": "Double",
    "prioritized": "prioritised",
    "n_step": "three-step",
    "c51": "C51",
    "rainbow": "Rainbow",
    "munchausen": "Munchausen",
    "qr": "QR-DQN",
    "iqn": "IQN",
    "btr": "Beyond the Rainbow",
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
    """Mean training return of five seeds of each agent of the table, with 95% bands."""
    points = defaultdict(lambda: defaultdict(list))
    for row in table("minatar_breakout_curves.csv"):
        points[row["agent"]][row["seed"]].append((float(row["steps"]), float(row["return"])))
    read = {}
    for agent in sorted(points, key=list(AGENTS).index):
        seeds = [np.array(seed) for seed in points[agent].values()]
        steps = np.linspace(0, min(seed[-1, 0] for seed in seeds), 101)[1:]
        returns = np.stack([np.interp(steps, seed[:, 0], seed[:, 1]) for seed in seeds])
        read[AGENTS[agent]] = (steps, returns)
    drawn = figure.Figure(**curves.FIGURE)
    axes = curves.draw_curves(read, drawn.subplots())
    axes.set_title("MinAtar Breakout, one update every four steps")
    return drawn


def cartpole() -> figure.Figure:
    """Evaluations of every agent in JAX: mean over seeds, 95% band, each seed as a thin line."""
    points = defaultdict(lambda: defaultdict(list))
    for row in table("cartpole_evaluations.csv"):
        if row["env"] == "gymnax/CartPole-v1":
            points[row["agent"]][row["seed"]].append((int(row["steps"]), float(row["return_mean"])))
    num_rows = -(-len(points) // PANELS_A_ROW)
    drawn = figure.Figure(figsize=(12, 2.3 * num_rows), layout="constrained")
    panels = drawn.subplots(num_rows, PANELS_A_ROW, sharex=True, sharey=True).flat
    for (agent, seeds), axes in zip(points.items(), panels, strict=False):
        steps, returns = np.moveaxis(np.array(list(seeds.values())), -1, 0)
        mean, half = curves.interval(returns)
        axes.plot(steps[0], returns.T, color="C0", alpha=0.2, lw=0.6)
        axes.plot(steps[0], mean, color="C0")
        axes.fill_between(steps[0], mean - half, mean + half, color="C0", alpha=0.25, lw=0)
        axes.set_title(f"{agent}, {len(returns)} seeds", fontsize=9)
        axes.set_ylim(0, 515)  # bands end where returns do
        axes.grid(alpha=0.3)
    for axes in list(panels):  # those left over
        axes.axis("off")
    drawn.supxlabel("agent steps")
    drawn.supylabel("evaluation, mean of 20 games")
    return drawn


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
        axes.scatter(place[learned], height[learned], color=f"C{i}", label=label, s=25)
        axes.scatter(place[~learned], height[~learned], color=f"C{i}", marker="x", s=35)
    axes.axhline(MOST_EPISODES, color="grey", lw=0.8, ls=":")
    axes.set_yscale("log")
    axes.set_xlabel("length N of the chain")
    axes.set_ylabel("episodes until ten optimal in a row (x: not in 2,000)")
    axes.grid(alpha=0.3)
    axes.legend()
    return drawn


def main(folder: pathlib.Path) -> None:
    """Writes all."""
    for draw in (cartpole, chain, minatar_breakout):
        draw().savefig(folder / f"{draw.__name__}.png", dpi=120)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
