"""The book's assembly: table of contents, generated tables, and the check of the finished pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pages
import pandas as pd
import pytest
import tables

from inconcert import claims, measurements, records
from inconcert.config import InputError
from inconcert.exhibits import Exhibit

ROWS = [
    Exhibit("a", "magpo", "Figure 1", "First", notebook="notebooks/magpo/figure_1.ipynb", params={"tier": "smoke"}),
    Exhibit("b", "magpo", "Table 1", "Second | third", notebook="notebooks/magpo/table_1.ipynb", records=("s/*/p/*",)),
    Exhibit("c", "kpf", "Table 2", "Third", needs="two policies"),
    Exhibit("d", "environments", "CoordSum", "Sum", notebook="notebooks/environments/coordsum.ipynb"),
]


# ------------------------------------------------------------------------------------------------- table of contents


def test_contents_follow_the_chapters() -> None:
    prose = ["status", "index", "magpo/zeta", "magpo/index", "magpo/alpha", "how_to_read", "kpf/index"]
    contents = pages.table_of_contents(prose, ROWS)
    assert contents["root"] == "index"
    assert pages.files_of(contents) == [
        "index",
        "how_to_read",
        "notebooks/environments/coordsum",
        "magpo/index",
        "magpo/alpha",
        "magpo/zeta",
        "notebooks/magpo/figure_1",
        "notebooks/magpo/table_1",
        "kpf/index",
        "status",
    ]
    assert "Policy distance" not in [part["caption"] for part in contents["parts"]], "no page, no part"


def test_a_page_in_no_part_is_an_error() -> None:
    with pytest.raises(InputError, match=r"in no part of the book.*: lost, magpie/index"):
        pages.table_of_contents(["index", "lost", "magpie/index"], ROWS)


# -------------------------------------------------------------------------------------------------------------- tables


def test_a_cell_cannot_break_its_table() -> None:
    assert tables.table(["A", "B"], [["1 | 2", "x\ny"]]) == "| A | B |\n| --- | --- |\n| 1 \\| 2 | x y |\n"


def verdict(exhibit: str, status: str) -> claims.Verdict:
    claim = next(claim for claim in claims.load())
    changed = {**vars(claim), "exhibit": exhibit}
    return claims.Verdict(type(claim)(**changed), status, "evidence", {})


def test_exhibits_show_their_verdicts_or_what_they_need() -> None:
    judged = [verdict("a", "replicated"), verdict("a", "replicated"), verdict("a", "not replicated")]
    lines = tables.exhibit_table(ROWS, judged).splitlines()[2:]
    assert "[First](/notebooks/magpo/figure_1.ipynb)" in lines[0]
    assert '<span class="verdict replicated">2 replicated</span>' in lines[0]
    assert '<span class="verdict not">1 not replicated</span>' in lines[0]
    assert "live, no claim" in lines[1]
    assert "not run here yet</span> two policies" in lines[2]
    assert "](" not in lines[2], "no page to link to"


def test_scoreboard_counts_claims_and_exhibits() -> None:
    counts = pd.DataFrame(0, index=["kpf", "magpo"], columns=[*claims.STATUSES, "claims"])
    counts.loc["magpo", ["replicated", "not testable here", "claims"]] = [3, 4, 7]
    magpo, kpf = tables.scoreboard(counts, ROWS, ["magpo/index"]).splitlines()[2:]
    assert magpo.startswith("| [MAGPO](/magpo/index.md) | ")
    assert "3 replicated" in magpo
    assert "4 not testable here" in magpo
    assert "partly" not in magpo
    assert magpo.endswith("| 2 of 2 |")
    assert kpf == "| KPF | no claim entered yet | 0 of 1 |"


def found(tier: str, archived: bool, **more: Any) -> tables.Found:
    folder = "data/runs" if archived else "runs"
    item = tables.Found(Path(f"/{folder}/s/t/p/{tier}.parquet"), "s/t", "p", tier, archived)
    return tables.replace(item, freshness="FRESH", seeds=5, env_steps=2_500_000, **more)


def test_recorded_is_the_best_tier_and_a_local_record_before_an_archived_one() -> None:
    smoke, laptop, archived = found("smoke", False), found("laptop", False), found("laptop", True)
    assert tables.recorded([smoke, archived, laptop]) == [laptop]
    assert tables.recorded([laptop, archived, smoke]) == [laptop]
    assert tables.recorded([smoke, archived]) == [archived]


def test_records_show_cost_freshness_and_damage() -> None:
    rows = [found("laptop", True, wall_s=1500.0, cpu_s=5400.0), found("smoke", False, damage="truncated")]
    smoke, laptop = tables.record_table(rows).splitlines()[2:]
    assert "DAMAGED" in smoke
    assert smoke.endswith("| this machine |")
    assert "| 5 | 2.5 M | 25 min | 1.5 h |" in laptop
    assert '<span class="stamp fresh">FRESH</span> | archive |' in laptop
    assert "no run record" in tables.record_table([])


def test_survey_names_a_damaged_record_and_reads_the_others(tmp_path: Path) -> None:
    path = tmp_path / "runs/coordsum/3x10-30/mappo/smoke.parquet"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"PAR1 and not much more")
    key = records.RecordKey("coordsum/3x10-30", "mappo", "", "smoke", path)
    (item,) = tables.survey([key], tmp_path / "data")
    assert str(path) in item.damage
    assert (item.freshness, item.archived) == ("", False)


def metadata(tier: str) -> dict[str, Any]:
    run = {
        "duration_s": 12.3,
        "peak_memory_mb": 250,
        "date": "2026-11-21T09:35:01+00:00",
        "python": "3.11.7",
        "versions": {"torch": "2.13.0"},
        "hardware": {"processor": "A processor", "cores": 2, "system": "Linux x86_64"},
    }
    return {"inconcert": run, "papermill": {"parameters": {"tier": tier}}}


def test_status_shows_tier_time_and_freshness(monkeypatch: pytest.MonkeyPatch) -> None:
    stale = found("laptop", True)
    stale = tables.replace(stale, freshness="STALE(code)")
    monkeypatch.setattr(Exhibit, "record_paths", lambda row: [stale.path] if row.records else [])
    executed = {"magpo/figure_1": metadata("smoke"), "magpo/table_1": metadata("recorded")}
    first, second = tables.status_table(ROWS[:3], executed, [stale]).splitlines()[2:]
    assert '<span class="tier">smoke</span> | none read | 12 s | 250 MB |' in first
    assert "2026-11-21</span> 09:35 |" in first
    assert '<span class="tier">laptop</span> | <span class="stamp stale">STALE(code)</span> |' in second
    assert "A processor, 2 cores" in tables.machine_table(executed)


def test_measurements_count_as_what_a_page_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise records.MissingRecord("nothing is measured yet")

    path = measurements.folders()[1] / tables.scaling.UpdateCosts.file
    record = tables.scaling.UpdateCosts(pd.DataFrame({"setting": ["laptop", "paper", "paper-chunked"]}), {}, path)
    monkeypatch.setattr(tables.scaling.UpdateCosts, "recorded", lambda: record)
    monkeypatch.setattr(tables.scaling.UpdateCosts, "freshness", lambda self: "STALE(code)")
    monkeypatch.setattr(tables.fusion_trials.Trials, "recorded", missing)
    found = tables.measured()
    assert [(item.path, item.tier, item.archived) for item in found] == [(path, "laptop", True), (path, "paper", True)]
    monkeypatch.setattr(Exhibit, "record_paths", lambda row: [path] if row.records else [])
    executed = {"magpo/figure_1": metadata("smoke"), "magpo/table_1": metadata("recorded")}
    line = tables.status_table(ROWS[:3], executed, found).splitlines()[3]
    assert '<span class="tier">laptop</span> <span class="tier">paper</span>' in line
    assert '<span class="stamp stale">STALE(code)</span>' in line

    monkeypatch.setattr(tables.scaling.UpdateCosts, "recorded", missing)
    assert tables.measured() == []
    path = measurements.folders()[1] / tables.fusion_trials.Trials.file
    fusions = tables.fusion_trials.Trials(pd.DataFrame(), {}, path)
    monkeypatch.setattr(tables.fusion_trials.Battles, "recorded", missing)
    monkeypatch.setattr(tables.fusion_trials.Trials, "recorded", lambda: fusions)
    monkeypatch.setattr(tables.fusion_trials.Trials, "freshness", lambda self: "FRESH")
    assert [(item.path, item.tier, item.freshness) for item in tables.measured()] == [(path, "laptop", "FRESH")]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (9.94, "9.9 s"), (119, "119 s"), (121, "2 min"), (7200, "2.0 h")]
)
def test_durations(seconds: float, text: str) -> None:
    assert tables.duration(seconds) == text


# ----------------------------------------------------------------------------------------------------------- the check

WHOLE = "<html><head>{head}</head><body><article><h1>Title</h1>{body}</article></body></html>"
WORDS = "<p>" + "words " * 60 + "</p>"


def write(folder: Path, name: str, body: str = WORDS, head: str = "") -> None:
    path = folder / f"{name}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(WHOLE.format(head=head, body=body))


def test_a_whole_book_has_no_problems(tmp_path: Path) -> None:
    (tmp_path / "_static").mkdir()
    (tmp_path / "_static" / "a b.css").touch()
    write(tmp_path, "index", head='<link rel="stylesheet" href="_static/a%20b.css?v=1"><link rel="author" href="x">')
    image = '<img src="data:image/png;base64,AA"><a href="https://example.org">elsewhere</a>'
    write(tmp_path, "notebooks/a", f'{WORDS}<div class="cell_output docutils">{image}</div>')
    assert pages.problems(tmp_path, ["index", "notebooks/a"]) == []


@pytest.mark.parametrize(
    ("body", "head", "message"),
    [
        ("<p>few</p>", "", "index: the page is empty"),
        ("<script>" + "x" * 500 + "</script>", "", "index: the page is empty"),
        (
            WORDS,
            '<script src="https://example.org/a.js"></script>',
            "index.html: loads https://example.org/a.js from the",
        ),
        (WORDS, '<link rel="preconnect" href="//example.org/">', "index.html: loads //example.org/ from the network"),
        (WORDS + '<img src="gone.png">', "", "index.html: loads gone.png, which is not there"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, body: str, head: str, message: str) -> None:
    write(tmp_path, "index", body, head)
    (problem,) = pages.problems(tmp_path, ["index"])
    assert problem.startswith(message)


def test_missing_pages_titles_and_outputs_are_named(tmp_path: Path) -> None:
    write(tmp_path, "notebooks/a")
    (tmp_path / "b.html").write_text(f"<article>{WORDS}</article>")
    assert pages.problems(tmp_path, ["notebooks/a", "b", "c"]) == [
        "notebooks/a: the notebook shows no outputs",
        "b: the page has no title",
        "c: the page is missing",
    ]


def test_the_new_book_replaces_the_old_one(tmp_path: Path) -> None:
    new, old = tmp_path / "build" / "html", tmp_path / "book" / "html"
    write(new, "index")
    write(old, "gone")
    pages.put_in_place(new, old)
    assert [path.name for path in old.iterdir()] == ["index.html"]
    assert not new.exists()
    write(new, "index")
    pages.put_in_place(new, old)
    assert not (tmp_path / "build" / "replaced").exists()
