"""The house keeps its shape: who imports whom, how long things are, where things are asked.

Each check is a function of a room and a module's syntax tree that returns what is wrong, so that it
can be shown to see what it forbids.
"""

import ast
import functools
import json
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

import jdqn

PACKAGE = pathlib.Path(jdqn.__file__).parent
TESTS = pathlib.Path(__file__).parent
PROJECT = tomllib.loads((TESTS.parent / "pyproject.toml").read_text(encoding="utf-8"))

# Left never imports right; rooms of one level do not import each other.
LEVELS = [
    {"records", "config"},
    {"clock", "compilation", "devices", "kernels"},
    {"networks", "envs"},
    {"replay"},
    {"learning"},
    {"runs"},
    {"loops"},
    {"tools"},
    {"train", "evaluate", "play", "report", "export", "plots", "sweep", "bench"},  # the doors
    {"__main__"},  # names them
]
LEVEL = {name: level for level, rooms in enumerate(LEVELS) for name in rooms}
DOORS = sorted(LEVELS[-2])
CORE = ("networks", "replay", "learning", "loops")

ENVIRONMENTS = {"envpool", "gymnasium", "gymnax", "ale_py"}
HEAVY_ENVIRONMENTS = {"envpool", "gymnax", "ale_py"}
# Requirements whose package has another name.
IMPORTED_AS = {
    "ale-py": "ale_py",
    "backports.zstd": "backports",
    "pillow": "PIL",
    "imageio-ffmpeg": "imageio_ffmpeg",
    "tomli-w": "tomli_w",
}
LATER_STANDARD_LIBRARY = {"compression"}  # from 3.14 on

FILE_LINES = 400
FUNCTION_LINES = 60
# 2,496 before loops could go on with a run or begin with its parameters; 2,978 before `learn` drew
# at once what its updates draw, for fewer kernels on a GPU; 3,018 before layers were told in what
# dtype they multiply, and the replay and the loops could be split over several devices; 3,310
# before a run could have several processes; 3,320 before the residual torso, its pools and its
# spectral norm; 3,445 before quantiles, implicit ones, and Munchausen; 3,655 before a prior moved
# quantiles together, who looks on got samples that are not drawn, and the quantiles' loss made its
# gradient with its value, several times as fast on a CPU; 3,699 before outputs were products in
# full float32, buffers as long as the shortest period, and a `make_env` beside JAX refused.
CORE_LINES = 3_716


@functools.cache
def tree_of(path):
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def modules():
    """Every module of the package: where it lies under jdqn, and its syntax tree."""
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).as_posix(), tree_of(path)


def room(module):
    """The first part of a module's path under jdqn."""
    return module.partition("/")[0].removesuffix(".py")


def num_lines(path):
    """Lines of a file, blank ones too."""
    return len(path.read_text(encoding="utf-8").splitlines())


def statements(tree):
    """What runs when a module is imported: all nodes but those inside functions."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
            yield from statements(node)


def imported(nodes):
    """Dotted names of everything that some nodes import; `.` stands for a relative import."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            prefix = "." if node.level else f"{node.module}."
            yield from (prefix + alias.name for alias in node.names)


def package_of(name):
    """The top-level package of a dotted name."""
    return name.partition(".")[0]


def requirements():
    """Packages that an installation without extras has, by the names they are imported by."""
    names = [re.match(r"[\w.-]+", text)[0] for text in PROJECT["project"]["dependencies"]]
    return {IMPORTED_AS.get(name, name) for name in names}


# --- The checks ---------------------------------------------------------------------------------


def imports_to_the_right(module, tree):
    """Rooms that are not to the left of a module's own; inside functions too."""
    own = room(module)
    for name in imported(ast.walk(tree)):
        if package_of(name) == "":
            yield f"relative import {name}"
        if package_of(name) == "jdqn":
            target = [*name.split("."), ""][1]
            if target not in (own, "__version__") and LEVEL.get(target, len(LEVELS)) >= LEVEL[own]:
                yield f"{own} imports {name}"


def environments_outside(module, tree):
    """Environment packages, where neither an adapter nor a peer is."""
    if room(module) == "envs" or module == "tools/peers.py":
        return
    for name in imported(ast.walk(tree)):
        if package_of(name) in ENVIRONMENTS:
            yield name


def heavy_environments_at_the_top(module, tree):
    """Environment packages that may be missing, outside functions."""
    yield from (n for n in imported(statements(tree)) if package_of(n) in HEAVY_ENVIRONMENTS)


def extras_at_the_top(module, tree):
    """What an installation without extras does not have, outside functions."""
    known = {"jdqn", *requirements(), *sys.stdlib_module_names, *LATER_STANDARD_LIBRARY}
    yield from (name for name in imported(statements(tree)) if package_of(name) not in known)


def long_functions(module, tree):
    """Functions with too many lines, decorators not counted."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.lineno + 1
            if lines > FUNCTION_LINES:
                yield f"{node.name}: {lines} lines"


def several_ideas_on_a_line(module, tree):
    """Assignments of a tuple to a tuple."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            to_tuple = any(isinstance(target, ast.Tuple) for target in node.targets)
            if to_tuple and isinstance(node.value, ast.Tuple):
                yield f"line {node.lineno}"


def backend_asked_outside_kernels(module, tree):
    """Where else than in `kernels` it is asked what programs run on."""
    if module == "kernels.py":
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == "default_backend":
            yield f"line {node.lineno}"
    for name in imported(ast.walk(tree)):
        if name.endswith(".default_backend"):
            yield name


def atoms_read_outside_value_heads(module, tree):
    """Where else `config.network.atoms` is read: networks know `num_outputs` only."""
    if room(module) == "config" or module == "learning/values.py":
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == "atoms":
            yield f"line {node.lineno}"


CHECKS = [
    imports_to_the_right,
    environments_outside,
    heavy_environments_at_the_top,
    extras_at_the_top,
    long_functions,
    several_ideas_on_a_line,
    backend_asked_outside_kernels,
    atoms_read_outside_value_heads,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_no_module_breaks_a_rule(check):
    exempt = {"__init__.py"} if check is imports_to_the_right else set()
    wrong = {m: found for m, tree in modules() if m not in exempt if (found := [*check(m, tree)])}
    assert wrong == {}


LONG = "def long():\n" + "    pass\n" * FUNCTION_LINES


@pytest.mark.parametrize(
    ("check", "module", "source"),
    [
        (imports_to_the_right, "replay/ring.py", "from jdqn import learning"),
        (imports_to_the_right, "replay/ring.py", "from jdqn.learning.agent import make_agent"),
        (imports_to_the_right, "replay/ring.py", "def f():\n    import jdqn.loops.fused"),
        (imports_to_the_right, "networks/layers.py", "from jdqn import envs"),  # of one level
        (imports_to_the_right, "records.py", "from jdqn.config import Config"),
        (imports_to_the_right, "train.py", "if x:\n    from jdqn import bench"),
        (imports_to_the_right, "runs/run.py", "from jdqn import a_room_without_a_level"),
        (imports_to_the_right, "runs/run.py", "import jdqn"),
        (imports_to_the_right, "runs/run.py", "from . import checkpoint"),
        (imports_to_the_right, "runs/run.py", "from ..loops import fused"),
        (environments_outside, "loops/host.py", "def f():\n    import gymnasium.vector"),
        (environments_outside, "tools/stages.py", "from envpool.atari import registration"),
        (heavy_environments_at_the_top, "envs/atari.py", "import envpool"),
        (
            heavy_environments_at_the_top,
            "envs/jax_native.py",
            "try:\n    import gymnax\nfinally: 0",
        ),
        (extras_at_the_top, "tools/peers.py", "import torch"),
        (extras_at_the_top, "tools/peers.py", "class A:\n    from stable_baselines3 import DQN"),
        (long_functions, "train.py", LONG),
        (
            long_functions,
            "train.py",
            "class A:\n" + LONG.replace("def", " def").replace("pass", "0"),
        ),
        (several_ideas_on_a_line, "train.py", "a, b = 1, 2"),
        (several_ideas_on_a_line, "train.py", "def f():\n    (a, self.b) = c = (b, a)"),
        (backend_asked_outside_kernels, "loops/fused.py", "x = jax.default_backend() == 'cpu'"),
        (backend_asked_outside_kernels, "loops/fused.py", "from jax import default_backend"),
        (atoms_read_outside_value_heads, "networks/q_network.py", "z = config.network.atoms"),
    ],
)
def test_a_check_sees_what_it_forbids(check, module, source):
    assert len(list(check(module, ast.parse(source)))) == 1


@pytest.mark.parametrize(
    ("check", "module", "source"),
    [
        (imports_to_the_right, "learning/agent.py", "from jdqn import clock, learning, replay"),
        (imports_to_the_right, "config/layers.py", "from jdqn.config.schema import Config"),
        (environments_outside, "envs/gym.py", "import gymnasium"),
        (environments_outside, "tools/peers.py", "import gymnasium"),
        (heavy_environments_at_the_top, "envs/atari.py", "def f():\n    import envpool"),
        (extras_at_the_top, "runs/checkpoint.py", "import pathlib, tomli_w, tensorboardX.summary"),
        (extras_at_the_top, "tools/peers.py", "def f():\n    import torch"),
        (
            long_functions,
            "train.py",
            "@decorated\n" + LONG.replace("    pass\n", "    0\n", 1)[:-9],
        ),
        (several_ideas_on_a_line, "train.py", "a, b = f(x)\nc = (1, 2)\n(d,) = e"),
        (backend_asked_outside_kernels, "kernels.py", "jax.default_backend()"),
        (atoms_read_outside_value_heads, "learning/values.py", "config.network.atoms"),
    ],
)
def test_a_check_lets_pass_what_is_allowed(check, module, source):
    assert list(check(module, ast.parse(source))) == []


def test_records_and_config_import_nothing_of_jdqn():
    for module, tree in modules():
        if room(module) in LEVELS[0]:
            names = [n for n in imported(ast.walk(tree)) if package_of(n) == "jdqn"]
            assert all(name.startswith(f"jdqn.{room(module)}.") for name in names), module


def test_every_room_has_a_level():
    assert {room(module) for module, _ in modules()} - {"__init__"} == set(LEVEL)


def test_every_module_has_tests_in_a_file_of_its_name():
    names = [pathlib.PurePath(m) for m, _ in modules() if not m.endswith("__init__.py")]
    missing = [m.as_posix() for m in names if not (TESTS / m.with_name(f"test_{m.name}")).exists()]
    assert missing == ["records.py"]  # no logic


# --- Sizes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", [PACKAGE, TESTS], ids=["jdqn", "tests"])
def test_no_file_is_too_long_to_read(folder):
    lengths = {path: num_lines(path) for path in folder.rglob("*.py")}
    assert max(lengths.values()) > FILE_LINES // 4  # found, and counted
    assert {path.name: n for path, n in lengths.items() if n > FILE_LINES} == {}


def test_the_core_stays_readable():
    paths = [path for name in CORE for path in (PACKAGE / name).glob("**/*.py")]
    assert len(paths) > 2 * len(CORE)
    assert sum(num_lines(path) for path in paths) <= CORE_LINES
    for page in ("CONTRIBUTING.md", "docs/architecture.md"):
        assert f" {CORE_LINES:,} lines" in (TESTS.parent / page).read_text(encoding="utf-8"), page


# --- From outside -------------------------------------------------------------------------------

HELP = """
import contextlib, importlib, io, json, sys

def heavy():
    return sorted({"jax", "numpy"} & set(sys.modules))

import jdqn
found = {"jdqn": heavy()}
for door in sys.argv[1:]:
    main = importlib.import_module(f"jdqn.{door}").main
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
        main(["--help"])
    found[door] = heavy() if f"python -m jdqn.{door}" in printed.getvalue() else "no help"
import numpy
found["numpy"] = heavy()
print(json.dumps(found))
"""


def test_the_package_and_the_help_of_every_door_are_quick():
    """Without jax and without numpy; that numpy would be seen is seen at the end."""
    answer = subprocess.run(
        [sys.executable, "-c", HELP, *DOORS], capture_output=True, text=True, check=True
    )
    expected = {name: [] for name in ("jdqn", *DOORS)}
    assert json.loads(answer.stdout) == expected | {"numpy": ["numpy"]}


LAZY = """
import jdqn, sys
before = sorted(name for name in sys.modules if name.startswith("jdqn."))
print(before, [getattr(jdqn, door).main.__module__ for door in sys.argv[1:]], hasattr(jdqn, "nope"))
"""


def test_modules_are_imported_where_they_are_first_named():
    answer = subprocess.run(
        [sys.executable, "-c", LAZY, *DOORS], capture_output=True, text=True, check=True
    )
    assert answer.stdout == f"[] {[f'jdqn.{door}' for door in DOORS]} False\n"


def test_the_package_names_no_module_in_all():
    names = {path.stem for path in PACKAGE.glob("*.py")}
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    assert {"train", "envs", "learning"} <= names | folders
    assert not (names | folders) & set(jdqn.__all__)


def test_required_python_is_what_the_tools_check():
    assert PROJECT["project"]["requires-python"] == ">=3.11"
    assert "python_version" not in PROJECT["tool"]["mypy"]  # that of the Python at hand
    assert "oldest/bin/mypy" in (TESTS.parent / ".ci" / "run").read_text(encoding="utf-8")


def test_the_version_is_written_once():
    assert "version" in PROJECT["project"]["dynamic"]
    assert (TESTS.parent / PROJECT["tool"]["hatch"]["version"]["path"]).samefile(jdqn.__file__)
