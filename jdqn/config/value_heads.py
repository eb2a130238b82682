"""What may stand beside which value head: one sentence for each combination that means nothing."""

from typing import TYPE_CHECKING

from jdqn.config.errors import ConfigError
from jdqn.config.naming import is_own

if TYPE_CHECKING:
    from jdqn.config.schema import Config


def check_atoms(config: "Config") -> None:
    """Raises ConfigError where atoms lie on one another, or beside a loss that they do not use."""
    network = config.network
    if network.atoms == 1 and network.value_head == "quantile":
        raise ConfigError(
            "network.atoms = 1: must be above 1 with network.value_head = quantile, whose "
            "quantiles it counts (Dabney et al.: 200)"
        )
    if network.atoms == 1 or network.value_head == "quantile":
        return
    if network.value_head == "implicit_quantile":
        raise ConfigError(
            f"network.atoms = {network.atoms}: must be 1 with network.value_head = "
            "implicit_quantile, whose quantiles are network.quantile_samples"
        )
    if network.v_max - network.v_min < 1e-3:
        raise ConfigError(
            f"network.v_min = {network.v_min:g}: must lie well below network.v_max = "
            f"{network.v_max:g}"
        )
    if is_own(config.agent.loss):
        raise ConfigError(
            f"agent.loss = {config.agent.loss}: of no use with network.atoms = "
            f"{network.atoms}, C51 has a loss of its own"
        )


def check_munchausen(config: "Config") -> None:
    """Raises ConfigError where a value head has no soft value, or an action is to be selected."""
    network = config.network
    if not config.agent.munchausen_scale:
        return
    beside = f"with agent.munchausen_scale = {config.agent.munchausen_scale:g}"
    if config.agent.double:
        raise ConfigError(
            f"agent.double = true: must be false {beside}, whose target weighs all actions and "
            "selects none"
        )
    if is_own(network.value_head):
        raise ConfigError(
            f'network.value_head = "{network.value_head}": must be one of jdqn\'s {beside}, a head '
            "of yours has a target of its own"
        )
    if network.value_head == "auto" and network.atoms > 1:
        raise ConfigError(
            f"network.atoms = {network.atoms}: must be 1 {beside}, whose target is a mean over "
            "actions, which the fixed atoms of C51 do not have; or network.value_head quantile"
        )


CHECKS = (check_atoms, check_munchausen)
