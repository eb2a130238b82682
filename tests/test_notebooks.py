"""What the notebooks hold as they are stored; that they run is tried by nbmake."""

import json
import pathlib
import re

import pytest

FOLDER = pathlib.Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
BYTES = 600_000
PICTURE_CHARACTERS = 200_000  # base64 of 150 kB
TEXT_LINES = 20
# Of a machine: of its users, its temporary files, its programs.
PATH = re.compile(r"(?<![\w.~/-])(/(tmp|home|root|Users|usr|opt|work|mnt|var)/|[A-Z]:\\)")
WARNS = re.compile(r"Warning|warning:|WARNING")


def code_cells(path):
    """The cells of a notebook that hold code."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def problems(path):
    """What must not be seen on the page of a notebook, a sentence each."""
    if path.stat().st_size > BYTES:
        yield f"{path.stat().st_size} bytes"
    cells = code_cells(path)
    counts = [cell["execution_count"] for cell in cells]
    if counts != [*range(1, len(cells) + 1)]:
        yield f"not executed once, from above to below: {counts}"
    for output in (output for cell in cells for output in cell["outputs"]):
        if output["output_type"] == "error" or output.get("name") == "stderr":
            yield f"an error: {output}"
        for kind, data in {"text": output.get("text", ""), **output.get("data", {})}.items():
            text = "".join(data)
            if kind.startswith("image/") and len(text) > PICTURE_CHARACTERS:
                yield f"a picture of {len(text)} characters"
            if kind.startswith("text") and (PATH.search(text) or WARNS.search(text)):
                yield f"a machine's path or a warning: {text}"
            if kind.startswith("text") and text.count("\n") > TEXT_LINES:
                yield f"{text.count(chr(10))} lines"


def test_the_notebooks_are_found():
    names = {"quickstart", "replay_and_losses", "rainbow_anatomy", "deep_exploration"}
    assert names <= {path.stem for path in NOTEBOOKS}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_with_small_outputs_of_no_machine(path):
    assert list(problems(path)) == []
    pictures = [o for c in code_cells(path) for o in c["outputs"] if "image/png" in str(o)]
    assert pictures


def written(path, outputs, count=1):
    """A notebook of one cell."""
    cell = {"cell_type": "code", "source": "", "outputs": outputs, "execution_count": count}
    path.write_text(json.dumps({"cells": [cell]}), encoding="utf-8")
    return path


def printed(text, name="stdout"):
    return {"output_type": "stream", "name": name, "text": [text]}


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ([printed("writing /tmp/abc/run")], "path"),
        ([printed("UserWarning: no")], "warning"),
        ([printed("a line\n" * 100)], "100 lines"),
        ([printed("no", "stderr")], "an error"),
        ([{"output_type": "error", "ename": "ValueError"}], "an error"),
        (
            [{"output_type": "display_data", "data": {"image/png": "x" * 300_000}}],
            "a picture of 300000",
        ),
    ],
)
def test_what_must_not_be_stored_is_seen(tmp_path, outputs, words):
    (said,) = problems(written(tmp_path / "a.ipynb", outputs))
    assert words in said


def test_a_notebook_that_was_not_executed_is_seen(tmp_path):
    (said,) = problems(written(tmp_path / "a.ipynb", [printed("docs/a.md, 3/4")], count=None))
    assert "not executed" in said
