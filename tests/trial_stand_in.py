"""Stands in for `python -m jdqn.train` in tests of sweeps: writes what a trial writes, at once.

What it does is said by the environment variable STAND_IN, a table in JSON from a seed to a word.
"""

import json
import os
import pathlib
import select
import sys
import time


def main(options):
    """A run of 100 steps, or what is asked for instead of one."""
    asked = json.loads(os.environ["STAND_IN"])
    if "--resume" in options:
        run = pathlib.Path(options["--resume"])
        options |= json.loads((run / "config.toml").read_text())
    else:
        run = pathlib.Path(options["--run-dir"])
        run.mkdir(parents=True)
        (run / "config.toml").write_text(json.dumps(options))
    seed = options["--seed"]
    value = int(seed) + 10 * float(options.get("--replay.n_step", 1))
    how = asked.get(seed, "ends")
    if how == "refuses":
        print("error: seed is no seed", file=sys.stderr)
        return 2
    if how == "finds it in use":
        print(f"error: run directory {run} is in use by another process", file=sys.stderr)
        return 75
    if how == "crashes at once":
        print("a traceback", file=sys.stderr)
        return 1
    if how == "is not finite":
        print("error: the loss is not finite since update 2", file=sys.stderr)
        return 1
    evaluate(run, 50, value - 5)
    save(run, 50)
    if how == "crashes once" and "--resume" not in options:
        os.kill(os.getpid(), 9)
    if how.startswith("waits") and not (how == "waits once" and "--resume" in options):
        if how == "waits at its end":
            evaluate(run, 100, value)
        wait(run)
        return 1 if how == "waits and breaks" else 143
    (run / "metrics.jsonl").write_text(
        json.dumps({"steps": 100, "episode_return": 5.0}) + '\n{"steps": 1'
    )
    evaluate(run, 100, value)
    save(run, 100)
    own_session = {"SESSION": os.getsid(0) == os.getpid()}
    (run / "variables.json").write_text(json.dumps(os.environ | own_session))
    if hasattr(os, "sched_getaffinity"):
        (run / "cores.json").write_text(json.dumps(sorted(os.sched_getaffinity(0))))
    print("done")
    return 0


def wait(run):
    """Until the pipe of the parent closes."""
    select.select([int(os.environ["JDQN_PARENT_PIPE"])], [], [], 60)
    save(run, 60)
    time.sleep(0.05)


def save(run, steps):
    """A checkpoint by its name."""
    (run / "checkpoints").mkdir(exist_ok=True)
    (run / "checkpoints" / f"{steps}.manifest").touch()


def evaluate(run, steps, mean):
    """A row of evaluations.csv."""
    table = run / "evaluations.csv"
    rows = table.read_text().splitlines() if table.exists() else ["steps,seed,policy,return_mean"]
    rows = [row for row in rows if not row.startswith(f"{steps},")]
    table.write_text("\n".join([*rows, f"{steps},0,vote,{mean}"]) + "\n")


if __name__ == "__main__":
    sys.exit(main(dict(argument.split("=", 1) for argument in sys.argv[1:])))
