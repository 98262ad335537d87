"""What the papers claim, and the verdict on each claim, computed from run records by a rule written before the runs.

`data/claims.yml` lists the claims. Each has a criterion: a type (a key of `rules.CRITERIA`) and that
type's fields (`criteria`). `judge` collects the records that the criterion needs, decides part by part (task by
task, say) with scores of 1, 1/2 and 0, and returns a `Verdict`: all parts 1 is "replicated", all parts 0 "not
replicated", anything between "partly replicated". The same records always give the same words.

Three things that a verdict never does: use a smoke-tier record; compare algorithms at different tiers on a task; fail
because a record is missing (that is "not testable here", with the commands that would change it).
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from inconcert import envs, exhibits, fusion_results, fusion_trials, published, records, scaling
from inconcert.config import TIERS, InputError, check_fields, unknown
from inconcert.criteria import (
    FUSIBLE,
    Association,
    Associations,
    Claim,
    Cost,
    Costs,
    FromRecords,
    Fusion,
    FusionAssociation,
    FusionGain,
    Fusions,
    GrowsSlower,
    PublishedCount,
    Sample,
    Samples,
    Source,
)
from inconcert.measurements import Measurements
from inconcert.rules import CRITERIA, title

STATUSES: tuple[str, ...] = ("replicated", "partly replicated", "not replicated", "not testable here")
UNTESTABLE = STATUSES[3]

ALGORITHMS: tuple[str, ...] = ("magpo", "ctds", "happo", "mappo", "mat", "sable")
"""Algorithms that claims may speak of before there is an implementation here."""

_MARKER = re.compile(r"<!--\s*verdict:(.*?)-->", re.DOTALL)
_CSS = dict(zip(STATUSES, ("replicated", "partly", "not", "untestable"), strict=True))


@dataclass(frozen=True)
class Verdict:
    """The answer to one claim."""

    claim: Claim
    status: str
    """One of `STATUSES`."""
    evidence: str
    """One line with the numbers, seeds, tier and interval."""
    numbers: dict[str, dict[str, float]]
    """For each part of the claim (task, or "task: rival") the numbers that decided it."""
    records: tuple[Source, ...] = ()
    commands: tuple[str, ...] = ()
    """What to run to make an untestable claim testable."""

    @property
    def tier(self) -> str:
        """The lowest tier among the records used; "" where there are none."""
        return min((source.tier for source in self.records), key=TIERS.index, default="")


# ------------------------------------------------------------------------------------------------------------- reading


def load(path: Path | str | None = None) -> list[Claim]:
    """All claims, in the order of the file (default: `data/claims.yml`).

    Raises:
        InputError: the file is missing or not YAML; or a claim has an unknown type, field, exhibit, task or algorithm,
            lacks a field, or has an id used before. The line names the file, the claim and the valid choices.
    """
    path = published.data_folder() / "claims.yml" if path is None else Path(path)
    try:
        rows = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError:
        raise InputError(f"{path} is missing: the list of claims comes with the repository") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path.name} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(rows, list):
        raise InputError(f"{path.name} must be a list of claims")
    papers = {exhibit.id: exhibit.paper for exhibit in exhibits.load()}
    tasks = envs.tasks()
    claims: dict[str, Claim] = {}
    for number, row in enumerate(rows, start=1):
        where = f"{path.name}, claim {number}"
        if not isinstance(row, Mapping) or not all(isinstance(key, str) for key in row):
            raise InputError(f"{where} must have named fields")
        where = f"{where} ({row.get('id', 'no id')})"
        try:
            claim = _parse(row, papers, tasks)
            if claim.id in claims:
                raise InputError(f"the id {claim.id!r} is used twice")
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        claims[claim.id] = claim
    return list(claims.values())


def find(name: str) -> Claim:
    """The claim called `name`; InputError naming the nearest ones if there is none."""
    claims = {claim.id: claim for claim in load()}
    if name not in claims:
        raise unknown("claim", name, claims)
    return claims[name]


def _parse(row: Mapping[str, Any], papers: Mapping[str, str], tasks: Sequence[str]) -> Claim:
    raw = row.get("criterion")
    if not isinstance(raw, Mapping):
        raise InputError("field 'criterion' must be {type: ..., further fields}")
    kind = str(raw.get("type", ""))
    if kind not in CRITERIA:
        raise unknown("criterion type", kind, CRITERIA)
    fields = {name: value for name, value in raw.items() if name != "type"}
    criterion: Any = check_fields(CRITERIA[kind].fields, fields, "criterion field")
    if "type" in row:
        raise InputError("field 'type' belongs inside 'criterion'")
    claim = check_fields(Claim, {**row, "type": kind, "criterion": criterion}, "field")
    if not re.fullmatch(r"[a-z0-9-]+", claim.id):
        raise InputError(f"an id has only small letters, digits and hyphens, not {claim.id!r}")
    if claim.exhibit not in papers:
        raise unknown("exhibit", claim.exhibit, papers)
    if papers[claim.exhibit] != claim.paper:
        raise InputError(f"exhibit {claim.exhibit} belongs to paper {papers[claim.exhibit]!r}, not {claim.paper!r}")
    if CRITERIA[kind].needs_threshold and claim.threshold is None:
        raise InputError(f"criterion type {kind} needs the field 'threshold'")
    for task in claim.tasks:
        if task not in tasks:
            raise unknown("task", task, tasks)
    if isinstance(criterion, FromRecords):
        if not claim.tasks:
            raise InputError(f"criterion type {kind} needs the field 'tasks'")
        if claim.seeds < 2:
            raise InputError(f"criterion type {kind} needs at least 2 seeds, not {claim.seeds}")
        known = [*ALGORITHMS, *(name for name in records.algorithms() if name not in ALGORITHMS)]
        for player in criterion.players:
            algorithm = player.partition("@")[0]
            if algorithm not in known:
                raise unknown("algorithm", algorithm, known)
        if len(criterion.players) != len(set(criterion.players)):
            raise InputError(f"an algorithm or a value is named twice: {', '.join(criterion.players)}")
        if CRITERIA[kind].compares and len(criterion.players) < 2:
            raise InputError(f"criterion type {kind} compares at least 2 algorithms")
        if len(getattr(criterion, "values", (0, 1))) < 2:
            raise InputError(f"criterion type {kind} needs at least 2 values")
    if isinstance(criterion, GrowsSlower):
        if not criterion.settings:
            raise InputError(f"criterion type {kind} needs at least one setting")
        for setting in criterion.settings:
            measured = [point.algorithm for point in scaling.points([setting])]
            for name in criterion.players:
                if name not in measured:
                    raise unknown(f"algorithm of setting {setting}", name, dict.fromkeys(measured))
    if isinstance(criterion, FusionGain):
        if not criterion.than or not claim.tasks:
            raise InputError(f"criterion type {kind} needs the field 'tasks' and at least one rival in 'than'")
        for task in claim.tasks:
            if task not in FUSIBLE:
                raise unknown("task of the fusions", task, FUSIBLE)
            played = {case.key for case in fusion_trials.kind(task).cases()}
            for case in criterion.cases(task):
                if case.key not in played:
                    teams = [team for where, team, moment in played if (where, moment) == (task, case.checkpoint)]
                    raise unknown(f"team on {task}", case.key[1], sorted(teams))
    if isinstance(criterion, FusionAssociation) and criterion.measure not in fusion_results.DIFFERENCES:
        raise unknown("difference of two policies", criterion.measure, fusion_results.DIFFERENCES)
    if isinstance(criterion, PublishedCount) and not criterion.rivals:
        raise InputError("criterion field 'rivals' must name at least one column")
    return claim


# ------------------------------------------------------------------------------------------------------------- judging


class Library:
    """Reads each record once, so that judging all claims does not read it for every claim."""

    def __init__(self) -> None:
        self._samples: dict[tuple[str, ...], Sample | InputError] = {}

    def sample(self, player: str, task: str, tier: str, criterion: FromRecords) -> Sample:
        """The scores of `player` (see `FromRecords.players`) on `task` at exactly this tier.

        Raises:
            InputError: as `records.load`, or the record lacks the criterion's phase or mode.
        """
        algorithm, variant = _setting(player, task, tier, criterion)
        key = (algorithm, task, tier, variant, *criterion.quantity)
        if key not in self._samples:
            try:
                self._samples[key] = self._read(algorithm, task, tier, variant, criterion)
            except InputError as error:
                self._samples[key] = error
        found = self._samples[key]
        if isinstance(found, InputError):
            raise found
        return found

    @staticmethod
    def _read(algorithm: str, task: str, tier: str, variant: str, criterion: FromRecords) -> Sample:
        record = records.load(task, algorithm, tier=tier, variant=variant)
        values = criterion.scores(record)
        source = Source(_relative_path(record.path), tier, len(values), record.freshness())
        return Sample(values, int(record.frame["env_steps"].max()), source)


def judge(claim: Claim, library: Library | None = None) -> Verdict:
    """The verdict on one claim. Missing, damaged or too small records give "not testable here", never an exception.

    Raises:
        InputError: the claim names a function, a table, a column or a printed row that does not exist.
    """
    kind = CRITERIA[claim.type]
    samples: Samples | Costs | Fusions | Associations = {}
    damaged: list[str] = []
    if isinstance(claim.criterion, FromRecords):
        samples, missing, damaged = _collect(claim, library or Library())
        lonely = [f"{title(name)} on {task}" for (name, task), sample in samples.items() if len(sample.values) < 2]
        if missing or lonely:
            return _untestable(claim, samples, missing, damaged, lonely)
    elif type(claim.criterion) in _MEASURED:
        read, measurements = _MEASURED[type(claim.criterion)]
        try:
            samples = read(claim, claim.criterion)
        except (records.MissingRecord, records.CorruptRecord) as error:
            evidence = f"{str(error)[0].upper()}{str(error)[1:]}."
            return Verdict(claim, UNTESTABLE, evidence, {}, (), (measurements(claim).command,))
    parts = kind.decide(claim, claim.criterion, samples)
    scores = {part.score for part in parts}
    status = STATUSES[0] if scores == {1.0} else STATUSES[2] if scores == {0.0} else STATUSES[1]
    evidence = "; ".join(part.text for part in parts)
    return Verdict(
        claim,
        status,
        f"{evidence[0].upper()}{evidence[1:]}.{_caution(claim, samples, damaged)}",
        {part.name: part.numbers for part in parts},
        tuple(dict.fromkeys(sample.source for sample in samples.values())),
    )


def verdicts(claims: Iterable[Claim] | None = None) -> list[Verdict]:
    """Verdicts on `claims` (default: all), in order."""
    library = Library()
    return [judge(claim, library) for claim in (load() if claims is None else claims)]


def _collect(claim: Claim, library: Library) -> tuple[dict[tuple[str, str], Sample], list[tuple[str, str]], list[str]]:
    """Samples for each (player, task), which of them are missing, and what is wrong with damaged records.

    All players of a task are taken from the highest tier at which all of them have a record.
    """
    criterion: FromRecords = claim.criterion
    names = criterion.players
    tiers = TIERS[TIERS.index(criterion.minimum_tier) :]
    samples: dict[tuple[str, str], Sample] = {}
    missing: list[tuple[str, str]] = []
    damaged: list[str] = []
    for task in claim.tasks:
        for tier in reversed(tiers):
            found: dict[tuple[str, str], Sample] = {}
            for name in names:
                try:
                    found[name, task] = library.sample(name, task, tier, criterion)
                except records.MissingRecord:
                    pass
                except InputError as error:
                    damaged.append(str(error))
            if len(found) == len(names):
                samples |= found
                break
        else:  # `found` is that of the lowest tier
            missing += [(name, task) for name in names if (name, task) not in found]
    return samples, missing, damaged


def _measured(claim: Claim, criterion: GrowsSlower) -> Costs:
    """The costs that a criterion compares.

    Raises:
        MissingRecord: nothing is measured, or not all points are.
        CorruptRecord: the record is damaged.
    """
    record = scaling.UpdateCosts.recorded()
    if record.missing:
        lacks = f"{len(record.missing)} of {len(scaling.points())} points are not measured"
        raise records.MissingRecord(f"{lacks}; measure with: {record.command}")
    costs, freshness = scaling.table(record.frame), record.freshness()
    return {
        (name, setting): Cost(
            scaling.line(costs, setting, name, criterion.quantity),
            Source(_relative_path(record.path), scaling.SETTINGS[setting].tier, 1, freshness),
        )
        for setting in criterion.settings
        for name in criterion.players
    }


def _fused(claim: Claim, criterion: FusionGain) -> Fusions:
    """The differences that a criterion judges.

    Raises:
        MissingRecord: what it needs is not fused yet.
        CorruptRecord: the record is damaged.
    """
    found = {}
    for task in claim.tasks:
        record = fusion_trials.kind(task).recorded()
        differences = {}
        for other in criterion.than:
            gaps, *before = (
                fusion_results.gains(record.frame, case, criterion.player)
                - fusion_results.gains(record.frame, case, other)
                for case in criterion.cases(task)
            )
            differences[other] = gaps - sum(before)
        source = Source(_relative_path(record.path), fusion_trials.TIER, len(gaps), record.freshness())
        found[criterion.cases(task)[0].key[1], task] = Fusion(differences, source)
    return found


def _associated(claim: Claim, criterion: FusionAssociation) -> Associations:
    """The association that a criterion judges.

    Raises:
        MissingRecord: not all pairs are fused yet.
        CorruptRecord: the record is damaged.
    """
    record = fusion_trials.Trials.recorded()
    found = fusion_results.association(record.frame, criterion.measure, criterion.player)
    source = Source(_relative_path(record.path), fusion_trials.TIER, min(found.runs.values()), record.freshness())
    return {(criterion.player, criterion.measure): Association(found, source)}


_MEASURED: dict[
    type, tuple[Callable[[Claim, Any], Costs | Fusions | Associations], Callable[[Claim], type[Measurements]]]
] = {
    GrowsSlower: (_measured, lambda claim: scaling.UpdateCosts),
    FusionGain: (_fused, lambda claim: fusion_trials.kind(claim.tasks[0])),
    FusionAssociation: (_associated, lambda claim: fusion_trials.Trials),
}
"""Criteria that are judged by measurements: what reads them, and which those of a claim are."""


def _setting(player: str, task: str, tier: str, criterion: FromRecords) -> tuple[str, str]:
    """Algorithm and variant of the record that a player's scores are taken from."""
    algorithm, _, own = player.partition("@")
    return algorithm, records.same_setting(task, algorithm, tier, own or criterion.variant)


def _untestable(
    claim: Claim, samples: Samples, missing: list[tuple[str, str]], damaged: list[str], lonely: list[str]
) -> Verdict:
    criterion = claim.criterion
    tier = criterion.minimum_tier
    settings = {(task, *_setting(player, task, tier, criterion)) for player, task in missing}
    commands = tuple(records.command(task, name, tier, variant) for task, name, variant in sorted(settings))
    notes = []
    if missing:
        needed = len(claim.tasks) * len(criterion.players)
        shown = "; ".join(f"`{command}`" for command in commands[:2])
        more = f"; and {len(commands) - 2} more" if len(commands) > 2 else ""
        of = f"{len(commands)} of {needed} records are" if needed > 1 else "The record is"
        notes.append(f"{of} missing at tier {tier} or above; run {shown}{more}")
        absent = sorted({player.partition("@")[0] for player, _ in missing} - set(records.algorithms()))
        if absent:
            notes.append(f"Not implemented here yet: {', '.join(name.upper() for name in absent)}")
    if lonely:
        notes.append(f"A single seed has no spread: {', '.join(lonely)}")
    notes += damaged
    sources = tuple(sample.source for sample in samples.values())
    return Verdict(claim, UNTESTABLE, ". ".join(notes) + ".", {}, sources, commands)


def _caution(claim: Claim, samples: Samples | Costs | Fusions | Associations, damaged: list[str]) -> str:
    notes = list(damaged)
    stale: dict[str, list[str]] = {}
    for (name, task), sample in samples.items():
        if sample.source.seeds < claim.seeds:
            notes.append(f"{title(name)} on {task} has {sample.source.seeds} of the {claim.seeds} seeds asked for")
        if sample.source.freshness != "FRESH":
            stale.setdefault(sample.source.freshness, []).append(f"{title(name)} on {task}")
    for freshness, names in stale.items():
        if len(names) > 2:
            notes.append(f"{len(names)} of the {len(samples)} records are {freshness}")
        else:
            notes += [f"the record of {name} is {freshness}" for name in names]
    return f" Caution: {'; '.join(notes)}." if notes else ""


def _relative_path(path: Path) -> str:
    root = published.data_folder().parent
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


# --------------------------------------------------------------------------------------------------- tables and pages


def table(judged: Iterable[Verdict] | None = None) -> pd.DataFrame:
    """One row per claim: status, id, paper, exhibit, claim, evidence, tier, seeds, records, date, label."""
    rows = [
        {
            "status": verdict.status,
            "id": verdict.claim.id,
            "paper": verdict.claim.paper,
            "exhibit": verdict.claim.exhibit,
            "claim": verdict.claim.claim,
            "evidence": verdict.evidence,
            "tier": verdict.tier,
            "seeds": min((source.seeds for source in verdict.records), default=0),
            "records": len(verdict.records),
            "date": verdict.claim.date,
            "label": verdict.claim.label,
        }
        for verdict in (verdicts() if judged is None else judged)
    ]
    columns = ["status", "id", "paper", "exhibit", "claim", "evidence", "tier", "seeds", "records", "date", "label"]
    return pd.DataFrame(rows, columns=columns)


def rows(judged: Iterable[Verdict] | None = None) -> list[tuple[str, str, str]]:
    """(status, id, evidence) of every claim, for the command line."""
    return [(v.status, v.claim.id, v.evidence) for v in (verdicts() if judged is None else judged)]


def scoreboard(judged: Iterable[Verdict] | None = None) -> pd.DataFrame:
    """Claims by paper (one row each, also for a paper without claims so far) and status, and their number."""
    frame = table(judged)
    counts = pd.crosstab(frame["paper"], frame["status"])
    counts = counts.reindex(index=list(published.PAPERS), columns=list(STATUSES), fill_value=0)
    counts.index.name, counts.columns.name = "paper", None
    return counts.assign(claims=counts.sum(axis=1))


def badge(verdict: Verdict) -> str:
    """The verdict as inline HTML (works in Markdown), with the comment that `check_page` holds against the truth."""
    kind = "standin" if verdict.claim.stand_in else "published"
    label = f' <span class="label {kind}">{html.escape(verdict.claim.label)}</span>' if verdict.claim.label else ""
    return (
        f'<span class="verdict {_CSS[verdict.status]}" title="{html.escape(verdict.evidence, quote=True)}">'
        f"{verdict.status}</span>{label}<!-- verdict:{verdict.claim.id}:{verdict.status} -->"
    )


def to_markdown(judged: Iterable[Verdict]) -> str:
    """A Markdown table of verdicts: claim, badge, evidence, tier."""
    lines = ["| Claim | Verdict | Evidence | Tier |", "|---|---|---|---|"]
    for verdict in judged:
        cells = (verdict.claim.claim, badge(verdict), verdict.evidence, verdict.tier or "-")
        lines.append("| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def to_html(judged: Iterable[Verdict]) -> str:
    """Verdicts for a notebook's page: badge and claim, and below them the evidence; readable at any width."""
    parts = [
        f"<p>{badge(verdict)} {html.escape(verdict.claim.claim)}<br><small>{html.escape(verdict.evidence)}</small></p>"
        for verdict in judged
    ]
    return "\n".join(parts) or "<p>No claim is entered yet.</p>"


def of_exhibit(name: str) -> list[Verdict]:
    """The verdicts on the claims of one exhibit, in the order of the file."""
    return verdicts(claim for claim in load() if claim.exhibit == name)


def check_page(text: str, judged: Iterable[Verdict] | None = None) -> list[str]:
    """What a page says about verdicts that is not so; an empty list means all is well.

    One line for each comment `<!-- verdict:id:status -->` in `text` (as `badge` makes it) with an unknown claim, an
    unknown status, or a status other than the computed one.
    """
    truth = {verdict.claim.id: verdict.status for verdict in (verdicts() if judged is None else judged)}
    problems = []
    for match in _MARKER.finditer(text):
        name, _, said = " ".join(match[1].split()).partition(":")
        if name not in truth:
            problems.append(str(unknown("claim", name, truth)))
        elif said not in STATUSES:
            problems.append(f"{name}: {unknown('status', said, STATUSES)}")
        elif said != truth[name]:
            problems.append(f"{name}: the page says {said!r}, computed is {truth[name]!r}")
    return problems
