"""The family tree names every agent, and agrees with their files and the table beside it."""

import docs_helpers as docs
import pytest
from matplotlib.backends import backend_agg
from matplotlib.path import Path
from PIL import Image

AGENTS = {path.stem for path in (docs.ROOT / "configs" / "agents").glob("*.toml")}


@pytest.fixture(scope="module")
def script():
    return docs.script("make_family_tree")


@pytest.fixture(scope="module")
def tree(script):
    return script.family()


@pytest.fixture(scope="module")
def axes(script, tree):
    """Of the picture, drawn."""
    drawn = script.draw(tree)
    backend_agg.FigureCanvasAgg(drawn).draw()
    return drawn.axes[0]


def boxes_of(axes):
    return {box.get_gid(): box for box in axes.patches}


def touches(box, point):
    return box.get_bbox().padded(0.01).contains(*point)


# --- The family ---------------------------------------------------------------------------------


def test_every_agent_has_a_place(tree):
    assert set(tree.agents) == AGENTS
    assert tree.mistakes() == []


def test_what_has_no_place_is_named(tree, script):
    page, places = "docs/algorithms/README.md", "FAMILY in docs/make_family_tree.py"
    mine = script.Member("Mine", ("mine",), ("agent.loss",), "–")
    agents = {**tree.agents, "mine": {"agent.loss", "agent.double"}}
    new = tree._replace(agents=agents)
    assert new.mistakes() == [
        f"configs/agents/mine.toml has no row in the table of {page}: add one"
    ]
    new = new._replace(members={**tree.members, "Mine": mine})
    assert new.mistakes() == [
        f"Mine in the table of {page} has no place in the family tree: add it to {places}"
    ]
    new = new._replace(places={**tree.places, "Mine": script.Place(3, 1, ("DQN",))})
    assert new.mistakes() == [
        "configs/agents/mine.toml sets agent.double, which neither Mine nor what it builds on has "
        "in docs/make_family_tree.py"
    ]
    new = new._replace(places={**tree.places, "Mine": script.Place(3, 1, ("Double DQN",))})
    assert new.mistakes() == []


def test_what_is_no_more_is_named(tree):
    """A row of an agent that is gone, a place without a row, a field that no agent sets."""
    page, places = "docs/algorithms/README.md", "FAMILY in docs/make_family_tree.py"
    agents = {name: fields for name, fields in tree.agents.items() if name != "btr"}
    assert tree._replace(agents=agents).mistakes() == [
        f"btr in the table of {page} is no file in configs/agents"
    ]
    members = {name: member for name, member in tree.members.items() if name != "IQN"}
    assert f"IQN in {places} has no row in the table of {page}" in (
        tree._replace(members=members).mistakes()
    )
    assert tree._replace(agents={**tree.agents, "c51": set()}).mistakes() == [
        "the row of C51 names network.atoms, which none of its agents sets"
    ]


def test_what_is_on_is_read_from_the_files(tree):
    lines = {name: tree.lines(member) for name, member in tree.members.items()}
    assert lines["Rainbow"][2:] == ["rainbow", "6 switches"]
    assert lines["Beyond the Rainbow"][3:] == [
        "8 switches",
        "without agent.double",
        "without network.atoms",
    ]
    assert lines["Bootstrapped DQN"][2:] == ["bootstrapped", "network.heads"]


# --- The picture --------------------------------------------------------------------------------


def test_the_picture_names_every_agent(axes):
    assert {text.get_text() for text in axes.texts} >= AGENTS


def test_words_stay_in_their_boxes(axes):
    boxes = boxes_of(axes)
    texts = [text for text in axes.texts if text.get_text()]
    assert len(texts) > 3 * len(boxes)
    for text in texts:
        inner, outer = text.get_window_extent(), boxes[text.get_gid()].get_window_extent()
        assert outer.x0 < inner.x0, text
        assert inner.x1 < outer.x1, text


def test_no_arrow_and_no_box_lies_on_a_box(axes):
    boxes = boxes_of(axes).values()
    for box in boxes:
        assert sum(box.get_bbox().overlaps(other.get_bbox()) for other in boxes) == 1, box
    arrows = [text for text in axes.texts if not text.get_text()]
    assert len(arrows) > len(boxes)
    for arrow in arrows:
        line = Path([arrow.xy, arrow.xyann])
        ends = {box for box in boxes if touches(box, arrow.xy) or touches(box, arrow.xyann)}
        assert len(ends) == 2
        for box in set(boxes) - ends:
            assert not line.intersects_bbox(box.get_bbox(), filled=False), box.get_gid()


def test_the_picture_is_current_and_small(script, tree):
    with Image.open(script.PICTURE) as picture:
        assert picture.text["Description"] == tree.text(), "run: python docs/make_family_tree.py"
        assert picture.width >= 1_000
    assert script.PICTURE.stat().st_size < 150_000


# --- The table ----------------------------------------------------------------------------------


def test_every_row_says_what_was_measured_or_that_nothing_was(script):
    (table,) = [table for table in docs.tables(script.PAGE) if table[0][0] == "switch"]
    for row in table[1:]:
        is_measured = "](../../results/README.md#" in row[-1]
        assert is_measured != (row[-1] == "not measured here yet"), row
