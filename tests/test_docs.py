"""README and docs: commands, Python code, links, tables and pictures hold of the present code.

Here they are only looked at; `test_commands_of_docs.py` runs every command, shortened.
"""

import ast
import importlib
import tomllib

import docs_helpers as docs
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdqn import __version__
from jdqn.__main__ import COMMANDS
from jdqn.config import Parser, from_options, load_config
from jdqn.learning import Calls, Loss, ValueHead, losses
from jdqn.learning.exploration import Behaviour
from jdqn.records import Batch, EnvSpec, QOutput, Timestep
from jdqn.runs import stopping

ROOT = docs.ROOT
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def ids(path):
    return path.relative_to(ROOT).as_posix()


# --- Commands -----------------------------------------------------------------------------------


@pytest.fixture
def parsed(monkeypatch):
    """Parses a command line with the parser of its door, and runs nothing."""
    seen = []
    parse = Parser.parse

    def remember(self, argv=None):
        seen.append(parse(self, argv))
        return seen[-1]

    monkeypatch.setattr(Parser, "parse", remember)
    monkeypatch.setattr(stopping, "command", lambda refuse, run: None)

    def call(command):
        importlib.import_module(command.module).main(command.arguments)
        return seen[-1]

    return call


@pytest.mark.parametrize("page", docs.PAGES, ids=ids)
def test_every_command_means_a_configuration(page, parsed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for file, text in docs.files_of(page).items():
        (tmp_path / file).write_text(text, encoding="utf-8")
    (tmp_path / "mine.toml").touch()
    for command in docs.commands(page):
        if "--help" in command.arguments:
            with pytest.raises(SystemExit) as end:
                parsed(command)
            assert end.value.code == 0
            continue
        try:
            arguments = parsed(command)
            if hasattr(arguments, "config") and not getattr(arguments, "resume", None):
                from_options(arguments)
        except (SystemExit, ValueError) as error:
            said = capsys.readouterr().err
            pytest.fail(f"{' '.join(command.arguments)}: {error} {said}")


def test_commands_are_found():
    """In a loop, on several lines, behind a prompt; not what a comment says."""
    block = (
        "for a in dqn c51; do\n  python -m jdqn.train --agent $a \\\n"
        "    --steps $((10*(n+1)));\ndone\n"
        "$ python -m jdqn.evaluate runs/a  # python -m jdqn.bench\n"
        "pip install -e '.[test]' && python -m pytest"
    )
    found = [(command.module, command.arguments) for command in docs.commands_of(block)]
    assert found == [
        ("jdqn.train", ["--agent", "dqn", "--steps", "20"]),
        ("jdqn.train", ["--agent", "c51", "--steps", "20"]),
        ("jdqn.evaluate", ["runs/a"]),
    ]


def test_every_agent_is_trained_by_a_command():
    pages = [page for page in docs.PAGES if page.parent.name == "algorithms"]
    found = {agent for page in pages for command in docs.commands(page) if (agent := command.agent)}
    agents = {path.stem for path in (ROOT / "configs" / "agents").glob("*.toml")}
    assert found == agents


@pytest.mark.parametrize("page", docs.PAGES, ids=ids)
def test_what_is_installed_is_an_extra(page):
    for extra in docs.extras(page):
        assert extra in PYPROJECT["project"]["optional-dependencies"]


# --- Code ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", docs.PAGES, ids=ids)
def test_python_code_compiles_and_toml_is_read(page):
    for block in docs.blocks(page, "python"):
        compile(block.text, f"{page.name}, line {block.line}", "exec")
    for block in docs.blocks(page, "toml"):
        tomllib.loads(block.text)


# --- Links --------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", docs.PAGES, ids=ids)
def test_links_lead_to_files_and_anchors(page):
    for text, target in docs.links(page):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"[{text}]({target})"
        assert path.is_relative_to(ROOT), f"[{text}]({target})"
        if anchor:
            assert anchor in docs.anchors(path), f"[{text}]({target})"
        if path.suffix == ".py" and text.startswith("`"):
            assert docs.last_name(text) in names_in(path), f"[{text}]({target})"


def names_in(path):
    """What a module defines, and what it is called."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    found = {path.stem}
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found


def test_anchors_are_those_of_the_site(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One `H200`, *two*\n```sh\n# no heading\n```\n## A b\n## A b\n")
    assert docs.anchors(page) == {"one-h200-two", "a-b", "a-b-1"}


def test_every_page_is_in_an_index():
    indices = [ROOT / "docs" / "README.md", ROOT / "docs" / "algorithms" / "README.md"]
    targets = [(index, target) for index in indices for _, target in docs.links(index)]
    found = {(index.parent / target.partition("#")[0]).resolve() for index, target in targets}
    pages = {page for page in docs.PAGES if page.is_relative_to(ROOT / "docs")}
    assert pages - found == {ROOT / "docs" / "README.md"}


# --- The reference ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def make_reference():
    return docs.script("make_reference")


def test_the_reference_is_current(make_reference):
    written = make_reference.PAGE.read_text(encoding="utf-8")
    assert make_reference.page() == written, "run: python docs/make_reference.py"


def test_the_reference_finds_every_command(make_reference):
    assert make_reference.doors() == list(COMMANDS)


def test_the_reference_has_the_pure_functions_and_their_batches(make_reference):
    headings = docs.headings(make_reference.PAGE)
    assert {"losses.project", "replay.n_step_return", "Replay.sample"} <= {*headings}
    (example,) = docs.FENCE.findall(make_reference.PURE)
    q = QOutput(q=jnp.arange(6.0).reshape(3, 2))
    numbers = jnp.arange(3.0)
    known = {"online": q, "target": q, "action": jnp.zeros(3, int), "losses": losses, "jax": jax}
    exec(example[1], known | {"reward": numbers, "discount": numbers}, found := {})
    batch = found["loss"](q, known["action"], numbers, numbers, q, q)
    expected = [losses.huber(r + r * row[1] - row[0]) for r, row in zip(numbers, q.q, strict=True)]
    np.testing.assert_allclose(batch.loss, expected)


def test_the_reference_has_what_a_value_head_is_made_of(make_reference):
    """Every field, with the comment above it."""
    text = docs.read(make_reference.PAGE)
    for record in (ValueHead, Calls, Loss, Behaviour, Batch, QOutput, Timestep, EnvSpec):
        _, _, section = text.partition(f"\n### {record.__name__}\n")
        block = docs.FENCE.search(section)[2]
        assert [f for f in record._fields if f"{f}: " not in block] == []
    assert "# (calls, batch) -> leaves [B, K]\nloss: Callable" in text


# --- What pages say -----------------------------------------------------------------------------


def test_the_readme_is_read_in_five_minutes():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


@pytest.mark.parametrize("agent", sorted(p.stem for p in (ROOT / "configs/agents").glob("*.toml")))
def test_an_agents_page_has_its_settings(agent):
    file = tomllib.loads((ROOT / "configs/agents" / f"{agent}.toml").read_text(encoding="utf-8"))
    config = load_config(env="Breakout", agent=agent)
    (said,) = [found for page in docs.PAGES if (found := docs.settings(page, agent))]
    for field, value in said.items():
        section, _, name = field.partition(".")
        assert value == in_words(getattr(config.sections[section], name)), field
    if agent != "dqn":  # whose page leaves sizes out that no paper has
        assert set(said) == {f"{s}.{f}" for s, fields in file.items() for f in fields}


def in_words(value):
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_every_cell_of_the_comparison_has_a_source():
    """Each row of the README's table is a section of docs/comparison.md."""
    (table,) = [t for t in docs.tables(ROOT / "README.md") if "Dopamine" in "".join(t[0])]
    rows = [row[0].lower() for row in table[1:]]
    headings = {heading.lower() for heading in docs.headings(ROOT / "docs" / "comparison.md")}
    assert len(rows) > 10
    assert [row for row in rows if row not in headings] == []


def test_the_citation_has_the_version():
    lines = (ROOT / "CITATION.cff").read_text(encoding="utf-8").splitlines()
    assert f"version: {__version__}" in lines
    assert {"title: jdqn", "license: Apache-2.0", "  - name: The jdqn authors"} <= set(lines)
    assert "CITATION.cff" in PYPROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]


# --- Results ------------------------------------------------------------------------------------


def test_every_result_is_in_the_one_index():
    folder = ROOT / "results"
    index = (folder / "README.md").read_text(encoding="utf-8")
    files = {path.name for path in folder.iterdir() if path.is_file()} - {"README.md"}
    assert len(files) > 20
    assert {name for name in files if f"`{name}`" not in index} == set()
    assert not (ROOT / "notebooks" / "results").exists()


def test_the_readmes_picture_is_drawn_by_its_command(tmp_path, monkeypatch, capsys):
    commands = docs.commands(ROOT / "README.md")
    (command,) = [c for c in commands if any("results/" in a for a in c.arguments)]
    picture, *curves = command.arguments
    assert f"]({picture})" in (ROOT / "README.md").read_text(encoding="utf-8")
    monkeypatch.chdir(ROOT)
    importlib.import_module(command.module).main([str(tmp_path / "drawn.png"), *curves])
    assert (tmp_path / "drawn.png").stat().st_size > 10_000
    assert "written: " in capsys.readouterr().out


@pytest.mark.slow
def test_the_other_pictures_are_drawn_by_their_script(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "results")
    importlib.import_module("pictures").main(tmp_path)
    drawn = {path.name for path in tmp_path.iterdir()}
    there = {path.name for path in (ROOT / "results").glob("*.png")}
    assert drawn == there - {"breakout.png"}
