"""jdqn: the deep-Q-network family in JAX.

Train from Python with ``from jdqn.train import train``; the pieces are re-exported here.
"""

from jdqn.agent import make_agent
from jdqn.config import load_config
from jdqn.envs import make_env
from jdqn.replay import make_replay

__all__ = ["load_config", "make_agent", "make_env", "make_replay"]
__version__ = "0.1.0"
