"""Learning curves with 95% bands over seeds.

python -m jdqn.plots curve.png DQN=runs/a Double=runs/b,runs/c
"""

import sys

from jdqn.config import Parser


def main(argv: list[str] | None = None) -> None:
    """The command line: a picture, and a table of the last point of each curve."""
    parser = Parser(
        prog="python -m jdqn.plots",
        description="Draws learning curves with 95% bands over seeds and prints where they end.",
        epilog="example: python -m jdqn.plots curve.png DQN=runs/a Double=runs/b,runs/c",
    )
    parser.add_argument("picture", metavar="PICTURE", help="file to write: .png, .svg or .pdf")
    parser.add_argument("run", metavar="LABEL=RUN,...", nargs="+", help="runs under one label")
    arguments = parser.parse(argv)
    pairs = [text.rpartition("=") for text in arguments.run]
    runs = {label or paths: paths.split(",") for label, _, paths in pairs}
    from jdqn.tools import curves

    try:
        axes = curves.plot_curves(runs)
        axes.figure.savefig(arguments.picture, dpi=120)
        for label, run_dirs in runs.items():
            steps, returns = curves.read_curves(run_dirs)
            mean, half = curves.interval(returns[:, -1])
            sys.stdout.write(
                f"| {label} | {len(returns)} | {steps[-1]:,.0f} | {mean:.2f} ± {half:.2f} |\n"
            )
    except (OSError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
