"""What a run shows while it goes on: one live line on a terminal or in a notebook, else lines.

A run that is quiet says warnings alone, and how it was stopped, on standard error.
"""

import contextlib
import datetime
import pathlib
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import rich.console
import rich.live
import rich.text

from jdqn.runs import stopping
from jdqn.runs.episodes import Standing

SPARKS = "▁▂▃▄▅▆▇█"
REFRESHES_PER_SECOND = 5
EVALUATION_SECONDS = 30.0  # between lines of an evaluation where there is no terminal
NOTEBOOK_COLUMNS = 100
WARNING = "warning: "  # how warnings begin
MOST_STEPS = 2_000_000_000  # of a run
NEWEST = 0.3  # weight of the newest speed in that by which the time left is told

# Texts of a line with their rank: where it is too long, those of the highest rank go first.
Parts = Sequence[tuple[int, str]]


class Console(rich.console.Console):
    """Standard output; a reader that went away asks the run to stop."""

    def __init__(self, stop: stopping.Stop, *, stderr: bool = False):
        # Of a notebook rich would make a picture in HTML of every line.
        super().__init__(stderr=stderr, force_jupyter=False)
        self._stop = stop

    def on_broken_pipe(self) -> None:
        """In place of rich's, which ends the process."""
        self.lose()
        self._stop.reasons.append(stopping.BROKEN_PIPE)

    def lose(self) -> None:
        """Prints nothing any more."""
        self.quiet = True
        stopping.silence(self.file)


class Line:
    """A line that stays below what is said, where there is a terminal; nothing elsewhere.

    In a notebook it stays where it first was, and is written again in place.
    """

    def __init__(self, stop: stopping.Stop, *, stderr: bool = False, quiet: bool = False):
        self._quiet = quiet
        self._console = Console(stop, stderr=stderr or quiet)
        self._live: rich.live.Live | None = None
        self._notebook: Notebook | None = None
        self._parts: Callable[[], Parts] = tuple
        self._evaluation_said_at: float | None = None

    def show(self, parts: Callable[[], Parts]) -> None:
        """Shows from now on what a function returns, asked again and again."""
        self._parts = parts
        is_dumb = self._console.is_dumb_terminal  # cannot write a line again
        if self._quiet:
            return
        if is_of_notebook(self._console.file):
            self._notebook = self._notebook or Notebook()
            self._refresh()
        elif self._live is None and self._console.is_terminal and not is_dumb:
            self._live = rich.live.Live(
                console=self._console,
                get_renderable=self._render,
                refresh_per_second=REFRESHES_PER_SECOND,
                transient=True,
            )
            self._live.start()

    @property
    def _is_live(self) -> bool:
        return self._live is not None or self._notebook is not None

    def _refresh(self) -> None:
        """Shows the line of a notebook again: no thread does."""
        if self._notebook is not None:
            self._notebook.show(lambda: fitted(self._parts(), NOTEBOOK_COLUMNS))

    def _render(self) -> rich.text.Text:
        # A full last column makes some terminals wrap.
        plain = fitted(self._parts(), self._console.width - 1)
        if not self._console.encoding.lower().startswith("utf"):
            plain = plain.translate(str.maketrans("━╸─", "#--", SPARKS))
        text = rich.text.Text(plain, no_wrap=True, overflow="crop")
        text.highlight_regex("[━╸]+", "green")
        text.highlight_regex("─+", "dim")
        return text

    def evaluating(self, standing: Standing) -> None:
        """Shows how far an evaluation is; where there is no terminal, now and then."""
        self.show(lambda: evaluation_parts(standing))
        now = time.monotonic()
        if self._evaluation_said_at is None:
            self._evaluation_said_at = now
        if not self._is_live and now - self._evaluation_said_at > EVALUATION_SECONDS:
            self._evaluation_said_at = now
            self.say(evaluation_line(standing))

    def say(self, text: str, *, always: bool = False) -> None:
        """Prints a line, above the live one where there is one; on stderr where stdout is gone.

        Where it is quiet, warnings and what is `always` to be said alone.
        """
        if self._quiet and not always and not text.startswith(WARNING):
            return
        if not self._console.quiet:
            try:
                self._console.print(text, highlight=False, markup=False, soft_wrap=True)
                return
            except OSError:  # a full disk, a terminal that hung up
                self._console.lose()
        with contextlib.suppress(OSError):  # the same disk
            print(text, file=sys.stderr)  # noqa: T201

    def close(self) -> None:
        """Takes the live line off the terminal."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._notebook is not None:
            self._notebook.shown_at = None
            self._refresh()
            self._notebook = None


class Notebook:
    """A line of a notebook, stored once however often it is written again."""

    def __init__(self) -> None:
        self.shown_at: float | None = None
        self._handle: Any = None

    def show(self, line: Callable[[], str]) -> None:
        """Shows what a function returns, not too often."""
        from IPython.display import display

        now = time.monotonic()
        if self.shown_at is not None and now - self.shown_at < 1 / REFRESHES_PER_SECOND:
            return
        self.shown_at = now
        data = {"text/plain": line()}
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)


def is_of_notebook(stream: Any) -> bool:
    """Whether what is written to a stream is shown in a notebook."""
    return type(stream).__module__.partition(".")[0] == "ipykernel"


@contextlib.contextmanager
def shown(text: str, stop: stopping.Stop, *, quiet: bool = False) -> Iterator[None]:
    """Shows on a terminal what is being done, until it is; in a notebook it would stay."""
    quiet = quiet or is_of_notebook(sys.stdout)
    with contextlib.closing(Line(stop, quiet=quiet)) as line:
        line.show(lambda: ((0, text),))
        yield


class Progress(Line):
    """How far a run is, and how long it will take at the speed of learning."""

    def __init__(
        self,
        title: str,
        steps: int,
        learning_starts_steps: int,
        total_steps: int,
        stop: stopping.Stop,
        *,
        quiet: bool = False,
    ):
        """A run at `steps`, about to compile."""
        super().__init__(stop, quiet=quiet)
        self._steps = steps
        self._logged_steps = steps
        self._learning_starts_steps = learning_starts_steps
        self._total_steps = total_steps
        self._stage = ""
        self._returns: list[float] = []
        self._rate: float | None = None  # of the last log period
        self._learning_rate: float | None = None  # steps per second while learning
        self.say(title)
        self._enter("compiling")

    def reach(self, steps: int) -> None:
        """Shows how many steps are done, and says when something else begins."""
        self._steps = steps
        self._refresh()
        if steps >= self._learning_starts_steps:
            self._enter("learning")
            return
        starts = f"learning starts at {self._learning_starts_steps:,} steps"
        self._enter("filling", f"filling the replay: {starts}")

    def _enter(self, stage: str, sentence: str = "") -> None:
        """Shows what the run does from now on, in a word and where it needs one a sentence."""
        if stage == self._stage:
            return
        self._stage = stage
        self._rate = None  # of another stage
        self.show(self._run_parts)
        if sentence or not self._is_live:
            self.say(sentence or stage)

    def update(self, steps: int, values: Mapping[str, float | int | None]) -> None:
        """Shows a log event."""
        self._steps = steps
        self._rate = values.get("steps_per_second")
        # A period that was all learning.
        learned = self._logged_steps >= self._learning_starts_steps
        self._logged_steps = steps
        if learned and self._rate:
            before = self._rate if self._learning_rate is None else self._learning_rate
            self._learning_rate = (1 - NEWEST) * before + NEWEST * self._rate
        if (mean := values.get("episode_return")) is not None:
            self._returns.append(mean)
        self._refresh()
        if not self._is_live:
            self.say(
                f"steps {steps:,}  {self._fraction():.0%}  episodes "
                f"{_shown(values.get('episodes'), ',.0f')}  return {_shown(mean, '.2f')}  "
                f"{_shown(self._rate, ',.0f')} steps/s  "
                f"epsilon {_shown(values.get('epsilon'), '.3f')}  "
                f"loss {_shown(values.get('loss'), '.4g')}  left {duration(self._seconds_left())}"
            )

    def evaluated(self) -> None:
        """The run goes on after an evaluation."""
        self._evaluation_said_at = None
        self.show(self._run_parts)

    def _fraction(self) -> float:
        return min(self._steps / self._total_steps, 1.0)

    def _seconds_left(self) -> float | None:
        """At the speed of learning; None before that has been measured."""
        if not self._learning_rate:
            return None
        return max(self._total_steps - self._steps, 0) / self._learning_rate

    def _run_parts(self) -> Parts:
        fraction = self._fraction()
        known = bool(self._returns)
        return (
            (5, f"{self._stage:9} "),
            (3, f"{bar(fraction)} "),
            (0, f"{fraction:4.0%}"),
            (2, f"  return {self._returns[-1]:6.2f}" if known else ""),
            (6, f" {sparkline(self._returns):8}" if known else ""),
            (4, "" if self._rate is None else f"  {self._rate:5,.0f} steps/s"),
            (1, f"  left {duration(self._seconds_left())}"),
        )


def mean_row(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The mean over seeds of each figure that every seed has."""
    shared = [k for k in rows[0] if all(row.get(k) is not None for row in rows)]
    return {k: sum(row[k] for row in rows) / len(rows) for k in shared}


def fitted(parts: Parts, columns: int) -> str:
    """The texts of a line side by side; the least important are left out where they do not fit."""
    kept = list(parts)
    while len(kept) > 1 and sum(len(text) for _, text in kept) > columns:
        kept.remove(max(kept))
    return "".join(text for _, text in kept).strip()[: max(columns, 0)]


def evaluation_parts(standing: Standing) -> Parts:
    """How far an evaluation is, for a terminal."""
    bound = "at most " if standing.is_bound else ""
    return (
        (4, "evaluating "),
        (3, f"{bar(standing.finished / standing.episodes)} "),
        (0, f"{standing.finished} of {standing.episodes} games"),
        (2, f"  {standing.steps:,} steps"),
        (1, f"  left {bound}{duration(standing.seconds_left)}"),
    )


def evaluation_line(standing: Standing) -> str:
    """How far an evaluation is, in a line of its own."""
    bound = "at most " if standing.is_bound else ""
    return (
        f"evaluating: {standing.finished} of {standing.episodes} games, {standing.steps:,} steps "
        f"played, left {bound}{duration(standing.seconds_left)}"
    )


def bar(fraction: float, columns: int = 10) -> str:
    """A bar of which a fraction is full."""
    halves = int(fraction * 2 * columns)
    full = "━" * (halves // 2) + "╸" * (halves % 2)
    return full + "─" * (columns - len(full))


def sparkline(values: Sequence[float], columns: int = 8) -> str:
    """Values from first to last as blocks between their least and their largest."""
    if len(values) < 2:
        return ""
    count = min(len(values), columns)
    places = [i * (len(values) - 1) // (count - 1) for i in range(count)]
    chosen = [values[place] for place in places]
    low = min(chosen)
    spread = max(chosen) - low
    heights = [(value - low) / spread if spread else 0.0 for value in chosen]
    return "".join(SPARKS[round(height * (len(SPARKS) - 1))] for height in heights)


def next_commands(
    path: pathlib.Path, *, steps: int, draws: bool, plays: bool, goal: str | None
) -> str:
    """What may be typed after a run.

    Args:
      path: its directory.
      steps: agent steps that it has done.
      draws: it has a curve: an episode has ended.
      plays: the commands know its environment.
      goal: the option that goes on with a run that reached its own.
    """
    run = shlex.quote(str(path))
    more = goal or (f"--steps {2 * steps}" if steps <= MOST_STEPS // 2 else None)
    commands = {
        f"python -m jdqn.evaluate {run}": plays,
        f"python -m jdqn.play {run}": plays,
        f"python -m jdqn.report {run} --out report.html": draws,
        f"python -m jdqn.train --resume {run} {more}": plays and more is not None,
    }
    return "\n".join(f"  {command}" for command, fits in commands.items() if fits)


def duration(seconds: float | None) -> str:
    """Hours, minutes and seconds; a dash where they are not known."""
    return "–" if seconds is None else str(datetime.timedelta(seconds=int(seconds)))


def _shown(value: float | int | None, form: str) -> str:
    return "–" if value is None else format(value, form)
