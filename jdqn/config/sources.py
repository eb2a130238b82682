"""Where the values of a configuration come from, in a line for people."""

from jdqn.config.layers import Kind, Layer, for_agent, merged, names, read_named
from jdqn.config.schema import Config

# Said of every run anyway, or by the layers' names.
_SAID = {
    *("env.name", "env.preset", "env.protocol", "agent.name"),
    *("train.steps", "train.seed", "train.num_seeds"),
}
_MOST_NAMES = 4


def layers_of(config: Config) -> str:
    """The files that ship, by name, and the fields that say something else."""
    agent = config.agent.name
    own = set_beside(config)
    files = [f"agent {agent}" if agent in names("agents") else f"agent {agent} (not of jdqn)"]
    files += [f"preset {config.env.preset}"] if config.env.preset != "none" else []
    files += [f"protocol {protocol_of(config)}"] if config.env.protocol != "none" else []
    more = f" and {len(own) - _MOST_NAMES} more" if len(own) > _MOST_NAMES else ""
    fields = f"; set beside them: {', '.join(own[:_MOST_NAMES])}{more}" if own else ""
    return ", ".join(files) + fields


def set_beside(config: Config) -> list[str]:
    """The fields by dotted name that say something else than the files that ship."""
    of_agent = _layer("agents", config.agent.name)
    preset = for_agent(of_agent, _layer("presets", config.env.preset))
    of_protocol = [
        f"env.{name}" for name in _layer("protocols", config.env.protocol).get("env", {})
    ]
    layers = [read_named("agents", "dqn"), of_agent, preset]
    return [name for name in _differing(config, merged(layers, {})) if name not in of_protocol]


def protocol_of(config: Config) -> str:
    """The protocol by which scores are measured, and what differs from it."""
    name = config.env.protocol
    fields = _layer("protocols", name).get("env", {})
    now = config.env.model_dump()
    other = [
        f"{k} {str(now[k]).lower() if isinstance(now[k], bool) else now[k]}"
        for k, value in fields.items()
        if now[k] != value
    ]
    return f"{name}, but {', '.join(other)}" if other else name


def _layer(kind: Kind, name: str) -> Layer:
    """A file that ships; nothing where there is none of that name."""
    return read_named(kind, name) if name in names(kind) else {}


def _differing(config: Config, layer: Layer) -> list[str]:
    """The fields by dotted name whose values are not those of a layer."""
    values = Config.model_validate(layer).model_dump()
    return [
        f"{section}.{field}"
        for section, fields in config.model_dump().items()
        for field, value in fields.items()
        if f"{section}.{field}" not in _SAID and value != values[section][field]
    ]
