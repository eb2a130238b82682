"""Modules of the user's: found on the Python path, named first, never from a run's folder."""

import sys
import types

import pytest

from jdqn.config import modules
from jdqn.config.schema import ConfigError

FIELD = 'agent.loss = "x"'


def test_an_object_of_a_module_is_found_and_the_module_named_once_before(module, capsys):
    name = module("import sys\nsys.stderr.write('code ')\nmine = 3\n")
    assert modules.load_object(f"{name}:mine", FIELD) == 3
    assert modules.load_object(f"{name}:mine", FIELD) == 3
    said = capsys.readouterr().err
    assert said.startswith(f"importing {name} (")
    assert said.endswith(f"{name}.py)\ncode ")


def test_a_worker_says_nothing(module, capsys):
    name = module("mine = 3")
    assert modules.import_module(name, FIELD, says=False).mine == 3
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("source", "wanted", "expected"),
    [
        ("import nothing_like_this", "mine", "ModuleNotFoundError: No module named 'nothing_like"),
        ("1 / 0", "mine", "ZeroDivisionError: division by zero"),
        ("def mine(: pass", "mine", "SyntaxError"),
        ("mine_too = 3", "mine_to", 'has no "mine_to"; did you mean "mine_too"?'),
    ],
)
def test_what_goes_wrong_in_a_module_is_one_sentence(module, source, wanted, expected):
    name = module(source)
    with pytest.raises(ConfigError, match=FIELD) as caught:
        modules.load_object(f"{name}:{wanted}", FIELD)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("no_such_module_of_mine", "no module"),
        ("../mine", 'no name of a Python module; did you mean "mine"'),
        ("my_envs.py", 'no name of a Python module; did you mean "my_envs"'),
        ("", "no name of a Python module"),
        ("jax.nothing", "ModuleNotFoundError"),
        ("os", "x\": os is Python's own or jdqn's; name a module of yours"),
        ("os.path", "os is Python's own"),
        ("posix", "posix is Python's own"),
        ("jdqn.tools.exporting", "jdqn is Python's own or jdqn's"),
        ("__main__", "__main__ is Python's own"),
    ],
)
def test_what_is_no_module_is_refused(name, expected):
    with pytest.raises(ConfigError, match=expected):
        modules.import_module(name, FIELD)


@pytest.mark.parametrize("mark", modules.MARKS)
def test_code_in_the_folder_of_a_run_is_never_imported(module, tmp_path, mark, monkeypatch):
    inside = tmp_path / "run" / "deeper"
    inside.mkdir(parents=True)
    monkeypatch.syspath_prepend(inside)
    (tmp_path / "run" / "config.toml").touch()
    name = module("raise SystemExit('a stranger')", folder=inside)
    (tmp_path / "run" / mark).mkdir()
    with pytest.raises(ConfigError, match="lies in the folder of a run"):
        modules.import_module(name, FIELD)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("os:system", "os is Python's own"),
        ("runpy:run_path", "runpy is Python's own"),
        ("numpy:load", "numpy is of an installed package"),
        ("numpy.f2py:compile", "numpy.f2py is of an installed package"),
    ],
)
def test_functions_that_are_not_the_users_are_never_called(name, expected):
    with pytest.raises(ConfigError, match=expected):
        modules.load_object(name, FIELD)


def test_a_function_of_pythons_in_the_users_module_is_never_called(module):
    name = module("from subprocess import run\nfrom os import system")
    with pytest.raises(ConfigError, match="run is Python's own, of subprocess; name a function"):
        modules.load_object(f"{name}:run", FIELD)
    with pytest.raises(ConfigError, match="system is Python's own"):
        modules.load_object(f"{name}:system", FIELD)


def test_an_installed_package_may_be_imported_for_what_it_registers():
    assert modules.import_module("numpy", FIELD) is sys.modules["numpy"]


def test_a_link_in_the_folder_of_a_run_is_in_it(module, tmp_path, monkeypatch):
    run = tmp_path / "run"
    beside = tmp_path / "beside"
    run.mkdir()
    beside.mkdir()
    (run / "config.toml").touch()
    (run / "model.safetensors").touch()
    name = module("raise SystemExit('a stranger')", folder=beside)
    (run / f"{name}.py").symlink_to(beside / f"{name}.py")
    monkeypatch.syspath_prepend(run)
    with pytest.raises(ConfigError, match="lies in the folder of a run"):
        modules.import_module(name, FIELD)


def test_a_module_that_was_made_by_hand_is_the_users(monkeypatch):
    made = types.ModuleType("made_by_hand")
    made.mine = 3
    monkeypatch.setitem(sys.modules, "made_by_hand", made)
    assert modules.load_object("made_by_hand:mine", FIELD) == 3


def test_a_folder_without_init_is_a_package_and_is_checked_too(tmp_path, monkeypatch):
    package = tmp_path / "namespace_of_a_run"
    package.mkdir()
    (package / "inner.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert modules.import_module("namespace_of_a_run.inner", FIELD).__name__.endswith("inner")
    sys.modules.pop("namespace_of_a_run.inner")
    sys.modules.pop("namespace_of_a_run")
    (tmp_path / "config.toml").touch()
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ConfigError, match="lies in the folder of a run"):
        modules.import_module("namespace_of_a_run.inner", FIELD)


def test_what_a_function_makes_is_of_a_kind(module):
    name = module("def mine(number):\n    return 2 * number")
    assert modules.make(f"{name}:mine", FIELD, int, 4) == 8
    with pytest.raises(ConfigError, match=f"{FIELD}: returned something of type int, not a"):
        modules.make(f"{name}:mine", FIELD, dict, 4)
    with pytest.raises(ConfigError, match=f"{FIELD}: raised TypeError: unsupported operand"):
        modules.make(f"{name}:mine", FIELD, int, None)


def test_of_an_error_of_several_lines_the_first_is_said():
    with pytest.raises(ConfigError) as info, modules.named(FIELD):
        raise ValueError("one\ntwo")
    assert str(info.value) == f"{FIELD}: raised ValueError: one"
    with pytest.raises(ConfigError, match=r"^a sentence$"), modules.named(FIELD):
        raise ConfigError("a sentence")
