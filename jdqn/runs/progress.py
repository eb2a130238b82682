"""What a run shows while it goes on."""

import contextlib
import datetime
import sys
from collections.abc import Mapping

import rich.console
import rich.progress

from jdqn.runs import stopping


class _Console(rich.console.Console):
    """Standard output; a reader that went away asks the run to stop."""

    def __init__(self, stop: stopping.Stop):
        super().__init__()
        self._stop = stop

    def on_broken_pipe(self) -> None:
        """In place of rich's, which ends the process."""
        self.lose()
        self._stop.reasons.append(stopping.BROKEN_PIPE)

    def lose(self) -> None:
        """Prints nothing any more."""
        self.quiet = True
        stopping.silence(sys.stdout)


class Progress:
    """A live line on a terminal; plain lines elsewhere."""

    def __init__(self, title: str, steps: int, total_steps: int, stop: stopping.Stop):
        self._console = _Console(stop)
        self._bar: rich.progress.Progress | None = None
        self._total_steps = total_steps
        self.say(title)
        if self._console.is_terminal:
            self._bar = rich.progress.Progress(
                rich.progress.BarColumn(bar_width=20),
                rich.progress.TextColumn("{task.description}"),
                rich.progress.TimeElapsedColumn(),
                rich.progress.TextColumn("left"),
                rich.progress.TimeRemainingColumn(),
                console=self._console,
            )
            self._bar.start()
            self._task = self._bar.add_task("compiling", total=total_steps, completed=steps)

    def update(self, steps: int, values: Mapping[str, float | int | None]) -> None:
        """Shows a log event."""

        def show(name: str, form: str) -> str:
            value = values.get(name)
            return "–" if value is None else format(value, form)

        text = (
            f"steps {steps:,}  episodes {show('episodes', ',.0f')}  return "
            f"{show('episode_return', '.2f')}  {show('steps_per_second', ',.0f')} steps/s  "
            f"epsilon {show('epsilon', '.3f')}  loss {show('loss', '.4g')}"
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=steps, description=text)
            return
        rate = values.get("steps_per_second") or 0.0
        seconds = int(max(self._total_steps - steps, 0) / rate) if rate else 0
        self.say(f"{text}  left {datetime.timedelta(seconds=seconds) if rate else '?'}")

    def say(self, text: str) -> None:
        """Prints a line, above the bar where there is one; on stderr where stdout is gone."""
        if not self._console.quiet:
            try:
                self._console.print(text, highlight=False, markup=False, soft_wrap=True)
                return
            except OSError:  # a full disk, a terminal that hung up
                self._console.lose()
        with contextlib.suppress(OSError):  # the same disk
            print(text, file=sys.stderr)  # noqa: T201

    def close(self) -> None:
        """Takes the bar off the terminal."""
        if self._bar is not None:
            self._bar.stop()
