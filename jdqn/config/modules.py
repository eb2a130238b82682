"""What a configuration names in a module of the user's: `module:name`.

A run from a stranger must not bring code: a module comes from the user's own Python path, never
from the folder of a run or of an exported agent, and is named before it is imported. Nor must it
choose among the functions of others, such as `os:system`: only what is the user's own is called.
"""

import contextlib
import importlib
import importlib.util
import inspect
import pathlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from jdqn.config.errors import ConfigError
from jdqn.config.naming import suggest
from jdqn.config.wording import one_line

# Beside `config.toml`, what tells the folder of a run or of an exported agent.
MARKS = ("checkpoints", "metrics.jsonl", "model.safetensors")
NOT_OF_THE_USER = sys.stdlib_module_names | {"jdqn", "__main__"}
INSTALLED = {"site-packages", "dist-packages"}  # folders


def import_module(name: str, field: str, *, says: bool = True) -> ModuleType:
    """Imports a module of the user's and says so on stderr, once.

    Args:
      name: dotted, such as `my_package.my_module`.
      field: what names it, for the sentence, such as `env.name = "my_module:MyEnv-v0"`.
      says: false in a worker, whose parent has said it.

    Raises:
      ConfigError: it is not the user's, not found, lies in the folder of a run, or fails; with its
        own error.
    """
    top = _top(name, field)
    if name in sys.modules:
        return sys.modules[name]
    places = _find(top, field)
    for place in places:
        # A link may lead out of a run, into what came with it.
        for folder in (place, *place.parents, *place.resolve().parents):
            if (folder / "config.toml").is_file() and any((folder / m).exists() for m in MARKS):
                raise ConfigError(
                    f"{field}: {place} lies in the folder of a run, whose code is never imported; "
                    "put the module on your own Python path"
                )
    if says:
        shown = ", ".join(str(place) for place in places)
        sys.stderr.write(one_line(f"importing {name} ({shown})") + "\n")
    try:
        return importlib.import_module(name)
    except Exception as error:  # whatever its code raises
        kind = type(error).__name__
        raise ConfigError(f"{field}: importing {name} raised {kind}: {error}") from error


def load_object(text: str, field: str) -> Any:
    """What `module:name` stands for; see `import_module`.

    Raises:
      ConfigError: as `import_module`, or the module is of an installed package, has no such name,
        or only imports it from Python's own.
    """
    module_name, _, name = text.partition(":")
    for place in _find(_top(module_name, field), field):
        if INSTALLED.intersection(place.parts):
            raise ConfigError(
                f"{field}: {module_name} is of an installed package, {place}; name a module of "
                "your own, which may import from it"
            )
    module = import_module(module_name, field)
    if not hasattr(module, name):
        public = [known for known in vars(module) if not known.startswith("_")]
        raise ConfigError(f'{field}: {module_name} has no "{name}"{suggest(name, public)}')
    found = getattr(module, name)
    home = str(found.__module__).partition(".")[0] if inspect.isroutine(found) else ""
    if home in sys.stdlib_module_names:
        raise ConfigError(f"{field}: {name} is Python's own, of {home}; name a function of yours")
    return found


def make(text: str, field: str, kind: type, *arguments: Any) -> Any:
    """What the function that `module:name` stands for makes; see `load_object`.

    Raises:
      ConfigError: as `load_object`, or the function fails, or makes something of another kind.
    """
    with named(field):
        made = load_object(text, field)(*arguments)
    if not isinstance(made, kind):
        found = type(made).__name__
        raise ConfigError(f"{field}: returned something of type {found}, not a {kind.__name__}")
    return made


@contextlib.contextmanager
def named(field: str) -> Iterator[None]:
    """Makes one sentence, a ConfigError, of whatever a function of the user's raises."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:  # whatever its code raises
        what = str(error).strip().partition("\n")[0]
        raise ConfigError(f"{field}: raised {type(error).__name__}: {what}") from error


def _top(name: str, field: str) -> str:
    """The first part of a module's name, which may be one of the user's."""
    if not all(part.isidentifier() for part in name.split(".")) or name.endswith(".py"):
        plain = pathlib.PurePath(name.removesuffix(".py")).name
        hint = f'; did you mean "{plain}"?' if plain.isidentifier() else ""
        raise ConfigError(f'{field}: "{name}" is no name of a Python module{hint}')
    top = name.partition(".")[0]
    if top in NOT_OF_THE_USER:
        raise ConfigError(f"{field}: {top} is Python's own or jdqn's; name a module of yours")
    return top


def _find(top: str, field: str) -> list[pathlib.Path]:
    """Where a top-level module lies, without importing it."""
    importlib.invalidate_caches()
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:  # in sys.modules, put there by hand
        return []
    if spec is None:
        raise ConfigError(
            f'{field}: there is no module "{top}" on the Python path; run the command in its '
            "folder, install it, or set PYTHONPATH"
        )
    return [pathlib.Path(place).absolute() for place in _places(spec)]


def _places(spec: Any) -> Iterator[str]:
    if spec.has_location:
        yield spec.origin
    else:
        yield from spec.submodule_search_locations or ()
