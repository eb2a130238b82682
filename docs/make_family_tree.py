"""Draws docs/algorithms/family_tree.png: the agents, their papers, and who builds on whom.

python docs/make_family_tree.py

Names, papers and fields are read from the table of docs/algorithms/README.md, what an agent
switches on from configs/agents. Only who builds on whom, and where it stands, is written here.
"""

import pathlib
import re
import sys
import tomllib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from matplotlib import figure, patches
from matplotlib.backends import backend_agg
from PIL import Image, PngImagePlugin

from jdqn.config.layers import config_dir

PAGE = pathlib.Path(__file__).parent / "algorithms" / "README.md"
PICTURE = PAGE.with_name("family_tree.png")
HEAD = "| switch | `--agent` | field | paper |"


class Place(NamedTuple):
    """Where a member stands, in columns and in rows from the top, and what it builds on."""

    x: float
    y: int
    builds_on: tuple[str, ...] = ()


RAINBOWS_PARTS = ("Dueling networks", "Prioritised replay", "N-step returns", "Noisy networks")
FAMILY = {
    "DQN": Place(2.5, 0),
    "Double DQN": Place(0.5, 1, ("DQN",)),
    "Dueling networks": Place(0, 2, ("Double DQN",)),
    "Prioritised replay": Place(1, 2, ("Double DQN",)),
    "N-step returns": Place(2, 2, ("DQN",)),
    "Noisy networks": Place(3, 2, ("DQN",)),
    "C51": Place(4, 2, ("DQN",)),
    "Bootstrapped DQN": Place(0.5, 3, ("Double DQN",)),
    "Rainbow": Place(1.75, 3, (*RAINBOWS_PARTS, "C51")),
    "QR-DQN": Place(4, 3, ("C51",)),
    "Randomised priors": Place(0.5, 4, ("Bootstrapped DQN",)),
    "Munchausen": Place(2.5, 4, ("DQN",)),
    "IQN": Place(4, 4, ("QR-DQN",)),
    "Bootstrapped Rainbow": Place(0.75, 5, ("Randomised priors", "Rainbow")),
    "Beyond the Rainbow": Place(2, 5, ("Rainbow", "Munchausen", "IQN", "Spectral norm")),
    "Spectral norm": Place(3, 5, ("IMPALA's torso",)),
    "IMPALA's torso": Place(4, 5),
}

# Inches, of which a page 800 pixels wide shows 97 to one.
COLUMN = 1.64
ROW = 1.42
WIDTH = 1.5
MARGIN = 0.09
LINE = 0.15
DPI = 160
POINTS = 7.8
COLOURS = 32  # keep the file small
STYLES = {  # face and edge
    "an agent": {"fc": "#e6effa", "ec": "#33669e"},
    "an agent made of others": {"fc": "#fdeedb", "ec": "#b36b12"},
    "a switch for any agent": {"fc": "white", "ec": "#666666", "ls": "--"},
}


class Member(NamedTuple):
    """A row of the table."""

    name: str
    agents: tuple[str, ...]
    fields: tuple[str, ...]
    paper: str


def read_members(page: str) -> dict[str, Member]:
    """The rows of the table on the page, by name."""
    _, _, rest = page.partition(HEAD)
    rows = re.findall(r"^\| \[(.+?)\]\(.+?\) \| (.+?) \| (.+?) \| (.+?) \|", rest, re.MULTILINE)
    members = [
        Member(name, tuple(re.findall(r"`(\w+)`", agents)), fields_in(fields), paper)
        for name, agents, fields, paper in rows
    ]
    return {member.name: member for member in members}


def fields_in(cell: str) -> tuple[str, ...]:
    """Fields that a cell of the table names."""
    return tuple(re.findall(r"`(\w+\.\w+)`", cell))


def read_agents() -> dict[str, set[str]]:
    """By agent the fields, dotted, in which its file differs from dqn's."""
    files = (config_dir() / "agents").glob("*.toml")
    read = {path.stem: tomllib.loads(path.read_text(encoding="utf-8")) for path in sorted(files)}
    return {
        agent: {
            f"{section}.{field}"
            for section, values in file.items()
            for field, value in values.items()
            if value != read["dqn"][section][field]
        }
        for agent, file in read.items()
    }


class Tree(NamedTuple):
    """The family: members of the table, the fields that agents' files set, and places."""

    members: Mapping[str, Member]
    agents: Mapping[str, set[str]]
    places: Mapping[str, Place] = FAMILY

    @property
    def fields(self) -> set[str]:
        """The fields of the table, which switch code on."""
        return {field for member in self.members.values() for field in member.fields}

    def kind(self, member: Member) -> str:
        """Which of `STYLES`."""
        if not member.agents:
            return "a switch for any agent"
        is_many = len(self.places[member.name].builds_on) > 1
        return "an agent made of others" if is_many else "an agent"

    def switches(self, member: Member) -> set[str]:
        """The fields of the table that a member, by its first agent, has on."""
        return self.agents[member.agents[0]] & self.fields if member.agents else {*member.fields}

    def known_to(self, name: str) -> set[str]:
        """The fields of a member and of all that it builds on."""
        above = (self.known_to(parent) for parent in self.places[name].builds_on)
        return {*self.members[name].fields}.union(*above)

    def mistakes(self) -> list[str]:
        """A sentence for each thing in which table, files and places do not agree."""
        named = {agent for member in self.members.values() for agent in member.agents}
        page, script = "docs/algorithms/README.md", "FAMILY in docs/make_family_tree.py"
        found = [
            *(
                f"configs/agents/{agent}.toml has no row in the table of {page}: add one"
                for agent in sorted(self.agents.keys() - named)
            ),
            *(
                f"{agent} in the table of {page} is no file in configs/agents"
                for agent in sorted(named - self.agents.keys())
            ),
            *(
                f"{name} in the table of {page} has no place in the family tree: add it to {script}"
                for name in sorted(self.members.keys() - self.places.keys())
            ),
            *(
                f"{name} in {script} has no row in the table of {page}"
                for name in sorted(self.places.keys() - self.members.keys())
            ),
        ]
        return found or [
            sentence for member in self.members.values() for sentence in self._disagreements(member)
        ]

    def _disagreements(self, member: Member) -> list[str]:
        """What a member's agents set and nobody above has, and what none of them sets."""
        sets = {agent: self.agents[agent] & self.fields for agent in member.agents}
        found = [
            f"configs/agents/{agent}.toml sets {field}, which neither {member.name} nor what it "
            "builds on has in docs/make_family_tree.py"
            for agent, fields in sets.items()
            for field in sorted(fields - self.known_to(member.name))
        ]
        unset = {*member.fields}.difference(*sets.values()) if sets else ()
        return found + [
            f"the row of {member.name} names {field}, which none of its agents sets"
            for field in sorted(unset)
        ]

    def lines(self, member: Member) -> list[str]:
        """What stands in a member's box: name, paper, agents, switches."""
        paper = "no paper of its own" if member.paper == "–" else member.paper
        return [member.name, paper, *member.agents, *(member.fields or self._summary(member))]

    def _summary(self, member: Member) -> list[str]:
        """How many switches are on, and which of its parents' are not."""
        on = self.switches(member)
        parents = self.places[member.name].builds_on
        inherited = set().union(*(self.switches(self.members[parent]) for parent in parents))
        count = [f"{len(on)} switches"] if on else []
        return count + [f"without {field}" for field in sorted(inherited - on)]

    def text(self) -> str:
        """All that the picture says; kept in it, to see whether it is the present one."""
        return "\n".join(
            " | ".join([*self.lines(member), "on " + ", ".join(self.places[name].builds_on)])
            for name, member in self.members.items()
        )


def draw(tree: Tree) -> figure.Figure:
    """The picture."""
    places = tree.places.values()
    columns, rows = (max(place[axis] for place in places) for axis in (0, 1))
    size = (COLUMN * columns + WIDTH + 2 * MARGIN, ROW * (rows + 1))
    drawn = figure.Figure(figsize=size, dpi=DPI, facecolor="white")
    axes = drawn.add_axes((0, 0, 1, 1))
    axes.set_xlim(-WIDTH / 2 - MARGIN, COLUMN * columns + WIDTH / 2 + MARGIN)
    axes.set_ylim(ROW * (rows + 0.5), -ROW / 2)
    axes.axis("off")
    boxes = {name: _draw_box(axes, tree, member) for name, member in tree.members.items()}
    for name, box in boxes.items():
        for parent in tree.places[name].builds_on:
            _draw_arrow(axes, boxes[parent], box)
    handles = [patches.Patch(label=kind, **style) for kind, style in STYLES.items()]
    axes.legend(handles=handles, loc="upper right", fontsize=POINTS, frameon=False)
    return drawn


def _draw_box(axes: Any, tree: Tree, member: Member) -> patches.Rectangle:
    """A member's box and its lines, the agents' names as one types them."""
    lines = tree.lines(member)
    place = tree.places[member.name]
    height = LINE * len(lines) + MARGIN
    corner = (COLUMN * place.x - WIDTH / 2, ROW * place.y - height / 2)
    box = patches.Rectangle(corner, WIDTH, height, lw=1, zorder=2, **STYLES[tree.kind(member)])
    axes.add_patch(box)
    for i, line in enumerate(lines):
        style: dict[str, Any] = {"color": "#333333", "fontsize": POINTS}
        if i == 0:
            style = {"color": "black", "fontsize": POINTS + 0.3, "fontweight": "bold"}
        elif line in member.agents:
            style |= {"color": STYLES["an agent"]["ec"], "family": "monospace"}
        top = corner[1] + MARGIN / 2 + LINE * (i + 0.5)
        text = axes.text(COLUMN * place.x, top, line, ha="center", va="center", zorder=3, **style)
        text.set_parse_math(False)
        text.set_gid(member.name)
    box.set_gid(member.name)
    return box


def _draw_arrow(axes: Any, parent: patches.Rectangle, child: patches.Rectangle) -> None:
    """From the lower side of a box to the upper one of another, or across a row."""
    start = [parent.get_x() + WIDTH / 2, parent.get_y() + parent.get_height()]
    end = [child.get_x() + WIDTH / 2, child.get_y()]
    if start[1] > end[1]:  # of one row
        middle = parent.get_y() + parent.get_height() / 2
        start, end = [parent.get_x(), middle], [child.get_x() + WIDTH, middle]
    style = {"arrowstyle": "-|>", "color": "#777777", "lw": 1, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, start, arrowprops=style, zorder=1)


def family() -> Tree:
    """The family as it stands in the repository."""
    return Tree(read_members(PAGE.read_text(encoding="utf-8")), read_agents())


def main() -> None:
    """Writes the picture, or says why it cannot."""
    tree = family()
    if mistakes := tree.mistakes():
        sys.exit("\n".join(mistakes))
    canvas = backend_agg.FigureCanvasAgg(draw(tree))
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(COLOURS)
    said = PngImagePlugin.PngInfo()
    said.add_text("Description", tree.text())
    image.save(PICTURE, optimize=True, pnginfo=said)


if __name__ == "__main__":
    main()
