"""The numbers that the four papers print, typed in under `data/published`, as data frames.

One file per paper and table, one row per printed cell. `data/published/README.md` explains the columns, what each
spread means, and what is wrong with the printed tables.
"""

from __future__ import annotations

import csv
import os
import re
from pathlib import Path

import pandas as pd

from inconcert.config import InputError, unknown

PAPERS: tuple[str, ...] = ("ensemble_mix", "kpf", "magpo", "policy_distance")
"""The four papers; the text of `policy_distance` that we work from prints no table."""

SPREAD_KINDS: tuple[str, ...] = ("std", "se", "ci95", "unknown", "none")
"""What the number after a plus-minus sign is, as its paper says; "none" where the cell has no such number."""

_TEXT = ("paper", "table", "row", "column", "spread_kind", "note")
_COLUMNS = (*_TEXT, "value", "spread")
_FILE = re.compile(r"(?P<paper>\w+)_table_(?P<table>\d+)\.csv")


def data_folder() -> Path:
    """The repository's `data` folder: `$INCONCERT_DATA` where that is set, else the one above this file.

    Raises:
        InputError: the variable names no folder, or the package is installed away from its repository.
    """
    named = os.environ.get("INCONCERT_DATA")
    if named:
        if not Path(named).is_dir():
            raise InputError(f"INCONCERT_DATA names {named!r}, which is not a folder")
        return Path(named).resolve()
    for folder in Path(__file__).resolve().parents:
        if (folder / "data" / "published").is_dir():
            return folder / "data"
    raise InputError(
        "no data folder above the installed package: install the repository with `pip install -e .`, "
        "or set INCONCERT_DATA to its data folder"
    )


def _folder() -> Path:
    folder = data_folder() / "published"
    if not folder.is_dir():
        raise InputError(f"no published tables: {folder} is not a folder")
    return folder


def tables() -> list[tuple[str, str]]:
    """All tables typed in, as (paper, table), by paper and then by number."""
    found = [match.groups() for path in _folder().iterdir() if (match := _FILE.fullmatch(path.name))]
    return sorted(((paper, table) for paper, table in found), key=lambda key: (key[0], int(key[1])))


def _read(path: Path) -> pd.DataFrame:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = list(csv.reader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    if not lines:
        raise InputError(f"{path} is empty")
    header, *lines = lines
    for number, line in enumerate(lines, start=2):
        if len(line) != len(header):
            raise InputError(f"{path}, line {number}: {len(line)} cells under {len(header)} headings")
    return pd.DataFrame(lines, columns=header, dtype="str")


def _numeric(cells: pd.Series) -> pd.Series:
    """Numbers (NaN where a cell is empty) if every non-empty cell is one, else the cells as they are."""
    filled = cells[cells != ""]
    if filled.empty or pd.to_numeric(filled, errors="coerce").isna().any():
        return cells
    return pd.to_numeric(cells.where(cells != ""))


def load(paper: str, table: str | int) -> pd.DataFrame:
    """One printed table in long form, one row per cell, in printed order.

    Columns: `paper`, `table`, `row` (the printed row: a task, a map, a parameter; unique together with `column`),
    further columns that describe the row (`suite`, `difficulty`, `seed`, ...), `column` (the printed column: an
    algorithm, a map, a setting), `value` (float; text in tables of settings that are not all numbers; NaN for a printed
    dash), `spread` (float; NaN where there is none), `spread_kind` (one of `SPREAD_KINDS`) and `note`. MAGPO's Table 1
    also has `bold` (bool). Units are those of the table, see `data/published/README.md`.

    Raises:
        InputError: an unknown paper or table (naming the nearest ones), or a file that is not such a table.
    """
    if paper not in PAPERS:
        raise unknown("paper", paper, PAPERS)
    folder = _folder()
    typed_in = [number for owner, number in tables() if owner == paper]
    if not typed_in:
        raise InputError(f"no table of paper {paper!r} in {folder}; its README.md says why")
    if str(table) not in typed_in:
        raise unknown(f"table of {paper}", str(table), typed_in)
    path = folder / f"{paper}_table_{table}.csv"
    frame = _read(path)
    missing = [name for name in _COLUMNS if name not in frame]
    if missing:
        raise InputError(f"{path} has no column {', '.join(missing)}")
    for name in frame.columns.difference([*_TEXT, "spread"]):
        frame[name] = _numeric(frame[name])
    try:
        frame["spread"] = pd.to_numeric(frame["spread"].where(frame["spread"] != "")).astype(float)
    except ValueError as error:
        raise InputError(f"{path}: column spread holds text: {error}") from error
    if "bold" in frame:
        frame["bold"] = frame["bold"] == "true"
    return frame


def magpo_params() -> pd.DataFrame:
    """The tuned settings behind MAGPO's Table 1, as its authors published them: one row per (system_name, task).

    The authors' columns under their names (NaN where a system has no such setting), then `table_1_row`, the key `row`
    of `load("magpo", 1)`, and `note`, which says what was moved in cleaning. `alpha` is the paper's lambda (Equation
    11), `delta` its delta (Equation 10), `n_embd` the width of the embedding.

    Raises:
        InputError: the file is missing or unreadable.
    """
    frame = _read(_folder() / "magpo_params.csv")
    for name in frame.columns.difference(["system_name", "task", "env_name", "table_1_row", "note"]):
        frame[name] = _numeric(frame[name])
    return frame


def magpo_settings() -> pd.DataFrame:
    """What MAGPO's text and its authors' code set beside the printed tables and `magpo_params`, a row per setting.

    Columns, all text: `system_name`, `setting` (the name it has in this book), `source` ("text" or "code"),
    `parameter` (the name in the authors' files, where it has one), `value`, `where` (section, or file).

    Raises:
        InputError: the file is missing or unreadable.
    """
    return _read(_folder() / "magpo_settings.csv")


def policy_distance_curves() -> pd.DataFrame:
    """Where the curves of the policy-distance paper's Figure 3 end, read off the printed figure.

    Columns: `task`, `scheme` (as variants of our A2C are called), `updates` (of the printed curve), `value` (return
    summed over agents), `reading` (the error of reading it off, plus or minus) and `note`. The paper prints no numbers
    and does not say how many seeds there were.

    Raises:
        InputError: the file is missing or unreadable.
    """
    frame = _read(_folder() / "policy_distance_figure_3.csv")
    for name in ("updates", "value", "reading"):
        frame[name] = _numeric(frame[name])
    return frame
