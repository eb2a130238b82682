"""jdqn: the deep-Q-network family in JAX.

Train from Python with ``jdqn.train.train``, use what was trained with ``jdqn.load``. What is
exported here, and every module, is imported when it is first used, so that ``import jdqn`` is
quick.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jdqn.config import load_config
    from jdqn.envs import make_env
    from jdqn.runs.player import load

__all__ = ["load", "load_config", "make_env"]
__version__ = "0.1.0"

_HOMES = {"load": "jdqn.runs.player", "load_config": "jdqn.config", "make_env": "jdqn.envs"}


def __getattr__(name: str) -> Any:
    if home := _HOMES.get(name):
        return getattr(importlib.import_module(home), name)
    module = f"{__name__}.{name}"
    if name.isidentifier() and not name.startswith("_") and importlib.util.find_spec(module):
        return importlib.import_module(module)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
