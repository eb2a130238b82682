"""The house keeps its shape: import direction, size, what may import what."""

import ast
import pathlib
import tomllib

import jdqn

PACKAGE = pathlib.Path(jdqn.__file__).parent
# Left never imports right; modules of one level do not import each other.
LEVELS = [
    {"records", "config"},
    {"priorities", "losses", "networks", "exploration"},
    {"replay"},
    {"agent"},
    {"envs"},
    {"checkpoint", "metrics"},
    {"evaluate", "plots", "peers"},
    {"run"},
    {"fused"},
    {"train"},
    {"play", "report", "bench"},
]
LEVEL = {name: level for level, modules in enumerate(LEVELS) for name in modules}


def files():
    return sorted(PACKAGE.rglob("*.py"))


def room(path):
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imported_rooms(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("jdqn"):
            parts = node.module.split(".")
            yield from [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]


def test_imports_go_one_way():
    for path in files():
        if path == PACKAGE / "__init__.py":
            continue
        for target in imported_rooms(ast.parse(path.read_text())):
            if target != room(path):
                assert LEVEL[target] < LEVEL[room(path)], f"{path.name} imports {target}"


def test_records_and_config_import_nothing_of_jdqn():
    for name in ("records", "config"):
        assert list(imported_rooms(ast.parse((PACKAGE / f"{name}.py").read_text()))) == []


def test_only_envs_imports_environments():
    for path in files():
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            for name in names:
                if name.split(".")[0] in {"envpool", "gymnasium", "gymnax", "ale_py"}:
                    assert room(path) in {"envs", "peers"}, f"{path.name} imports {name}"


def test_heavy_environment_packages_are_imported_inside_functions():
    for path in files():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [getattr(node, "module", None) or ""] + [a.name for a in node.names]
                assert not any(n.split(".")[0] in {"envpool", "gymnax"} for n in names), path


def test_the_library_stays_readable():
    lines = [line for path in files() for line in path.read_text().splitlines()]
    assert sum(bool(line.strip()) for line in lines) < 3500  # docstrings count, blank lines do not


def test_the_package_names_no_module_in_all():
    modules = {path.stem for path in PACKAGE.glob("*.py")} | {"envs"}
    assert not modules & set(jdqn.__all__)


def test_required_python_is_what_the_tools_check():
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())
    assert project["project"]["requires-python"] == ">=3.11"
    assert project["tool"]["mypy"]["python_version"] == "3.11"
