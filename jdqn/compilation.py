"""Compiled programs, kept from one command to the next.

By jax's own persistent compilation cache, and only where it hits: on some CPUs jax cannot load
what it has written (jax issue 38445). A folder for each jaxlib and CPU, in the user's cache folder.
"""

import contextlib
import os
import pathlib
import platform
import re
import shutil
import time
import zlib

import filelock
import jax
import jaxlib
import numpy as np
import platformdirs
from jax.experimental.compilation_cache import compilation_cache

from jdqn.config import ConfigError, shown
from jdqn.config.wording import one_line

MAX_BYTES = 2 * 1024**3  # of a folder; jax deletes what was used longest ago
MIN_SECONDS = 0.1  # what compiles faster is not kept
UNUSED_DAYS = 30  # after which the folder of another jaxlib or CPU is deleted
LOCK = ".lockfile"  # jax's own
LOCK_SECONDS = 10.0

WHERE = "jax_compilation_cache_dir"  # jax's names
PLATFORMS = "JAX_PLATFORMS"
FROM_SECONDS = "jax_persistent_cache_min_compile_time_secs"


def keep(is_wanted: bool) -> None:
    """Keeps what this process compiles, where that helps. What the user has set up, stays."""
    if not is_wanted or getattr(jax.config, WHERE) is not None:
        return
    folder = cache_folder() / f"jaxlib-{jaxlib.__version__}-{_cpu()}"
    with contextlib.suppress(OSError, filelock.Timeout):  # a home that is full, read-only
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / LOCK, timeout=LOCK_SECONDS):
            _tidy(folder)
        if _is_of_use(folder):
            _set(folder, MIN_SECONDS)


def check_platform() -> None:
    """Raises ConfigError where `JAX_PLATFORMS` names what is not there, or jax has 64 bits."""
    if jax.dtypes.canonicalize_dtype(float) != np.float32:
        raise ConfigError(
            "JAX_ENABLE_X64 = true: jdqn learns in 32 bits; unset it, and jax_enable_x64 in "
            "modules of yours"
        )
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # without a word where a plugin is missing
        if (asked := os.environ.get(PLATFORMS)) is None:
            raise
        said = one_line(str(error).partition(" (set ")[0].rstrip("."))
        said = said or "no plugin for it is installed"
        raise ConfigError(
            f"{PLATFORMS} = {shown(asked)}: jax finds no such device ({said}); unset it to take "
            "what is there"
        ) from None


def cache_folder() -> pathlib.Path:
    """Where the folders lie."""
    return pathlib.Path(platformdirs.user_cache_dir("jdqn")) / "compiled"


def _cpu() -> str:
    """The CPU's name, fit for a file's, and a sum of what it can do: machines may share a home."""
    name = platform.processor() or platform.machine()
    features = ""
    with contextlib.suppress(OSError):
        text = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        name = _line(text, "model name") or name
        features = _line(text, "flags") or _line(text, "Features")
    return f"{re.sub(r'[^A-Za-z0-9]+', '_', name)}-{zlib.crc32(features.encode()):08x}"


def _line(text: str, name: str) -> str:
    found = re.search(rf"^{name}\s*:(.*)$", text, re.MULTILINE)
    return found[1].strip() if found else ""


def _tidy(folder: pathlib.Path) -> None:
    """Deletes what a process that was killed left half-written, and folders no longer used."""
    (folder / LOCK).touch()
    for entry in folder.glob("*-cache"):
        # jax writes the time of use last. Without it, it cannot delete the entry or any other.
        if not entry.with_name(entry.name.removesuffix("cache") + "atime").exists():
            entry.unlink(missing_ok=True)
    for other in folder.parent.iterdir():
        lock = other / LOCK
        if lock.exists() and time.time() - lock.stat().st_mtime > UNUSED_DAYS * 86_400:
            shutil.rmtree(other, ignore_errors=True)


def _is_of_use(folder: pathlib.Path) -> bool:
    """Whether jax loads here what it has written: tried once for each kind of device."""
    verdict = folder / f"hits-{jax.devices()[0].platform}"
    known = verdict.read_text(encoding="utf-8") if verdict.exists() else ""
    if known not in (str(True), str(False)):
        before = set(folder.glob("*-cache"))
        known = str(_hits(folder))
        # Where nothing could be written, on a full disk, say, nothing has been found out.
        if known == str(True) or set(folder.glob("*-cache")) - before:
            verdict.write_text(known, encoding="utf-8")
    return known == str(True)


def _hits(folder: pathlib.Path) -> bool:
    """Compiles one program twice. Leaves jax as it was."""
    hits: list[str] = []

    def listen(event: str, **_: object) -> None:
        if event == "/jax/compilation_cache/cache_hits":
            hits.append(event)

    jax.monitoring.register_event_listener(listen)
    before = getattr(jax.config, FROM_SECONDS)
    _set(folder, 0.0)
    try:
        for _ in range(2):
            jax.jit(lambda x: x * x + 1.0)(2.0)
    finally:
        jax.monitoring.unregister_event_listener(listen)
        _set(None, before)
    return bool(hits)


def _set(folder: pathlib.Path | None, min_seconds: float) -> None:
    jax.config.update(FROM_SECONDS, min_seconds)
    jax.config.update("jax_compilation_cache_max_size", -1 if folder is None else MAX_BYTES)
    jax.config.update(WHERE, None if folder is None else str(folder))
    compilation_cache.reset_cache()  # jax asks once whether there is one
