"""`python -m jdqn`: which version this is, and which commands there are."""

from jdqn import __version__

COMMANDS = {
    "train": "trains an agent, or goes on with a run",
    "evaluate": "full games with a trained agent",
    "play": "shows a trained agent playing, in the terminal or as a video",
    "report": "a page about runs: curves, scores, diagnostics, settings",
    "plots": "a picture of learning curves",
    "export": "a trained agent as a folder to keep or give away",
    "sweep": "many trainings: games, agents, settings, seeds; goes on where it stopped",
    "bench": "speed of each stage, and the floor beside it",
}


def main() -> None:
    """Prints them."""
    print(f"jdqn {__version__}")  # noqa: T201
    for name, what in COMMANDS.items():
        print(f"python -m jdqn.{name:9} {what}")  # noqa: T201
    print("each with --help; for instance: python -m jdqn.train --env CartPole-v1")  # noqa: T201


if __name__ == "__main__":
    main()
