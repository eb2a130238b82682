"""CleanRL's DQN on Atari beside ours, for `python -m jdqn.bench --peer cleanrl=SCRIPT`.

Its script runs as it is, with the Python of its own environment, for it pins other versions. It
plays one game at a time, with our frames and stacks, and prints a line every hundred steps.
"""

import contextlib
import os
import pathlib
import subprocess
import tempfile
import time
from collections.abc import Iterator

from jdqn.config import Config, ConfigError

LINE = "SPS:"
STEPS_OF_A_LINE = 100
LEFT_OUT_LINES = 2  # the first compile or warm up
FILL_STEPS = 1_000


def check(script: pathlib.Path, config: Config) -> pathlib.Path:
    """The Python that runs the script, of the nearest `.venv` above it.

    Raises:
      ConfigError: there is no such script or Python, or the environment is no Atari game.
    """
    option = f"--peer cleanrl={script}"
    if not script.is_file():
        raise ConfigError(f"{option}: there is no such file; expected a script of CleanRL")
    if not config.env.name.isalpha():
        raise ConfigError(f"{option}: plays Atari games alone, not {config.env.name}")
    for folder in script.absolute().parents:
        for python in (folder / ".venv/bin/python", folder / ".venv/Scripts/python.exe"):
            if python.exists():
                return python
    raise ConfigError(f"{option}: expected the Python it runs with in a .venv beside or above it")


def steps_per_second(script: pathlib.Path, config: Config, *, steps: int) -> float:
    """Agent steps per second of the script while it learns, with our batch and update period.

    Args:
      script: `dqn_atari.py` or `dqn_atari_jax.py`.
      config: game, batch, update period.
      steps: agent steps to measure.

    Raises:
      ConfigError: as `check`; the script fails, or says nothing of its steps.
    """
    lines = LEFT_OUT_LINES + steps // STEPS_OF_A_LINE + 1
    options = {
        "env-id": f"{config.env.name}NoFrameskip-v4",
        "total-timesteps": FILL_STEPS + STEPS_OF_A_LINE * (lines + 1),
        "learning-starts": FILL_STEPS,
        "buffer-size": min(config.replay.capacity, 100_000),
        "batch-size": config.replay.batch_size,
        "train-frequency": config.train.update_period_steps,
    }
    command = [str(check(script, config)), "-u", str(script.absolute())]
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    with tempfile.TemporaryDirectory() as folder, _started(command, folder, script) as said:
        times = [at for at, line in said if line.startswith(LINE)]
    if len(times) < lines:
        raise ConfigError(f"--peer cleanrl={script}: it has said {LINE} {len(times)} times only")
    measured = times[LEFT_OUT_LINES:lines]
    return STEPS_OF_A_LINE * (len(measured) - 1) / (measured[-1] - measured[0])


@contextlib.contextmanager
def _started(
    command: list[str], folder: str, script: pathlib.Path
) -> Iterator[Iterator[tuple[float, str]]]:
    """What a command says, each line with the time at which it came. Raises ConfigError."""
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=_environment(script),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        assert process.stdout is not None
        try:
            yield ((time.monotonic(), line) for line in process.stdout)
            if process.wait():
                errors.seek(0)
                last = (errors.read().strip().splitlines() or ["nothing on stderr"])[-1]
                raise ConfigError(f"--peer cleanrl={script}: it failed: {last}")
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def _environment(script: pathlib.Path) -> dict[str, str]:
    """Ours, but for what only our own Python is to import; its helpers lie above the script."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    return {**own, "PYTHONPATH": str(script.absolute().parent.parent)}
