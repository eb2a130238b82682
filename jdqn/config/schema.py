"""The fields of a configuration: names, units, limits, and what may stand beside what."""

import math
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import Field

from jdqn.config import value_heads
from jdqn.config.errors import ConfigError
from jdqn.config.kinds import (
    Count,
    Kwargs,
    NonNegative,
    NumDevices,
    PositiveFloat,
    PositiveSteps,
    Probability,
    Scale,
    Steps,
    Width,
    Widths,
    none,
)
from jdqn.config.naming import Known, fits_in_a_path, is_atari


class Section(pydantic.BaseModel):
    """A section of the configuration: its fields have no defaults here."""

    model_config = pydantic.ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False
    )


def _doc(text: str) -> Any:
    """A field without a default, and its help."""
    return Field(description=text)


class Env(Section):
    """The environment."""

    name: str = _doc(
        "an Atari game (Breakout), a Gymnasium id (CartPole-v1, or my_module:MyEnv-v0 for one that "
        "a module registers), JAX-native (minatar/Breakout), or your own in JAX "
        "(jax:my_module:make)"
    )
    preset: str = _doc(
        "the file under configs/presets, or none; auto: what the environment asks for"
    )
    protocol: str = _doc(
        "Atari: the file under configs/protocols, how scores are measured; or none"
    )
    kwargs: Kwargs = _doc(
        "Gymnasium, and one of your own in JAX: keyword arguments of the environment"
    )
    num_envs: Width = _doc("environments stepped together")
    vectorization: Literal["sync", "async"] = _doc(
        "Gymnasium: all in this process, or each in one of its own, for slow environments"
    )
    observation_scale: Scale = _doc(
        "Gymnasium: none; bounds: the space's own become -1 and 1; or what entries are divided by, "
        "a number or a list"
    )
    num_threads: Annotated[int, Field(ge=0, le=1_024)] = _doc(
        "emulator threads; 0: as many as usable cores, at most one per environment"
    )
    backend: Literal["envpool", "ale"] = _doc(
        "Atari: whose emulators; ale: those of ale-py, the same frames from other starts"
    )
    size: Annotated[int, Field(gt=0, le=4_096)] = _doc(
        "side of bsuite/DeepSea, length of jdqn/Chain"
    )
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
    max_episode_steps: PositiveSteps = _doc(
        "agent steps after which an episode is truncated, unless its own limit comes first"
    )


class Network(Section):
    """The Q-network."""

    torso: Literal["auto", "nature", "minatar", "impala", "mlp", "none"] = _doc(
        "what the heads share; auto: by observation; none: nothing, but iqn's cosines"
    )
    torso_width: Annotated[int, Field(gt=0, le=64)] = _doc(
        "impala: its channels are 16, 32 and 32 times this"
    )
    torso_pool: Annotated[int, Field(ge=0, le=1_024)] = _doc(
        "impala: rows and columns that a last adaptive max-pool leaves; 0: no such pool"
    )
    spectral_norm: bool = _doc(
        "impala: kernels of residual blocks are divided by their largest singular value"
    )
    value_head: Annotated[str, Known(("auto", "quantile", "implicit_quantile"))] = _doc(
        "what an action's outputs say; auto: Q-values, or with atoms C51; quantile: QR-DQN; "
        "implicit_quantile: IQN; or module:name of yours"
    )
    torso_hidden: Widths = _doc("widths of the mlp torso")
    hidden: Widths = _doc("hidden widths of each head")
    heads: Annotated[int, Field(gt=0, le=1024)] = _doc("K, bootstrap heads")
    dueling: Literal["none", "mean", "max", "sum"] = _doc(
        "how value and advantage streams are put together"
    )
    noisy: Literal["none", "factorised", "independent"] = _doc("noise on the weights of the heads")
    noisy_sigma: Annotated[PositiveFloat | None, none] = _doc(
        'σ at the start, factorised times 1/√inputs; "none": 0.5, independent 0.017'
    )
    atoms: Annotated[int, Field(gt=0, le=65_536)] = _doc(
        "Z of the value distribution (C51), or of its quantiles; 1: Q-values"
    )
    v_min: Annotated[float, Field(ge=-1e6, le=1e6)] = _doc("C51: least atom")
    v_max: Annotated[float, Field(ge=-1e6, le=1e6)] = _doc("C51: largest atom")
    quantile_samples: Width = _doc("IQN: N, fractions drawn for the online network in a loss")
    quantile_samples_target: Width = _doc("IQN: N', those for the target in a loss")
    quantile_samples_acting: Width = _doc("IQN: K, those that pick an action")
    quantile_cosines: Width = _doc("IQN: cosines by which a fraction is told to the network")
    prior_scale: NonNegative = _doc("weight of the fixed random prior networks; 0: none")
    compute_dtype: Literal["float32", "bfloat16"] = _doc(
        "of what layers below the outputs multiply; all else is float32"
    )


class Replay(Section):
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


class Optimizer(Section):
    """The optimiser."""

    name: Literal["adam", "rmsprop"] = _doc("rmsprop is centred, as in Nature DQN")
    learning_rate: PositiveFloat = _doc("at the start")
    learning_rate_final: Annotated[PositiveFloat | None, none] = _doc(
        'at the end of the run, linearly; "none": constant'
    )
    eps: PositiveFloat = _doc("added to the denominator (inside the root for rmsprop)")
    decay: Annotated[float, Field(ge=0, lt=1)] = _doc("rmsprop: of the running moments")
    max_gradient_norm: NonNegative = _doc("global norm to which gradients are clipped; 0: off")


class Agent(Section):
    """The algorithm."""

    name: Annotated[str, pydantic.AfterValidator(fits_in_a_path)] = _doc(
        "the file under configs/agents, or of a file of yours"
    )
    discount: Probability = _doc("γ")
    double: bool = _doc("the online network selects the action that the target evaluates")
    loss: Annotated[str, Known(("huber", "squared"))] = _doc(
        "of the TD error, huber with δ = 1, or module:name of yours; C51 has a loss of its own"
    )
    munchausen_scale: Probability = _doc(
        "α of Munchausen: the target's scaled log-policy in the reward, and its soft value; 0: off"
    )
    munchausen_temperature: PositiveFloat = _doc("Munchausen: τ of the softmax policy")
    munchausen_clip: Annotated[float, Field(ge=-1e6, le=0)] = _doc(
        "Munchausen: the least that τ log-policy may be"
    )
    reward_clip: NonNegative = _doc("rewards are clipped to ± this when drawn; 0: off")
    target_period_steps: PositiveSteps = _doc(
        "agent steps between copies of the online parameters to the target"
    )
    epsilon_start: Probability = _doc("exploration until learning starts")
    epsilon_end: Probability = _doc("exploration after the decay")
    epsilon_decay_steps: Steps = _doc("agent steps of the decay, from the start of learning")
    epsilon_off_steps: Steps = _doc("agent steps after which epsilon is 0 in training; 0: never")
    epsilon_eval: Probability = _doc("exploration in evaluation")
    behaviour: Annotated[str, Known(("head", "head_per_step", "vote"))] = _doc(
        "who acts in training: a head for each episode, for each step, all by vote, or module:name "
        "of yours"
    )
    eval_policy: Literal["vote", "mean"] = _doc(
        "who acts in evaluation: all by vote, or their mean"
    )


class Train(Section):
    """The run."""

    steps: PositiveSteps = _doc("agent steps over all environments (Atari: 4 frames each)")
    schedule_steps: Steps = _doc(
        "agent steps over which the schedules of a whole run stretch; 0: `steps`"
    )
    learning_starts_steps: Steps = _doc("agent steps before the first update")
    update_period_steps: PositiveSteps = _doc("agent steps per update")
    seed: Annotated[int, Field(ge=0, lt=2**31 - 20_000)] = _doc("of everything random")
    num_seeds: Annotated[int, Field(gt=0, le=1024)] = _doc(
        "runs side by side with seeds from `seed` on; JAX-native environments only"
    )
    compilation_cache: bool = _doc(
        "keep compiled programs in the user's cache folder, for the next command to start sooner"
    )
    num_devices: NumDevices = _doc(
        "D, devices that share environments, replay and batches; all: as many as there are"
    )
    stop_return: Annotated[float | None, none] = _doc(
        'stop when the mean return of the last 100 episodes reaches it; "none": never'
    )
    log_period_steps: PositiveSteps = _doc("agent steps between log events")
    eval_period_steps: Steps = _doc("agent steps between evaluations; 0: only at the end")
    eval_episodes: Count = _doc("full episodes of an evaluation; 0: never evaluate")
    checkpoint_period_steps: Steps = _doc("agent steps between checkpoints; 0: only at the end")
    checkpoint_keep: Annotated[int, Field(gt=0, le=1_000_000)] = _doc(
        "checkpoints kept, the newest; the best is kept besides"
    )
    checkpoint_replay: bool = _doc(
        "checkpoints hold the replay; without it a resumed run first fills a new one"
    )


class Config(Section):
    """Everything a run depends on."""

    env: Env
    network: Network
    replay: Replay
    optimizer: Optimizer
    agent: Agent
    train: Train

    @pydantic.model_validator(mode="after")
    def _check_combinations(self) -> Self:
        for check in CHECKS:
            check(self)
        return self

    @property
    def sections(self) -> dict[str, Section]:
        """The sections by name, in order."""
        return {name: getattr(self, name) for name in type(self).model_fields}


def _check_batch(config: Config) -> None:
    replay = config.replay
    if replay.batch_size > replay.capacity:
        raise ConfigError(
            f"replay.batch_size = {replay.batch_size}: must not exceed "
            f"replay.capacity = {replay.capacity}"
        )


def _check_periods(config: Config) -> None:
    """A step of all environments owes whole updates, and targets are copied between such steps."""
    num_envs = config.env.num_envs
    period = config.train.update_period_steps
    if num_envs % period and period % num_envs:
        divisors = [n for n in range(1, math.isqrt(period) + 1) if period % n == 0]
        multiple = num_envs // period * period
        fitting = {*divisors, *(period // n for n in divisors), multiple, multiple + period}
        raise ConfigError(
            f"env.num_envs = {num_envs}: must be a multiple of "
            f"train.update_period_steps = {period} or divide it; "
            f"{_nearest(num_envs, fitting)}"
        )
    target = config.agent.target_period_steps
    if target % period:
        multiple = target // period * period
        raise ConfigError(
            f"agent.target_period_steps = {target}: must be a multiple of "
            f"train.update_period_steps = {period}; "
            f"{_nearest(target, {multiple, multiple + period})}"
        )


def _check_switches(config: Config) -> None:
    replay = config.replay
    if config.env.protocol != "none" and not is_atari(config.env.name):
        raise ConfigError(
            f"env.protocol = {config.env.protocol}: a protocol is for Atari games, and env.name = "
            f'"{config.env.name}" is none'
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


def _check_sizes(config: Config) -> None:
    """The first batch, and the ring, hold at least one n-step transition with its stack."""
    starts = config.train.learning_starts_steps
    capacity = config.replay.capacity
    needed = config.env.num_envs * (config.replay.n_step + config.env.frame_stack)
    if starts < needed:
        raise ConfigError(
            f"train.learning_starts_steps = {starts}: the first batch "
            f"needs env.num_envs × (n_step + frame_stack) = {needed} steps"
        )
    if capacity < needed:
        raise ConfigError(
            f"replay.capacity = {capacity}: a ring must hold env.num_envs × "
            f"(n_step + frame_stack) = {needed} transitions"
        )


def _check_devices(config: Config) -> None:
    devices = config.train.num_devices
    if devices == "all" or int(devices) == 1:
        return
    for section, field in (("env", "num_envs"), ("replay", "batch_size")):
        value = getattr(config.sections[section], field)
        if value % int(devices):
            raise ConfigError(
                f"train.num_devices = {devices}: must divide {section}.{field} = {value}"
            )
    if config.train.num_seeds > 1:
        raise ConfigError(
            f"train.num_devices = {devices}: must be 1 with train.num_seeds = "
            f"{config.train.num_seeds}, seeds beside each other share one device"
        )


CHECKS = (
    *(_check_batch, _check_periods, _check_switches, _check_sizes, _check_devices),
    *value_heads.CHECKS,
)


def _nearest(value: int, accepted: Iterable[int]) -> str:
    """The accepted values above 0 next to a value, in words."""
    positive = [n for n in accepted if n > 0]
    below = sorted(n for n in positive if n < value)
    above = sorted(n for n in positive if n > value)
    near = [str(n) for n in (*below[-1:], *above[:1])]
    return f"the nearest {'is' if len(near) == 1 else 'are'} {' and '.join(near)}"
