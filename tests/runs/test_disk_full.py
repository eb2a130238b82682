"""A disk that fills up, at any moment: no hang, no traceback, the last checkpoint as it was.

A small run in a process of its own, on a tmpfs of some KB in a user namespace; where the machine
allows none, under `RLIMIT_FSIZE`, which refuses what makes a single file longer.
"""

import functools
import os
import shutil
import subprocess
import sys

import pytest
from runs_helpers import log

from jdqn.runs import checkpoint

OPTIONS = [
    "--env=jdqn/Chain",
    "--env.num_envs=4",
    "--network.torso_hidden=[8]",
    "--network.hidden=[8]",
    "--replay.capacity=512",
    "--replay.batch_size=8",
    "--train.steps=800",
    "--train.learning_starts_steps=32",
    "--train.log_period_steps=80",
    "--train.eval_period_steps=400",
    "--train.eval_episodes=1",
    "--train.checkpoint_period_steps=80",
]
# Room for some checkpoints, not for all.
SMALL = 2**16
# Mounts, runs, and copies what is left out of the namespace.
ON_TMPFS = """
mount -t tmpfs -o size={size} none {disk} && cd {disk} || exit 99
"$@" {stdout}
status=$?
cp -r {disk} {left}
exit $status
"""
LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
"""
TRAINS = """
from jdqn import train
train.main(sys.argv[1:])
"""


@functools.cache
def has_namespaces():
    """Whether a tmpfs can be mounted in a user namespace."""
    command = ["unshare", "-Urm", "mount", "-t", "tmpfs", "none", "/mnt"]
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def run(tmp_path, size, stdout=""):
    """Trains where there are `size` bytes; its answer, and what is left of the run directory."""
    disk = tmp_path / "disk"
    left = tmp_path / "left"
    disk.mkdir()
    script = TRAINS if has_namespaces() else LIMITED.format(size=size) + TRAINS
    command = [sys.executable, "-c", "import sys" + script, *OPTIONS, "--run-dir"]
    if has_namespaces():
        shell = ON_TMPFS.format(size=size, disk=disk, left=left, stdout=stdout)
        command = ["unshare", "-Urm", "sh", "-c", shell, "sh", *command, str(disk / "run")]
    else:
        command = ["sh", "-c", f'"$@" {stdout}', "sh", *command, str(left / "run")]
    environment = os.environ | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    answer = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env=environment
    )
    assert answer.returncode != 99, answer.stderr
    how = "a tmpfs" if has_namespaces() else "RLIMIT_FSIZE"
    print(f"{size:,} bytes by {how}: status {answer.returncode}")
    return answer, left / "run"


def newest(run_dir):
    """Steps of the newest checkpoint, which verifies; 0: there is none."""
    if not (run_dir / "checkpoints").is_dir() or not checkpoint.store_of(run_dir).names():
        return 0
    found = checkpoint.find(run_dir, run_id=None, agents_only=False)
    assert found.passed_over == []
    return found.manifest["steps"]


def whole_lines(run_dir):
    """Every log ends with a whole line."""
    for name in ("metrics.jsonl", "episodes.csv", "evaluations.csv"):
        data = (run_dir / name).read_bytes()
        assert data == b"" or data.endswith(b"\n")


def check(answer, run_dir, elsewhere=""):
    """Whatever the size: a sentence, no traceback, whole files; returns the newest steps."""
    printed = answer.stdout + answer.stderr + elsewhere
    assert "Traceback" not in printed
    assert "Exception" not in printed
    if answer.returncode == 2:  # it could not begin
        assert answer.stderr.count("\n") == 1
        assert "cannot write run directory" in answer.stderr
        assert not (run_dir / "checkpoints").exists()
        return 0
    steps = newest(run_dir)
    whole_lines(run_dir)
    warnings = [line for line in printed.splitlines() if line.startswith("warning: cannot write")]
    assert (steps == 800) == (not any("the checkpoint of step 800" in line for line in warnings))
    # The last words of a run whose end is not saved, and its status, say so.
    assert answer.returncode == (0 if steps == 800 else 1)
    lost = "error: the end of the run could not be saved"
    assert (lost in answer.stderr) == (answer.returncode == 1)
    return steps


def test_a_run_that_cannot_begin_says_why(tmp_path):
    answer, _ = run(tmp_path, 4096 if has_namespaces() else 1000)
    assert check(answer, tmp_path) == 0
    assert answer.returncode == 2


def test_a_run_goes_on_and_says_so_on_stderr_where_stdout_is_full_too(tmp_path):
    answer, run_dir = run(tmp_path, SMALL if has_namespaces() else 4096, stdout="> /dev/full")
    steps = check(answer, run_dir)
    assert steps < 800
    assert steps > 0 or not has_namespaces()
    assert answer.stdout == ""
    assert answer.stderr.startswith("dqn on jdqn/Chain")  # nothing that was said is lost
    assert "the checkpoint of step" in answer.stderr


# --- The wide sweep -----------------------------------------------------------------------------


@pytest.mark.slow
def test_a_disk_with_room_takes_everything(tmp_path):
    answer, run_dir = run(tmp_path, 2**23)
    assert check(answer, run_dir) == 800
    assert "warning" not in answer.stdout + answer.stderr


@pytest.mark.slow
@pytest.mark.parametrize("streams", ["> {disk}/out", "> {disk}/out 2>&1", "> /dev/full 2>&1"])
@pytest.mark.parametrize("size", [2**13, 2**14, 2**15, 2**16])
def test_streams_on_the_full_disk_do_not_stop_the_run(tmp_path, streams, size):
    answer, run_dir = run(tmp_path, size, stdout=streams.format(disk=tmp_path / "disk"))
    out = run_dir.parent / "out"
    assert "Traceback" not in answer.stderr + (out.read_text() if out.exists() else "")
    assert answer.returncode in (0, 1, 2)
    if answer.returncode < 2 and (run_dir / "evaluations.csv").exists():
        assert (newest(run_dir) == 800) == (answer.returncode == 0)
        whole_lines(run_dir)
    else:  # it could not begin
        assert newest(run_dir) == 0


@pytest.mark.slow
@pytest.mark.parametrize("size", [4096 * round(1.25**i) for i in range(2, 30)])
def test_whatever_the_size_of_the_disk(tmp_path, size):
    check(*run(tmp_path, size))


FILLED = """
mount -t tmpfs -o size=4M none {disk} && cd {disk} || exit 99
python="$1"; shift
"$python" -c "$TRAINS" "$@" --run-dir {disk}/run || exit 98
cp -r run {left}-before
dd if=/dev/zero of=junk bs=1k 2> {left}-dd
"$python" -c "$TRAINS" --resume {disk}/run --train.steps=1600
echo "status $?"
cmp run/metrics.jsonl {left}-before/metrics.jsonl && echo "as it was"
rm junk
"$python" -c "$TRAINS" --resume {disk}/run --train.steps=1600
status=$?
cp -r {disk} {left}
exit $status
"""


@pytest.mark.slow
def test_a_run_is_gone_on_with_when_there_is_room_again(tmp_path):
    if not has_namespaces():
        pytest.skip("needs a tmpfs in a user namespace")
    (tmp_path / "disk").mkdir()
    shell = FILLED.format(disk=tmp_path / "disk", left=tmp_path / "left")
    command = ["unshare", "-Urm", "sh", "-c", shell, "sh", sys.executable, *OPTIONS]
    environment = os.environ | {"TRAINS": "import sys" + TRAINS}
    answer = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, env=environment
    )
    assert answer.returncode == 0, answer.stderr
    assert "Traceback" not in answer.stderr
    assert answer.stderr.count("\n") == 1
    assert "cannot write run directory" in answer.stderr
    assert "status 2" in answer.stdout
    assert "as it was" in answer.stdout
    run_dir = tmp_path / "left" / "run"
    assert newest(run_dir) == 1600
    assert [row["steps"] for row in log(run_dir)] == list(range(80, 1601, 80))
