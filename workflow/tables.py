"""The tables that the book's prose includes (`generated/*.md`): scoreboard, exhibits, records, status of the build."""

from __future__ import annotations

import contextlib
import html
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import graph
import pandas as pd

from inconcert import claims, fusion_trials, records, scaling
from inconcert.config import TIERS, InputError
from inconcert.exhibits import CHAPTERS, Exhibit


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; bars inside cells are escaped, line breaks become blanks."""
    clean = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in rows]
    lines = [list(head), ["---"] * len(head), *clean]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def badge(kind: str, name: str, text: str) -> str:
    """A coloured word: kind "verdict", "stamp" or "label", and the name of its colour in the style sheet."""
    return f'<span class="{kind} {name}">{html.escape(text)}</span>'


def stamp(freshness: str) -> str:
    """FRESH or STALE(...) as a coloured word."""
    return badge("stamp", "fresh" if freshness == "FRESH" else "stale", freshness)


def link(row: Exhibit) -> str:
    """The exhibit's title, linked to its page where it has one."""
    return f"[{row.title}](/{row.notebook})" if row.notebook else row.title


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(4.26), duration(75), duration(5400)
    ('4.3 s', '75 s', '1.5 h')
    """
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def tally(counts: Mapping[str, int]) -> str:
    """Verdicts as coloured words with their number, best first; `counts` by status."""
    colours = ("replicated", "partly", "not", "untestable")
    pairs = zip(claims.STATUSES, colours, strict=True)
    return " ".join(badge("verdict", colour, f"{counts[s]} {s}") for s, colour in pairs if counts.get(s))


def scoreboard(counts: pd.DataFrame, rows: Sequence[Exhibit], pages: Container[str]) -> str:
    """Verdicts by paper, and how many of its exhibits are run here.

    Args:
        counts: `claims.scoreboard()`.
        pages: the book's prose pages; a paper whose index is among them is linked.
    """
    lines = []
    for paper, caption in CHAPTERS.items():
        if paper in counts.index:
            own = [row for row in rows if row.paper == paper]
            name = caption.partition(":")[0]
            name = f"[{name}](/{paper}/index.md)" if f"{paper}/index" in pages else name
            verdicts = (
                tally({str(status): n for status, n in counts.loc[paper].to_dict().items()}) or "no claim entered yet"
            )
            lines.append([name, verdicts, f"{sum(row.notebook is not None for row in own)} of {len(own)}"])
    return table(["Paper", "Claims", "Exhibits run here"], lines)


def exhibit_table(rows: Iterable[Exhibit], judged: Sequence[claims.Verdict]) -> str:
    """Exhibits with the verdicts on their claims, or with what running them needs."""
    lines = []
    for row in rows:
        words = tally(Counter(one.status for one in judged if one.claim.exhibit == row.id))
        if row.notebook is None:
            words += f" {badge('label', 'notrun', 'not run here yet')} {row.needs}"
        lines.append([row.exhibit, link(row), words or badge("label", "ours", "live, no claim")])
    return table(["Exhibit", "What", "Verdicts"], lines)


def claim_tables(judged: Sequence[claims.Verdict]) -> dict[str, str]:
    """`claims_<chapter>.md`: every claim of the chapter with its verdict and evidence."""
    found = {chapter: [one for one in judged if one.claim.paper == chapter] for chapter in CHAPTERS}
    empty = "No claim is entered yet.\n"
    return {f"claims_{name}.md": claims.to_markdown(own) if own else empty for name, own in found.items()}


def exhibit_tables(rows: Sequence[Exhibit], judged: Sequence[claims.Verdict]) -> dict[str, str]:
    """`exhibits_<chapter>.md` for each chapter, and `exhibits.md` with all of them under their captions."""
    parts = {chapter: exhibit_table([row for row in rows if row.paper == chapter], judged) for chapter in CHAPTERS}
    whole = "\n".join(f"**{caption}**\n\n{parts[chapter]}" for chapter, caption in CHAPTERS.items())
    return {"exhibits.md": whole, **{f"exhibits_{chapter}.md": part for chapter, part in parts.items()}}


@dataclass(frozen=True)
class Found:
    """A run record as the book's tables show it."""

    path: Path
    task: str
    player: str  # algorithm[@variant]
    tier: str
    archived: bool
    freshness: str = ""
    seeds: int = 0
    env_steps: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    hardware: str = ""
    date: str = ""
    damage: str = ""  # why the record cannot be read; the fields before it are then empty


def survey(keys: Iterable[records.RecordKey], archive: Path) -> list[Found]:
    """What is to be said of each record; a damaged one is named, and the others still count."""
    found = []
    for key in keys:
        player = f"{key.algorithm}@{key.variant}" if key.variant else key.algorithm
        item = Found(key.path, key.task, player, key.tier, key.path.is_relative_to(archive))
        try:
            record = records.read(key.path)
        except InputError as error:
            found.append(replace(item, damage=str(error)))
            continue
        found.append(
            replace(
                item,
                freshness=record.freshness(),
                seeds=len(record.seeds),
                env_steps=int(record.frame["env_steps"].max()),
                wall_s=float(record.meta["wall_s"]),
                cpu_s=float(record.meta["cpu_s"]),
                hardware=str(record.meta["hardware"]),
                date=str(record.meta["date"]),
            )
        )
    return found


def recorded(found: Iterable[Found]) -> list[Found]:
    """The records that tier "recorded" reads: of each run the best tier, a local one before an archived one."""
    best: dict[tuple[str, str], Found] = {}
    for item in found:
        rank = (TIERS.index(item.tier), not item.archived)
        held = best.get((item.task, item.player))
        if held is None or rank > (TIERS.index(held.tier), not held.archived):
            best[item.task, item.player] = item
    return list(best.values())


def measured() -> list[Found]:
    """The measurements that tier "recorded" reads, for `status_table`: one for each tier whose networks they are of."""
    found = []
    with contextlib.suppress(records.MissingRecord):
        costs = scaling.UpdateCosts.recorded()
        tiers = dict.fromkeys(scaling.SETTINGS[name].tier for name in costs.frame["setting"].unique())
        found += [Found(costs.path, "", "", tier, costs.archived, costs.freshness()) for tier in tiers]
    for kind in (fusion_trials.Trials, fusion_trials.Battles):
        with contextlib.suppress(records.MissingRecord):
            fusions = kind.recorded()
            found.append(Found(fusions.path, "", "", fusion_trials.TIER, fusions.archived, fusions.freshness()))
    return found


def record_table(found: Iterable[Found]) -> str:
    """A row per record: seeds, steps, cost, machine, date, and whether it still matches the code."""
    lines = []
    for item in sorted(found, key=lambda item: (item.task, item.player, TIERS.index(item.tier), not item.archived)):
        cells = [item.task, item.player, f'<span class="tier">{item.tier}</span>']
        if item.damage:
            cells += ["", "", "", "", "", "", badge("stamp", "stale", "DAMAGED")]
        else:
            steps = f"{item.env_steps / 1e6:.3g} M" if item.env_steps >= 1e5 else f"{item.env_steps / 1e3:.3g} k"
            cells += [str(item.seeds), steps, duration(item.wall_s), duration(item.cpu_s), item.hardware, item.date]
            cells.append(stamp(item.freshness))
        lines.append([*cells, "archive" if item.archived else "this machine"])
    head = ["Task", "Algorithm", "Tier", "Seeds", "Steps per seed", "Wall", "CPU", "Hardware", "Date", "Code", "Where"]
    return table(head, lines) if lines else "There is no run record here yet.\n"


def status_table(rows: Sequence[Exhibit], notebooks: Mapping[str, Mapping[str, Any]], found: Iterable[Found]) -> str:
    """A row per executed notebook: tier, whether its records are fresh, how long it took, how much memory, when.

    Args:
        notebooks: name -> metadata of the executed notebook, as `workflow/execute.py` leaves it.
        found: the records and measurements that tier "recorded" reads.
    """
    lines = []
    for row in rows:
        if row.notebook is None:
            continue
        metadata = notebooks[graph.name_of(row)]
        run, tier = metadata["inconcert"], metadata["papermill"]["parameters"].get("tier", "")
        paths = set(row.record_paths())
        used = [item for item in found if item.path in paths]
        tiers = sorted({item.tier for item in used}, key=TIERS.index) if tier == "recorded" else [tier]
        stamps = [stamp(name) for name in sorted({item.freshness or "DAMAGED" for item in used})]
        lines.append(
            [
                link(row),
                " ".join(f'<span class="tier">{name}</span>' for name in tiers),
                " ".join(stamps) or "none read",
                duration(run["duration_s"]),
                f"{run['peak_memory_mb']} MB",
                f'<span style="white-space: nowrap">{run["date"][:10]}</span> {run["date"][11:16]}',
            ]
        )
    return table(["Page", "Tier", "Records", "Took", "Memory", "Executed (UTC)"], lines)


def machine_table(notebooks: Mapping[str, Mapping[str, Any]]) -> str:
    """Hardware and versions behind the executed notebooks; more than one value where they differ."""
    runs = [metadata["inconcert"] for metadata in notebooks.values()]
    values: dict[str, set[str]] = {}
    for run in runs:
        hardware = run["hardware"]
        shown = {"Processor": f"{hardware['processor']}, {hardware['cores']} cores", "System": hardware["system"]}
        for name, value in {**shown, "Python": run["python"], **run["versions"]}.items():
            values.setdefault(name, set()).add(value)
    return table(["", "Notebooks of this build"], [[name, "; ".join(sorted(seen))] for name, seen in values.items()])
