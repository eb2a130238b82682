"""Settings and helpers shared by every test."""

import contextlib
import os
import pathlib
import signal
import sys

import hypothesis
import jax
import numpy as np
import pytest

from jdqn.envs import jax_native

jax.config.update("jax_numpy_rank_promotion", "raise")
# Compiled programs are kept between runs of the suite; delete the folder for a cold run.
# One for each worker: jax writes entries without a lock.
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "main")
CACHE = pathlib.Path(__file__).parent.parent / ".jax_cache" / WORKER
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)  # for the notebooks' kernels
os.environ["QUICK_NOTEBOOKS"] = "1"  # the one in the suite trains hardly at all
# Tests of several devices need some; on one of them all else runs as it would.
jax.config.update("jax_num_cpu_devices", 8)
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # two workers share an accelerator

# What started the tests may ignore signals, as `nohup` and background jobs do; runs respect that.
with contextlib.suppress(ValueError):  # not in the main thread
    for number, handler in {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
    }.items():
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)

# Compilation falls into whichever example comes first.
hypothesis.settings.register_profile("jdqn", deadline=None)
hypothesis.settings.load_profile("jdqn")


@pytest.fixture
def rng():
    """A NumPy generator, the same for every test."""
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def quick_compilation():
    """Compiles in a hurry: where what is tested is not the optimised program itself."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax_native._compiled.cache_clear()  # its programs would differ in last bits from later ones


@pytest.fixture
def module(tmp_path, monkeypatch, request):
    """Writes a module of a fresh name into a folder on the path; returns a function of its text."""
    monkeypatch.syspath_prepend(tmp_path)
    written = []

    def write(source, folder=tmp_path):
        name = f"module_{abs(hash(request.node.name))}_{len(written)}"
        (folder / f"{name}.py").write_text(source, encoding="utf-8")
        written.append(name)
        return name

    yield write
    for name in written:
        sys.modules.pop(name, None)
