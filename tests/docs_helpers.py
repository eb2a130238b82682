"""Reads README, docs and results: commands, blocks of code, links, tables."""

import importlib.util
import itertools
import pathlib
import re
import shlex
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "results" / "README.md",
]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
NAMED_FILE = re.compile(r"`([\w.]+\.(?:py|toml))`")


class Block(NamedTuple):
    """A block of code."""

    language: str
    text: str
    line: int
    file: str | None  # what the paragraph before calls it


class Command(NamedTuple):
    """`python -m jdqn.…`."""

    module: str
    arguments: list[str]
    line: str  # as it stands on the page, loops and all

    @property
    def agent(self):
        """What `--agent` says; dqn where a training says nothing."""
        if self.module != "jdqn.train" or "--env" not in self.arguments:
            return None
        found = dict(itertools.pairwise(self.arguments)).get("--agent", "dqn")
        return None if "/" in found else found


def script(name):
    """A script of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(page):
    return page.read_text(encoding="utf-8")


def blocks(page, *languages):
    """The fenced blocks of a page; of all languages where none is named."""
    text = read(page)
    found = []
    for match in FENCE.finditer(text):
        paragraph = text[: match.start()].rstrip().rpartition("\n\n")[2]
        names = NAMED_FILE.findall(paragraph)
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(match[1], match[2], line, names[0] if names else None))
    return [block for block in found if block.language in languages or not languages]


def files_of(page):
    """Files that a page tells its reader to write: name and text."""
    return {block.file: block.text for block in blocks(page, "python", "toml") if block.file}


def commands(page):
    """The commands of a page, each value of a loop's variable put in."""
    return [command for block in blocks(page, "sh", "") for command in commands_of(block.text)]


def commands_of(block):
    """The commands of a block of shell lines."""
    text = block.replace("\\\n", " ")
    loops = dict(re.findall(r"\bfor (\w+) in ([^;\n]+)", text))
    text = re.sub(r"\$\(\(.*?\)\)(?=\W)", "20", text)  # arithmetic: any number does
    found = []
    for line in text.splitlines():
        for tokens in _simple_commands(line):
            used = [name for name in loops if any(f"${name}" in token for token in tokens)]
            for values in itertools.product(*(loops[name].split() for name in used)):
                filled = tokens
                for name, value in zip(used, values, strict=True):
                    filled = [token.replace(f"${name}", value) for token in filled]
                found.append(Command(filled[0], filled[1:], line))
    return found


def _simple_commands(line):
    """Module and arguments of each `python -m jdqn.…` of a line."""
    if "python -m jdqn" not in line:
        return
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|<>()")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    tokens = list(lexer)
    for i, token in enumerate(tokens):
        if token == "-m" and tokens[i - 1] == "python" and tokens[i + 1].startswith("jdqn."):
            ends = (set(token) <= set(";&|<>()") for token in tokens[i + 1 :])
            yield tokens[i + 1 : next((i + 1 + n for n, end in enumerate(ends) if end), None)]


def extras(page):
    """The extras of jdqn that a page installs."""
    text = read(page)
    return {name for found in re.findall(r"'\.\[([\w,-]+)\]'", text) for name in found.split(",")}


def links(page):
    """Text and target of every link and picture outside of code."""
    return LINK.findall(FENCE.sub("", read(page)))


def headings(page):
    """The headings of a page."""
    return re.findall(r"^#+ (.+)$", FENCE.sub("", read(page)), re.MULTILINE)


def anchors(page):
    """The anchors that the repository's site gives to headings."""
    found = {}
    result = set()
    for heading in headings(page):
        words = re.sub(r"[^\w\- ]", "", LINK.sub(r"\1", heading).lower())
        anchor = words.replace(" ", "-")
        number = found.get(anchor, 0)
        found[anchor] = number + 1
        result.add(f"{anchor}-{number}" if number else anchor)
    return result


def last_name(text):
    """`losses.huber` to huber, `loops/host.py` to host."""
    plain = text.strip("`").removesuffix(".py")
    return re.split(r"[./]", plain)[-1]


def tables(page):
    """The tables of a page, each a list of rows of cells, without the line of dashes."""
    found = []
    for lines in re.findall(r"(?:^\|.*\|$\n?)+", read(page), re.MULTILINE):
        rows = [
            [cell.strip() for cell in line.strip("|").split("|")] for line in lines.splitlines()
        ]
        found.append([rows[0], *rows[2:]])
    return found


def settings(page, agent):
    """Fields and values of the table under "Settings of `agent`"; {}: the page has none."""
    _, heading, rest = read(page).partition(f"## Settings of `{agent}`\n")
    if not heading:
        return {}
    rows = re.findall(
        r"^\| `([\w.]+)` \| (.+?) \| .+ \|$", rest.partition("\n## ")[0], re.MULTILINE
    )
    return dict(rows)
