"""`README.md` of an exported folder: what the agent is, how it was trained, how to load it."""

from collections.abc import Iterable, Mapping, Sequence

from jdqn.config import Config, protocol_of
from jdqn.config.naming import is_atari
from jdqn.envs import episode_limit, is_native
from jdqn.envs.interface import Interface
from jdqn.runs.episodes import Evaluation
from jdqn.runs.exported import About
from jdqn.runs.scores import human_normalised

MOST_ROWS = 20
LOAD = """\
```python
import jdqn

agent = jdqn.load("PATH/TO/THIS/FOLDER")
action = agent.act(observation)  # agent.reset() where an episode starts
```
"""


def text(
    config: Config,
    about: About,
    interface: Interface,
    dtype: str,
    onnx: bool,
    measured: Sequence[tuple[str, Evaluation]] = (),
) -> str:
    """The card, Markdown.

    Args:
      config: of the agent.
      about: of its parameters.
      interface: what observations are like.
      dtype: in which parameters are kept.
      onnx: whether there is a `model.onnx`.
      measured: what games with the folder's own files came to, by policy.
    """
    name = f"{config.agent.name} on {config.env.name}"
    parts = [f"# {name}", _facts(config, about, dtype), "## Use", LOAD]
    if onnx:
        parts.append(_of_onnx(interface, config))
    if measured:
        parts += ["## Scores of these files", _scores(config, measured)]
    parts += ["## Training", _results(config, about)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _facts(config: Config, about: About, dtype: str) -> str:
    heads = config.network.heads
    facts = {
        "agent": f"`{config.agent.name}`, {heads} head{'s' * (heads > 1)}",
        "environment": f"`{config.env.name}`",
        "frames seen at once": str(config.env.frame_stack),
        "protocol": _protocol(config),
        "agent steps": f"{about.steps:,}",
        "seed": str(about.seed),
        "run": f"`{about.run_id}`",
        "parameters": f"kept in {dtype}",
        "layers": f"multiply in {config.network.compute_dtype}",
        "configuration": "`config.toml`",
    }
    return _table(["", ""], facts.items())


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _protocol(config: Config) -> str:
    env = config.env
    steps = f"{episode_limit(env):,} agent steps"
    if is_native(env.name):  # most end sooner, by rules of their own
        return f"games that have not ended before are cut after {steps}"
    games = f"games of at most {steps}"
    if not is_atari(env.name):
        return games
    named = "" if env.protocol == "none" else f"`{protocol_of(config)}`: "
    sticky = f"sticky actions {env.sticky_probability:g}"
    all_actions = ", all 18 actions" * env.full_action_space
    return (
        f"{named}{games}, {env.frame_skip} frames a step, {sticky}, 1 to {env.noop_max} no-ops "
        f"at the start{all_actions}"
    )


def _of_onnx(interface: Interface, config: Config) -> str:
    stack = interface.spec.frame_stack
    sizes = ["B", *[str(stack)] * (stack > 1), *map(str, interface.shape)]
    frames = f", the last {stack} observations of an episode, the newest last" if stack > 1 else ""
    shown = "the environment shows it"
    if interface.takes_frames:
        shown = "`agent.frames(observation)` of a loaded agent makes it"
    return (
        f"`model.onnx` takes `observation` `[{', '.join(sizes)}]` ({interface.dtype}), as "
        f"{shown}{frames}, and gives `q` `[B, {config.network.heads}, "
        f"{interface.spec.num_actions}]` of heads and actions, mean weights and priors included. "
        "It multiplies in float32."
    )


def _scores(config: Config, measured: Sequence[tuple[str, Evaluation]]) -> str:
    _, first = measured[0]
    about = (
        f"{first.episodes:,} full game{'s' * (first.episodes > 1)} by each policy, raw reward, "
        f"epsilon {config.agent.epsilon_eval:g}, on seeds that no training and no choice has seen."
    )
    columns = ["policy", "mean return", "standard error", "median return", "mean length"]
    rows = []
    for policy, result in measured:
        values = (result.return_mean, result.return_std_error, result.return_median)
        rows.append([policy, *(f"{value:,.2f}" for value in (*values, result.length_mean))])
        if (human := human_normalised(config, result.return_mean)) is not None:
            rows[-1].append(f"{100 * human:.1f} %")
    if len(rows[0]) > len(columns):
        columns.append("human-normalised")
    return f"{about}\n\n{_table(columns, rows)}"


def _results(config: Config, about: About) -> str:
    if not about.evaluations:
        return "No evaluation is on record."
    columns = ("steps", "policy", "episodes", "return_mean", "return_std_error", "length_mean")
    names = ("agent steps", "policy", "games", "mean return", "standard error", "mean length")
    rows = about.evaluations[-MOST_ROWS:]
    parts = [
        f"Evaluations in training: full games, raw reward, epsilon {config.agent.epsilon_eval:g}"
        f"{_newest(len(about.evaluations))}.",
        _table(names, [[_short(row, column) for column in columns] for row in rows]),
    ]
    if (score := _human(config, rows[-1])) is not None:
        parts.append(f"The last is {100 * score:.1f} % human-normalised.")
    return "\n\n".join(parts)


def _newest(count: int) -> str:
    return f"; the last {MOST_ROWS} of {count}" if count > MOST_ROWS else ""


def _short(row: Mapping[str, str], column: str) -> str:
    """A cell: numbers with commas and few digits, words without what Markdown takes for a cell."""
    value = row.get(column, "")
    try:
        number = float(value)
    except ValueError:
        return value.replace("|", "").replace("\n", " ")
    return f"{number:,.0f}" if number.is_integer() else f"{number:,.2f}"


def _human(config: Config, row: Mapping[str, str]) -> float | None:
    try:
        return human_normalised(config, float(row.get("return_mean", "")))
    except ValueError:
        return None
