"""The exhibits of the book: every table and figure of the four papers, read from `book/exhibits.yml`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from inconcert.config import InputError, check_fields, unknown

ROOT = Path(__file__).resolve().parents[2]
"""The repository (the package is installed in place)."""

EXHIBITS = ROOT / "book" / "exhibits.yml"
RECORD_FOLDERS = ("runs", "data/runs", "data")
"""Where records lie, relative to the repository; a local one counts before an archived one. Run records are archived in
data/runs, measurements in data/measurements."""

Paper = Literal["environments", "magpo", "kpf", "ensemble_mix", "policy_distance"]
CHAPTERS: dict[Paper, str] = {
    "environments": "Environments",
    "magpo": "MAGPO: guided policies",
    "kpf": "KPF: fused policies",
    "ensemble_mix": "Ensemble-MIX: many critics",
    "policy_distance": "Policy distance",
}
"""The book's chapters in order, and their captions; a chapter's pages lie in the folder of its name."""


@dataclass(frozen=True)
class Run:
    """Training runs that an exhibit needs: one record per task."""

    algorithm: str
    tasks: tuple[str, ...]  # such as "coordsum/3x10-30"
    variant: str = ""


@dataclass(frozen=True)
class Exhibit:
    """One row of `book/exhibits.yml`."""

    id: str
    paper: Paper
    exhibit: str  # as the paper calls it, such as "Table 1"
    title: str
    notebook: str | None = None  # path in the repository; None: not run here yet
    needs: str = ""  # what running it takes, where it is not run here, or not by `make runs`
    params: dict[str, Any] | None = None  # the notebook's parameters in the book; None: tier "recorded"
    records: tuple[str, ...] = ()  # globs below a folder of records
    runs: tuple[Run, ...] = ()
    claims: tuple[str, ...] = ()

    @property
    def parameters(self) -> dict[str, Any]:
        """The notebook's parameters in the book."""
        return {"tier": "recorded"} if self.params is None else self.params

    def record_paths(self, root: Path = ROOT) -> list[Path]:
        """The record files under `root` that match the exhibit's globs, sorted."""
        folders = [root / folder for folder in RECORD_FOLDERS]
        found = {path for folder in folders for glob in self.records for path in folder.glob(glob)}
        return sorted(path for path in found if path.suffix == ".parquet")


def load(path: Path | str = EXHIBITS) -> list[Exhibit]:
    """All exhibits, in the order of the book.

    Raises:
        InputError: the file is missing or not YAML, or a row has an unknown field, a wrong type or an id used twice;
            the line names the row.
    """
    path = Path(path)
    try:
        rows = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError:
        raise InputError(f"{path} is missing: the list of exhibits comes with the repository") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path.name} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(rows, list):
        raise InputError(f"{path.name} must be a list of exhibits")
    exhibits = [_row(row, f"{path.name}, row {number}") for number, row in enumerate(rows, start=1)]
    seen: set[str] = set()
    for exhibit in exhibits:
        if exhibit.id in seen:
            raise InputError(f"{path.name}: the id {exhibit.id!r} is used twice")
        seen.add(exhibit.id)
    return exhibits


def _row(row: object, where: str) -> Exhibit:
    if not isinstance(row, Mapping) or not all(isinstance(key, str) for key in row):
        raise InputError(f"{where} must have named fields")
    where = f"{where} ({row.get('id', 'no id')})"
    try:
        runs = row.get("runs", [])
        if not isinstance(runs, list) or not all(isinstance(run, Mapping) for run in runs):
            raise InputError("'runs' must be a list of {algorithm, tasks, variant}")
        return check_fields(Exhibit, {**row, "runs": [check_fields(Run, run, "field") for run in runs]}, "field")
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def find(name: str, path: Path | str = EXHIBITS) -> Exhibit:
    """The exhibit called `name`.

    Raises:
        InputError: there is none; the nearest ids are named.
    """
    exhibits = {exhibit.id: exhibit for exhibit in load(path)}
    if name not in exhibits:
        raise unknown("exhibit", name, exhibits)
    return exhibits[name]


def of_notebook(notebook: str, path: Path | str = EXHIBITS) -> Exhibit:
    """The exhibit whose notebook is `notebook`, such as "notebooks/magpo/figure_1.ipynb".

    Raises:
        InputError: no row names that notebook.
    """
    exhibits = {exhibit.notebook: exhibit for exhibit in load(path) if exhibit.notebook}
    if notebook not in exhibits:
        raise unknown("notebook", notebook, exhibits)
    return exhibits[notebook]
