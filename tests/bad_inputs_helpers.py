"""Files that commands may be pointed at, and the check that a command refuses in one line."""

import importlib
import os
import re

import pytest

from jdqn.config import load_config
from jdqn.loops import shared
from jdqn.runs import directory

HEADER = "steps,seed,return,length\n"
ROWS = "".join(f"{10 * i},0,{i},1\n" for i in range(1, 50))

# Under the folder in which the commands run.
TEXTS = {
    "file": "mine",
    "used/notes.txt": "mine",
    "folder/notes.txt": "mine",
    "broken.toml": "[replay",
    "deep.toml": "[replay]\nbatch_size = " + "[" * 3_000,
    "nested.toml": "[replay]\nbatch_size = " + "[" * 200 + "]" * 200,
    "digits.toml": "[replay]\nbatch_size = " + "9" * 5_000,
    "hexadecimal.toml": "[replay]\nbatch_size = 0x" + "f" * 5_000,
    "dotted.toml": "a.b.c = 1",
    "below.toml": "[replay]\nbatch_size.x = 1",
    "quoted.toml": '"replay.batch_size" = 3',
    "bare.toml": "batch_size = 3",
    "nameless.toml": '"" = 3',
    "several.toml": "[[replay]]\nbatch_size = 3",
    "inline.toml": "[replay]\nbatch_size = {a = 1}",
    "date.toml": "[replay]\nbatch_size = 2020-01-01",
    "nan.toml": "[optimizer]\neps = nan",
    "nul.toml": '[env]\nname = "a\\u0000b"',
    "number.toml": "[agent]\nname = 5",
    "above.toml": '[agent]\nname = "../dqn"',
    "line.toml": '[replay]\n"a\\nb" = 1',
    "name.toml": "[replay]\n" + "k" * 50_000 + " = 1",
    "protocol.toml": '[env]\nname = "CartPole-v1"\nprotocol = "nature"',
    "huge.toml": "#" * 1_000_001,
    "good.csv": HEADER + ROWS,
    "middle.csv": HEADER + "10,0\n" + ROWS,
    "words.csv": HEADER + ROWS + "x,0,1,1\n",
    "zeros.csv": HEADER + "\0\0\0\n" + ROWS,
    "quote.csv": HEADER + '"' + ROWS,
    "wide.csv": HEADER + "1,0," + "9" * 200_000 + ",1\n",
    "wide_header.csv": "9" * 200_000 + "\n",
    "infinite.csv": HEADER + "inf,0,1,1\n",
    "columns.csv": "a,b\n1,2\n",
    "header.csv": HEADER,
    "torn.csv": HEADER + "10,0",
    "empty.csv": "",
}


def fill(folder):
    """Writes the files, a run without episodes (`fresh`) and a run without a configuration."""
    for name, text in TEXTS.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (folder / "utf16.toml").write_text("[replay]\nbatch_size = 3\n", encoding="utf-16")
    (folder / "latin.csv").write_text(HEADER + "10,é,1,1\n", encoding="latin-1")
    for name in ("pipe", "pipe.csv", "pipe.png"):
        os.mkfifo(folder / name)
    config = load_config(env="CartPole-v1")
    fresh = directory.make_run_dir(folder / "fresh", config)
    directory.RunDirectory(fresh, config, "").close()
    (folder / "model").mkdir()  # as if exported
    (folder / "model" / "config.toml").write_bytes((fresh / "config.toml").read_bytes())
    (folder / "model" / "model.safetensors").write_bytes(b"PK" * 50)


def tree(folder):
    """Names of everything in a folder; of files size and time of change.

    A folder's own time is that of its lock, which comes and goes.
    """
    stats = {path: path.lstat() for path in sorted(folder.rglob("*"))}
    return {
        path: None if path.is_dir() else (stat.st_size, stat.st_mtime_ns)
        for path, stat in stats.items()
    }


def check_refusal(folder, monkeypatch, capsys, door, argv, said, status=2):
    """A command exits with one line that says some words, and touches nothing."""
    monkeypatch.chdir(folder)
    # What is not refused fails at once, instead of training.
    monkeypatch.setattr(shared, "drive", lambda *_: pytest.fail("not refused"))
    before = tree(folder)
    with pytest.raises(SystemExit) as info:
        importlib.import_module(f"jdqn.{door}").main(argv)
    printed = capsys.readouterr()
    check_answer(info.value.code, printed.out, printed.err, said, status)
    assert tree(folder) == before


def check_answer(found, out, err, said, status=2):
    """What a refusal looks like."""
    assert found == status
    # What is asked for is said before it is looked at closely.
    assert re.fullmatch(r"([^\n]+ on [^\n]+, seeds? [^\n]+ steps\nagent [^\n]+\n)?", out)
    assert err.startswith("error: ")
    assert err.endswith("\n")
    assert len(err.splitlines()) == 1
    assert err.strip().isprintable()
    assert len(err) < 450
    for words in said:
        assert words in err
