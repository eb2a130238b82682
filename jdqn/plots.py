"""Learning curves with 95% bands over seeds.

python -m jdqn.plots curve.png DQN=runs/a Double=runs/b,runs/c
"""

import pathlib
import shlex
import sys

from jdqn.config import ConfigError, Parser
from jdqn.runs import stopping


def main(argv: list[str] | None = None) -> None:
    """The command line: a picture, and a table of the last point of each curve."""
    parser = Parser(
        prog="python -m jdqn.plots",
        description="Draws learning curves with 95% bands over seeds and prints where they end.",
        epilog="example: python -m jdqn.plots curve.png DQN=runs/a Double=runs/b,runs/c",
    )
    parser.add_argument("picture", metavar="PICTURE", help="file to write: .png, .svg or .pdf")
    parser.add_argument("run", metavar="LABEL=RUN,...", nargs="*", help="runs under one label")
    arguments = parser.parse(argv)

    def run() -> None:
        _check_order(arguments.picture, arguments.run)
        try:
            draw(pathlib.Path(arguments.picture), _runs(arguments.run))
        except ValueError as error:  # matplotlib's too
            parser.refuse(error)

    stopping.command(parser.refuse, run)


def draw(picture: pathlib.Path, runs: dict[str, list[str]]) -> None:
    """Writes the picture and prints the table."""
    from matplotlib import figure  # without a display

    from jdqn.tools import curves

    drawn = figure.Figure(**curves.FIGURE)
    kinds = drawn.canvas.get_supported_filetypes()
    if picture.suffix[1:].lower() not in kinds:
        raise ConfigError(f"PICTURE {picture}: must end in one of .{', .'.join(kinds)}")
    if picture.exists() and not picture.is_file():
        raise ConfigError(f"PICTURE {picture}: is there and no file")
    read = {label: curves.read_curves(run_dirs) for label, run_dirs in runs.items()}
    curves.draw_curves(read, drawn.subplots())
    drawn.savefig(picture, dpi=120)
    sys.stdout.write("| label | seeds | steps | mean of the last 100 games |\n|---|---|---|---|\n")
    for label, (steps, returns) in read.items():
        mean, half = curves.interval(returns[:, -1])
        band = f" ± {half:.2f}" if len(returns) > 1 else ""
        sys.stdout.write(f"| {label} | {len(returns)} | {steps[-1]:,.0f} | {mean:.2f}{band} |\n")
    sys.stdout.write(f"written: {picture}\n")


def _check_order(picture: str, runs: list[str]) -> None:
    """Refuses runs without a picture, and a picture without runs."""
    path = pathlib.Path(picture)
    if "=" in picture or path.is_dir() or path.suffix == ".csv":
        command = shlex.join(["python", "-m", "jdqn.plots", "curve.png", picture, *runs])
        raise ConfigError(f"PICTURE {picture}: the picture to write comes first, as in {command}")
    if not runs:
        command = f"python -m jdqn.plots {shlex.quote(picture)} DQN=runs/a"
        raise ConfigError(
            f"LABEL=RUN,...: no run is named behind PICTURE {picture}, as in {command}"
        )


def _runs(texts: list[str]) -> dict[str, list[str]]:
    """The runs of each `LABEL=RUN,...`; without a label they are their own."""
    runs: dict[str, list[str]] = {}
    for text in texts:
        label, _, joined = text.rpartition("=")
        label = label or joined
        paths = joined.split(",")
        if not all(paths):
            raise ConfigError(f"{text}: a run has no name, expected LABEL=RUN,...")
        if label in runs:
            raise ConfigError(f"{text}: label given twice, expected LABEL=RUN,RUN once")
        runs[label] = paths
    return runs


if __name__ == "__main__":
    main()
