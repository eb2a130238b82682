"""One self-contained HTML page about some runs.

python -m jdqn.report runs/a runs/b --out page.html
"""

import os
import pathlib
import sys

from jdqn.config import ConfigError, Parser
from jdqn.runs import stopping


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = Parser(
        prog="python -m jdqn.report",
        description="Writes one HTML page about some runs: learning curves with 95% intervals, "
        "scores, diagnostics, settings that differ. Runs without a label are put together by "
        "environment, agent and settings.",
        epilog="example: python -m jdqn.report runs --out page.html\n"
        "example: python -m jdqn.report DQN=runs/a,runs/b Double=runs/c,runs/d --out page.html",
    )
    parser.add_argument(
        "run",
        metavar="RUN",
        nargs="*",
        help="run directory, folder of runs, directory of a sweep, or LABEL=RUN,RUN: runs under "
        "one label",
    )
    parser.add_argument("--out", metavar="PAGE", help="file to write: .html")
    parser.add_argument(
        "--solved",
        metavar="VALUE",
        help="mean return from which a seed has solved it, or ENV=VALUE,ENV=VALUE (default: what "
        "Gymnasium's registry says, where it does)",
    )
    arguments = parser.parse(argv)

    def run() -> None:
        if not arguments.run:
            raise ConfigError(
                "RUN: no run is named, as in python -m jdqn.report runs --out page.html"
            )
        write(_page(arguments.out), arguments.run, arguments.solved)

    stopping.command(parser.refuse, run)


def write(page: pathlib.Path, texts: list[str], solved: str | None) -> None:
    """Writes the page of some `RUN` and `LABEL=RUN,...`, whole or not at all."""
    from jdqn.runs import files
    from jdqn.tools import groups, labels, scoring
    from jdqn.tools import page as pages
    from jdqn.tools.sweeps import folders

    environments = groups.read_groups(texts)
    notes = folders.notes([path for given in labels.read(texts) for path in given.paths])
    html = pages.render(environments, scoring.read_solved(solved, environments), notes)
    try:
        files.write_whole(page, html.encode("utf-8"))
    except OSError as error:
        raise ConfigError(f"--out {page}: cannot be written: {error.strerror}") from None
    sys.stdout.write(f"written: {page} ({len(html) / 1e6:.1f} MB)\n")


def _page(text: str | None) -> pathlib.Path:
    """Where to write; refuses what no page can be."""
    if text is None:
        raise ConfigError("--out: is missing, the page to write, as in --out page.html")
    page = pathlib.Path(text)
    try:
        if page.is_dir():
            raise ConfigError(f"--out {page}: is a folder, expected a file such as page.html")
        if page.suffix.lower() != ".html":
            raise ConfigError(f"--out {page}: must end in .html")
        if page.exists() and not page.is_file():
            raise ConfigError(f"--out {page}: is there and no file")
        if not page.parent.is_dir():
            raise ConfigError(f"--out {page}: there is no folder {page.parent}")
    except OSError as error:
        raise ConfigError(f"--out {page}: {error.strerror}") from None
    if not os.access(page.parent, os.W_OK):
        raise ConfigError(f"--out {page}: cannot be written: folder {page.parent} is read-only")
    return page


if __name__ == "__main__":
    main()
