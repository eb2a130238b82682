"""The top of a report: what was trained and how it went, in words for everybody."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import scipy.stats

from jdqn.tools.charts import figure, number, told
from jdqn.tools.groups import Environment
from jdqn.tools.scoring import Aggregates, Final, interval

SIGNIFICANT = 0.05
MOST_NAMES = 4


def headline(
    environments: Sequence[Environment], finals: Sequence[Final], found: Aggregates | str
) -> str:
    """One or two sentences."""
    groups = [group for environment in environments for group in environment.groups]
    steps = span([group.steps for group in groups])
    counts = span([len(group.seeds) for group in groups])
    seeds = "once" if counts == "1" else f"{counts} times from different random seeds"
    each = " each" if len(groups) > 1 else ""
    trained = f"{who_on_what(environments, 'trained')} for {steps} steps, {seeds}{each}."
    if len(environments) == 1:
        return f"{trained} {_of_one(finals[0])}"
    is_human = all(final.human is not None for final in finals)
    if isinstance(found, str) or len(found.games) < len(environments) or not is_human:
        return f"{trained} {_of_each(environments, finals)}"
    return f"{trained} {_of_games(found)}"


def _of_one(final: Final) -> str:
    """How it went on one environment."""
    ranked = final.ranked
    when = "in test games" if final.source == "evaluation" else "in the last training games"
    best = ranked[0]
    texts = [f"At the end {best} scored {_score(final.scores[best])} {when}"]
    texts += [f"{label} {_score(final.scores[label])}" for label in ranked[1:MOST_NAMES]]
    sentence = ", ".join(texts) + "."
    if final.threshold is not None:
        solved = [f"{_solved(final, label)} runs of {label}" for label in ranked[:MOST_NAMES]]
        got = f"{listed(solved)} got" if any(num_solved(final, r) for r in ranked) else "no run got"
        sentence += f" {number(final.threshold)} counts as solved: {got} there."
    if len(ranked) > 1:
        sentence += f" {_difference(final, ranked[0], ranked[1])}"
    if len(ranked) > 2:
        sentence += " These two are the highest of several: chance sets such two further apart."
    return sentence


def who_on_what(environments: Sequence[Environment], verb: str = "") -> str:
    """`a and b on c and d`, with a verb before `on`; where not all are on all, who is on which."""
    of_each = [tuple(group.label for group in environment.groups) for environment in environments]
    titles = [environment.title for environment in environments]
    if len(set(of_each)) == 1:
        del of_each[1:]
        titles = [listed(titles)]
    pairs = []
    for who, title in zip(of_each, titles, strict=True):
        was = f" {'was' if len(who) == 1 else 'were'} {verb}" if verb else ""
        pairs.append(f"{listed(who)}{was} on {title}")
    return listed(pairs)


def _of_each(environments: Sequence[Environment], finals: Sequence[Final]) -> str:
    """Who was ahead on each of several environments, the first of them; equal is what reads so."""
    texts = []
    for environment, final in zip(environments[:MOST_NAMES], finals, strict=False):
        told = {label: figure(float(scores.mean())) for label, scores in final.scores.items()}
        score = told[final.ranked[0]]
        first = [label for label in final.ranked if told[label] == score]
        ahead = " was ahead" if len(told) > 1 else ""
        if len(first) > 1:
            ahead = " were equal" if len(first) == len(told) else " were ahead, equal"
        texts.append(f"on {environment.title} {listed(first)}{ahead} with {score}")
    return f"Mean scores at the end: {'; '.join(texts)}."


def _of_games(found: Aggregates) -> str:
    """How it went over several games that human testers have played."""
    ranked = sorted(found.rows, key=lambda label: -found.rows[label]["IQM"].value)
    texts = [f"{label} {told(*found.rows[label]['IQM'])}" for label in ranked[:MOST_NAMES]]
    return (
        "Where 0 is a player who presses buttons at random and 1 a human tester, they typically "
        f"ended (interquartile mean over {len(found.games)} games) at: {', '.join(texts)}."
    )


def _score(scores: np.ndarray) -> str:
    estimate = interval(scores)
    if not math.isfinite(estimate.low):
        return figure(estimate.value)
    return (
        f"{figure(estimate.value)} (95% interval {figure(estimate.low)} to {figure(estimate.high)})"
    )


def _solved(final: Final, label: str) -> str:
    return f"{num_solved(final, label)} of {len(final.scores[label])}"


def num_solved(final: Final, label: str) -> int:
    """Seeds whose score at the end is the threshold or more."""
    assert final.threshold is not None
    return int((final.scores[label] >= final.threshold).sum())


def _difference(final: Final, first: str, second: str) -> str:
    """Whether chance explains the difference of two agents: Welch's t-test."""
    a, b = (final.scores[label] for label in (first, second))
    if min(len(a), len(b)) < 2:
        return "With a single run of an agent, nothing can be said of what chance did."
    if a.std() == b.std() == 0:
        return "All runs of an agent scored the same."
    p = float(scipy.stats.ttest_ind(a, b, equal_var=False).pvalue)
    if p < SIGNIFICANT:
        return (
            f"Chance alone would seldom set {first} and {second} so far apart "
            f"(Welch's t-test, p = {p:.2g})."
        )
    return (
        f"The difference between {first} and {second} may be chance (Welch's t-test, p = {p:.2g}): "
        "more seeds would tell."
    )


def span(values: Iterable[int]) -> str:
    """One number, or from the least to the largest."""
    ordered = sorted(set(values))
    ends = dict.fromkeys([ordered[0], ordered[-1]])
    return " to ".join(f"{value:,}" for value in ends)


def listed(names: Sequence[str]) -> str:
    """`a, b and c`; many are counted."""
    if len(names) > MOST_NAMES:
        return f"{', '.join(names[: MOST_NAMES - 1])} and {len(names) - MOST_NAMES + 1} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
