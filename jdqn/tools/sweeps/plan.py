"""A sweep file: games × agents × settings × seeds, checked as a whole before anything starts."""

import collections
import hashlib
import itertools
import json
import pathlib
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jdqn.config import Config, ConfigError, load_config, shown, without_effect
from jdqn.config.layers import read_file
from jdqn.config.naming import is_atari
from jdqn.tools.sweeps import schema
from jdqn.tools.sweeps.schema import Range, Resources, Search, Settings, Sweep

ATARI_FRAME_BYTES = 84 * 84
# Of a process with jax in it, beside what its replay takes.
PROCESS_BYTES = 1_000_000_000
MOST_TRIALS = 100_000


class Trial(NamedTuple):
    """One training."""

    name: str  # of its folder: another setting has another name
    game: str
    agent: str
    seed: int
    settings: Settings  # what is not the same in all of the sweep
    options: tuple[str, ...]  # of jdqn.train
    steps: int  # agent steps
    memory_bytes: int  # that it needs, about


class Plan(NamedTuple):
    """A sweep that has been checked."""

    directory: pathlib.Path
    sweep: Sweep
    resources: Resources
    fields: Settings  # of all trials
    grid: dict[str, list[Any]]
    search: Search | None
    ranges: dict[str, Range]  # of the search
    notes: tuple[str, ...] = ()  # of fields that change nothing for a game and an agent

    @property
    def seeds(self) -> list[int]:
        """Of every setting."""
        seeds = self.sweep.seeds
        return seeds if isinstance(seeds, list) else list(range(seeds))

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Games and agents."""
        return itertools.product(self.sweep.games, self.sweep.agents)

    def points(self) -> list[Settings]:
        """The settings of the grid; one without any where there is no grid."""
        return [
            dict(zip(self.grid, values, strict=True))
            for values in itertools.product(*self.grid.values())
        ]

    def config(self, game: str, agent: str, settings: Settings, seed: int = 0) -> Config:
        """What a trial is trained by. Raises ConfigError."""
        overrides = {**self.fields, **settings, "train.seed": seed}
        return load_config(
            env=game,
            agent=agent,
            preset=self.sweep.preset,
            protocol=self.sweep.protocol,
            file=self.sweep.config,
            overrides=overrides,
        )

    def trials_of(self, game: str, agent: str, settings: Settings) -> list[Trial]:
        """A setting with each seed. Raises ConfigError where it is none."""
        config = self.config(game, agent, settings)
        memory = PROCESS_BYTES
        if is_atari(game):
            memory += config.train.num_seeds * config.replay.capacity * ATARI_FRAME_BYTES
        if self.resources.memory_gb:
            memory = int(self.resources.memory_gb * 1e9)
        found = []
        for seed in self.seeds:
            options = self._options(game, agent, settings, seed)
            name = _name(game, agent, seed, (*options, *self._texts(agent)))
            trial = Trial(name, game, agent, seed, settings, options, config.train.steps, memory)
            found.append(trial)
        return found

    def memory_bytes(self) -> int:
        """What the largest trial needs, about; of a search, at the ends of its ranges."""
        return max(
            self.trials_of(game, agent, settings)[0].memory_bytes
            for game, agent in self.pairs()
            for settings in [*self.points(), *corners(self.ranges)]
        )

    def trials(self) -> list[Trial]:
        """All trials of a grid, in the order by which `--index` counts them."""
        return [
            trial
            for game, agent in self.pairs()
            for settings in self.points()
            for trial in self.trials_of(game, agent, settings)
        ]

    def _options(self, game: str, agent: str, settings: Settings, seed: int) -> tuple[str, ...]:
        given = {"env": game, "agent": agent, "seed": str(seed)}
        for name in ("preset", "protocol", "config"):
            given[name] = getattr(self.sweep, name) or ""
        texts = {**self.fields, **settings}
        given |= {name: as_option(value) for name, value in texts.items()}
        return tuple(f"--{name}={value}" for name, value in given.items() if value)

    def _texts(self, agent: str) -> list[str]:
        """What is in the files that a trial is trained by: with another text it is another."""
        files = [agent if _is_path(agent) else None, self.sweep.config]
        return [json.dumps(read_file(file), default=str) for file in files if file is not None]


def counted(number: int, noun: str) -> str:
    """Such as `1 trial`, `2 trials`."""
    return f"{number} {noun}{'s' * (number != 1)}"


def in_words(settings: Mapping[str, Any]) -> str:
    """Settings behind what they are of, a comma before each."""
    return "".join(f", {name} {value}" for name, value in settings.items())


def as_option(value: Any) -> str:
    """A value as it is typed behind an option of jdqn.train."""
    if isinstance(value, str) and re.fullmatch(r"[\w.+:/-]+", value) and not _is_number(value):
        return value
    return _as_toml(value)


def _as_toml(value: Any) -> str:
    """A value in TOML, on one line."""
    if isinstance(value, Mapping):
        inside = ", ".join(f"{_as_toml(key)} = {_as_toml(v)}" for key, v in value.items())
        return f"{{{inside}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_as_toml, value))}]"
    # In TOML a character is escaped that JSON leaves as it is, and those beyond 16 bits are not.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _is_number(text: str) -> bool:
    """Whether a word would be read as another kind of value."""
    try:
        tomllib.loads(f"x = {text}")
    except ValueError:
        return False
    return True


def _is_path(agent: str) -> bool:
    return "/" in agent or agent.endswith(".toml")


def _name(game: str, agent: str, seed: int, options: tuple[str, ...]) -> str:
    """What a trial's folder is called: words for people, a hash of all that it is trained by."""
    digest = hashlib.sha256("\0".join(options).encode()).hexdigest()[:10]
    who = pathlib.PurePath(agent).stem if _is_path(agent) else agent
    words = re.sub(r"[^\w.+-]", "_", f"{game}-{who}"[:80])
    return f"{words}-{seed}-{digest}"


# --- Reading ------------------------------------------------------------------------------------


def read(file: str | None, options: Mapping[str, Any], fields: Settings) -> Plan:
    """The plan of a sweep file and of options over it.

    Args:
      file: a TOML file; None: options say all.
      options: of the `[sweep]` and `[resources]` tables by dotted name.
      fields: of all trials, over those of the file.

    Raises:
      ConfigError: anything that is wrong, in one sentence.
    """
    tables: dict[str, Any] = {} if file is None else read_file(file)
    for dotted, value in options.items():
        table, _, field = dotted.partition(".")
        if isinstance(tables.setdefault(table, {}), dict):
            tables[table][field] = value
    if not isinstance(tables.get("sweep", {}), dict) or "games" not in tables.get("sweep", {}):
        where = f"{file}: " if file else ""
        raise ConfigError(
            f'{where}sweep.games: is missing, a list such as ["minatar/Breakout"], or --games'
        )
    checked = schema.validate(tables)
    default = f"runs/{pathlib.Path(file).stem}" if file else "runs/sweep"
    search = checked.search
    plan = Plan(
        directory=pathlib.Path(checked.sweep.directory or default),
        sweep=checked.sweep,
        resources=checked.resources,
        fields=schema.flat("fields", checked.fields) | fields,
        grid={
            name: schema.values_of(name, v) for name, v in schema.flat("grid", checked.grid).items()
        },
        search=search,
        ranges=schema.ranges_of(search) if search else {},
    )
    return plan._replace(notes=_check(plan))


def _check(plan: Plan) -> tuple[str, ...]:
    """What is said of fields that change nothing, once for each game and agent.

    Raises:
      ConfigError: a setting, or what they are together, is wrong.
    """
    _check_lists(plan)
    if plan.search and plan.grid:
        raise ConfigError("[grid] and [search]: a sweep has one of them")
    if both := sorted(plan.fields.keys() & (plan.grid.keys() | plan.ranges.keys())):
        raise ConfigError(f"{both[0]}: is the same in all trials by [fields], and also varied")
    count = len(plan.points()) * len([*plan.pairs()]) * len(plan.seeds)
    if plan.search:
        count *= plan.search.settings
    if count > MOST_TRIALS:
        raise ConfigError(f"the sweep has {count:,} trials: at most {MOST_TRIALS:,} are possible")
    notes: dict[str, None] = {}
    for game, agent in plan.pairs():
        for settings in [*plan.points(), *corners(plan.ranges)]:
            config = plan.config(game, agent, settings, seed=max(plan.seeds))
            if said := without_effect(config):
                notes[f"{game}, {agent}: {said}"] = None
            _check_seeds(plan, config)
            if plan.search and plan.search.halving_factor:
                _check_halving(plan.search, config)
    return tuple(notes)


def check_games(plan: Plan) -> None:
    """Raises ConfigError where an environment has an unknown name, or needs what is missing."""
    import jax

    from jdqn import envs

    jax.config.update("jax_platforms", "cpu")  # other devices are the trials'
    found: dict[str, Settings] = {}
    for settings in [*plan.points(), *corners(plan.ranges)]:
        of_env = {name: value for name, value in settings.items() if name.startswith("env.")}
        found.setdefault(repr(of_env), settings)
    for fields in dict.fromkeys(
        plan.config(game, agent, settings).env
        for game, agent in plan.pairs()
        for settings in found.values()
    ):
        envs.check_name(fields)


def _check_lists(plan: Plan) -> None:
    lists: dict[str, Sequence[Any]] = {
        "games": plan.sweep.games,
        "agents": plan.sweep.agents,
        "seeds": plan.seeds,
    }
    for name, values in lists.items():
        if not values:
            raise ConfigError(f"sweep.{name} = []: must name one at least")
        value, count = collections.Counter(values).most_common(1)[0]
        if count > 1:
            raise ConfigError(f"sweep.{name}: has {shown(value)} twice")


def _check_seeds(plan: Plan, config: Config) -> None:
    """Raises ConfigError where runs of several seeds share one."""
    ordered = sorted(plan.seeds)
    apart = min((b - a for a, b in itertools.pairwise(ordered)), default=config.train.num_seeds)
    if apart < config.train.num_seeds:
        raise ConfigError(
            f"train.num_seeds = {config.train.num_seeds}: a trial trains seeds S to "
            f"S + {config.train.num_seeds - 1}, and sweep.seeds are {apart} apart"
        )


def _check_halving(search: Search, config: Config) -> None:
    """Raises ConfigError where there is no evaluation to halve by."""
    train = config.train
    first = search.first_steps or train.eval_period_steps
    if not train.eval_episodes or not train.eval_period_steps:
        raise ConfigError(
            "search.halving_factor: needs evaluations, train.eval_episodes and "
            "train.eval_period_steps above 0"
        )
    if first >= train.steps:
        raise ConfigError(
            f"search.first_steps = {first}: must be below train.steps = {train.steps}"
        )


def corners(ranges: Mapping[str, Range]) -> Iterator[Settings]:
    """Settings in which each value that is an end of a range stands once, or each choice."""
    ends = {name: r.choices or [r.low, r.high] for name, r in ranges.items()}
    first = {name: values[0] for name, values in ends.items()}
    for name, values in ends.items():
        for value in values:
            yield {**first, name: value}
