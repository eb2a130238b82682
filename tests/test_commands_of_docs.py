"""Every command and every script of README and docs runs: shortened, in a folder of their own.

Left out: what needs hardware (`.ci/gpu`), another library (`--peer`), or days (results/README.md).
What is only looked at, and the picture of the README: `test_docs.py`.
"""

import itertools
import os
import re
import subprocess
import sys

import docs_helpers as docs
import pytest

pytestmark = pytest.mark.slow

PAGES = [page for page in docs.PAGES if page.parent.name != "results" and docs.commands(page)]
SHORT_RUN = {
    "--steps": "640",
    "--network.hidden": "[16]",
    "--replay.capacity": "5_000",
    "--train.learning_starts_steps": "512",
    "--env.max_episode_steps": "200",
}
SHORT = {
    "jdqn.train": SHORT_RUN,
    "jdqn.bench": SHORT_RUN,
    "jdqn.evaluate": {"--episodes": "1"},
}
OWN_AGENTS = docs.files_of(docs.ROOT / "docs" / "own_agents.md")
# Of the reader's own, on pages that do not say what is in them.
STAND_INS = {
    "mine.toml": OWN_AGENTS["mine.toml"],
    "my_module.py": (
        "import gymnasium\n"
        "gymnasium.register('MyEnv-v0', 'gymnasium.envs.classic_control:CartPoleEnv')\n"
    ),
}
NOT_OURS = {"wandb"}  # libraries that scripts use and tests do not need
# Runs what follows in a terminal.
IN_A_TERMINAL = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"
# What a script of a page stands beside.
BEFORE = "import jdqn\nimport numpy as np\nobservation = np.zeros(4, np.float32)\n"


def run(folder, *arguments):
    environment = {
        **os.environ,
        "PYTHONPATH": str(docs.ROOT),
        # Some commands are for a machine with eight devices.
        "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_force_host_platform_device_count=8",
    }
    answer = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert answer.returncode == 0, f"{' '.join(arguments)}\n{answer.stdout}\n{answer.stderr}"


def with_option(arguments, name, value):
    """Arguments with an option set to a value, whatever it was."""
    kept = list(arguments)
    while name in kept:
        place = kept.index(name)
        del kept[place : place + 2]
    return [*kept, name, value]


def shortened(command):
    """The arguments of a command that takes seconds; None: it is left out."""
    arguments = command.arguments
    if "--help" in arguments:
        return arguments
    if command.module == "jdqn.sweep":
        return arguments if "--dry-run" in arguments else [*arguments, "--dry-run"]
    if "--peer" in arguments or any("results/" in argument for argument in arguments):
        return None
    if "--resume" in arguments:
        return with_option(arguments, "--steps", "768")
    for name, value in SHORT.get(command.module, {}).items():
        arguments = with_option(arguments, name, value)
    if command.module == "jdqn.train" and "--train.eval_episodes" not in arguments:
        arguments = with_option(arguments, "--train.eval_episodes", "1")
    return with_option(arguments, "--num-seeds", "2") if "--num-seeds" in arguments else arguments


def make_runs(folder, page, arguments):
    """Makes the runs that a command takes, where no command before it has made them."""
    for before, argument in itertools.pairwise(["", *arguments]):
        names = re.findall(r"(?:^|[=,])(runs/[^,]+)", argument)
        for name in ["runs/a"] if argument == "runs" else names:
            if before == "--run-dir" or (folder / name).exists():
                continue
            found = re.fullmatch(r"runs/(.+)-(\w+)-\d+-\d{8}-\d{6}", name)
            env, agent = found.groups() if found else ("CartPole-v1", "dqn")
            new = ["--env", env_of(page, env), "--agent", agent, "--run-dir", name]
            run(folder, "-m", "jdqn.train", *shortened(docs.Command("jdqn.train", new, "")))


def env_of(page, in_path):
    """The environment that a run directory is named after."""
    for command in docs.commands(page):
        for before, name in itertools.pairwise(command.arguments):
            if before == "--env" and re.sub(r"[^\w.-]", "_", name) == in_path:
                return name
    return in_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(docs.ROOT).as_posix())
def test_what_a_page_says_runs(page, tmp_path):
    for file, text in {**STAND_INS, **docs.files_of(page)}.items():
        (tmp_path / file).write_text(text, encoding="utf-8")
    seen = set()
    for command in docs.commands(page):
        arguments = shortened(command)
        if arguments is None or command.line in seen:  # of a loop the first round
            continue
        seen.add(command.line)
        arguments = [argument.replace("/shared/", f"{tmp_path}/shared/") for argument in arguments]
        make_runs(tmp_path, page, arguments)
        command_line = ["-m", command.module, *arguments]
        if command.module == "jdqn.play" and not {"--video", "--help"} & {*arguments}:
            command_line = ["-c", IN_A_TERMINAL, sys.executable, *command_line]
        run(tmp_path, *command_line)
    for block in docs.blocks(page, "python"):
        libraries = {*re.findall(r"^import (\w+)", block.text, re.MULTILINE)}
        is_script = block.file is None and page.name != "reference.md"  # has signatures
        if is_script and not libraries & NOT_OURS:
            script = tmp_path / f"line_{block.line}.py"
            text = block.text.replace("20_000", "1_200")
            script.write_text(BEFORE + text, encoding="utf-8")
            run(tmp_path, script.name)
