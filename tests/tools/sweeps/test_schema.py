"""What a sweep file may say; mistakes are one sentence with the field in it."""

import pytest
from sweeps_helpers import write

from jdqn.config import ConfigError
from jdqn.tools.sweeps import plan

GAMES = {"games": ["jdqn/Chain"]}
RATE = {"optimizer.learning_rate": {"low": 1e-5, "high": 1e-3, "log": True}}


def of_search(**search):
    return {"search": {"settings": 4, "fields": RATE, **search}}


def of_range(**values):
    return of_search(fields={"replay": {"n_step": values}})


REFUSED = {
    "no games": ({"sweep": {}}, ["sweep.games", "missing"]),
    "no list": ({"sweep": {"games": "Pong"}}, ["sweep.games = 'Pong'", "list"]),
    "no agents": ({"sweep": {**GAMES, "agents": []}}, ["sweep.agents = []", '["dqn", "double"]']),
    "one agent": ({"sweep": {**GAMES, "agents": "dqn"}}, ["sweep.agents = 'dqn'", "list of names"]),
    "no name": ({"sweep": {"games": ["Pong", 3]}}, ["sweep.games.1 = 3", "list of names"]),
    "no word": ({"sweep": {**GAMES, "preset": 3}}, ["sweep.preset = 3: must be text"]),
    "an empty word": ({"sweep": {**GAMES, "preset": ""}}, ["sweep.preset = '': must not be empty"]),
    "no number": ({"resources": {"cores": "x"}}, ["resources.cores = 'x': must be a whole number"]),
    "no memory": ({"resources": {"memory_gb": [1]}}, ["resources.memory_gb = [1]: must be a nu"]),
    "memory as text": ({"resources": {"memory_gb": "2"}}, ["memory_gb = '2': must be a number"]),
    "gpus as text": ({"resources": {"gpus": "1"}}, ["resources.gpus = '1': must be \"auto\", or"]),
    "tables": ({"resources": 3}, ["resources = 3: must be a table"]),
    "no table of fields": ({"grid": [1]}, ["grid = [1]: must be a table"]),
    "a list of ranges": (of_search(fields=[1]), ["search.fields = [1]: must be a table"]),
    "a list for a range": (
        of_search(fields={"replay": {"n_step": [1, 3]}}),
        ["search.fields.replay.n_step = [1, 3]: must be {low = 1, high = 5}, or {choices"],
    ),
    "an empty list": ({"sweep": {"games": []}}, ["sweep.games = []"]),
    "no table": ({"sweep": 3}, ["sweep.games", "missing"]),
    "an unknown table": ({"filds": {}}, ['unknown table "filds"', 'did you mean "fields"?']),
    "an unknown field": (
        {"sweep": {**GAMES, "agent": ["dqn"]}},
        ['unknown field "sweep.agent"', 'did you mean "agents"?'],
    ),
    "unknown resources": (
        {"resources": {"rooms": 1}},
        ['unknown field "resources.rooms"', "at_once, cores, memory_gb, gpus"],
    ),
    "game twice": ({"sweep": {"games": ["Pong", "Pong"]}}, ["sweep.games", "'Pong' twice"]),
    "an unknown agent": ({"sweep": {**GAMES, "agents": ["doubel"]}}, ['"doubel"', '"double"']),
    "no seed": ({"sweep": {**GAMES, "seeds": 0}}, ["sweep.seeds = 0", "1"]),
    "a seed too large": ({"sweep": {**GAMES, "seeds": [0, 2**31]}}, ["train.seed = 2147483648"]),
    "an empty list of seeds": ({"sweep": {**GAMES, "seeds": []}}, ["sweep.seeds = []"]),
    "a seed twice": ({"sweep": {**GAMES, "seeds": [1, 2, 1]}}, ["sweep.seeds", "1 twice"]),
    "a negative seed": ({"sweep": {**GAMES, "seeds": [-1]}}, ["sweep.seeds = [-1]", "from 0 on"]),
    "retries": ({"sweep": {**GAMES, "max_retries": -1}}, ["sweep.max_retries = -1"]),
    "cores": ({"resources": {"cores": 0}}, ["resources.cores = 0"]),
    "gpus": ({"resources": {"gpus": "all"}}, ["resources.gpus = 'all'"]),
    "a field without a section": ({"fields": {"n_step": 3}}, ["fields.n_step = 3", "section"]),
    "a field that is none": (
        {"fields": {"replay": {"nstep": 3}}},
        ['"replay.nstep" in [fields]', '"replay.n_step"'],
    ),
    "a value out of range": ({"fields": {"replay": {"n_step": 0}}}, ["replay.n_step = 0"]),
    "said elsewhere": ({"grid": {"train.seed": [1, 2]}}, ["grid.train.seed", "sweep.seeds"]),
    "a grid without a list": ({"grid": {"replay.n_step": 3}}, ["grid.replay.n_step = 3", "list"]),
    "an empty grid": ({"grid": {"replay.n_step": []}}, ["grid.replay.n_step = []", "list"]),
    "a value twice": ({"grid": {"replay.n_step": [1, 3, 1]}}, ["grid.replay.n_step", "twice"]),
    "a value twice in two forms": ({"grid": {"agent.discount": [1, 0.9, 1.0]}}, ["twice"]),
    "a grid value out of range": ({"grid": {"replay.n_step": [1, 0]}}, ["replay.n_step = 0"]),
    "a field twice": (
        {"fields": {"replay.n_step": 3}, "grid": {"replay.n_step": [1]}},
        ["replay.n_step", "[fields]", "varied"],
    ),
    "too many": (
        {"sweep": {**GAMES, "seeds": 60_000}, "grid": {"replay.n_step": [1, 2]}},
        ["120,000 trials", "100,000"],
    ),
    "seeds that overlap": (
        {"sweep": {**GAMES, "seeds": 3}, "fields": {"train.num_seeds": 2}},
        ["train.num_seeds = 2", "1 apart"],
    ),
    "grid and search": ({"grid": {"replay.n_step": [1]}, **of_search()}, ["[grid] and [search]"]),
    "no settings": ({"search": {"fields": RATE}}, ["search.settings", "missing"]),
    "an unknown method": (of_search(method="grid"), ["search.method = 'grid'", "tpe"]),
    "an unknown word of the search": (of_search(pruner="x"), ['"search.pruner"', "halving_factor"]),
    "nothing to look for": (of_search(fields={}), ["search.fields", "no field"]),
    "a search of no field": (
        of_search(fields={"replay": {"nstep": {"choices": [1, 2]}}}),
        ['"replay.nstep" in [search.fields]', '"replay.n_step"'],
    ),
    "no range": (of_range(low=1), ["search.fields.replay.n_step", "low below high"]),
    "a range the wrong way": (of_range(low=3, high=1), ["search.fields.replay.n_step", "below"]),
    "one choice": (of_range(choices=[1]), ["search.fields.replay.n_step", "two choices"]),
    "both": (of_range(choices=[1, 2], low=1), ["search.fields.replay.n_step", "no low"]),
    "log from 0": (of_range(low=0, high=1, log=True), ["log needs low above 0"]),
    "a large step": (of_range(low=1, high=3, step=3), ["step", "fit"]),
    "an unknown word of a range": (of_range(lo=1, high=2), ["replay.n_step.lo", '"low"']),
    "a range out of range": (of_range(low=0, high=3), ["replay.n_step = 0"]),
    "halving without evaluations": (
        {"fields": {"train.eval_episodes": 0}, **of_search(halving_factor=2)},
        ["search.halving_factor", "train.eval_episodes"],
    ),
    "halving too late": (
        of_search(halving_factor=2, first_steps=10**9),
        ["search.first_steps = 1000000000", "train.steps"],
    ),
}


@pytest.mark.parametrize(("tables", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_refuses(tmp_path, tables, said):
    file = write(tmp_path / "sweep.toml", **{"sweep": GAMES, **tables})
    with pytest.raises(ConfigError) as info:
        plan.read(file, {}, {})
    sentence = str(info.value)
    assert "\n" not in sentence
    for words in said:
        assert words in sentence


def test_ranges_are_read(tmp_path):
    fields = {"replay": {"n_step": {"low": 1, "high": 5, "step": 2}}, **RATE}
    fields["network.hidden"] = {"choices": [[64], [64, 64]]}
    read = plan.read(write(tmp_path / "s.toml", sweep=GAMES, **of_search(fields=fields)), {}, {})
    assert list(read.ranges) == ["replay.n_step", "optimizer.learning_rate", "network.hidden"]
    assert read.ranges["optimizer.learning_rate"].log
    assert read.ranges["network.hidden"].choices == [[64], [64, 64]]
    assert read.search.batch == 8
