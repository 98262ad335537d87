"""book/exhibits.yml is complete and its reader refuses what it should."""

from __future__ import annotations

from pathlib import Path

import pytest

from inconcert import exhibits
from inconcert.config import InputError

ROW = "- {id: a, paper: magpo, exhibit: Table 1, title: T"


def write(folder: Path, text: str) -> Path:
    path = folder / "exhibits.yml"
    path.write_text(text)
    return path


def test_every_exhibit_of_the_design_has_a_row() -> None:
    rows = exhibits.load()
    assert {paper: sum(row.paper == paper for row in rows) for paper in exhibits.CHAPTERS} == {
        "environments": 14,
        "magpo": 17,
        "kpf": 10,
        "ensemble_mix": 11,
        "policy_distance": 6,
    }
    assert all(row.notebook or row.needs for row in rows), "a row without a notebook says what running it needs"


def test_every_notebook_has_exactly_one_row() -> None:
    listed = [row.notebook for row in exhibits.load() if row.notebook]
    notebooks = exhibits.ROOT / "notebooks"
    there = [path.relative_to(exhibits.ROOT).as_posix() for path in notebooks.glob("*/*.ipynb")]
    assert sorted(listed) == sorted(there)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1", "must be a list"),
        ("[", "not YAML"),
        ("- 3", r"row 1 must have named fields"),
        (f"{ROW}, notbook: x}}", r"row 1 \(a\): unknown field 'notbook'; nearest: notebook"),
        (f"{ROW}, records: 3}}", r"row 1 \(a\): field 'records' must be"),
        ("- {id: a, paper: magpi, exhibit: x, title: y}", r"field 'paper' must be one of .*'magpo'"),
        ("- {id: a, paper: magpo, title: y}", r"field 'exhibit' has no value"),
        (f"{ROW}, runs: [{{algorithm: mappo}}]}}", r"field 'tasks' has no value"),
        (f"{ROW}, runs: mappo}}", r"'runs' must be a list"),
        (f"{ROW}}}\n{ROW}}}", r"'a' is used twice"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        exhibits.load(write(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.yml is missing"):
        exhibits.load(tmp_path / "nowhere.yml")


def test_find_names_the_nearest() -> None:
    assert exhibits.find("magpo-table-1").exhibit == "Table 1 and Figure 7"
    with pytest.raises(InputError, match=r"unknown exhibit 'magpo-tabel-1'; nearest: magpo-table-1"):
        exhibits.find("magpo-tabel-1")


def test_parameters_default_to_the_best_recorded_tier(tmp_path: Path) -> None:
    other = ROW.replace("id: a", "id: b")
    first, second = exhibits.load(write(tmp_path, f"{ROW}}}\n{other}, params: {{tier: smoke}}}}"))
    assert first.parameters == {"tier": "recorded"}
    assert second.parameters == {"tier": "smoke"}


def test_records_of_an_exhibit(tmp_path: Path) -> None:
    row = exhibits.Exhibit("x", "magpo", "Table 1", "T", records=("coordsum/*/mappo/*",))
    wanted = ["runs/coordsum/a/mappo/smoke.parquet", "data/runs/coordsum/b/mappo/laptop.parquet"]
    others = ["runs/coordsum/a/mappo/smoke.ckpt/part.safetensors", "runs/coordsum/a/mappo@clamped/smoke.parquet"]
    for name in [*wanted, *others]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert row.record_paths(tmp_path) == sorted(tmp_path / name for name in wanted)


def test_measurements_of_an_exhibit(tmp_path: Path) -> None:
    row = exhibits.Exhibit("x", "magpo", "Figure 8", "T", records=("measurements/a.parquet",))
    for folder in ("runs", "data"):
        (tmp_path / folder / "measurements").mkdir(parents=True)
        for name in ("a", "b"):
            (tmp_path / folder / "measurements" / f"{name}.parquet").touch()
    assert row.record_paths(tmp_path) == [tmp_path / folder / "measurements/a.parquet" for folder in ("data", "runs")]
