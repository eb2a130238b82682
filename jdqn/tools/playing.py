"""What `python -m jdqn.play` does: games of a trained or a random agent, shown or written."""

import contextlib
import os
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

from PIL import Image

from jdqn import compilation
from jdqn.config import Config, ConfigError, with_overrides
from jdqn.envs import first_seed, screens
from jdqn.envs.screens import Shown
from jdqn.runs import progress, stopping, trained
from jdqn.runs.evaluation import COMMAND_SEED_OFFSET
from jdqn.tools import games, video
from jdqn.tools.games import Brain, Film, Moment
from jdqn.tools.panels import Board, Title, scale_of
from jdqn.tools.scenes import Look
from jdqn.tools.terminal import HOLD_SECONDS, Terminal

GIF_SECONDS = 30.0  # of one, unless told otherwise


class Asked(NamedTuple):
    """What is to be played, and how it is shown."""

    games: int = 1
    is_best: bool = False  # only the game with the highest return is shown
    seed: int | None = None  # of the first game; None: that of `jdqn.evaluate`
    policy: str | None = None  # None: the run's `agent.eval_policy`
    video: pathlib.Path | None = None  # None: in the terminal
    fps: float = 15.0
    start: float = 0.0  # seconds of the video that are left out
    seconds: float | None = None  # of the video at most; None: all, of a GIF `GIF_SECONDS`


class Cast(NamedTuple):
    """Who plays what."""

    config: Config  # of one seed
    brain: Brain | None  # None: random actions
    title: Title


def of_run(
    path: pathlib.Path, *, checkpoint: str | None, run_seed: int | None, epsilon: float | None
) -> Cast:
    """The agent of a run or an exported folder.

    Args:
      path: of it.
      checkpoint: agent steps or `best`; None: the newest.
      run_seed: of a run of several seeds, which; None: the first.
      epsilon: in place of `agent.epsilon_eval`.

    Raises:
      ConfigError: as `trained.load_run`.
    """
    overrides = {} if epsilon is None else {"agent__epsilon_eval": epsilon}
    found = trained.load_run(path, checkpoint, **overrides)
    for damage in found.passed_over:
        sys.stderr.write(f"warning: {damage}; an earlier checkpoint is used\n")
    place = found.number_of(run_seed)
    config = with_overrides(found.config, train__seed=found.seeds[place], train__num_seeds=1)
    compilation.keep(config.train.compilation_cache)
    heads = config.network.heads
    of_heads = f", {heads} heads" if heads > 1 else ""
    title = Title(config.env.name, f"{config.agent.name}{of_heads}, after {found.steps:,} steps")
    brain = games.make_brain(config, found.agent, found.states[place])
    return Cast(config, brain, title)


def at_random(config: Config) -> Cast:
    """Random actions in the environment of a configuration."""
    compilation.check_platform()
    return Cast(config, None, Title(config.env.name, "random actions"))


def play(cast: Cast, asked: Asked) -> None:
    """Plays, prints a line for each game, and shows them or writes the video.

    Raises:
      ConfigError: a policy that the agent does not have.
      EnvError: the environment goes wrong.
    """
    for name in ("SDL_AUDIODRIVER", "SDL_VIDEODRIVER"):  # pygame draws into arrays alone here
        os.environ.setdefault(name, "dummy")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    config = cast.config
    policy = asked.policy or config.agent.eval_policy
    games.check_policy(policy, config.network.heads)
    if asked.video is None and not sys.stdout.isatty():
        raise ConfigError("stdout is no terminal to show games in: add --video game.mp4 or .gif")
    first = first_seed(config.env.name, config.train.seed) + COMMAND_SEED_OFFSET
    seed = first if asked.seed is None else asked.seed
    stage = screens.show(config, seed=seed)
    stage.env.close()
    by = "" if cast.brain is None else f"; {policy}, epsilon {config.agent.epsilon_eval:g}"
    sys.stdout.write(f"{cast.title.env}, {cast.title.agent}{by}\n")
    sys.stdout.flush()
    seeds = range(seed, seed + asked.games)
    if asked.video is not None:
        _write(cast, asked, _filmed(cast, asked, policy, seeds), stage)
    elif asked.is_best:
        film = _filmed(cast, asked, policy, seeds)
        with Terminal(cast.title, stage.actions, asked.fps) as terminal:
            for number in range(len(film)):
                terminal.show(film[number])
    else:
        _live(cast, asked, policy, seeds, stage)


def _live(cast: Cast, asked: Asked, policy: str, seeds: range, stage: Shown) -> None:
    lines = []
    moment = None
    try:
        with Terminal(cast.title, stage.actions, asked.fps) as terminal:
            for seed in seeds:
                for moment in games.play(cast.config, cast.brain, seed=seed, policy=policy):
                    terminal.show(moment)
                    if moment.action is None:
                        lines.append(_line(moment))
    except KeyboardInterrupt:  # how one leaves
        if moment is not None and moment.action is not None:
            lines.append(f"left at: {_line(moment)}")
    finally:
        sys.stdout.writelines(lines)


def _filmed(cast: Cast, asked: Asked, policy: str, seeds: range) -> Film:
    """All games, or the best, as far as they are shown."""
    best: tuple[float, int, Film] | None = None
    film = _new_film(asked)
    for number, seed in enumerate(seeds):
        if asked.is_best:
            film = _new_film(asked)
        with _saying() as say:
            for moment in games.play(cast.config, cast.brain, seed=seed, policy=policy):
                film.append(moment)
                say(f"game {number + 1} of {len(seeds)}", f"{moment.step:,} steps")
        sys.stdout.write(_line(moment))
        sys.stdout.flush()
        if best is None or moment.score > best[0]:
            best = (moment.score, number, film)
    assert best is not None
    if asked.is_best and len(seeds) > 1:
        score, number, film = best
        sys.stdout.write(
            f"the best of {len(seeds)} games: seed {seeds[number]}, return {score:g} "
            "(selected: it says what the agent can do, not what it does)\n"
        )
    if not len(film):
        raise ConfigError(
            f"--start {asked.start:g}: all that was played takes {film.seen / asked.fps:.1f} s"
        )
    return film


@contextlib.contextmanager
def _saying() -> Iterator[Callable[..., None]]:
    """A line on stderr, where that is a terminal, which says how far something is."""
    with contextlib.closing(progress.Line(stopping.Stop(), stderr=True)) as line:
        yield lambda *texts: line.show(lambda: list(enumerate(texts)))


def _line(moment: Moment) -> str:
    return f"game of seed {moment.seed}: return {moment.score:g}, {moment.step:,} steps\n"


def _new_film(asked: Asked) -> Film:
    seconds = asked.seconds
    if seconds is None and asked.video is not None and asked.video.suffix.lower() == ".gif":
        seconds = GIF_SECONDS
    most = None if seconds is None else max(1, round(seconds * asked.fps))
    return Film(round(asked.start * asked.fps), most)


def _write(cast: Cast, asked: Asked, film: Film, stage: Shown) -> None:
    assert asked.video is not None
    returns = None if cast.brain is None else games.returns_of(cast.config)
    board = Board(
        cast.title,
        stage.actions,
        scale_of(film.opinions, returns),
        Look(stage.shape, film.most),
    )
    holds = [1] * len(film)
    for number in film.ends:
        holds[number] = max(1, round(HOLD_SECONDS * asked.fps))
    with _saying() as say:

        def draw(number: int) -> Image.Image:
            say(f"drawing {number + 1:,} of {len(film):,} pictures")
            return board.draw(film[number])

        video.write(asked.video, draw, holds, asked.fps)
    size = asked.video.stat().st_size / 1e6
    cut = ""
    if len(film) < film.seen:
        cut = f"; {len(film):,} of {film.seen:,} pictures, see --start and --seconds"
    sys.stdout.write(
        f"written: {asked.video} ({size:.1f} MB, {sum(holds) / asked.fps:.1f} s{cut})\n"
    )
