"""Run directories as training leaves them, written in a moment."""

import json

from helpers import tiny

from jdqn.config import to_toml

HEADER = "steps,seed,return,length\n"
EVALUATIONS = "steps,seed,policy,episodes,return_mean,return_median,return_std_error,length_mean\n"
VERSIONS = {"run": "r", "jdqn": "0.1.0", "jax": "0.10.2", "python": "3.11.7", "git": "abc"}


def write_run(
    path,
    env="CartPole-v1",
    agent="dqn",
    seeds=(0,),
    *,
    level=10.0,
    steps=1_000,
    evaluates=True,
    metrics=("loss",),
    **overrides,
):
    """A run whose returns rise to `level` plus its seed; ten episodes, five log lines."""
    overrides = {"train__seed": min(seeds), "env__max_episode_steps": 27_000} | overrides
    config = tiny(env, agent, **overrides)
    path.mkdir(parents=True)
    (path / "config.toml").write_text(to_toml(config, versions=VERSIONS))
    episodes = ""
    lines = ""
    evaluations = ""
    for seed in seeds:
        for i in range(1, 11):
            episodes += f"{steps * i // 10},{seed},{level + seed},{10}\n"
        for i in range(1, 6):
            row = {"steps": steps * i // 5, "seconds": 1.5 * i, "seed": seed}
            row |= {name: 1.0 / i + k for k, name in enumerate(metrics)}
            lines += json.dumps(row) + "\n"
            if evaluates:
                mean = 2 * (level + seed) * i / 5
                evaluations += f"{steps * i // 5},{seed},vote,5,{mean},{mean},0.5,9\n"
    (path / "episodes.csv").write_text(HEADER + episodes)
    (path / "metrics.jsonl").write_text(lines)
    (path / "evaluations.csv").write_text(EVALUATIONS + evaluations)
    return path
