"""Runs that belong together: read, grouped by environment and agent, what is mixed told apart."""

import pathlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jdqn import clock
from jdqn.config import Config, ConfigError, effects, load_config, shown
from jdqn.config.wording import one_line
from jdqn.runs import directory, files
from jdqn.tools import curves, labels, logs
from jdqn.tools.sweeps import ends, folders

# Of Atari, what scores depend on.
PROTOCOL = (
    *("frame_skip", "sticky_probability", "full_action_space", "noop_max", "fire_on_reset"),
    "max_episode_steps",
)
# By what rules a game is played and scored: runs whose rules differ are not of one environment.
RULES = ("kwargs", "size", "stochastic", *PROTOCOL)
# What says nothing of the algorithm.
ASIDE = (
    *("env.name", "env.num_threads", "env.vectorization", "agent.name"),
    *("train.seed", "train.num_seeds", "train.log_period_steps", "train.eval_period_steps"),
    *("train.eval_episodes", "train.checkpoint_period_steps", "train.checkpoint_keep"),
    *("train.checkpoint_replay", "train.num_devices", "train.compilation_cache"),
)
MOST_IN_A_LABEL = 2  # fields
LABEL_CHARACTERS = 60


class Seed(NamedTuple):
    """What a run has logged of one seed; steps are agent steps."""

    number: int
    episodes: np.ndarray  # [n, 2]: steps, return
    metrics: dict[str, np.ndarray]  # [m, 2] by name: steps, value
    evaluations: dict[str, np.ndarray]  # [e, 2] by policy: steps, mean return


class Run(NamedTuple):
    """A run directory."""

    path: pathlib.Path
    config: Config
    record: dict[str, Any]  # versions, see `config.RECORDS`
    seeds: tuple[Seed, ...]  # none: a trial that failed, which is left out
    status: str = ""  # how it ended, of a trial of a sweep


class Group(NamedTuple):
    """Runs of one agent on one environment: a curve, its band over all their seeds."""

    label: str
    runs: tuple[Run, ...]
    num_failed: int = 0  # trials of a sweep that failed, and are left out

    @property
    def seeds(self) -> list[Seed]:
        """Of all runs."""
        return [seed for run in self.runs for seed in run.seeds]

    @property
    def flaw(self) -> str:
        """What became of its trials that did not come to their end, in words; mostly nothing."""
        words = [f"{self.num_failed} failed"] if self.num_failed else []
        words += sorted({run.status for run in self.runs} & {folders.PRUNED, *ends.BAD})
        return ", ".join(words)

    @property
    def steps(self) -> int:
        """Agent steps that every seed has logged: where seeds are compared."""
        return int(min(seed.metrics["seconds"][-1, 0] for seed in self.seeds))


class Environment(NamedTuple):
    """An environment under one set of rules, and who was trained on it."""

    title: str
    groups: tuple[Group, ...]
    failed: Mapping[str, int] = {}  # trials that failed and are left out, by label

    @property
    def config(self) -> Config:
        """Of its first run: the rules are those of all."""
        return self.groups[0].runs[0].config


def read_groups(texts: Sequence[str]) -> list[Environment]:
    """The runs of some `RUN` and `LABEL=RUN,...`, where a RUN may be a folder of runs.

    Raises:
      ConfigError: no run, one that is damaged or has nothing to show, one seed twice under a label.
        Of a folder of runs, such ones are left out, with a word on stderr.
    """
    return grouped(labels.read(texts))


def grouped(arguments: Iterable[labels.Given]) -> list[Environment]:
    """The runs of some arguments; see `read_groups`."""
    found: list[tuple[str | None, Run]] = []
    for given in arguments:
        for text in given.paths:
            known = [run.path.resolve() for _, run in found]
            for run in _read(pathlib.Path(text)):
                if run.path.resolve() in known:
                    raise ConfigError(f"{text}: {run.path} is given twice")
                found.append((given.label, run))
    environments = []
    for title, several in _by_environment(found).items():
        groups = []
        failed = {}
        for label, runs in _by_label(several).items():
            to_show = [run for run in runs if run.seeds]
            num_failed = len(runs) - len(to_show)
            if num_failed:
                failed[label] = num_failed
            if to_show:
                groups.append(Group(label, _distinct(label, title, to_show), num_failed))
        if groups:
            environments.append(Environment(title, tuple(groups), failed))
    return environments


def _read(path: pathlib.Path) -> list[Run]:
    """A run, or those in a folder that can be shown."""
    if not path.is_dir():
        raise ConfigError(f"RUN {path}: is no folder; expected a run directory of jdqn.train")
    if (path / "config.toml").is_file():
        return [read_run(path)]
    runs = []
    for inside in labels.runs_in(path):
        result = ends.of_run(inside)
        try:
            if result.get("status") in ends.BAD:
                _say(f"note: left out: {inside} has {result['status']}: {result['sentence']}")
                runs.append(Run(inside, load_config(file=inside / "config.toml"), {}, ()))
            else:
                runs.append(read_run(inside))
        except ConfigError as error:
            _say(f"warning: left out: {error}")
    if not any(run.seeds for run in runs):
        if told := folders.notes([str(path)]):
            raise ConfigError(f"RUN {path}: there is nothing to show yet. {told[0]}")
        files.check_is_run(path, "RUN")
    return runs


def read_run(path: pathlib.Path) -> Run:
    """A run directory's configuration and logs.

    Raises:
      ConfigError: no configuration, no episode, no log line, or damaged.
    """
    if not (path / "episodes.csv").is_file():
        raise ConfigError(f"RUN {path}: has no episodes.csv, so nothing of a training to show")
    config = load_config(file=path / "config.toml")
    episodes = curves.read_episodes(path)
    metrics: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in logs.read_metrics(path / "metrics.jsonl"):
        of_seed = metrics.setdefault(str(row.get("seed", config.train.seed)), {})
        for name, value in row.items():
            if logs.is_number(value) and name not in ("steps", "seed"):
                of_seed.setdefault(name, []).append((row["steps"], value))
    for name in episodes:
        if "seconds" not in metrics.get(name, {}):
            raise ConfigError(f"{path / 'metrics.jsonl'}: nothing has been logged of seed {name}")
    for name in metrics.keys() - episodes.keys():
        _say(f"note: {path}: seed {name} is left out, none of its games has ended")
    evaluations = _evaluations(path / "evaluations.csv")
    seeds = [
        Seed(
            number=int(name) if name.isdecimal() else 0,
            episodes=rows,
            metrics={key: np.array(points) for key, points in metrics[name].items()},
            evaluations=evaluations.get(name, {}),
        )
        for name, rows in episodes.items()
    ]
    status = ends.of_run(path).get("status", "")
    return Run(path, config, directory.read_record(path), tuple(seeds), status)


def _evaluations(table: pathlib.Path) -> dict[str, dict[str, np.ndarray]]:
    """Steps and mean return `[e, 2]` by seed and policy; nothing where there is no table."""
    found: dict[str, dict[str, list[tuple[Any, Any]]]] = {}
    if table.is_file():
        rows = logs.read_table(table, ["seed", "policy"], ["steps", "return_mean"])
        for seed, policy, steps, mean in rows:
            of_seed = found.setdefault(str(seed), {})
            of_seed.setdefault(str(policy), []).append((steps, mean))
    return {
        seed: {policy: np.array(points) for policy, points in of_seed.items()}
        for seed, of_seed in found.items()
    }


Found = Iterable[tuple[str | None, Run]]


def _by_environment(found: Found) -> dict[str, list[tuple[str | None, Run]]]:
    """Runs by title: the environment's name, and what differs in the rules it is played by."""
    by_name: dict[str, list[tuple[str | None, Run]]] = {}
    for label, run in found:
        by_name.setdefault(run.config.env.name, []).append((label, run))
    environments: dict[str, list[tuple[str | None, Run]]] = {}
    for name, several in by_name.items():
        without = effects.idle(several[0][1].config)
        rules = [rule for rule in RULES if f"env.{rule}" not in without]
        differing = [
            rule for rule in rules if _differ(getattr(run.config.env, rule) for _, run in several)
        ]
        if differing:
            _say(
                f"note: {name} is played by different rules ({', '.join(differing)}): kept apart, "
                "scores are not comparable"
            )
        for label, run in several:
            values = [f"{rule} {_short(getattr(run.config.env, rule))}" for rule in differing]
            title = f"{name} ({', '.join(values)})" if values else name
            environments.setdefault(title, []).append((label, run))
    return environments


def _by_label(several: Found) -> dict[str, list[Run]]:
    """Runs of an environment by label; without one, by agent and what else is set differently."""
    groups: dict[str, list[Run]] = {}
    by_agent: dict[str, list[Run]] = {}
    for label, run in several:
        if label is None:
            by_agent.setdefault(run.config.agent.name, []).append(run)
        else:
            groups.setdefault(label, []).append(run)
    for agent, runs in by_agent.items():
        names = told_apart(runs)
        kinds: dict[str, list[Run]] = {}
        for run in runs:
            settings = settings_of(run)
            kinds.setdefault(repr([settings[name] for name in names]), []).append(run)
        for i, alike in enumerate(kinds.values()):
            values = [f"{name.partition('.')[2]} {value_of(alike[0], name)}" for name in names]
            told = ", ".join((agent, *values))
            if len(names) > MOST_IN_A_LABEL or len(told) > LABEL_CHARACTERS:
                told = f"{agent}, settings {i + 1}"
            groups.setdefault(told, []).extend(alike)
    return groups


def settings_of(run: Run) -> dict[str, Any]:
    """A run's fields by dotted name, as they hold.

    The length of schedules is never 0, and what the environment does not have is not there.
    """
    without = effects.idle(run.config)
    found = {
        f"{section}.{field}": value
        for section, fields in run.config.model_dump().items()
        for field, value in fields.items()
        if section != "env" or f"env.{field}" not in without
    }
    return found | {"train.schedule_steps": clock.schedule_steps(run.config)}


def differing(runs: Iterable[Run]) -> list[str]:
    """Fields by dotted name that say what is learned and how, and are not the same in all runs."""
    settings = [settings_of(run) for run in runs]
    return [
        name
        for name in settings[0]
        if name not in ASIDE and _differ(of_run[name] for of_run in settings)
    ]


def told_apart(runs: Iterable[Run]) -> list[str]:
    """What differs, but for steps that were added when a run went on: schedules keep theirs."""
    return [name for name in differing(runs) if name != "train.steps"]


def value_of(run: Run, name: str) -> str:
    """A field's value for people."""
    return _short(settings_of(run)[name])


def _short(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, int | float) and not isinstance(value, bool):
        if isinstance(value, int):
            return f"{value:,}"
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return value if isinstance(value, str) else shown(value)


def _differ(values: Iterable[Any]) -> bool:
    first, *others = values
    return any(repr(other) != repr(first) for other in others)


def _distinct(label: str, title: str, runs: Sequence[Run]) -> tuple[Run, ...]:
    """Runs whose seeds differ. The same twice would make an interval too narrow.

    Raises:
      ConfigError: runs of different settings under one label share a seed.
    """
    kept: list[Run] = []
    for run in sorted(runs, key=_end, reverse=True):
        numbers = {seed.number for seed in run.seeds}
        twin = next((k for k in kept if numbers & {seed.number for seed in k.seeds}), None)
        if twin is None:
            kept.append(run)
            continue
        seeds = ", ".join(map(str, sorted(numbers & {seed.number for seed in twin.seeds})))
        if names := told_apart([run, twin]):
            raise ConfigError(
                f"{label}: {run.path} and {twin.path} both have seed {seeds} on {title} and differ "
                f"in {names[0]}; under one label runs are seeds of the same settings"
            )
        _say(
            f"warning: left out: {run.path} has seed {seeds} of {label} on {title} as "
            f"{twin.path} has, which goes at least as far"
        )
    order: Callable[[Run], int] = runs.index
    return tuple(sorted(kept, key=order))


def _say(sentence: str) -> None:
    """A line on stderr; names in the runs of strangers must not steer the terminal."""
    sys.stderr.write(one_line(sentence) + "\n")


def _end(run: Run) -> float:
    return min(seed.episodes[-1, 0] for seed in run.seeds)
