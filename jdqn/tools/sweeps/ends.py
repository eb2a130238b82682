"""How trials have ended, as a report and a board have to know it."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from jdqn.tools.sweeps import folders
from jdqn.tools.sweeps.folders import Folder, Record

BAD = (folders.FAILED, folders.REFUSED)


def of_run(run: pathlib.Path) -> Record:
    """The result of the trial whose run directory this is; empty: of no sweep, or not ended."""
    trial = run.absolute().parent
    is_one = run.absolute().name == "run" and trial.parent.name == "trials"
    return (Folder(trial).result() or {}) if is_one else {}


def setting_of(result: Mapping[str, Any]) -> tuple[str, str, str]:
    """What trials have in common that are seeds of one setting."""
    return result["game"], result["agent"], json.dumps(result["settings"], sort_keys=True)


def told(result: Mapping[str, Any]) -> str:
    """How a trial has ended, in words."""
    why = f": {result['sentence']}" if result["sentence"] else ""
    return f"{result['status']}{score(result)}{why}"


def score(result: Mapping[str, Any]) -> str:
    """What a trial has scored, behind a comma; nothing of what failed, which has no end."""
    if result["status"] in BAD or result["score"] is None:
        return ""
    return f", {result['score']:.2f} ({result['score_of']})"


def advice(folder: Folder, result: Mapping[str, Any]) -> str:
    """What may be said behind a trial's sentence: what is refused once is mended in the file."""
    if result["status"] != folders.FAILED:
        return ""
    return f" (to try again, delete {folder.path / 'result.json'})"


def state(folder: Folder) -> str:
    """What a list says behind a trial; nothing where it has not begun."""
    if (result := folder.result()) is not None:
        return f": {told(result)}"
    if not (number := folder.newest()):
        return ""
    how = "stopped" if folder.has_ended(number) else "begun"
    return f": {how}, at {folder.standing().steps:,} steps"


def names(directory: pathlib.Path) -> set[str]:
    """The names of the trials that have begun in a sweep's directory."""
    return {path.parent.name for path in directory.glob("trials/*/attempts")}
