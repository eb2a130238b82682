"""A folder with everything that a trained agent is used with, written whole or not at all."""

import contextlib
import csv
import pathlib
import secrets
import shutil
from collections.abc import Iterator

from jdqn import compilation
from jdqn.config import Config, ConfigError, shown, to_toml, with_overrides
from jdqn.runs import directory, evaluation, exported
from jdqn.runs.episodes import Evaluation
from jdqn.runs.files import TEMPORARY, sync_folder, write_whole
from jdqn.runs.trained import Trained, load_run
from jdqn.tools import card, onnx_graph

DTYPES = ("float32", "float16")


def export(
    run: str | pathlib.Path,
    folder: str | pathlib.Path,
    *,
    checkpoint: str | None = None,
    seed: int | None = None,
    dtype: str = "float32",
    onnx: bool = True,
    episodes: int = 0,
) -> pathlib.Path:
    """Exports the agent of one seed: `model.safetensors`, `config.toml`, `README.md`, `model.onnx`.

    Args:
      run: a run directory, or an exported folder.
      folder: where to write; must be new or empty.
      checkpoint: of a run, agent steps or `best`; default: the newest that verifies.
      seed: of a run of several seeds, which; default: the first.
      dtype: in which parameters are kept, `float32` or `float16`.
      onnx: whether `model.onnx` is written; needs the package onnx.
      episodes: full games, by every policy, with what was written; the scores are in `README.md`.

    Returns:
      The folder.

    Raises:
      ConfigError: before anything is written.
    """
    folder = pathlib.Path(folder)
    _check(folder, dtype)
    if onnx:
        onnx_graph.require_onnx()
    trained = load_run(pathlib.Path(run), checkpoint)
    number = trained.number_of(seed)
    state = trained.states[number]
    config = with_overrides(trained.config, train__seed=trained.seeds[number], train__num_seeds=1)
    about = exported.about(
        config,
        run_id=trained.run_id or "unknown",
        steps=trained.steps,
        seed=config.train.seed,
        evaluations=_evaluations(trained, config),
    )
    files = {
        exported.FILE: exported.to_bytes(state, about, dtype),
        "config.toml": to_toml(config, **directory.read_record(trained.path)).encode(),
    }
    if onnx:
        files["model.onnx"] = onnx_graph.to_onnx(config, trained.interface, state, dtype)
    with _whole(folder) as unfinished:
        for name, data in files.items():
            write_whole(unfinished / name, data)
        measured = _play(unfinished, episodes) if episodes else []
        text = card.text(config, about, trained.interface, dtype, onnx, measured)
        write_whole(unfinished / "README.md", text.encode())
        sync_folder(unfinished)
    return folder


def _check(folder: pathlib.Path, dtype: str) -> None:
    """Raises ConfigError where nothing can be written so."""
    if dtype not in DTYPES:
        raise ConfigError(f"--dtype {shown(dtype)}: must be {' or '.join(DTYPES)}")
    try:
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"DIR {folder} is a file, expected a new or empty folder")
        if folder.is_dir() and any(folder.iterdir()):
            raise ConfigError(f"DIR {folder} is not empty, expected a new or empty folder")
    except OSError as error:
        raise ConfigError(f"cannot use DIR {folder}: {error.strerror}") from None


@contextlib.contextmanager
def _whole(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a folder beside, which takes the place of `folder` when all is written.

    Raises:
      ConfigError: it cannot be written.
    """
    folder = folder.absolute()
    unfinished = folder.with_name(f".{folder.name[:100]}-{secrets.token_hex(4)}{TEMPORARY}")
    try:
        try:
            unfinished.mkdir(parents=True)
            yield unfinished
            with contextlib.suppress(FileNotFoundError):
                folder.rmdir()  # empty
            unfinished.rename(folder)
            sync_folder(folder.parent)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    except OSError as error:
        raise ConfigError(f"cannot write DIR {folder}: {error.strerror}") from None


def _play(folder: pathlib.Path, episodes: int) -> list[tuple[str, Evaluation]]:
    """Full games with the agent in a folder, by every policy."""
    found = load_run(folder, train__eval_episodes=episodes)
    compilation.keep(found.config.train.compilation_cache)
    play = evaluation.make_evaluator(found.config, found.agent)
    (state,) = found.states
    return list(evaluation.by_every_policy(found.config, play, state, *found.seeds))


def _evaluations(trained: Trained, config: Config) -> list[dict[str, str]]:
    """What evaluations in training say of this seed, up to the checkpoint; oldest first."""
    if exported.is_exported(trained.path):
        return exported.read_about(trained.path).evaluations
    try:
        with (trained.path / "evaluations.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error):
        return []
    return [
        row
        for row in rows
        if None not in row.values()
        and None not in row
        and row.get("seed") == str(config.train.seed)
        and row.get("steps", "").isdecimal()
        and int(row["steps"]) <= trained.steps
    ]
