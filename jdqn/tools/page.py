"""The page of `python -m jdqn.report`: what its template shows, and the rendered text."""

import datetime
import math
from collections.abc import Sequence
from typing import Any

import jinja2
import numpy as np

from jdqn import __version__
from jdqn.config import protocol_of
from jdqn.config.naming import is_atari
from jdqn.tools import charts, curves, media, scoring, story, tables
from jdqn.tools.charts import Compared, Series
from jdqn.tools.groups import Environment, Group, Run, Seed, differing, value_of
from jdqn.tools.scoring import Aggregates, Final

POINTS = 120
COLORS = 8  # of the template; more agents take them again
# Figures of `metrics.jsonl` in the order in which they are shown, and what they are called.
DIAGNOSTICS = {
    "loss": "loss",
    "q_mean": "Q-value, mean of the batches learned from",
    "q_heldout": "Q-value of held-out observations",
    "quantile_spread": "spread of the best action's quantiles (standard deviation)",
    "munchausen_bonus": "Munchausen: scaled log-policy in the reward",
    "munchausen_clipped": "Munchausen: part of the batch whose log-policy is clipped",
    "q_spread": "spread of the heads (standard deviation of Q)",
    "spectral_norm": "largest spectral norm of a residual convolution",
    "disagreement": "heads that disagree with the vote",
    "gradient_norm": "gradient norm",
    "priority_mean": "priority, mean",
    "priority_max": "priority, largest",
    "importance_weight_mean": "importance weight, mean",
    "epsilon": "epsilon (exploration)",
    "episode_length": "episode length, agent steps",
    "steps_per_second": "agent steps per second",
}
NOT_SHOWN = ("updates", "episodes", "episode_return", "seconds", "importance_exponent")


def render(
    environments: Sequence[Environment], thresholds: dict[str, float], notes: Sequence[str] = ()
) -> str:
    """The page as HTML.

    Args:
      environments: see `groups.read_groups`.
      thresholds: by title, see `scoring.read_solved`.
      notes: what is to be known of the runs, a sentence each.
    """
    finals = [scoring.final(env, thresholds.get(env.title)) for env in environments]
    found = scoring.aggregate(environments, finals)
    labels = list(dict.fromkeys(group.label for env in environments for group in env.groups))
    colors = {label: i % COLORS for i, label in enumerate(labels)}
    folders = {
        env.title: [run.path for group in env.groups for run in group.runs] for env in environments
    }
    videos = media.videos(folders)
    template = jinja2.Environment(
        loader=jinja2.PackageLoader("jdqn", "tools"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("report.html")
    return template.render(
        title=story.who_on_what(environments),
        headline=story.headline(environments, finals, found),
        facts=_facts(environments, labels),
        notes=[*notes, *_notes(environments)],
        games=tables.games_by_agents(environments, finals),
        sections=[
            _section(env, final, colors, *videos[env.title])
            for env, final in zip(environments, finals, strict=True)
        ],
        overall=_overall(found, colors),
        colors=COLORS,
        version=__version__,
        made=datetime.datetime.now().strftime("%Y-%m-%d %H:%M"),
    )


def _facts(environments: Sequence[Environment], labels: Sequence[str]) -> dict[str, str]:
    """What is compared, in a glance."""
    groups = [group for env in environments for group in env.groups]
    runs = [run for group in groups for run in group.runs]
    numbers = sorted({seed.number for group in groups for seed in group.seeds})
    versions = [run.record.get("versions", {}) for run in runs]
    facts = {
        "agents": ", ".join(labels),
        "environments": ", ".join(env.title for env in environments),
        "seeds": f"{', '.join(map(str, numbers))} ({sum(len(g.seeds) for g in groups)} in all)",
        "agent steps": story.span([group.steps for group in groups]),
        "preset": _all([run.config.env.preset for run in runs]),
    }
    if any(is_atari(env.config.env.name) for env in environments):
        facts["protocol"] = _all([protocol_of(run.config) for run in runs])
    known = [f"{name} {_all([str(v.get(name, 'unknown')) for v in versions])}"
             for name in ("jdqn", "jax", "python")]  # fmt: skip
    revisions = _all([str(v.get("git", "unknown"))[:10] for v in versions])
    facts["versions"] = f"{', '.join(known)}, revision {revisions}"
    return facts


def _all(values: Sequence[str]) -> str:
    return " / ".join(dict.fromkeys(values))


def _notes(environments: Sequence[Environment]) -> list[str]:
    """What a reader could overlook."""
    notes = []
    for env in environments:
        failed = ", ".join(f"{count} of {label}" for label, count in env.failed.items())
        if failed:
            notes.append(f"{env.title}: trials that failed are left out: {failed}.")
        steps = {group.label: group.steps for group in env.groups}
        if min(steps.values()) < curves.ABOUT_EQUAL * max(steps.values()):
            told = ", ".join(f"{label} {count:,}" for label, count in steps.items())
            notes.append(
                f"{env.title}: agents were trained for different numbers of steps: {told}."
            )
        together = {len(run.seeds) for group in env.groups for run in group.runs}
        if len(together) > 1:
            notes.append(
                f"{env.title}: some runs trained several seeds together; against wall-clock "
                "each of those seeds has the time of all of its run."
            )
        for group in env.groups:
            ends = [float(seed.metrics["seconds"][-1, 0]) for seed in group.seeds]
            if min(ends) < curves.ABOUT_EQUAL * max(ends):
                notes.append(
                    f"{env.title}: the curve of {group.label} ends at {min(ends):,.0f} steps, "
                    "where its shortest seed does, and scores are those that its seeds had there; "
                    f"the longest goes to {max(ends):,.0f}."
                )
    return notes


def _section(
    env: Environment,
    final: Final,
    colors: dict[str, int],
    videos: Sequence[media.Video],
    left_out: Sequence[str],
) -> dict[str, Any]:
    """All that is shown of an environment, and sentences on videos that are left out."""
    return {
        "title": env.title,
        "legend": [(g.label, colors[g.label], curves.seeds_of(len(g.seeds))) for g in env.groups],
        "curves": _learning_curves(env, final, colors),
        "final": _comparison(env, final, colors),
        "evaluations": _evaluations(env, final, colors),
        "source": final.source,
        "threshold": None if final.threshold is None else charts.number(final.threshold),
        "table": [_row(group, final) for group in env.groups],
        "best": tables.best_settings(env, final),
        "policies": _policies(env),
        "diagnostics": _diagnostics(env, colors),
        "differences": _differences(env),
        "videos": videos,
        "left_out": left_out,
    }


def _learning_curves(
    env: Environment, final: Final, colors: dict[str, int]
) -> list[tuple[str, str, charts.Chart]]:
    """Return against steps, frames and time: a name, words for it and the chart."""
    y_label = "return, mean of the last 100 training games"
    kinds = {"steps": ("agent steps", 1.0)}
    if is_atari(env.config.env.name):
        kinds["frames"] = ("frames", float(env.config.env.frame_skip))
    found = []
    for kind, (words, factor) in kinds.items():
        series = [_by_steps(group, colors[group.label], factor) for group in env.groups]
        chart = charts.lines(series, x_label=words, y_label=y_label, reference=final.threshold)
        found.append((kind, words, chart))
    longest = max(float(s.metrics["seconds"][-1, 1]) for g in env.groups for s in g.seeds)
    unit, divisor = ("hours", 3_600) if longest > 7_200 else ("minutes", 60)
    series = [_by_seconds(group, colors[group.label], divisor) for group in env.groups]
    words = f"wall-clock, {unit}"
    chart = charts.lines(series, x_label=words, y_label=y_label, reference=final.threshold)
    found.append(("time", "wall-clock", chart))
    return [(kind, words, chart) for kind, words, chart in found if chart is not None]


def _series(group: Group, color: int, x: np.ndarray, values: Sequence[np.ndarray]) -> Series:
    mean, half = curves.interval(np.stack(values))
    return Series(group.label, color, x, mean, half)


def _by_steps(group: Group, color: int, factor: float) -> Series:
    seeds = [seed.episodes for seed in group.seeds]
    steps = np.linspace(0, group.steps, POINTS + 1)[1:]
    return _series(
        group, color, steps * factor, [curves.recent_mean(seed, steps) for seed in seeds]
    )


def _by_seconds(group: Group, color: int, divisor: float) -> Series:
    end = min(float(seed.metrics["seconds"][-1, 1]) for seed in group.seeds)
    seconds = np.linspace(0, end, POINTS + 1)[1:]
    values = [curves.recent_mean(s.episodes, _steps_at(s, seconds)) for s in group.seeds]
    return _series(group, color, seconds / divisor, values)


def _steps_at(seed: Seed, seconds: np.ndarray) -> np.ndarray:
    """The steps that a seed had done by then, `[P]`."""
    logged = np.concatenate([np.zeros((1, 2)), seed.metrics["seconds"]])
    return np.interp(seconds, logged[:, 1], logged[:, 0])


def _comparison(env: Environment, final: Final, colors: dict[str, int]) -> charts.Chart:
    rows = []
    for group in env.groups:
        scores = final.scores[group.label]
        rows.append(
            Compared(group.label, colors[group.label], *scoring.interval(scores), scores.tolist())
        )
    words = "last evaluation" if final.source == "evaluation" else "last 100 training games"
    return charts.comparison(rows, x_label=f"mean return, {words}", reference=final.threshold)


def _evaluations(env: Environment, final: Final, colors: dict[str, int]) -> charts.Chart | None:
    """Returns of evaluations against steps, where there were several."""
    series = []
    for group in env.groups:
        rows = [
            seed.evaluations.get(run.config.agent.eval_policy)
            for run in group.runs
            for seed in run.seeds
        ]
        known = [of_seed for of_seed in rows if of_seed is not None]
        if len(known) < len(rows):
            continue
        steps = sorted(set.intersection(*(set(of_seed[:, 0].tolist()) for of_seed in known)))
        if len(steps) > 1:
            values = [dict(of_seed.tolist()) for of_seed in known]
            of_steps = [np.array([of_seed[at] for at in steps]) for of_seed in values]
            series.append(_series(group, colors[group.label], np.array(steps), of_steps))
    return charts.lines(
        series,
        x_label="agent steps",
        y_label="mean return of evaluations",
        reference=final.threshold,
    )


def _row(group: Group, final: Final) -> dict[str, str]:
    """The final table's row of an agent."""
    scores = final.scores[group.label]
    mean, low, high = scoring.interval(scores)
    seconds = max(float(seed.metrics["seconds"][-1, 1]) for seed in group.seeds)
    row = {
        "agent": tables.with_flaw(group.label, group.flaw),
        "seeds": str(len(scores)),
        "agent steps": f"{group.steps:,}",
        "mean": charts.figure(mean),
        "95% interval": f"{charts.figure(low)} to {charts.figure(high)}" if low == low else "–",
        "median": charts.figure(float(np.median(scores))),
        "lowest": charts.figure(float(scores.min())),
        "highest": charts.figure(float(scores.max())),
    }
    if final.threshold is not None:
        row["solved"] = f"{story.num_solved(final, group.label)} of {len(scores)}"
    if final.human is not None:
        row["human-normalised"] = f"{100 * float(final.human[group.label].mean()):.1f} %"
    row["time"] = duration(seconds)
    return row


def duration(seconds: float) -> str:
    """For a table."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7_200 else f"{seconds / 3600:.1f} h"


def _policies(env: Environment) -> list[tuple[str, str, str, str]]:
    """Agent, policy, steps and score of the last evaluation, where several policies played."""
    rows = []
    for group in env.groups:
        names = list(dict.fromkeys(name for seed in group.seeds for name in seed.evaluations))
        for name in names if len(names) > 1 else []:
            last = [s.evaluations[name][-1] for s in group.seeds if name in s.evaluations]
            score = charts.told(*scoring.interval(np.array([mean for _, mean in last])))
            steps = story.span([int(at) for at, _ in last])
            rows.append((group.label, name.replace("_", " "), steps, score))
    return rows


def _diagnostics(env: Environment, colors: dict[str, int]) -> list[tuple[str, charts.Chart]]:
    """Small charts of what else was logged and changed."""
    names = dict.fromkeys(n for g in env.groups for seed in g.seeds for n in seed.metrics)
    ordered = [n for n in DIAGNOSTICS if n in names]
    ordered += [n for n in names if n not in DIAGNOSTICS and n not in NOT_SHOWN]
    found = []
    for name in ordered:
        groups = [g for g in env.groups if all(name in seed.metrics for seed in g.seeds)]
        series = [_metric(group, colors[group.label], name) for group in groups]
        known = [s for s in series if s is not None]
        values = np.concatenate([s.y for s in known]) if known else np.zeros(0)
        if len(set(values[np.isfinite(values)].tolist())) < 2:
            continue
        chart = charts.lines(known, x_label="", y_label="", small=True)
        if chart is not None:
            found.append((DIAGNOSTICS.get(name, _words(name)), chart))
    return found


def _words(name: str) -> str:
    """A logged figure's name for people."""
    start, _, rest = name.partition("/")
    return f"{start.replace('_', ' ')}{', ' if rest else ''}{rest}"


def _metric(group: Group, color: int, name: str) -> Series | None:
    """The mean over seeds, without a band, as far as all seeds have it."""
    rows = [seed.metrics[name] for seed in group.seeds]
    start = max(of_seed[0, 0] for of_seed in rows)
    end = min(of_seed[-1, 0] for of_seed in rows)
    if end < start:
        return None
    steps = np.linspace(start, end, POINTS // 2)
    values = [np.interp(steps, of_seed[:, 0], of_seed[:, 1]) for of_seed in rows]
    return Series(group.label, color, steps, np.mean(values, axis=0))


def _differences(env: Environment) -> dict[str, list[str]]:
    """Values by field, for each agent, where they differ."""
    runs = [run for group in env.groups for run in group.runs]
    return {name: [_values(group.runs, name) for group in env.groups] for name in differing(runs)}


def _values(runs: Sequence[Run], name: str) -> str:
    return _all([value_of(run, name) for run in runs])


def _overall(found: Aggregates | str, colors: dict[str, int]) -> dict[str, Any]:
    """The part over games and seeds."""
    if isinstance(found, str):
        return {"why": found}
    names = list(next(iter(found.rows.values())))
    rows = [
        Compared(label, colors[label], *estimates["IQM"]) for label, estimates in found.rows.items()
    ]
    series = [
        Series(label, colors[label], found.thresholds, value, low=low, high=high)
        for label, (value, low, high) in found.profiles.items()
    ]
    return {
        "why": "",
        "scale": found.scale,
        "games": found.games,
        "legend": [(label, colors[label], _runs_of(count)) for label, count in found.seeds.items()],
        "names": names,
        "table": [
            (label, *(charts.told(*estimates[name]) for name in names))
            for label, estimates in found.rows.items()
        ],
        "iqm": charts.comparison(rows, x_label=f"IQM, {found.scale.partition(' (')[0]}"),
        "profile": charts.lines(
            series,
            x_label=found.scale.partition(" (")[0],
            y_label="fraction of runs above",
        ),
        "has_interval": any(math.isfinite(e["IQM"].low) for e in found.rows.values()),
        "notes": found.notes,
    }


def _runs_of(count: int) -> str:
    return "1 seed" if count == 1 else f"{count} seeds, bootstrap"
