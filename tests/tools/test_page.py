"""The page: what stands in it, and that it asks for nothing."""

import html.parser
import re

import pytest
from report_helpers import write_run

from jdqn.tools import groups, page

VOID = {"meta", "link", "input", "img", "br", "hr"}


class Reader(html.parser.HTMLParser):
    """Tags with attributes, all texts; checks that what is opened is closed."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.open = []
        self.texts = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data.strip())

    def count(self, tag, **wanted):
        return sum(t == tag and all(a.get(k) == v for k, v in wanted.items()) for t, a in self.tags)


def read(paths, thresholds=None):
    text = page.render(groups.read_groups([str(path) for path in paths]), thresholds or {})
    return text, Reader(text)


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """Two agents on two environments, one of them a game of Atari's, with a video."""
    path = tmp_path_factory.mktemp("runs")
    for env, level in [("CartPole-v1", 9.0), ("Pong", -3.0)]:
        write_run(path / env / "a", env=env, seeds=(0, 1, 2), level=level)
        heads = {"network__heads": 3, "metrics": ("loss", "q_spread", "signal_to_noise/torso")}
        write_run(path / env / "b", env=env, agent="bootstrapped", seeds=(0, 1), **heads)
    evaluations = path / "CartPole-v1" / "b" / "evaluations.csv"
    row = evaluations.read_text().splitlines()[-1]
    evaluations.write_text(evaluations.read_text() + row.replace("vote", "head_2") + "\n")
    (path / "Pong" / "a" / "game.gif").write_bytes(b"GIF89a")
    return read([path], {"CartPole-v1": 20.0})


def test_it_asks_for_nothing(shown):
    text, reader = shown
    links = [a.get(k) for _, a in reader.tags for k in ("src", "href") if a.get(k) is not None]
    assert len(links) == 2  # the icon, the video
    assert all(link.startswith("data:") for link in links)
    assert not re.search(r"url\(|@import|<script|https?://", text)


def test_it_says_that_the_step_that_resets_is_counted(shown):
    assert "only starts the next one, and is counted too" in shown[0]


def test_every_environment_has_its_curves_comparison_and_tables(shown):
    _, reader = shown
    assert reader.count("section") == 4  # two environments, over all, how to read
    words = [attributes["aria-label"] for tag, attributes in reader.tags if tag == "svg"]
    for label in [
        "Learning curves on CartPole-v1 against agent steps",
        "Learning curves on CartPole-v1 against wall-clock",
        "Learning curves on Pong against frames",
        "Scores at the end on Pong",
        "Evaluations on CartPole-v1",
        "spread of the heads (standard deviation of Q) on Pong",
        "signal to noise, torso on Pong",
        "Performance profiles",
        "Interquartile means",
    ]:
        assert words.count(label) == 1
    assert "Learning curves on CartPole-v1 against frames" not in words
    tables = [a.get("class") for tag, a in reader.tags if tag == "table"]
    assert tables.count("final") == 2
    assert tables.count("aggregates") == 1
    assert tables.count("games") == 1
    assert len(tables) == 2 + 1 + 1 + 1 + 2  # and one by policy, and what differs


def test_what_is_compared_and_what_differs_is_said(shown):
    _, reader = shown
    for text in [
        *("Training report", "dqn and bootstrapped on CartPole-v1 and Pong", "classic / none"),
        *("0, 1, 2 (10 in all)", "jdqn 0.1.0, jax 0.10.2, python 3.11.7, revision abc"),
        *("network.heads", "head 2", "2 of 3", "a/game.gif", "Solved: a score of 20 or more."),
    ]:
        assert text in reader.texts


def test_every_choice_of_an_axis_shows_a_chart(shown):
    text, reader = shown
    chosen = [a["class"] for tag, a in reader.tags if tag == "input"]
    panes = [a["class"] for _, a in reader.tags if a.get("class", "").startswith("pane")]
    assert chosen == ["r-steps", "r-time", "r-steps", "r-frames", "r-time"]
    assert panes == [f"pane {name.replace('r-', 'p-')}" for name in chosen]
    for name in chosen:
        assert f".{name}:checked ~ .{name.replace('r-', 'p-')}" in text
    assert text.count(" checked>") == 2


def test_names_are_text_and_no_markup(tmp_path):
    path = write_run(tmp_path / "a")
    text, reader = read([f"<script>&=\"'={path}"])
    assert "<script>" not in text
    assert reader.count("script") == 0
    assert "<script>&=\"'" in reader.texts


def test_a_single_run_is_a_page_too_without_what_needs_several(tmp_path):
    text, reader = read([write_run(tmp_path / "a", evaluates=False)])
    assert "One seed on one environment: there is nothing to average over." in reader.texts
    assert reader.count("table") == 1
    assert "What differs" not in text
    assert "nan" not in text


def test_seeds_and_agents_of_different_lengths_are_told(tmp_path):
    a = write_run(tmp_path / "a", seeds=(0,), steps=1_000)
    b = write_run(tmp_path / "b", seeds=(1,), steps=500)  # stopped
    c = write_run(tmp_path / "c", agent="double", steps=2_000)
    text, _ = read([a, b, c])
    assert "the curve of dqn ends at 500 steps, where its shortest seed does" in text
    assert "trained for different numbers of steps: dqn 500, double 2,000." in text


def test_seeds_that_were_trained_together_are_told_where_others_were_not(tmp_path):
    together = write_run(tmp_path / "a", seeds=(0, 1))
    alone = write_run(tmp_path / "b", agent="double")
    told = "some runs trained several seeds together; against wall-clock each"
    assert told in read([together, alone])[0]
    assert told not in read([together])[0]


def test_curves_against_time_follow_each_seeds_own_speed(tmp_path):
    env = groups.read_groups([str(write_run(tmp_path / "a", seeds=(0, 1)))])[0]
    seed = env.groups[0].seeds[0]  # 200 steps every 1.5 seconds
    assert page._steps_at(seed, [0, 0.75, 1.5, 7.5]).tolist() == [0, 100, 200, 1_000]


@pytest.mark.parametrize(("seconds", "text"), [(7.4, "7 s"), (600, "10 min"), (9_000, "2.5 h")])
def test_durations(seconds, text):
    assert page.duration(seconds) == text
