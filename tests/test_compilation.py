"""Compiled programs that are kept, and when they are not."""

import os
import subprocess
import sys
import time

import filelock
import jax
import pytest
from jax._src import compilation_cache

from jdqn import compilation
from jdqn.config import ConfigError

TRAIN = [sys.executable, "-m", "jdqn.train", "--env", "gymnax/CartPole-v1", "--agent", "rainbow"]
SHORT = ["--steps", "2_000", "--train.eval_episodes", "0", "--network.torso_hidden", "[16]"]
FIELDS = (
    "jax_compilation_cache_dir",
    "jax_compilation_cache_max_size",
    "jax_persistent_cache_min_compile_time_secs",
)


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """A user who has never run a command, and jax as it starts."""
    before = {name: getattr(jax.config, name) for name in FIELDS}
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compilation, "cache_folder", lambda: tmp_path / "compiled")
    yield tmp_path / "compiled"
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (AssertionError(), "no plugin for it is installed"),
        (
            RuntimeError("Unable to open libtpu.so (set JAX_PLATFORMS='')"),
            "Unable to open libtpu.so",
        ),
    ],
)
def test_devices_that_are_asked_for_and_not_there_are_a_sentence(monkeypatch, error, said):
    def find():
        raise error

    monkeypatch.setattr(jax, "devices", find)
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    with pytest.raises(ConfigError) as info:
        compilation.check_platform()
    sentence = f"JAX_PLATFORMS = 'tpu': jax finds no such device ({said}); unset it to take what is"
    assert str(info.value) == f"{sentence} there"
    monkeypatch.delenv("JAX_PLATFORMS")
    with pytest.raises(type(error)):  # not ours to explain
        compilation.check_platform()


def test_64_bits_are_refused():
    with jax.enable_x64(True), pytest.raises(ConfigError, match="JAX_ENABLE_X64 = true"):
        compilation.check_platform()


def test_what_was_compiled_is_found_again(fresh):
    compilation.keep(True)
    (folder,) = fresh.iterdir()
    assert jax.config.jax_compilation_cache_dir == str(folder)
    assert jax.config.jax_compilation_cache_max_size == compilation.MAX_BYTES
    assert jax.config.jax_persistent_cache_min_compile_time_secs == compilation.MIN_SECONDS
    assert jax.__version__ in folder.name
    assert (folder / f"hits-{jax.devices()[0].platform}").read_text() == "True"


def test_it_stays_off_where_jax_cannot_load_what_it_has_written(fresh, monkeypatch):
    monkeypatch.setattr(compilation_cache, "get_executable_and_time", lambda *_: (None, None))
    compilation.keep(True)
    assert jax.config.jax_compilation_cache_dir is None
    monkeypatch.undo()
    monkeypatch.setattr(compilation, "cache_folder", lambda: fresh)
    compilation.keep(True)  # tried once
    assert jax.config.jax_compilation_cache_dir is None


def test_a_disk_that_was_full_for_a_moment_does_not_switch_it_off_for_good(fresh, monkeypatch):
    """Neither where the program could not be written nor where the verdict could not."""
    with monkeypatch.context() as full:
        full.setattr(compilation_cache, "put_executable_and_time", lambda *_: None)
        compilation.keep(True)
    assert jax.config.jax_compilation_cache_dir is None
    (folder,) = fresh.iterdir()
    verdict = folder / f"hits-{jax.devices()[0].platform}"
    assert not verdict.exists()
    verdict.touch()
    compilation.keep(True)
    assert jax.config.jax_compilation_cache_dir == str(folder)
    assert verdict.read_text() == "True"


def test_it_is_off_where_it_is_not_wanted(fresh):
    compilation.keep(False)
    assert jax.config.jax_compilation_cache_dir is None
    assert not fresh.exists()


def test_the_users_own_stays(fresh, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "own"))
    compilation.keep(True)
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "own")
    assert not fresh.exists()


def test_a_home_that_cannot_be_written_to_or_is_held_costs_nothing(fresh, monkeypatch):
    fresh.write_text("a file")
    compilation.keep(True)
    assert jax.config.jax_compilation_cache_dir is None
    fresh.unlink()
    compilation.keep(True)
    (folder,) = fresh.iterdir()
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setattr(compilation, "LOCK_SECONDS", 0.1)
    with filelock.FileLock(folder / compilation.LOCK):
        compilation.keep(True)
    assert jax.config.jax_compilation_cache_dir is None


def test_what_was_half_written_and_what_is_no_longer_used_is_deleted(fresh):
    folder = fresh / "here"
    other = fresh / "of another jaxlib"
    for path in (folder, other):
        path.mkdir(parents=True)
        (path / compilation.LOCK).touch()
    for name in ("whole-cache", "whole-atime", "half-cache"):
        (folder / name).touch()
    compilation._tidy(folder)
    assert {path.name for path in folder.iterdir()} == {"whole-cache", "whole-atime", ".lockfile"}
    assert other.exists()
    old = time.time() - 31 * 86_400
    os.utime(other / compilation.LOCK, (old, old))
    os.utime(folder / compilation.LOCK, (old, old))
    compilation._tidy(folder)
    assert not other.exists()
    assert folder.exists()


def test_machines_of_one_home_have_their_own(monkeypatch, tmp_path):
    name = compilation._cpu()
    assert name == compilation._cpu()
    assert name.replace("-", "").replace("_", "").isalnum()
    text = "processor\t: 0\nmodel name\t: A CPU (R) @ 3\nflags\t\t: fpu sse2\n"
    assert compilation._line(text, "model name") == "A CPU (R) @ 3"
    assert compilation._line(text, "flags") == "fpu sse2"
    assert compilation._line(text, "Features") == ""


@pytest.mark.slow
def test_runs_from_kept_programs_are_the_same_to_the_bit(tmp_path):
    """Two that keep them at the same time, one that finds them, and one without."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    del environment["JAX_COMPILATION_CACHE_DIR"]

    def start(name, *options):
        command = [*TRAIN, *SHORT, *options, "--run-dir", str(tmp_path / name)]
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    def end(run):
        _, said = run.communicate()
        assert (run.returncode, said) == (0, "")

    def kept():
        return {path.name for path in (tmp_path / "cache").rglob("*-cache")}

    beside = [start("cold"), start("beside")]
    for run in beside:
        end(run)
    found = kept()
    assert len(found) > 1
    end(start("warm"))
    end(start("off", "--train.compilation_cache", "false"))
    assert kept() == found
    names = ("cold", "beside", "warm", "off")
    assert len({(tmp_path / name / "episodes.csv").read_bytes() for name in names}) == 1
