"""Tables of a report over many runs: games × agents, and the best settings of each agent."""

from collections.abc import Sequence
from typing import Any

from jdqn.tools import charts, scoring
from jdqn.tools.groups import Environment, Group, told_apart, value_of
from jdqn.tools.scoring import Final
from jdqn.tools.sweeps import folders

MOST_AGENTS = 12  # columns that a page has room for
MOST_SETTINGS = 5


def games_by_agents(
    environments: Sequence[Environment], finals: Sequence[Final]
) -> dict[str, Any] | None:
    """Mean scores with their intervals, a row for each game; the best of a row is marked.

    So is what reads as the best does.

    Returns:
      `names` of the columns and `rows` of a title and cells `(text, is_best)`; None: one game, for
      which the table of its section says as much, or more agents than there is room for.
    """
    labels = list(dict.fromkeys(group.label for env in environments for group in env.groups))
    if len(environments) < 2 or len(labels) > MOST_AGENTS:
        return None
    rows = []
    for env, final in zip(environments, finals, strict=True):
        means = {
            label: charts.figure(float(scores.mean())) for label, scores in final.scores.items()
        }
        flaws = {group.label: group.flaw for group in env.groups}
        best = means[final.ranked[0]]
        cells = [
            (
                with_flaw(charts.told(*scoring.interval(final.scores[label])), flaws[label]),
                means[label] == best,
            )
            if label in means
            else ("–", False)
            for label in labels
        ]
        rows.append((env.title, cells))
    return {"names": labels, "rows": rows}


def best_settings(env: Environment, final: Final) -> list[dict[str, str]]:
    """The best settings of each agent that has several on an environment, a row each.

    Those that were trained for less than the longest, unless a sweep says that they are done, come
    after those that were not; see `Final.ranked`.
    """
    by_agent: dict[str, list[Group]] = {}
    by_label = {group.label: group for group in env.groups}
    for group in (by_label[label] for label in final.ranked):
        by_agent.setdefault(group.runs[0].config.agent.name, []).append(group)
    rows = []
    for agent, groups in by_agent.items():
        if len(groups) < 2:
            continue
        names = told_apart(group.runs[0] for group in groups)
        longest = max(group.steps for group in groups)
        ranked = sorted(groups, key=lambda group: group.steps < longest and not _is_done(group))
        for group in ranked[:MOST_SETTINGS]:
            scores = final.scores[group.label]
            settings = [f"{name} {value_of(group.runs[0], name)}" for name in names]
            rows.append(
                {
                    "agent": agent,
                    "settings": with_flaw(", ".join(settings), group.flaw),
                    "seeds": str(len(scores)),
                    "agent steps": f"{group.steps:,}",
                    "score": charts.told(*scoring.interval(scores)),
                }
            )
    return rows


def with_flaw(text: str, flaw: str) -> str:
    """A text of a table, and behind it what became of trials that did not come to their end."""
    return f"{text} ({flaw})" if flaw else text


def _is_done(group: Group) -> bool:
    """Whether a sweep has trained all to their end, or to their goal."""
    return all(run.status == folders.DONE for run in group.runs)
