"""What a sweep shows: a table that stays on a terminal, lines in a pipe."""

import math
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import rich.live
import rich.table
import rich.text

from jdqn.config.wording import one_line
from jdqn.runs import stopping
from jdqn.runs.progress import Console, bar
from jdqn.tools.sweeps import ends, folders
from jdqn.tools.sweeps.attempt import Job, Outcome, folder_of
from jdqn.tools.sweeps.plan import Trial, counted, in_words

LOOK_SECONDS = 2.0  # between looks at the logs of what runs
LINE_SECONDS = 60.0  # between lines of where the sweep is, where there is no terminal
MOST_ROWS = 20
MOST_BEST = 5
Results = Mapping[str, Mapping[str, Any]]
WORDS = {
    folders.DONE: "done",
    folders.PRUNED: "pruned",
    folders.REFUSED: "refused",
    folders.FAILED: "failed",
    folders.CRASHED: "crashed, begins again",
    folders.LOST: "lost with its worker, begins again",
    folders.STOPPED: "stopped, with what it has saved",
    folders.PAUSED: "waits for others to come as far",
    folders.SUPERSEDED: "taken over by a later attempt",
}


class Board:
    """Says what happens, and where it all is."""

    def __init__(self, directory: pathlib.Path, stop: stopping.Stop):
        self._directory = directory
        self._console = Console(stop)
        self._live: rich.live.Live | None = None
        self._looked_at = 0.0
        self._said_at = time.monotonic()
        self._standings: dict[str, folders.Standing] = {}
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = rich.live.Live(
                console=self._console, auto_refresh=False, transient=True, redirect_stderr=False
            )
            self._live.start()

    def say(self, text: str) -> None:
        """Prints a line, above the table where there is one."""
        self._console.print(one_line(text), highlight=False, markup=False, soft_wrap=True)

    def began(self, job: Job) -> None:
        """A trial was started, or went on."""
        if self._live is None:
            until = f", until it is evaluated at {job.until_steps:,}" if job.until_steps else ""
            self.say(f"begins: {told(job.trial)}{until}")

    def ended(self, job: Job, outcome: Outcome) -> None:
        """An attempt ended."""
        result = outcome.result
        if self._live is not None and result and result["status"] == folders.DONE:
            return  # the table counts it
        score = ends.score(result) if result else ""
        why = f": {outcome.sentence}" if outcome.sentence else ""
        self.say(f"{WORDS[outcome.how]}: {told(job.trial)}{score}{why}")

    def stopping(self, count: int) -> None:
        """A stop was asked for."""
        self.say(f"stopping: {counted(count, 'trial')} will save a checkpoint first")

    def show(self, running: Sequence[tuple[Job, int]], waiting: int, results: Results) -> None:
        """Where everything is; looks at the logs now and then only."""
        now = time.monotonic()
        if self._live is not None and now - self._looked_at > LOOK_SECONDS:
            self._looked_at = now
            self._look(running)
            self._live.update(table(running, self._standings, waiting, results), refresh=True)
        elif self._live is None and now - self._said_at > LINE_SECONDS:
            self._said_at = now
            self._look(running)
            self.say(line(running, self._standings, waiting, results))

    def _look(self, running: Sequence[tuple[Job, int]]) -> None:
        self._standings = {
            job.trial.name: folder_of(self._directory, job.trial).standing() for job, _ in running
        }

    def close(self) -> None:
        """Takes the table off the terminal."""
        if self._live is not None:
            self._live.stop()
            self._live = None


def told(trial: Trial) -> str:
    """A trial in words."""
    return f"{trial.game}, {trial.agent}, seed {trial.seed}{in_words(trial.settings)}"


def summary(running: int, waiting: int, results: Results) -> str:
    """How many trials are where."""
    statuses = [result["status"] for result in results.values()]
    known = (folders.DONE, folders.PRUNED, folders.REFUSED, folders.FAILED)
    counts = {status: statuses.count(status) for status in known}
    ended = [f"{count} {status}" for status, count in counts.items() if count or status == "done"]
    return ", ".join([*ended, f"{running} running", f"{waiting} waiting"])


def line(
    running: Sequence[tuple[Job, int]],
    standings: Mapping[str, folders.Standing],
    waiting: int,
    results: Results,
) -> str:
    """Where a sweep is, for a pipe."""
    steps = sum(standing.steps for standing in standings.values())
    total = sum(job.trial.steps for job, _ in running)
    best = best_of(results)[:1]
    score = f"; best: {best[0]}" if best else ""
    now = f" (at {steps:,} of {total:,} steps)" if running else ""
    return summary(len(running), waiting, results).replace(" running", f" running{now}") + score


def table(
    running: Sequence[tuple[Job, int]],
    standings: Mapping[str, folders.Standing],
    waiting: int,
    results: Results,
) -> rich.table.Table:
    """Where a sweep is, for a terminal."""
    found = rich.table.Table(box=None, pad_edge=False)
    for name in ("trial", "attempt", "steps", "", "return", "evaluation"):
        found.add_column(name, no_wrap=True, overflow="ellipsis")
    for job, number in running[:MOST_ROWS]:
        standing = standings.get(job.trial.name) or folders.Standing(0, None, {})
        last = standing.evaluations[max(standing.evaluations)] if standing.evaluations else None
        found.add_row(
            rich.text.Text(told(job.trial)),
            str(number),
            f"{standing.steps:,}",
            bar(min(standing.steps / job.trial.steps, 1.0)),
            _number(standing.training),
            _number(last),
        )
    if len(running) > MOST_ROWS:
        found.add_row(f"and {len(running) - MOST_ROWS} more")
    found.add_row(rich.text.Text(summary(len(running), waiting, results)))
    for text in best_of(results)[:MOST_BEST]:
        found.add_row(rich.text.Text(f"best: {text}"))
    return found


def best_of(results: Results) -> list[str]:
    """Of each game the setting with the highest score, the mean over its seeds, in words.

    As in a report, one with a trial that failed comes after those without. What is compared has as
    many seeds done as any, and an evaluation each, or else the last training games.
    """
    by_game: dict[str, dict[tuple[str, ...], list[Mapping[str, Any]]]] = {}
    for result in results.values():
        settings = by_game.setdefault(result["game"], {})
        settings.setdefault(ends.setting_of(result), []).append(result)
    found = []
    for game, settings in by_game.items():
        groups = list(settings.values())
        is_whole = [all(trial["status"] == folders.DONE for trial in group) for group in groups]
        if any(is_whole):
            groups = [group for group, whole in zip(groups, is_whole, strict=True) if whole]
        done = [[t for t in group if t["status"] == folders.DONE] for group in groups]
        most = max(map(len, done))
        rivals = [trials for trials in done if trials and len(trials) == most]
        is_evaluated = all(t["score_of"] == "evaluation" for trials in rivals for t in trials)
        kind = "score" if is_evaluated else "training"
        scored = [(_mean([trial.get(kind) for trial in trials]), trials) for trials in rivals]
        mean, best = max(scored, key=lambda pair: pair[0], default=(-math.inf, []))
        if mean > -math.inf:
            seeds = f", mean of {most} seeds" * (most > 1)
            setting = best[0]["agent"] + in_words(best[0]["settings"])
            equals = [score for score, _ in scored].count(mean) - 1
            others = f" and {equals} more" * (equals > 0)
            found.append(f"{game} {mean:.2f} by {setting}{others}{seeds}")
    return found


def _mean(scores: Sequence[float | None]) -> float:
    """Of scores; where one is missing the worst there is."""
    return sum(-math.inf if score is None else score for score in scores) / len(scores)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
