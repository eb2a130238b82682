"""The command `python -m jdqn.train`, and training from Python."""

import re
import shlex
import subprocess
import sys
import tomllib

import pytest
from helpers import tiny

from jdqn import evaluate
from jdqn import train as door
from jdqn.config import ConfigError, load_config

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_the_name_of_an_environment_is_no_configuration():
    with pytest.raises(ConfigError) as info:
        door.train("CartPole-v1")
    assert str(info.value) == (
        "config = 'CartPole-v1': expected a configuration, such as "
        'jdqn.load_config(env="CartPole-v1")'
    )


def test_help(capsys):
    with pytest.raises(SystemExit) as info:
        door.main(["--help"])
    assert info.value.code == 0
    printed = capsys.readouterr().out
    assert "  python -m jdqn.train --env CartPole-v1\n" in printed
    assert "default" in printed


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sizes = ["--network.hidden=8,", "--network.torso_hidden", "[8]", "--replay.batch_size=8"]
    argv = ["--env", "CartPole-v1", "--steps", "2_000", "--seed", "5", "--train.eval_episodes=2"]
    argv += [*sizes, "--network.torso", "impala"]
    door.main(argv)
    (path,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"CartPole-v1-dqn-5-\d{8}-\d{6}", path.name)
    config = load_config(file=path / "config.toml")
    assert (config.train.steps, config.train.seed) == (2000, 5)
    assert (config.network.hidden, config.replay.batch_size) == ((8,), 8)
    recorded = tomllib.loads((path / "config.toml").read_text())["versions"]["command"]
    assert recorded == shlex.join(["python", "-m", "jdqn.train", *argv])
    # No terminal here: plain lines, one for each event.
    printed = capsys.readouterr()
    asked, layers, replay, writing, *lines = printed.out.splitlines()
    assert printed.err == ""
    assert not {"\x1b", "\r"} & set(printed.out)
    assert asked == "dqn on CartPole-v1, seed 5, 2,000 steps"
    assert layers.startswith("agent dqn, preset classic; set beside them: network.torso, network")
    assert replay.startswith("replay 100,000 transitions, ")
    assert writing == f"writing runs/{path.name}"
    starts = [
        "compiling",
        'network.torso = "impala" is for images: observations of (4,) get the mlp',
        "filling the replay: learning starts at 1,000 steps",
        "learning",
        "steps 1,000  50%  ",
        "steps 2,000  100%  ",
        "evaluation at 2,000 steps: 2 full games, mean ",
        "done: 2,000 steps in 0:0",
        f"  python -m jdqn.evaluate runs/{path.name}",
        f"  python -m jdqn.play runs/{path.name}",
        f"  python -m jdqn.report runs/{path.name} --out report.html",
        f"  python -m jdqn.train --resume runs/{path.name} --steps 4000",
    ]
    for line, start in zip(lines, starts, strict=True):
        assert line.startswith(start)
    # Who always says --resume is told that it is done; who asks for something is refused.
    door.main(["--resume", str(path)])
    assert "has done 2,000 steps already; name more with --steps" in capsys.readouterr().err
    for option in (["--steps", "2_000"], ["--env", "Acrobot-v1"]):
        with pytest.raises(SystemExit) as info:
            door.main(["--resume", str(path), *option])
        assert info.value.code == 2


@pytest.mark.parametrize(
    ("changed", "resumed", "said"),
    [
        ({}, None, "dqn on CartPole-v1, seed 0, 400 steps\n"),
        ({"train__seed": 3, "train__num_seeds": 4}, None, "dqn on CartPole-v1, seeds 3 to 6, 400"),
        ({}, "runs/a", "going on with runs/a: dqn on CartPole-v1, seed 0, 400 steps\n"),
    ],
)
def test_what_is_asked_for_is_said_first(capsys, changed, resumed, said):
    door._announce(tiny(**changed), resumed)
    assert capsys.readouterr().out.startswith(said)


def test_what_changes_nothing_and_a_run_that_ends_before_it_learns_are_said(capsys):
    door._announce(tiny(env__noop_max=3), None)
    assert "without effect here: env.noop_max (for Atari games)\n" in capsys.readouterr().out
    door._announce(tiny(train__steps=32), None)
    said = "warning: nothing is learned in 32 steps, with train.learning_starts_steps = 32\n"
    assert capsys.readouterr().out.endswith(said)


def test_targets_that_are_copied_less_often_than_asked_are_said(capsys):
    config = tiny(agent__target_period_steps=2, train__update_period_steps=2)
    door._announce(config, None)
    said = "targets are copied every 4 steps, one of each environment\n"
    assert capsys.readouterr().out.endswith(f"agent.target_period_steps = 2: {said}")


@pytest.mark.parametrize("resumed", [None, "runs/a"])
def test_the_length_of_schedules_that_a_longer_run_keeps_is_not_said_to_be_set(capsys, resumed):
    config = load_config(env="CartPole-v1", overrides={"train.schedule_steps": 300})
    door._announce(config, resumed)
    assert ("train.schedule_steps" in capsys.readouterr().out) == (resumed is None)


FIRST_LINE = """
import sys
from jdqn import train

class Seen(Exception):
    pass

class Out:
    def write(self, text):
        assert "CartPole-v1" in text
        raise Seen(sorted({"jax", "numpy"} & set(sys.modules)))

sys.stdout = Out()
train.main(["--env", "CartPole-v1"])
"""


def test_the_first_line_does_not_wait_for_jax():
    answer = subprocess.run([sys.executable, "-c", FIRST_LINE], capture_output=True, text=True)
    assert "Seen: []\n" in answer.stderr


OWN = """
import jax
import jax.numpy as jnp
from jdqn.learning import exploration, losses, values

def log_cosh(td_error):
    return jnp.logaddexp(td_error, -td_error) - jnp.log(2.0)

def rule(key, q, head):
    score = exploration.by_head(key, q, head)
    return score + 0.1 * jax.random.gumbel(key, score.shape)

def make_head(config):
    return values.expectation(losses.make_penalty(config.agent.loss))
"""


def test_an_agent_of_ones_own_from_its_files(tmp_path, module, monkeypatch, capsys):
    """Its loss, its rule, its value head; going back to it needs the module, not the file."""
    name = module(OWN)
    agent = tmp_path / "mine.toml"
    agent.write_text(
        f'network = {{value_head = "{name}:make_head", hidden = [8]}}\n'
        f'agent = {{loss = "{name}:log_cosh", behaviour = "{name}:rule"}}\n'
    )
    run = tmp_path / "run"
    argv = ["--env=jdqn/Chain", "--agent", str(agent), "--run-dir", str(run), "--steps=1_000"]
    door.main([*argv, "--train.eval_episodes=0", "--network.hidden=8,"])
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[0].startswith("mine on jdqn/Chain")
    assert lines[1].startswith("agent mine (not of jdqn), preset chain; set beside them: network.")
    assert printed.err.startswith(f"importing {name} (")
    config = load_config(file=run / "config.toml")
    assert (config.agent.name, config.agent.loss) == ("mine", f"{name}:log_cosh")
    agent.unlink()
    evaluate.main([str(run), "--episodes=1"])
    assert "mine, seed 0, after 1,000 steps" in capsys.readouterr().out
    sys.modules.pop(name)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(tmp_path)])
    for command in (evaluate.main, lambda argv: door.main(["--resume", *argv, "--steps=2_000"])):
        with pytest.raises(SystemExit):
            command([str(run)])
        said = capsys.readouterr().err
        assert said.startswith(f'error: agent.loss = "{name}:log_cosh": there is no module')
        assert said.count("\n") == 1
