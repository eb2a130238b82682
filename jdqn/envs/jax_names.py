"""Which environment written in JAX a name stands for: gymnax's, our own, one of the user's."""

from typing import Any, NamedTuple

from jdqn.config import ConfigError, shown, suggest
from jdqn.config.modules import load_object
from jdqn.config.schema import Env
from jdqn.envs.chain import Chain
from jdqn.envs.deep_sea import DeepSea
from jdqn.envs.guard import said

# Prefix of a name here, suffix of the name in gymnax.
FAMILIES = {"minatar": "-MinAtar", "bsuite": "-bsuite", "gymnax": ""}
# Of these gymnax's observations are zeros and ones, in float32.
BINARY = ("-MinAtar", "Catch-bsuite")
OWN = ("jdqn/Chain", "bsuite/DeepSea")
OF_THE_USER = "jax:"


class Found(NamedTuple):
    """An environment with the functions that `jax_protocol` asks for."""

    env: Any
    params: Any  # what its functions get, unless it draws that
    is_binary: bool = False  # observations are zeros and ones, whatever their dtype


def is_native(name: str) -> bool:
    """Whether a name has the prefix of a family written in JAX."""
    family, slash, _ = name.partition("/")
    return name.startswith(OF_THE_USER) or bool(slash and family in {*FAMILIES, "jdqn"})


def find(fields: Env) -> Found:
    """The environment that `env.name` names.

    Raises:
      ConfigError: the name is unknown, gymnax is missing, or the user's function fails.
    """
    name = fields.name
    if name.startswith(OF_THE_USER):
        return _of_the_user(fields)
    if name == "bsuite/DeepSea":
        return Found(DeepSea(fields.size, fields.stochastic), None)
    if name == "jdqn/Chain":
        if fields.size < 3:
            raise ConfigError(f"env.size = {fields.size}: jdqn/Chain needs at least 3 states")
        return Found(Chain(fields.size), None)
    if name.startswith("jdqn/"):
        raise ConfigError(f'unknown environment "{name}"{suggest(name, OWN)}')
    return _of_gymnax(name)


def _of_the_user(fields: Env) -> Found:
    """What `make` of `jax:my_module:make` returns: an environment, or it and its parameters."""
    field = f'env.name = "{fields.name}"'
    target = fields.name.removeprefix(OF_THE_USER)
    if not all(target.partition(":")):
        raise ConfigError(f'{field}: expected "jax:MODULE:FUNCTION", such as "jax:my_module:make"')
    make = load_object(target, field)
    kwargs = fields.kwargs.plain()
    try:
        made = make(**kwargs)
    except Exception as error:  # whatever its code raises
        given = f" with env.kwargs = {shown(kwargs)}" if kwargs else ""
        raise ConfigError(f"{field}: {target} raised {said(error)}{given}") from error
    if isinstance(made, tuple) and len(made) == 2:  # as gymnax.make
        return Found(*made)
    return Found(made, getattr(made, "default_params", None))


def _of_gymnax(name: str) -> Found:
    try:
        import gymnax
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "gymnax":
            what = "gymnax is not installed; pip install -e '.[jax-envs]' in the checkout of jdqn"
        else:  # something that gymnax imports
            what = f"importing gymnax raised {said(error)}"
        raise ConfigError(f'env.name = "{name}": {what}') from error
    known = {
        f"{prefix}/{full_name.removesuffix(suffix)}": full_name
        for prefix, suffix in FAMILIES.items()
        for full_name in gymnax.registered_envs
        if full_name.endswith(suffix)
    }
    full_name = known.get(name)
    if full_name is None:
        raise ConfigError(f'unknown environment "{name}"{suggest(name, [*known, *OWN])}')
    try:
        env, params = gymnax.make(full_name)
    except Exception as error:  # MNISTBandit downloads its images
        raise ConfigError(f'env.name = "{name}": gymnax.make raised {said(error)}') from error
    return Found(env, params, full_name.endswith(BINARY))
