"""Many trainings: games × agents × settings × seeds, each a process and a run of its own.

python -m jdqn.sweep minatar.toml
"""

import argparse
import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any

from jdqn.config import (
    Config,
    ConfigError,
    Parser,
    add_fields,
    config_dir,
    fields_of,
    parse_value,
    shown,
    suggest,
)
from jdqn.runs import stopping

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jdqn.tools.sweeps.attempt import Place
    from jdqn.tools.sweeps.plan import Plan, Trial

# Options that stand for a field of the sweep file, and whether they are lists.
OPTIONS = {
    "games": ("sweep.games", "ENV,ENV", "environments"),
    "agents": ("sweep.agents", "NAME,NAME", "agents (default: dqn)"),
    "seeds": ("sweep.seeds", "N", "how many seeds, from 0 on, or a list: 3,4,5 (default: 1)"),
    "dir": ("sweep.directory", "DIR", "where to write (default: runs/ and the file's name)"),
    "max_retries": ("sweep.max_retries", "N", "how often a crash is tried again (default: 2)"),
    "at_once": ("resources.at_once", "N", "trials at a time at most (default: 0, what fits)"),
}
LISTS = ("games", "agents")
MOST_NOTES = 5


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = Parser(
        prog="python -m jdqn.sweep",
        description="Trains games × agents × settings × seeds, or looks for settings. Each trial "
        "is a process\nof jdqn.train with a run directory of its own. The same command goes on "
        "where it was stopped.\nEvery field of jdqn.train is an option as well, for all trials: "
        "--SECTION.FIELD VALUE.",
        epilog="examples:\n"
        "  python -m jdqn.sweep minatar.toml\n"
        "  python -m jdqn.sweep minatar.toml --dry-run\n"
        "  python -m jdqn.sweep --games CartPole-v1 --agents dqn,double --seeds 5 --dir runs/cart",
    )
    parser.add_argument(
        "file", metavar="FILE", nargs="?", help="TOML file, or the name of one that ships"
    )
    for name, (_, metavar, text) in OPTIONS.items():
        parser.add_argument("--" + name.replace("_", "-"), metavar=metavar, dest=name, help=text)
    parser.add_argument(
        "--dry-run", action="store_true", help="list the trials and where they are, start none"
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="run on a Ray cluster: auto, host:port, or local, which starts one here",
    )
    parser.add_argument(
        "--index", metavar="N", help="run trial N of the list alone, from 0 on: for array jobs"
    )
    for section in Config.model_fields:
        add_fields(parser, section)
    arguments = parser.parse(argv)
    stopping.command(parser.refuse, lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    from jdqn.tools.sweeps import plan

    if arguments.file is None and arguments.games is None:
        raise ConfigError("FILE: name a sweep file, or environments with --games")
    options = {
        OPTIONS[k][0]: _option(k, v) for k, v in vars(arguments).items() if k in OPTIONS and v
    }
    checked = plan.read(_file(arguments.file), options, fields_of(arguments))
    plan.check_games(checked)
    if os.name != "posix":
        raise ConfigError("a sweep needs Linux or macOS: its trials hear it through a pipe")
    number = None if arguments.index is None else _number(checked, arguments.index)
    if number is not None and arguments.ray is not None:
        raise ConfigError(f"--index {number}: runs a trial in this process, and not with --ray")
    if arguments.dry_run:
        return _list(checked, number, here=arguments.ray is None)
    if number is not None:
        return _run_one(checked, number)
    return _run_all(checked, arguments.ray)


def _option(name: str, text: str) -> Any:
    """The value of an option that stands for a field of the file."""
    if name in LISTS:
        return text.split(",")
    return text if name == "dir" else parse_value(text)


def _file(name: str | None) -> str | None:
    """A sweep file: a path, or the name of one that ships."""
    if name is None or os.path.lexists(name):
        return name
    shipped = {path.stem: path for path in sorted((config_dir() / "sweeps").glob("*.toml"))}
    stem = name.removesuffix(".toml")
    if stem not in shipped:
        raise ConfigError(
            f"FILE {name}: there is no such file, and jdqn ships {' and '.join(shipped)}"
            f"{suggest(stem, list(shipped))}"
        )
    return str(shipped[stem])


def _list(plan: "Plan", index: int | None, *, here: bool) -> int:
    """Prints the trials, or one of them, and where each is; a sweep may be running meanwhile."""
    from jdqn.tools.sweeps import attempt, board, ends, folders

    write = sys.stdout.write
    trials = _source(plan).trials
    for number, trial in enumerate(trials):
        if index in (None, number):
            state = ends.state(attempt.folder_of(plan.directory, trial))
            write(f"{number:5}  {board.told(trial)}, {trial.steps:,} steps{state}\n")
    if index is not None:
        return 0
    if plan.search:
        write(f"the first batch of {_size(plan)}, in {plan.directory}\n")
    else:
        total = sum(trial.steps for trial in trials)
        write(f"{_size(plan)}, {total:,} agent steps in all, in {plan.directory}\n")
    for sentence in [*folders.notes([str(plan.directory)]), *_notes(plan, trials)]:
        write(f"{sentence}\n")
    if here:
        try:
            write(f"on this machine {_places(plan)[1]}\n")
        except ConfigError as error:
            write(f"not on this machine: {error}\n")
    return 0


def _notes(plan: "Plan", trials: "Sequence[Trial]") -> list[str]:
    """What is said of fields in vain, and of trials in the directory that a grid does not have."""
    from jdqn.tools.sweeps import ends
    from jdqn.tools.sweeps.plan import counted

    notes = [*plan.notes[:MOST_NOTES]]
    # What a search has drawn after its first batch is not known here.
    other = set() if plan.search else ends.names(plan.directory) - {trial.name for trial in trials}
    if other:
        trials_there = counted(len(other), "trial")
        notes.append(f"also there, and in a report, of other settings or seeds: {trials_there}")
    return notes


def _source(plan: "Plan") -> Any:
    """What says which trials are to be run."""
    from jdqn.tools.sweeps import loop, search

    return search.Studies(plan) if plan.search else loop.Grid(plan)


def _size(plan: "Plan") -> str:
    """How much a sweep is."""
    from jdqn.tools.sweeps.plan import counted

    pairs = len([*plan.pairs()])
    seeds = len(plan.seeds)
    if plan.search is None:
        return counted(pairs * len(plan.points()) * seeds, "trial")
    each = f" for each of {pairs} games and agents" if pairs > 1 else ""
    times = f" × {seeds} seeds" if seeds > 1 else ""
    return f"{counted(plan.search.settings, 'setting')}{times}{each}"


def _places(plan: "Plan") -> "tuple[list[Place], str]":
    """Where trials run on this machine, and how many at once, in words."""
    from jdqn.tools.sweeps import local

    found, why = local.places(local.this_machine(), plan.resources, plan.memory_bytes())
    return found, f"{len(found)} at once ({why})"


def _executor(plan: "Plan", ray: str | None) -> tuple[Any, str]:
    """Who runs the trials, and how many at once, in words."""
    from jdqn.tools.sweeps import local, on_ray

    if ray is not None:
        cluster = on_ray.OnRay(plan, ray)
        return cluster, f"{cluster.num_places()} at once ({cluster.words()})"
    places, words = _places(plan)
    return local.Local(plan, plan.directory, places), words


def _run_all(plan: "Plan", ray: str | None) -> int:
    """Runs all trials, on this machine or a cluster."""
    from jdqn.runs import files
    from jdqn.tools.sweeps import folders, loop
    from jdqn.tools.sweeps.board import Board, summary
    from jdqn.tools.sweeps.plan import counted

    source = _source(plan)
    with contextlib.ExitStack() as stack:
        executor, where = _executor(plan, ray)
        stack.enter_context(contextlib.closing(executor))
        folders.make(plan.directory)
        stack.enter_context(files.lock(plan.directory, "sweep directory"))
        stop = stack.enter_context(stopping.signals())
        results: dict[str, dict[str, Any]] = {}
        source.jobs(results)  # reads those that are there
        before = f", {counted(len(results), 'trial')} ended before" if results else ""
        board = Board(plan.directory, stop)
        with contextlib.closing(board):
            board.say(f"{_size(plan)}{before}; {where}, writing {plan.directory}")
            for sentence in _notes(plan, source.trials):
                board.say(sentence)
            with loop.writing(plan.directory):
                loop.drive(executor, source, results, board, stop)
        board.say(summary(0, len(source.jobs(results)), results))
        for sentence in source.refused[:5]:
            board.say(f"drawn, and left out: {sentence}")
        for text in source.best(results):
            board.say(f"best: {text}")
        return _status(plan, results, stop, board)


def _status(plan: "Plan", results: dict[str, Any], stop: stopping.Stop, board: Any) -> int:
    """Says what may be done next; the exit status."""
    import shlex

    from jdqn.tools.sweeps import ends, folders

    if stop:
        board.say(f"stopped by {stopping.name_of(stop.reason)}; the same command goes on")
        return 128 + stop.reason
    bad = [name for name, result in results.items() if result["status"] in ends.BAD]
    for name in bad[:5]:
        trial = folders.Folder(plan.directory / "trials" / name)
        board.say(f"not done: {results[name]['sentence']}{ends.advice(trial, results[name])}")
    if len(bad) < len(results):
        directory = shlex.quote(str(plan.directory))
        board.say(f"  python -m jdqn.report {directory} --out report.html")
    return 1 if bad else 0


def _number(plan: "Plan", text: str) -> int:
    """The number of a trial of the list. Raises ConfigError where it is none."""
    if plan.search:
        raise ConfigError(f"--index {text}: a search draws its trials by how others have ended")
    last = len(plan.trials()) - 1
    number = parse_value(text)
    if type(number) is not int or not 0 <= number <= last:
        raise ConfigError(
            f"--index {shown(number)}: must be an integer from 0 to {last}, the number "
            "of a trial as --dry-run lists them"
        )
    return number


def _run_one(plan: "Plan", number: int) -> int:
    """Runs one trial of the list."""
    from jdqn.tools.sweeps import index

    return index.run(plan, plan.trials()[number])


if __name__ == "__main__":
    main()
