"""Fields that change nothing beside the others, so that nobody takes two equal runs for two."""

from collections.abc import Callable

from jdqn.config.naming import is_atari, is_own
from jdqn.config.schema import Config
from jdqn.config.sources import set_beside

# Why fields change nothing, where they do change something, and the fields.
IDLE: tuple[tuple[str, Callable[[Config], bool], tuple[str, ...]], ...] = (
    (
        "for Atari games",
        lambda config: is_atari(config.env.name),
        (
            *("env.num_threads", "env.backend", "env.frame_skip", "env.sticky_probability"),
            *("env.full_action_space", "env.noop_max", "env.fire_on_reset"),
            "env.life_loss_terminates",
        ),
    ),
    (
        "for bsuite/DeepSea and jdqn/Chain",
        lambda config: config.env.name in ("bsuite/DeepSea", "jdqn/Chain"),
        ("env.size",),
    ),
    (
        "for bsuite/DeepSea",
        lambda config: config.env.name == "bsuite/DeepSea",
        ("env.stochastic",),
    ),
    ("for noisy networks", lambda config: config.network.noisy != "none", ("network.noisy_sigma",)),
    (
        "for C51",
        lambda config: _is_c51(config) or is_own(config.network.value_head),
        ("network.v_min", "network.v_max"),
    ),
    ("C51 has a loss of its own", lambda config: not _is_c51(config), ("agent.loss",)),
    (
        "for implicit quantiles",
        lambda config: (
            config.network.value_head == "implicit_quantile" or is_own(config.network.value_head)
        ),
        (
            *("network.quantile_samples", "network.quantile_samples_target"),
            *("network.quantile_samples_acting", "network.quantile_cosines"),
        ),
    ),
    (
        "for prioritised replay",
        lambda config: config.replay.priority_exponent > 0,
        (
            *("replay.priority_epsilon", "replay.importance_exponent"),
            *("replay.importance_exponent_final", "replay.importance_anneal_steps"),
        ),
    ),
    (
        "for priorities by rank",
        lambda config: config.replay.prioritization == "rank",
        ("replay.rank_refresh_updates",),
    ),
    ("for rmsprop", lambda config: config.optimizer.name == "rmsprop", ("optimizer.decay",)),
    (
        "for Munchausen",
        lambda config: config.agent.munchausen_scale > 0,
        ("agent.munchausen_temperature", "agent.munchausen_clip"),
    ),
    (
        "for several heads",
        lambda config: config.network.heads > 1 or is_own(config.agent.behaviour),
        ("agent.behaviour", "agent.eval_policy"),
    ),
)


def idle(config: Config) -> dict[str, str]:
    """The fields by dotted name that change nothing, and why."""
    return {
        field: why for why, has_effect, fields in IDLE if not has_effect(config) for field in fields
    }


def without_effect(config: Config) -> str | None:
    """What a run says of fields that somebody has set and that change nothing; None: of none."""
    why = idle(config)
    told = [f"{field} ({why[field]})" for field in set_beside(config) if field in why]
    return f"without effect here: {', '.join(told)}" if told else None


def _is_c51(config: Config) -> bool:
    return config.network.value_head == "auto" and config.network.atoms > 1
