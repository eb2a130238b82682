"""Learning curves with 95% bands over seeds.

python -m jdqn.plots curve.png DQN=runs/a Double=runs/b,runs/c
"""

import io
import os
import pathlib
import shlex
import sys
from typing import TYPE_CHECKING

from jdqn.config import ConfigError, Parser
from jdqn.runs import files, stopping

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jdqn.tools.labels import Given

KINDS = (".png", ".svg", ".pdf")  # of a picture


def main(argv: list[str] | None = None) -> None:
    """The command line: a picture, and a table of the last point of each curve."""
    parser = Parser(
        prog="python -m jdqn.plots",
        description="Draws learning curves with 95% bands over seeds and prints where they end.",
        epilog="example: python -m jdqn.plots curve.png DQN=runs/a Double=runs/b,runs/c",
    )
    parser.add_argument("picture", metavar="PICTURE", help="file to write: .png, .svg or .pdf")
    parser.add_argument(
        "run",
        metavar="LABEL=RUN,...",
        nargs="*",
        help="runs under one label; RUN may be a folder of runs, or the directory of a sweep",
    )
    arguments = parser.parse(argv)

    def run() -> None:
        _check_picture(arguments.picture, arguments.run)
        try:
            draw(pathlib.Path(arguments.picture), arguments.run)
        except ValueError as error:  # matplotlib's too
            parser.refuse(error)

    stopping.command(parser.refuse, run)


def draw(picture: pathlib.Path, texts: list[str]) -> None:
    """Writes the picture of each `LABEL=RUN,...` and prints the table."""
    from matplotlib import figure  # without a display

    from jdqn.tools import curves, labels

    if picture.exists() and not picture.is_file():
        raise ConfigError(f"PICTURE {picture}: is there and no file")
    given = labels.read(texts)
    runs = _runs(given)
    environments = _environments(runs, all_labelled=all(one.label for one in given))
    read = {label: curves.read_curves(paths, label=label) for label, paths in runs.items()}
    title = f"Training on {', '.join(environments)}" if environments else "Training"
    drawn = figure.Figure(**curves.FIGURE)
    curves.draw_curves(read, drawn.subplots(), title)
    data = io.BytesIO()
    drawn.savefig(data, dpi=120, format=picture.suffix[1:].lower())
    try:
        files.write_whole(picture, data.getvalue())
    except OSError as error:
        raise ConfigError(f"PICTURE {picture}: cannot be written: {error.strerror}") from None
    sys.stdout.write("| label | seeds | steps | mean of the last 100 games |\n|---|---|---|---|\n")
    for label, (steps, returns) in read.items():
        mean, half = curves.interval(returns[:, -1])
        band = f" ± {half:.2f}" if len(returns) > 1 else ""
        sys.stdout.write(f"| {label} | {len(returns)} | {steps[-1]:,.0f} | {mean:.2f}{band} |\n")
    sys.stdout.write(f"written: {picture}\n")


def _runs(given: "Sequence[Given]") -> dict[str, tuple[str, ...]]:
    """The runs of each curve by label; those in a folder of runs are put together as in a report.

    Raises:
      ConfigError: such a folder has nothing to draw, or what cannot be one curve.
    """
    folders = [one for one in given if any(map(_is_folder_of_runs, one.paths))]
    names = [one.label or ",".join(one.paths) for one in given]
    found = {name: one.paths for name, one in zip(names, given, strict=True) if one not in folders}
    if not folders:
        return found
    from jdqn.tools import groups

    titles: dict[str, str] = {}
    for environment in groups.grouped(folders):
        for group in environment.groups:
            if group.label in titles:
                raise ConfigError(_not_one(group.label, [titles[group.label], environment.title]))
            if group.label in found:
                raise ConfigError(f"{group.label}: is the name of two curves, expected LABEL=RUN")
            titles[group.label] = environment.title
            found[group.label] = tuple(str(run.path) for run in group.runs)
    ordered = [name for name in names if name in found]
    return {name: found[name] for name in dict.fromkeys([*ordered, *found])}


def _is_folder_of_runs(path: str) -> bool:
    names = ("config.toml", "episodes.csv")
    return os.path.isdir(path) and not any(os.path.exists(os.path.join(path, n)) for n in names)


def _not_one(label: str, environments: "Sequence[str]") -> str:
    names = " and ".join(environments)
    return f"{label}: its runs are on {names}; a band is over seeds of one environment"


def _environments(runs: dict[str, tuple[str, ...]], *, all_labelled: bool) -> list[str]:
    """The environments of all runs; refuses what has no axis, or no band, in common."""
    from jdqn.tools import labels

    found: dict[str, None] = {}
    for label, paths in runs.items():
        names = [labels.environment_of(pathlib.Path(path)) for path in paths]
        known = list(dict.fromkeys(name for name in names if name is not None))
        if len(known) > 1:
            raise ConfigError(_not_one(label, known))
        found |= dict.fromkeys(known)
    if len(found) > 1 and not all_labelled:
        raise ConfigError(
            f"the runs are on {' and '.join(found)}, whose returns have no axis in common; draw "
            "a picture of each, or give every run a LABEL= if this is meant"
        )
    return list(found)


def _check_picture(picture: str, runs: list[str]) -> None:
    """Refuses runs without a picture, a picture without runs, and what no picture can be."""
    path = pathlib.Path(picture)
    is_picture = path.suffix.lower() in KINDS
    if path.is_dir() or path.suffix == ".csv" or ("=" in picture and not is_picture):
        command = shlex.join(["python", "-m", "jdqn.plots", "curve.png", picture, *runs])
        raise ConfigError(f"PICTURE {picture}: the picture to write comes first, as in {command}")
    if not is_picture:
        raise ConfigError(f"PICTURE {picture}: must end in {', '.join(KINDS[:-1])} or {KINDS[-1]}")
    if not runs:
        command = f"python -m jdqn.plots {shlex.quote(picture)} DQN=runs/a"
        raise ConfigError(
            f"LABEL=RUN,...: no run is named behind PICTURE {picture}, as in {command}"
        )


if __name__ == "__main__":
    main()
