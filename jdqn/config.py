"""Frozen, validated configuration: TOML layers plus command-line overrides.

Layers, later wins: `agents/dqn.toml` < the agent < the preset < overrides. `--agent` says what
the algorithm is, a preset says what the environment needs. Defaults live in
`configs/agents/dqn.toml` and nowhere else.
"""

import argparse
import difflib
import math
import pathlib
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, NoReturn, Self

import pydantic
import tomli_w
from pydantic import Field

Layer = dict[str, dict[str, Any]]

# TOML has no null.
_none = pydantic.BeforeValidator(lambda value: None if value == "none" else value)
Positive = Annotated[int, Field(gt=0)]
Width = Annotated[int, Field(gt=0, le=65_536)]
# Steps are counted in int32 on the device.
PositiveSteps = Annotated[int, Field(gt=0, le=2_000_000_000)]
Steps = Annotated[int, Field(ge=0, le=2_000_000_000)]
Count = Annotated[int, Field(ge=0, le=1_000_000)]
Widths = Annotated[
    tuple[Width, ...],
    Field(strict=False),
    pydantic.BeforeValidator(lambda value: [value] if type(value) is int else value),
]
Probability = Annotated[float, Field(ge=0, le=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ConfigError(ValueError):
    """A mistake of the user's, in one sentence: the field, the value, what is accepted."""


class _Section(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False
    )


def _doc(text: str) -> Any:
    """A field without a default, and its help."""
    return Field(description=text)


class Env(_Section):
    """The environment."""

    name: str = _doc(
        "an Atari game (Breakout), a Gymnasium id (CartPole-v1) or JAX-native (minatar/Breakout)"
    )
    num_envs: Width = _doc("environments stepped together")
    num_threads: Count = _doc(
        "emulator threads; 0: as many as usable cores, at most one per environment"
    )
    size: Width = _doc("side of bsuite/DeepSea, length of jdqn/Chain")
    stochastic: bool = _doc("bsuite/DeepSea: actions fail and rewards are noisy")
    frame_skip: Annotated[int, Field(gt=0, le=1_000)] = _doc(
        "Atari: frames per agent step, the last two maximised"
    )
    frame_stack: Annotated[int, Field(gt=0, le=255)] = _doc("S, frames the agent sees at once")
    sticky_probability: Probability = _doc(
        "Atari: probability that the emulator repeats the previous action (Machado et al.: 0.25)"
    )
    full_action_space: bool = _doc("Atari: all 18 actions instead of the game's own")
    noop_max: Annotated[int, Field(ge=1, le=1_000_000)] = _doc(
        "Atari: an episode starts after 1 to this many no-ops"
    )
    fire_on_reset: bool = _doc(
        "Atari: press FIRE at the start of an episode, where the game has it"
    )
    life_loss_terminates: bool = _doc(
        "Atari: a lost life ends the bootstrap; the episode and its score go on"
    )
    max_episode_steps: PositiveSteps = _doc("Atari: agent steps after which a game is truncated")


class Network(_Section):
    """The Q-network."""

    torso: Literal["auto", "nature", "minatar", "mlp", "none"] = _doc(
        "what the heads share; auto: by observation; none: the heads share nothing"
    )
    torso_hidden: Widths = _doc("widths of the mlp torso")
    hidden: Widths = _doc("hidden widths of each head")
    heads: Annotated[int, Field(gt=0, le=1024)] = _doc("K, bootstrap heads")
    dueling: Literal["none", "mean", "max", "sum"] = _doc(
        "how value and advantage streams are put together"
    )
    noisy: Literal["none", "factorised", "independent"] = _doc("noise on the weights of the heads")
    noisy_sigma: Annotated[PositiveFloat | None, _none] = _doc(
        'σ at the start, factorised times 1/√inputs; "none": 0.5, independent 0.017'
    )
    atoms: Annotated[int, Field(gt=0, le=65_536)] = _doc(
        "Z of the value distribution (C51); 1: Q-values"
    )
    v_min: Annotated[float, Field(ge=-1e6, le=1e6)] = _doc("C51: least atom")
    v_max: Annotated[float, Field(ge=-1e6, le=1e6)] = _doc("C51: largest atom")
    prior_scale: NonNegative = _doc("weight of the fixed random prior networks; 0: none")


class Replay(_Section):
    """The replay."""

    capacity: Annotated[int, Field(gt=0, le=10**15)] = _doc(
        "transitions over all environments, rounded up to whole rows"
    )
    batch_size: Width = _doc("transitions per update")
    n_step: Annotated[int, Field(gt=0, le=255)] = _doc("N, rewards summed before the bootstrap")
    prioritization: Literal["proportional", "rank"] = _doc("to |TD error|, or to 1 / its rank")
    rank_refresh_updates: PositiveSteps = _doc("rank: updates between sorts")
    priority_exponent: Probability = _doc("α of prioritised replay; 0: uniform")
    priority_epsilon: PositiveFloat = _doc("added to |TD error| before the exponent")
    importance_exponent: Probability = _doc("β at the start")
    importance_exponent_final: Probability = _doc("β at the end")
    importance_anneal_steps: Steps = _doc(
        "agent steps from the first β to the final; 0: the whole run"
    )
    mask_probability: Annotated[float, Field(gt=0, le=1)] = _doc(
        "bernoulli: probability that a transition is shown to a head"
    )
    mask_distribution: Literal["bernoulli", "poisson"] = _doc(
        "of the bootstrap masks; poisson: counts of mean 1"
    )


class Optimizer(_Section):
    """The optimiser."""

    name: Literal["adam", "rmsprop"] = _doc("rmsprop is centred, as in Nature DQN")
    learning_rate: PositiveFloat = _doc("at the start")
    learning_rate_final: Annotated[PositiveFloat | None, _none] = _doc(
        'at the end of the run, linearly; "none": constant'
    )
    eps: PositiveFloat = _doc("added to the denominator (inside the root for rmsprop)")
    decay: Annotated[float, Field(ge=0, lt=1)] = _doc("rmsprop: of the running moments")
    max_gradient_norm: NonNegative = _doc("global norm to which gradients are clipped; 0: off")


class Agent(_Section):
    """The algorithm."""

    name: str = _doc("the file under configs/agents")
    discount: Probability = _doc("γ")
    double: bool = _doc("the online network selects the action that the target evaluates")
    loss: Literal["huber", "squared"] = _doc("of the TD error; huber has δ = 1")
    reward_clip: NonNegative = _doc("rewards are clipped to ± this when drawn; 0: off")
    target_period_steps: PositiveSteps = _doc(
        "agent steps between copies of the online parameters to the target"
    )
    epsilon_start: Probability = _doc("exploration until learning starts")
    epsilon_end: Probability = _doc("exploration after the decay")
    epsilon_decay_steps: Steps = _doc("agent steps of the decay, from the start of learning")
    epsilon_eval: Probability = _doc("exploration in evaluation")
    behaviour: Literal["head", "head_per_step", "vote"] = _doc(
        "who acts in training: a head for each episode, for each step, or all by vote"
    )
    eval_policy: Literal["vote", "mean"] = _doc(
        "who acts in evaluation: all by vote, or their mean"
    )


class Train(_Section):
    """The run."""

    steps: PositiveSteps = _doc("agent steps over all environments (Atari: 4 frames each)")
    learning_starts_steps: Steps = _doc("agent steps before the first update")
    update_period_steps: PositiveSteps = _doc("agent steps per update")
    seed: Annotated[int, Field(ge=0, lt=2**31 - 20_000)] = _doc("of everything random")
    num_seeds: Annotated[int, Field(gt=0, le=1024)] = _doc(
        "runs side by side with seeds from `seed` on; JAX-native environments only"
    )
    stop_return: Annotated[float | None, _none] = _doc(
        'stop when the mean return of the last 100 episodes reaches it; "none": never'
    )
    log_period_steps: PositiveSteps = _doc("agent steps between log events")
    eval_period_steps: Steps = _doc("agent steps between evaluations; 0: only at the end")
    eval_episodes: Count = _doc("full episodes of an evaluation; 0: never evaluate")
    checkpoint_period_steps: Steps = _doc("agent steps between checkpoints; 0: only at the end")
    checkpoint_keep: Positive = _doc("checkpoints kept, the newest")


class Config(_Section):
    """Everything a run depends on."""

    env: Env
    network: Network
    replay: Replay
    optimizer: Optimizer
    agent: Agent
    train: Train

    @pydantic.model_validator(mode="after")
    def _check_combinations(self) -> Self:
        env, replay, train = self.env, self.replay, self.train
        if replay.batch_size > replay.capacity:
            raise ConfigError(
                f"replay.batch_size = {replay.batch_size}: must not exceed "
                f"replay.capacity = {replay.capacity}"
            )
        period = train.update_period_steps
        if env.num_envs % period and period % env.num_envs:
            divisors = [n for n in range(1, math.isqrt(period) + 1) if period % n == 0]
            multiple = env.num_envs // period * period
            fitting = {*divisors, *(period // n for n in divisors), multiple, multiple + period}
            raise ConfigError(
                f"env.num_envs = {env.num_envs}: must be a multiple of "
                f"train.update_period_steps = {period} or divide it; "
                f"{_nearest(env.num_envs, fitting)}"
            )
        target = self.agent.target_period_steps
        if target % period:
            multiple = target // period * period
            raise ConfigError(
                f"agent.target_period_steps = {target}: must be a multiple of "
                f"train.update_period_steps = {period}; "
                f"{_nearest(target, {multiple, multiple + period})}"
            )
        if replay.prioritization == "rank" and not replay.priority_exponent:
            raise ConfigError(
                "replay.priority_exponent = 0: must be above 0 with replay.prioritization = rank "
                "(Schaul et al.: 0.7)"
            )
        if replay.mask_distribution == "poisson" and replay.mask_probability < 1:
            raise ConfigError(
                f"replay.mask_probability = {replay.mask_probability:g}: must be 1 with "
                "replay.mask_distribution = poisson, whose counts have mean 1"
            )
        if self.network.atoms > 1 and self.network.v_max - self.network.v_min < 1e-3:
            raise ConfigError(
                f"network.v_min = {self.network.v_min:g}: must lie well below network.v_max = "
                f"{self.network.v_max:g}"
            )
        rows = replay.n_step + env.frame_stack
        if train.learning_starts_steps < env.num_envs * rows:
            raise ConfigError(
                f"train.learning_starts_steps = {train.learning_starts_steps}: the first batch "
                f"needs env.num_envs × (n_step + frame_stack) = {env.num_envs * rows} steps"
            )
        if replay.capacity < env.num_envs * rows:
            raise ConfigError(
                f"replay.capacity = {replay.capacity}: a ring must hold env.num_envs × "
                f"(n_step + frame_stack) = {env.num_envs * rows} transitions"
            )
        return self

    @property
    def sections(self) -> dict[str, _Section]:
        """The sections by name, in order."""
        return {name: getattr(self, name) for name in type(self).model_fields}


def _nearest(value: int, accepted: Iterable[int]) -> str:
    """The accepted values above 0 next to a value, in words."""
    positive = [n for n in accepted if n > 0]
    below, above = [n for n in positive if n < value], [n for n in positive if n > value]
    near = [str(n) for n in (*sorted(below)[-1:], *sorted(above)[:1])]
    return f"the nearest {'is' if len(near) == 1 else 'are'} {' and '.join(near)}"


def config_dir() -> pathlib.Path:
    """The folder with `agents` and `presets`: inside the installed package or the checkout."""
    package = pathlib.Path(__file__).parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def names(kind: Literal["agents", "presets"]) -> list[str]:
    """The agents or presets that ship with jdqn."""
    return sorted(path.stem for path in (config_dir() / kind).glob("*.toml"))


def default_preset(env_name: str) -> str | None:
    """The preset an environment asks for; none for Atari."""
    family, slash, _ = env_name.partition("/")
    presets = {"minatar": "minatar", "bsuite": "deep_sea", "jdqn": "chain"}
    if slash and family in presets:
        return presets[family]
    return "classic" if re.search(r"-v\d+$", env_name) else None


def load_config(
    *,
    env: str | None = None,
    agent: str | None = None,
    preset: str | None = None,
    file: str | pathlib.Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Config:
    """Builds a configuration from its layers.

    Args:
      env: environment name; default: that of `file`, else Breakout.
      agent: name of a file under configs/agents; default: that of `file`, else dqn.
      preset: name of a file under configs/presets; default: what the environment asks for.
      file: a TOML file laid over the preset, for instance a run's `config.toml`.
      overrides: values by dotted name (`{"replay.batch_size": 64}`), laid over all else.

    Returns:
      The frozen configuration.

    Raises:
      ConfigError: unknown names, wrong types, values out of range, impossible combinations.
    """
    overrides = dict(overrides or {})
    user = _read(pathlib.Path(file)) if file is not None else {}
    user.pop("versions", None)  # what a run's config.toml records beside the configuration
    for section, fields in user.items():
        if not isinstance(fields, dict):
            raise ConfigError(f"{section} = {fields!r}: expected a section [{section}]")

    def name_of(section: str, given: str | None, default: str) -> str:
        """A name given as an argument or as an override, else in the file."""
        override = overrides.pop(f"{section}.name", given)
        if given is not None and override != given:
            raise ConfigError(f"--{section} {given} and --{section}.name {override} differ")
        chosen = user.get(section, {}).get("name", default) if override is None else override
        return str(chosen)

    env, agent = name_of("env", env, "Breakout"), name_of("agent", agent, "dqn")
    preset = default_preset(env) if preset is None else preset
    layers = [_read_named("agents", "dqn"), _read_named("agents", agent)]
    if preset is not None:
        layers.append(_read_named("presets", preset))
    layers += [user, {"env": {"name": env}, "agent": {"name": agent}}]
    merged: Layer = {}
    for layer in layers:
        for section, fields in layer.items():
            merged.setdefault(section, {}).update(fields)
    for dotted, value in overrides.items():
        section, _, field = dotted.partition(".")
        merged.setdefault(section, {})[field] = value
    return _validate(merged)


def with_overrides(config: Config, **overrides: Any) -> Config:
    """A copy with fields changed and everything checked again; `section__field=value`."""
    merged = {name: section.model_dump() for name, section in config.sections.items()}
    for dotted, value in overrides.items():
        section, _, field = dotted.partition("__")
        merged[section][field] = value
    return _validate(merged)


def to_toml(config: Config, **extra: Mapping[str, Any]) -> str:
    """The resolved configuration as TOML, with further sections appended."""
    layer = {
        name: {k: "none" if v is None else v for k, v in section.model_dump().items()}
        for name, section in config.sections.items()
    }
    return tomli_w.dumps({**layer, **extra})


def suggest(name: str, known: Iterable[str]) -> str:
    """`; did you mean "X"?`, or nothing where no known name is near."""
    lower = {k.lower(): k for k in known}
    near = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.6)
    return f'; did you mean "{lower[near[0]]}"?' if near else ""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one sentence and exit status 2."""

    def __init__(self, **kwargs: Any):
        super().__init__(
            allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs
        )

    def parse(self, argv: list[str] | None = None) -> argparse.Namespace:
        """Parses; an unknown option is answered with the nearest known one."""
        arguments, extra = self.parse_known_args(argv)
        if extra:
            options = [o for action in self._actions for o in action.option_strings]
            name = extra[0].partition("=")[0]
            kind = "option" if name.startswith("-") else "argument"
            self.error(f'unknown {kind} "{name}"{suggest(name, options) if options else ""}')
        return arguments

    def error(self, message: str) -> NoReturn:
        """Prints the sentence and exits."""
        print(f"error: {' '.join(message.split())}", file=sys.stderr)  # noqa: T201
        raise SystemExit(2)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds `--env`, `--agent`, `--preset`, `--config` and one option per field."""
    base = _read_named("agents", "dqn")
    parser.add_argument("--env", metavar="NAME", help="environment (default: Breakout)")
    parser.add_argument(
        "--agent", metavar="NAME", help=f"algorithm: {', '.join(names('agents'))} (default: dqn)"
    )
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help=f"what the environment needs: {', '.join(names('presets'))} "
        "(default: by environment, none for Atari)",
    )
    parser.add_argument("--config", metavar="FILE", help="TOML file laid over agent and preset")
    for section, info in Config.model_fields.items():
        model = info.annotation
        assert isinstance(model, type)
        assert issubclass(model, _Section)
        group = parser.add_argument_group(f"[{section}]")
        for field, field_info in model.model_fields.items():
            default = base[section][field]
            help_text = f"{field_info.description} (dqn: {default})".replace("%", "%%")
            group.add_argument(
                f"--{section}.{field}", metavar="VALUE", dest=f"{section}.{field}", help=help_text
            )


def from_options(arguments: argparse.Namespace) -> Config:
    """The configuration that parsed options ask for."""
    return load_config(
        env=arguments.env,
        agent=arguments.agent,
        preset=arguments.preset,
        file=arguments.config,
        overrides={
            k: parse_value(v) for k, v in vars(arguments).items() if "." in k and v is not None
        },
    )


def parse_value(text: str) -> Any:
    """A command-line value, written as in TOML; a bare word is a string, `128,128` a list."""
    for candidate in (text, f"[{text}]" if "," in text else text):
        try:
            value = tomllib.loads(f"value = {candidate}")["value"]
        except tomllib.TOMLDecodeError:
            continue
        return int(value) if isinstance(value, float) and value.is_integer() else value
    return text


def _read(path: pathlib.Path) -> Layer:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None


def _read_named(kind: Literal["agents", "presets"], name: str) -> Layer:
    if name not in names(kind):
        known = names(kind)
        raise ConfigError(
            f'unknown {kind[:-1]} "{name}"{suggest(name, known)} (known: {", ".join(known)})'
        )
    return _read(config_dir() / kind / f"{name}.toml")


def _validate(merged: Layer) -> Config:
    try:
        return Config.model_validate(merged)
    except pydantic.ValidationError as error:
        raise ConfigError(_sentence(error.errors()[0])) from None


def _sentence(error: Any) -> str:
    """One pydantic error as one sentence naming field, value and what is accepted."""
    location = [str(part) for part in error["loc"]]
    dotted = ".".join(location)
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    if error["type"] == "extra_forbidden":
        if len(location) == 1:
            known = list(Config.model_fields)
            return f'unknown section "{dotted}"{suggest(dotted, known)}'
        section = Config.model_fields[location[0]].annotation
        known = [f"{location[0]}.{field}" for field in getattr(section, "model_fields", {})]
        return f'unknown field "{dotted}"{suggest(dotted, known)}'
    if error["type"] == "tuple_type":
        return f"{dotted} = {error['input']!r}: must be a list such as 128,128"
    message = error["msg"][0].lower() + error["msg"][1:]
    return f"{dotted} = {error['input']!r}: {message.replace('input should be', 'must be')}"
