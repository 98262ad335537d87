"""Import closures and fingerprints: exactly the code that can change a number, nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from inconcert import provenance
from inconcert.config import InputError


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A small package `play` with the traps: lazy names, relative imports, suites by name, type-only imports."""
    sources = {
        "__init__.py": '__version__ = "1"\n\ndef __getattr__(name):\n    from play.envs import make\n    return make\n',
        "config.py": "import os\n",
        "layers.py": "import torch\nfrom play import config\n",
        "learner.py": "from .layers import linear\n\ndef train():\n    from .late import helper\n",
        "late.py": "",
        "plots.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from play import learner\n",
        "envs/__init__.py": (
            'SUITES: dict[str, str] = {"coins": "play.envs.coins", "maze": "play.envs.maze"}\nfrom . import base\n'
        ),
        "envs/base.py": "",
        "envs/coins.py": "from ..config import check\nfrom .base import VectorEnv\n",
        "envs/maze.py": "",
    }
    for name, text in sources.items():
        path = tmp_path / "play" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "play"


def names(paths: list[Path], package: Path) -> set[str]:
    return {path.relative_to(package).as_posix() for path in paths}


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("play.config", {"__init__.py", "config.py"}),
        ("play.layers", {"__init__.py", "config.py", "layers.py"}),
        ("play.learner", {"__init__.py", "config.py", "layers.py", "learner.py", "late.py"}),
        ("play.plots", {"__init__.py", "plots.py"}),
        ("play.envs.coins", {"__init__.py", "config.py", "envs/__init__.py", "envs/base.py", "envs/coins.py"}),
        ("play", {"__init__.py", "envs/__init__.py", "envs/base.py"}),
    ],
)
def test_closure_follows_imports_that_can_run(package: Path, module: str, expected: set[str]) -> None:
    assert names(provenance.closure([module], package), package) == expected


def test_closure_refuses_a_module_that_is_not_there(package: Path) -> None:
    with pytest.raises(InputError, match=r"play\.lerner"):
        provenance.closure(["play.lerner"], package)


def write_notebook(path: Path, *cells: str) -> Path:
    path.write_text(json.dumps({"cells": [{"cell_type": "code", "source": cell.splitlines(True)} for cell in cells]}))
    return path


@pytest.mark.parametrize(
    ("cells", "strings", "expected"),
    [
        (["from play import learner, config"], [], ["play.config", "play.learner"]),
        (["from play.envs import make", 'make("coins/3")'], [], ["play.envs", "play.envs.coins"]),
        (["from play.envs import make", "task = 1"], ["maze/2"], ["play.envs", "play.envs.maze"]),
        (["import play", 'play.make("coins/3")'], [], ["play", "play.envs.coins"]),
        (["from play import make\nmake(f'maze/{n}')"], [], ["play", "play.envs.maze"]),
        (["from play import layers", 'rows = ["coins/3"]'], [], ["play.layers"]),  # no environment can be made
        (["%matplotlib inline\nimport play.late as late\n!ls"], [], ["play.late"]),
        (["%%bash\nimport play.late", "import numpy"], [], []),
        (["def f():\n    from play.config import check"], [], ["play.config"]),
    ],
)
def test_modules_of_a_notebook(
    package: Path, tmp_path: Path, cells: list[str], strings: list[str], expected: list[str]
) -> None:
    notebook = write_notebook(tmp_path / "a.ipynb", *cells)
    assert provenance.notebook_modules(notebook, strings, package) == expected


def test_a_broken_notebook_is_named(package: Path, tmp_path: Path) -> None:
    (tmp_path / "b.ipynb").write_text("{")
    with pytest.raises(InputError, match=r"b\.ipynb"):
        provenance.notebook_modules(tmp_path / "b.ipynb", package=package)
    with pytest.raises(InputError, match=r"c\.ipynb, cell 0"):
        provenance.notebook_modules(write_notebook(tmp_path / "c.ipynb", "def :"), package=package)


SOURCE = '''"""About."""
import math  # why

NAME = 1
"""What NAME is."""
VARIANTS: dict = {
    "a": 1,  # one
}


def f(x):
    """Shapes.

    More.
    """
    text = """kept

    # not a comment  """
    other = f"""{x}

    """  # é
    return math.sqrt(x) + len(text) + len(other)
'''


def test_code_of_cuts_what_cannot_change_a_number() -> None:
    assert provenance.code_of(SOURCE) == (
        "import math\nNAME = 1\ndef f(x):\n"
        '    text = """kept\n\n    # not a comment  """\n    other = f"""{x}\n\n    """\n'
        "    return math.sqrt(x) + len(text) + len(other)"
    )


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ('"""About."""\n', "", True),
        ("# why", "# another reason, longer", True),
        ("\n\n\ndef", "\n\n\n\n# ---\ndef", True),
        ("    More.\n", "", True),
        ('"""What NAME is."""', "", True),
        ("NAME = 1", "NAME = 1   ", True),
        ("# é", "", True),
        ("NAME = 1", "NAME = 1  # one", True),
        ("NAME = 1", '__version__ = "9"\nNAME = 1', True),
        ('"a": 1,  # one\n', '"a": 1,\n    "b": {"tiers": 2},\n', True),  # the record keeps the setting itself
        ("NAME = 1", 'NAME = 1\ndef configure(task):\n    """Choose."""\n    return 3', True),
        ("NAME = 1", "NAME = 2", False),
        ("VARIANTS: dict", "OPTIONS: dict", False),
        ("    text =", "    VARIANTS = 2\n    text =", False),  # not at the top of the module
        ("kept\n\n", "kept\n", False),  # inside a string
        ("comment  ", "comment", False),
        ("{x}\n\n", "{x}\n", False),
        ("sqrt", "exp", False),
    ],
)
def test_fingerprint_counts_code_only(tmp_path: Path, old: str, new: str, same: bool) -> None:
    before, after = tmp_path / "a" / "m.py", tmp_path / "b" / "m.py"
    for path, text in ((before, SOURCE), (after, SOURCE.replace(old, new, 1))):
        path.parent.mkdir()
        path.write_text(text)
    assert old in SOURCE
    assert (provenance.fingerprint([before]) == provenance.fingerprint([after])) is same


def test_comment_between_joined_strings_does_not_count() -> None:
    assert provenance.code_of('x = ("a"  # first\n     "b")') == provenance.code_of('x = ("a"\n     "b")')


def test_fingerprint_of_files_depends_on_names_but_not_order(package: Path) -> None:
    files = provenance.closure(["play.learner"], package)
    digits = provenance.fingerprint(files, package)
    assert provenance.fingerprint([*files[::-1], files[0]], package) == digits
    assert len(digits) == 64
    assert provenance.fingerprint(files[1:], package) != digits
    (package / "late.py").rename(package / "later.py")
    moved = [package / "later.py" if path.name == "late.py" else path for path in files]
    assert provenance.fingerprint(moved, package) != digits


def test_own_sources_parse_and_close() -> None:
    every = list(provenance.PACKAGE.rglob("*.py"))
    assert provenance.fingerprint(every) == provenance.fingerprint(every)
    own = provenance.closure(["inconcert.provenance"])
    assert {path.name for path in own} == {"__init__.py", "config.py", "provenance.py"}
