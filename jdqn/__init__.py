"""jdqn: the deep-Q-network family in JAX.

Train from Python with ``from jdqn.train import train``, use what was trained with ``jdqn.load``.
What is exported here is imported when it is first used, so that ``import jdqn`` is quick.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jdqn.config import load_config
    from jdqn.envs import make_env
    from jdqn.runs.player import load

__all__ = ["load", "load_config", "make_env"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "load":
        from jdqn.runs.player import load

        return load
    if name == "load_config":
        from jdqn.config import load_config

        return load_config
    if name == "make_env":
        from jdqn.envs import make_env

        return make_env
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
