"""The parameters of an exported agent: `model.safetensors`, beside its `config.toml`.

Arrays are named by their place in the network: `params/q/kernel`, `prior_params/...` and, where a
network has any, `network_state/...`. Metadata are strings: the format, the run, steps, seed,
configuration, and a hash of the arrays, which the format itself does not have.
"""

import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from jdqn.config import Config, ConfigError
from jdqn.learning import NEVER, AgentState
from jdqn.runs import checkpoint, parts
from jdqn.runs.parts import Arrays

FILE = "model.safetensors"
FORMAT = "1"
LARGEST = 2**63 - 1  # whole number that a config.toml holds
DTYPES = {"F16": "<f2", "F32": "<f4", "I32": "<i4", "U32": "<u4", "U8": "|u1", "BOOL": "|b1"}


class About(NamedTuple):
    """What is known of exported parameters."""

    run_id: str
    steps: int  # agent steps
    seed: int
    config: dict[str, Any]  # `checkpoint.config_record`
    evaluations: list[dict[str, str]]  # rows of the run's evaluations.csv, of this seed


def is_exported(path: pathlib.Path) -> bool:
    """Whether a folder is an exported agent."""
    return (path / FILE).is_file()


def weights_of(state: AgentState) -> dict[str, Any]:
    """The part of a state that acting needs, a tree."""
    prior = dict(state.prior_params or {})
    return {
        "params": state.params["params"],
        "prior_params": prior.pop("params", None),
        "prior_state": prior,
        "network_state": state.network_state,
    }


def with_weights(state: AgentState, weights: dict[str, Any]) -> AgentState:
    """A state with other weights, of which its target has the same."""
    params = {"params": weights["params"]}
    prior = weights["prior_params"]
    return state.replace(
        params=params,
        target_params=params,
        prior_params=None if prior is None else {"params": prior, **weights["prior_state"]},
        network_state=weights["network_state"],
        target_network_state=weights["network_state"],
    )


def to_bytes(state: AgentState, about: About, dtype: str) -> bytes:
    """The file of one seed's state; numbers that are not whole are kept in `dtype`.

    Raises:
      ConfigError: one of them is too large for it.
    """
    arrays = {
        name: _as_kept(name, array, dtype) if array.dtype.kind == "f" else array
        for name, array in parts.arrays_of(weights_of(state)).items()
    }
    plain = {name: str(value) for name, value in about._asdict().items()}
    texts = {"config": json.dumps(about.config), "evaluations": json.dumps(about.evaluations)}
    metadata = {
        "format": "jdqn",
        "format_version": FORMAT,
        **checkpoint.versions(),
        **plain,
        **texts,
        "sha256": _digest(arrays),
    }
    return safetensors.numpy.save(arrays, metadata)


def _as_kept(name: str, array: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(over="ignore"):  # seen below
        kept = array.astype(dtype)
    too_large = np.isfinite(array) & ~np.isfinite(kept)
    if too_large.any():
        raise ConfigError(
            f"--dtype {dtype}: {name} has {array[too_large][0]:g}, which it cannot hold"
        )
    return kept


def read(path: pathlib.Path, like: AgentState) -> tuple[AgentState, About]:
    """The state of an exported agent: what acts is read, what only learns is left out.

    Args:
      path: the folder.
      like: an abstract state of the same agent.

    Raises:
      ConfigError: the file is damaged, foreign, or does not fit `like`.
    """
    file = path / FILE
    wanted = weights_of(like)
    try:
        with safetensors.safe_open(file, framework="numpy") as opened:
            metadata = opened.metadata() or {}
            about = _about(file, metadata)
            _check_forms(file, opened, parts.forms_of(wanted))
            stored = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{file} is no safetensors file, or damaged: {error}") from None
    if _digest(stored) != metadata.get("sha256"):
        raise ConfigError(f"{file} has changed since it was written")
    dtypes = {name: form[0] for name, form in parts.forms_of(wanted).items()}
    arrays = {name: array.astype(dtypes[name], copy=False) for name, array in stored.items()}
    lean = like.replace(opt_state=(), key=None, non_finite=np.full(2, NEVER, np.int32))
    return with_weights(lean, parts.tree_like(wanted, arrays)), about


def read_about(path: pathlib.Path) -> About:
    """What is known of exported parameters, without them. Raises ConfigError."""
    file = path / FILE
    try:
        with safetensors.safe_open(file, framework="numpy") as opened:
            return _about(file, opened.metadata() or {})
    except (safetensors.SafetensorError, OSError) as error:
        raise ConfigError(f"{file} is no safetensors file, or damaged: {error}") from None


def about(config: Config, **rest: Any) -> About:
    """What is to be known of parameters of a configuration."""
    return About(config=checkpoint.config_record(config), **rest)


def _about(file: pathlib.Path, metadata: Mapping[str, str]) -> About:
    if metadata.get("format") != "jdqn":
        raise ConfigError(f"{file} was not written by python -m jdqn.export")
    if (version := metadata.get("format_version")) != FORMAT:
        raise ConfigError(f"{file} has format {version!r}, this version reads {FORMAT}")
    try:
        found = About(
            run_id=metadata["run_id"],
            steps=int(metadata["steps"]),
            seed=int(metadata["seed"]),
            config=json.loads(metadata["config"]),
            evaluations=json.loads(metadata["evaluations"]),
        )
        cells = [cell for row in found.evaluations for cell in row.values()]
        cells_are_texts = all(isinstance(cell, str) for cell in cells)
        sections_are_tables = all(isinstance(some, dict) for some in found.config.values())
        is_whole = {"steps", "schedule_steps"} <= found.config["train"].keys()
        if not (cells_are_texts and sections_are_tables and is_whole):
            raise ValueError
        if not 0 <= found.steps <= LARGEST:
            raise ValueError
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        raise ConfigError(f"{file} does not say which run it is of") from None
    return found


def _check_forms(file: pathlib.Path, opened: Any, expected: parts.Forms) -> None:
    """Raises ConfigError where arrays are others than expected; nothing is read for it."""
    found: parts.Forms = {}
    for name in opened.keys():  # noqa: SIM118
        piece = opened.get_slice(name)
        dtype = DTYPES.get(piece.get_dtype(), piece.get_dtype())
        # Half precision is for files alone.
        is_half = dtype == DTYPES["F16"] and expected.get(name, [""])[0] == DTYPES["F32"]
        found[name] = [DTYPES["F32"] if is_half else dtype, list(piece.get_shape())]
    if wrong := first_difference(found, expected):
        raise ConfigError(f"{file} does not fit its config.toml: {wrong}")


def first_difference(found: parts.Forms, expected: parts.Forms) -> str | None:
    """The first array that is not the one expected, in words; None: all are."""
    for name in {**expected, **found}:
        if found.get(name) != expected.get(name):
            there = _in_words(found.get(name))
            return f"{name} is {there}, expected {_in_words(expected.get(name), 'nothing')}"
    return None


def _in_words(form: list | None, absent: str = "not there") -> str:
    if form is None:
        return absent
    return f"{np.dtype(form[0])} {form[1]}" if form[0] in parts.DTYPES else f"{form[0]} {form[1]}"


def _digest(arrays: Arrays) -> str:
    """A hash of names, forms and bytes."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(parts.flat(array))
    return digest.hexdigest()
