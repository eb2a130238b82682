"""The replay: a ring of single frames, priorities that say what may be drawn, n-step windows."""

from jdqn.replay.priorities import Priorities
from jdqn.replay.ring import Replay, ReplayState, Rows, make_replay
from jdqn.replay.window import n_step_return

__all__ = [
    "Priorities",
    "Replay",
    "ReplayState",
    "Rows",
    "make_replay",
    "n_step_return",
]
