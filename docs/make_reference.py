"""Writes docs/reference.md from the source: every command, every field, what is used from Python.

python docs/make_reference.py

Commands are found by themselves: each module of the package that has a `main` with options of its
own. Nothing is trained and nothing is read but the source.
"""

import argparse
import ast
import importlib
import inspect
import pathlib
import re
import textwrap
import tomllib
from collections.abc import Callable
from typing import Any

import jdqn
from jdqn.__main__ import COMMANDS
from jdqn.config import Config, Parser
from jdqn.config.help import accepted, as_toml
from jdqn.config.layers import config_dir

PACKAGE = pathlib.Path(jdqn.__file__).parent
PAGE = pathlib.Path(__file__).parent / "reference.md"
UNITS = {"_steps": "agent steps", "_updates": "updates", "_episodes": "episodes"}
MORE_UNITS = {
    "env.frame_skip": "frames",
    "env.frame_stack": "frames",
    "env.noop_max": "no-ops",
    "replay.capacity": "transitions",
    "replay.batch_size": "transitions",
    "replay.n_step": "agent steps",
    "train.steps": "agent steps",
}
HEAD = """# Reference

<!-- Written from the source by: python docs/make_reference.py -->

[Commands](#commands), [fields of a configuration](#fields-of-a-configuration), [Python](#python),
[pure functions](#pure-functions), [records](#records).
"""
PURE = """## Pure functions

Arrays in, arrays out (no lists): each can be called, compiled and tested alone. A loss,
`losses.project` and `replay.n_step_return` are of ONE transition; use `jax.vmap` for a batch:

```python
loss = jax.vmap(losses.q_learning(losses.huber))
loss(online, action, reward, discount, target, target)  # q of online, target [B, A], all else [B]
```

`B` batch, `E` environments, `T` ring rows, `K` heads, `A` actions, `Z` atoms or quantiles,
`S` stacked frames, `N` n-step length. `losses` is `jdqn.learning.losses`, `replay` is
`jdqn.replay`.
"""
RECORDS = """## Records

What [a loss, an exploration rule, a value head of your own](own_agents.md) gets and returns.
`ValueHead`, `Calls` and `Loss` are of `jdqn.learning`, `Behaviour` of `jdqn.learning.exploration`,
the others of `jdqn.records`. Letters as [above](#pure-functions).
"""


class _SeenError(Exception):
    """Carries the parser of a command that was asked for it."""


def page() -> str:
    """The whole page."""
    commands = ["## Commands\n", *map(_command, doors())]
    return "\n".join([HEAD, *commands, _fields(), _python(), _pure(), _records()])


# --- Commands -----------------------------------------------------------------------------------


def doors() -> list[str]:
    """The modules that are commands, those that `python -m jdqn` names first, in its order."""
    found = []
    for path in sorted(PACKAGE.glob("*.py")):
        names = {node.name for node in _tree(path).body if isinstance(node, ast.FunctionDef)}
        if "main" in names and path.stem != "__main__":
            found.append(path.stem)
    named = [name for name in COMMANDS if name in found]
    return named + [name for name in found if name not in named]


def parser_of(door: str) -> Parser:
    """The parser of a command, which is stopped when it begins to parse."""

    def seen(self: Parser, argv: list[str] | None = None) -> argparse.Namespace:
        raise _SeenError(self)

    parse = Parser.parse
    Parser.parse = seen  # type: ignore[method-assign]
    try:
        importlib.import_module(f"jdqn.{door}").main([])
    except _SeenError as error:
        return error.args[0]
    finally:
        Parser.parse = parse  # type: ignore[method-assign]
    raise TypeError(f"jdqn.{door}.main parses nothing")


def _command(door: str) -> str:
    """A heading, what it does, its arguments and options, its examples."""
    parser = parser_of(door)
    rows = []
    for action in parser._actions:
        if action.help == argparse.SUPPRESS or "--help" in action.option_strings:
            continue
        name = " ".join(filter(None, [*action.option_strings[:1], _metavar(action)]))
        rows.append(f"| `{name}` | {_cell(action.help or '')} |")
    text = " ".join((parser.description or "").split())
    lines = [f"### {parser.prog}\n", f"{text}\n"]
    if rows:
        lines += ["| option | |\n|---|---|", *rows, ""]
    if parser.explains_fields:
        lines.append(
            "Every [field](#fields-of-a-configuration) is an option as well, "
            "`--SECTION.FIELD VALUE`.\n"
        )
    starts = f"  {parser.prog}"
    epilog = (parser.epilog or "").replace("example: ", "examples:\n  ")
    examples = [line.strip() for line in epilog.splitlines() if line.startswith(starts)]
    return "\n".join([*lines, "```sh", *examples, "```", ""] if examples else lines)


def _metavar(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    return action.metavar if isinstance(action.metavar, str) else action.dest.upper()


# --- Fields -------------------------------------------------------------------------------------


def _fields() -> str:
    """A table for each section."""
    defaults = tomllib.loads((config_dir() / "agents" / "dqn.toml").read_text(encoding="utf-8"))
    lines = [
        "## Fields of a configuration\n",
        "Defaults are those of [`configs/agents/dqn.toml`](../configs/agents/dqn.toml); an agent's "
        "file, a preset, a protocol lie\nover them. `python -m jdqn.train --help SECTION` shows "
        "the values of a run and where each is from.\n",
    ]
    for section, info in Config.model_fields.items():
        model: Any = info.annotation
        lines.append(f"### `{section}`\n\n{model.__doc__}\n")
        lines.append("| field | accepts | unit | default | |\n|---|---|---|---|---|")
        for name, field in model.model_fields.items():
            dotted = f"{section}.{name}"
            default = defaults[section][name]
            value = as_toml(tuple(default) if isinstance(default, list) else default)
            cells = [accepted(dotted), _unit(dotted), f"`{value}`", field.description or ""]
            lines.append(f"| `{dotted}` | {' | '.join(map(_cell, cells))} |")
        lines.append("")
    return "\n".join(lines)


def _unit(dotted: str) -> str:
    units = [unit for end, unit in UNITS.items() if dotted.endswith(end)]
    return MORE_UNITS.get(dotted) or "".join(units)


# --- Python -------------------------------------------------------------------------------------


def _python() -> str:
    """Functions and classes that are meant to be used."""
    train = importlib.import_module("jdqn.train").train
    agent = importlib.import_module("jdqn.runs.player").TrainedAgent
    result = importlib.import_module("jdqn.runs.run").Result
    evaluation = importlib.import_module("jdqn.runs.episodes").Evaluation
    vector_env = importlib.import_module("jdqn.envs").VectorEnv
    lines = ["## Python\n"]
    lines += [_function(f"jdqn.{name}", getattr(jdqn, name)) for name in jdqn.__all__]
    lines.append(_class("VectorEnv", vector_env))
    lines += [_function("jdqn.train.train", train), _class("Result", result)]
    lines.append(_class("Evaluation", evaluation))
    return "\n".join([*lines, _class("TrainedAgent", agent)])


def _pure() -> str:
    """Functions of arrays: all losses, and what the replay consists of."""
    losses = importlib.import_module("jdqn.learning.losses")
    ring = importlib.import_module("jdqn.replay.ring")
    priorities = importlib.import_module("jdqn.replay.priorities")
    replay = importlib.import_module("jdqn.replay")
    tree = _tree(pathlib.Path(losses.__file__))
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    lines = [PURE, *[_function(f"losses.{name}", getattr(losses, name)) for name in names]]
    lines.append(_function("replay.n_step_return", replay.n_step_return))
    lines.append(_function("replay.make_replay", ring.make_replay))
    lines.append(_class("Replay", ring.Replay))
    of_replay = [name for name in ring.Replay._fields if hasattr(ring, name)]
    lines += [_function(f"Replay.{name}", getattr(ring, name)) for name in of_replay]
    return "\n".join([*lines, _function("replay.priorities.uniforms", priorities.uniforms)])


def _records() -> str:
    """What crosses the border to functions of the user's own, and what an environment shows."""
    learning = importlib.import_module("jdqn.learning")
    exploration = importlib.import_module("jdqn.learning.exploration")
    records = importlib.import_module("jdqn.records")
    of_learning = (learning.ValueHead, learning.Calls, learning.Loss, exploration.Behaviour)
    of_all = (records.Batch, records.QOutput, records.Timestep, records.EnvSpec)
    return "\n".join([RECORDS, *[_class(of.__name__, of) for of in (*of_learning, *of_all)]])


def _class(name: str, described: type) -> str:
    """A class, its fields and its public methods."""
    lines = [f"### {name}\n", _doc(described)]
    source = textwrap.dedent(inspect.getsource(described))
    tree = ast.parse(source).body[0]
    assert isinstance(tree, ast.ClassDef)
    if fields := _fields_of(tree, source.splitlines()):
        lines.append("\n".join(["```python", *fields, "```", ""]))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            found = inspect.getattr_static(described, node.name)
            is_property = isinstance(found, property)
            head = [f"#### {name}.{node.name}\n"]
            lines += [*head, *([] if is_property else [_signature(node, source)]), _doc(found)]
    return "\n".join(lines)


def _fields_of(tree: ast.ClassDef, lines: list[str]) -> list[str]:
    """The lines of a class's fields, with the comments above them."""
    found = []
    for node in tree.body:
        if isinstance(node, ast.AnnAssign):
            first = node.lineno - 1
            while lines[first - 1].strip().startswith("#"):
                first -= 1
            found += [line.strip() for line in lines[first : node.end_lineno]]
    return found


def _function(name: str, described: Callable[..., Any]) -> str:
    source = textwrap.dedent(inspect.getsource(described))
    tree = ast.parse(source).body[0]
    assert isinstance(tree, ast.FunctionDef)
    return "\n".join([f"### {name}\n", _signature(tree, source), _doc(described)])


def _signature(node: ast.FunctionDef, source: str) -> str:
    """A function's head as it stands in the source."""
    head = "\n".join(source.splitlines()[node.lineno - 1 : node.body[0].lineno - 1])
    head = textwrap.dedent(head).replace("(self, ", "(").replace("(self)", "()")
    head = head.replace("(\n    self,\n", "(\n")
    head = re.sub(r"settings: Settings,\s+", "", head)  # `make_replay` has bound them
    return f"```python\n{head} ...\n```\n"


def _doc(described: object) -> str:
    """A docstring as Markdown: what arguments, returns and errors are as lists."""
    lines = []
    headings = ("Args:", "Returns:", "Raises:")
    is_list = False
    for line in (inspect.getdoc(described) or "").splitlines():
        if line in headings:
            is_list = line != "Returns:"
            lines.append(f"{line}\n")
        elif line.startswith("  ") and not line.startswith("   ") and is_list:
            name, _, rest = line.strip().partition(": ")
            lines.append(f"- `{name}`: {rest}")
        elif line.startswith("    ") and is_list:
            lines.append(f"  {line.strip()}")
        else:
            lines.append(line.strip())
    text = "\n".join(lines)
    return text.replace("``", "`") + "\n"


# --- Both ---------------------------------------------------------------------------------------


def _tree(path: pathlib.Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _cell(text: str) -> str:
    """Text for a table."""
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
