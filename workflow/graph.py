"""What depends on what: the files behind each notebook, and behind the book, for the Snakefile and the tests."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from inconcert import exhibits, provenance
from inconcert.exhibits import ROOT, Exhibit

NOTEBOOKS = Path("notebooks")
BUILD = Path("build")
SCRIPTS = ("workflow/execute.py", "requirements.lock")
"""They decide how every notebook is executed: their content counts, their age does not."""


def name_of(exhibit: Exhibit) -> str:
    """The notebook's name in the build, such as "magpo/figure_1"."""
    assert exhibit.notebook is not None
    return Path(exhibit.notebook).relative_to(NOTEBOOKS).with_suffix("").as_posix()


def with_notebooks(root: Path = ROOT) -> dict[str, Exhibit]:
    """Notebook name -> exhibit, in the book's order."""
    rows = exhibits.load(root / "book" / "exhibits.yml")
    return {name_of(exhibit): exhibit for exhibit in rows if exhibit.notebook}


def depends(exhibit: Exhibit, root: Path = ROOT) -> list[Path]:
    """The files, other than the notebook and its parameters, that the exhibit's page is made of; relative to `root`.

    They are the import closure of the notebook over `src/inconcert`, the run records that the exhibit names, and the
    published numbers and the claims where the closure reads them.
    """
    assert exhibit.notebook is not None
    package = root / "src" / "inconcert"
    modules = provenance.notebook_modules(root / exhibit.notebook, _strings(exhibit.parameters), package)
    sources = provenance.closure(modules, package)
    found = exhibit.record_paths(root)
    if package / "published.py" in sources:
        found += _files(root / "data" / "published")
    if package / "claims.py" in sources:
        found.append(root / "data" / "claims.yml")
        sources = provenance.closure([*modules, *_modules_of_claims(root / "data" / "claims.yml", exhibit)], package)
    return [path.relative_to(root) for path in [*sources, *found]]


def signature(exhibit: Exhibit, root: Path = ROOT) -> str:
    """Hash of all that decides the exhibit's executed notebook."""
    assert exhibit.notebook is not None
    own = [Path(exhibit.notebook), write_parameters(exhibit, root), *map(Path, SCRIPTS)]
    return content([*own, *depends(exhibit, root)], root)


def book_depends(root: Path = ROOT) -> list[Path]:
    """The files, other than executed notebooks, that the book's pages are made of; relative to `root`.

    All of `src/inconcert` is among them: the status page says of every record whether it still matches the code.
    """
    folders = ("book", "src/inconcert", "data", "runs", "workflow")
    generated = (root / "book" / "_build", root / "src" / "inconcert.egg-info")
    found = [path for folder in folders for path in _files(root / folder)]
    found = [path for path in found if not any(path.is_relative_to(folder) for folder in generated)]
    found = [path for path in found if path.suffix in SUFFIXES and path.parent.suffix != ".ckpt"]
    return [path.relative_to(root) for path in [root / "_config.yml", root / "requirements.lock", *found]]


SUFFIXES = {".md", ".yml", ".bib", ".css", ".js", ".svg", ".png", ".ico", ".woff", ".py", ".csv", ".parquet"}


def content(paths: Iterable[Path], root: Path = ROOT) -> str:
    """SHA-256 of the names and bytes of `paths` below `root`: an older file put in place of a newer one counts too."""
    digest = hashlib.sha256()
    for path in sorted(set(paths)):
        digest.update(f"{path.as_posix()}\0".encode() + hashlib.sha256((root / path).read_bytes()).digest())
    return digest.hexdigest()


def write_parameters(exhibit: Exhibit, root: Path = ROOT) -> Path:
    """Write the book's parameters of the exhibit's notebook to build/parameters, if they changed; returns the path."""
    path = root / BUILD / "parameters" / f"{name_of(exhibit)}.yml"
    text = yaml.safe_dump(exhibit.parameters, sort_keys=True)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return path.relative_to(root)


def _modules_of_claims(path: Path, exhibit: Exhibit) -> set[str]:
    """Modules that the exhibit's claims call by name ("inconcert.tabular:distilled_success")."""
    rows = yaml.safe_load(path.read_text(encoding="utf-8")) or []
    texts = _strings([row for row in rows if row.get("exhibit") == exhibit.id])
    return {match[1] for text in texts if (match := re.fullmatch(r"(inconcert(?:\.\w+)+):\w+", text))}


def _files(folder: Path) -> list[Path]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for entry in value.values():
            yield from _strings(entry)
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from _strings(entry)
