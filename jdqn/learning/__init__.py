"""Learning: value heads and losses, exploration and acting, the update, diagnostics."""

from jdqn.learning.actor import ALL_MEAN, ALL_VOTE, ActorState
from jdqn.learning.agent import Agent, make_agent
from jdqn.learning.diagnostics import held_out
from jdqn.learning.losses import Loss
from jdqn.learning.model import NEVER, AgentState
from jdqn.learning.optimizer import make_optimizer
from jdqn.learning.values import Calls, ValueHead, make_value_head

__all__ = [
    "ALL_MEAN",
    "ALL_VOTE",
    "NEVER",
    "ActorState",
    "Agent",
    "AgentState",
    "Calls",
    "Loss",
    "ValueHead",
    "held_out",
    "make_agent",
    "make_optimizer",
    "make_value_head",
]
