"""Searching settings with TPE over the MAGPO paper's spaces (Appendix C.3, Tables 4 to 7), resumable from its storage.

A trial is one training with the searched settings in place of a tier's own, all seeds side by side; its score is the
mean over seeds of the closing evaluation of the best parameters. What is suggested depends on the search's seed, the
trial's number and the finished trials only, and a trial trains with checkpoints: a search that was killed goes on with
the trial that it was in, and ends as if nothing had happened.

A search lies under `runs/searches/<suite>/<task>/<algorithm>[@variant]/<tier>[-name]`: `study.db` is an Optuna storage
(study "search"), `trials/` has a run record for each trial, and beside the folder stands the table of all trials, which
`inconcert archive` copies to `data/searches/`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import json
import re
import shlex
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import optuna
import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import DatabaseError

from inconcert import envs, provenance, records, runs, settings
from inconcert.config import TIERS, InputError, unknown
from inconcert.evaluate import Diverged
from inconcert.stacked import derive

TRIALS: dict[str, int] = {"smoke": 3, "laptop": 40, "paper": 40}
"""Trials of a search at each tier (paper, Appendix C.3: 40)."""

GUIDER_TABLES: dict[str, int] = {"mat": 4, "sable": 5}
TABLES: dict[str, tuple[int, ...]] = {
    "happo": (6,), "mappo": (6,), "mat": (4,), "sable": (5,), "magpo": (7,), "ctds": (),
}  # fmt: skip
"""The paper's search spaces of an algorithm; MAGPO and CTDS also have that of their guider. For CTDS the paper prints
none."""

State = Literal["complete", "pruned", "diverged", "refused"]


@dataclass(frozen=True)
class Search:
    """What a search depends on."""

    algorithm: str
    task: str
    tier: str = "smoke"
    """The budget of a trial, and every setting that is not searched."""
    variant: str = ""
    """A named variant of the algorithm."""
    name: str = ""
    """Of its own where `changes` or the options below differ from the tier's, so that both can be kept."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Single settings on top of the tier and the variant, such as fewer seeds; one that is changed is not searched."""
    seed: int = 0
    """Of the suggestions; the training has its own."""
    startup: int = 10
    """Trials drawn at random before TPE takes over (Optuna's default)."""
    prune: bool = False
    """Stop a trial early whose best evaluation so far is below the median of the earlier trials at that point."""

    def __post_init__(self) -> None:
        module = records.algorithm_module(self.algorithm)
        if self.algorithm not in TABLES:
            raise unknown("algorithm with a search space", self.algorithm, TABLES)
        if self.tier not in TIERS:
            raise unknown("tier", self.tier, TIERS)
        if self.variant not in module.VARIANTS:
            raise unknown("variant", self.variant, filter(None, module.VARIANTS))
        if not re.fullmatch(r"[\w.-]*", self.name):
            raise InputError(f"a search's name has letters, digits, '.', '_' and '-' only, not {self.name!r}")
        if self.startup < 1:
            raise InputError(f"startup must be at least 1, not {self.startup}")

    @property
    def config(self) -> Any:
        """The tier's own setting, which the searched ones replace."""
        module = records.algorithm_module(self.algorithm)
        return module.configure(self.task, self.tier, self.variant, **self.changes)

    @property
    def file(self) -> Path:
        """Where the table of trials lies, relative to a folder of searches."""
        player = records.relative_path(self.task, self.algorithm, self.tier, self.variant).parent
        return player / f"{'-'.join(filter(None, (self.tier, self.name)))}.parquet"

    @property
    def table(self) -> Path:
        """The table of trials on this machine."""
        return folders()[0] / self.file

    @property
    def folder(self) -> Path:
        return self.table.parent / self.table.name.removesuffix(".parquet")

    def plan(self, params: dict[str, Any], file: str, **changes: Any) -> runs.Plan:
        """The training of one set of searched settings."""
        changes = {**self.changes, **params, **changes}
        return runs.Plan(self.algorithm, self.task, self.tier, self.variant, changes, self.folder / f"{file}.parquet")


class Outcome(NamedTuple):
    """A finished trial."""

    number: int
    params: dict[str, Any]
    state: State
    reason: str  # why it is not complete, or which trial had the same settings
    score: float | None
    """Mean over seeds of the task's metric; None unless complete."""
    scores: dict[int, float]
    """The same for each seed."""
    wall_s: float
    """What its training took; 0 where nothing had to be trained."""


# --------------------------------------------------------------------------------------------------------------- space


class Space(NamedTuple):
    """What is searched, and what of the paper's space is not."""

    choices: dict[str, tuple[Any, ...]]
    """Setting -> values, as printed."""
    left_out: dict[str, str]
    """Setting, or "setting = value" -> why."""


def printed_space(algorithm: str, guider: str = "sable") -> dict[str, tuple[float, ...]]:
    """The paper's search space of an algorithm: setting -> values in printed order (Tables 4 to 7)."""
    guided = (GUIDER_TABLES[guider],) if algorithm in ("magpo", "ctds") else ()
    return settings.spaces(*guided, *TABLES[algorithm])


def space(search: Search) -> Space:
    """The paper's space, without what does nothing or cannot be at the search's tier, and without what it changes."""
    config, module = search.config, records.algorithm_module(search.algorithm)
    hints = typing.get_type_hints(module.Config)
    choices: dict[str, tuple[Any, ...]] = {}
    left_out: dict[str, str] = {}
    for name, printed in printed_space(search.algorithm, getattr(config, "guider", "sable")).items():
        if name in search.changes:
            left_out[name] = f"held at {search.changes[name]:g}"
            continue
        if why := _idle(name, config):
            left_out[name] = why
            continue
        possible = []
        for value in map(hints[name], printed):
            try:
                dataclasses.replace(config, **{name: value})
                possible.append(value)
            except InputError as error:
                left_out[f"{name} = {value:g}"] = str(error)
        if possible:
            choices[name] = tuple(possible)
    return Space(choices, left_out)


def _idle(name: str, config: Any) -> str:
    """Why a setting changes nothing in a training of `config`, or "" where it does."""
    if name == "chunk" and config.network == "mlp":
        return "no recurrent layer at this tier"
    if name == "decay" and config.memory == "none":
        return "no memory in time at this tier"
    return ""


# -------------------------------------------------------------------------------------------------------------- search


class _Pruned(Exception):
    """Stops the training of a trial that does worse than the median."""


Report = Callable[[int, runs.Progress], None]


def run(
    search: Search,
    trials: int | None = None,
    jobs: int = 1,
    device: str = "cpu",
    restart: bool = False,
    report: Report = lambda number, progress: None,
) -> Iterator[Outcome]:
    """Go on with a search until it has `trials` finished trials in all, yielding each one that is finished now.

    A trial whose loss diverges, or whose settings cannot be together, counts as worse than every other; the search
    goes on. Anything else that goes wrong, Ctrl-C included, stops the search, and the same call continues.

    Args:
        trials: in all; None for the tier's own number.
        jobs: one-thread processes that the seeds of a trial are split over.
        restart: forget the trials there are.
        report: called with the trial's number at every sign of life of its training.

    Raises:
        InputError: there is a search of other settings or sources, another process works on it, or it is damaged.
    """
    wanted = TRIALS[search.tier] if trials is None else trials
    if wanted < 1:
        raise InputError(f"trials must be at least 1, not {wanted}")
    if search.prune and jobs > 1:
        raise InputError("pruning watches all seeds of a trial together: it needs jobs = 1")
    if not space(search).choices:
        raise InputError("nothing is left to search: " + "; ".join(space(search).left_out))
    with _claimed(search):
        study = _open(search, restart)
        tried = study.get_trials()
        _write(search, tried)
        while len(tried) < wanted:
            outcome, progress = _try(search, tried, jobs, device, report)
            study.add_trial(_frozen(search, outcome, progress))
            tried = study.get_trials()
            _write(search, tried)
            yield outcome


@contextlib.contextmanager
def _claimed(search: Search) -> Iterator[None]:
    """Hold the search against other processes; the claim ends with the process, however that ends."""
    path = search.folder.with_name(f".{search.folder.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"another process works on {search.folder}; wait for it, or give a name to keep both"
            ) from None
        yield


def _open(search: Search, restart: bool) -> optuna.Study:
    """The search's study, new or continued."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if restart:
        records.discard(search.folder)
        search.table.unlink(missing_ok=True)
    search.folder.mkdir(parents=True, exist_ok=True)
    path = search.folder / "study.db"
    depends = records.plain(_depends(search))
    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 60}})
        study = optuna.create_study(storage=storage, study_name="search", direction="maximize", load_if_exists=True)
        begun = study.user_attrs.get("search")
    except (DatabaseError, optuna.exceptions.StorageInternalError, RuntimeError) as error:
        raise records.CorruptRecord(
            f"{path} is damaged ({type(error).__name__}); add --restart to begin again"
        ) from None
    if begun is None:
        study.set_user_attr("search", depends)
    elif begun != depends:
        different = ", ".join(key for key in depends if begun.get(key) != depends[key])
        raise InputError(
            f"{search.folder} holds a search of other {different}; add --restart to begin again, or --name NAME to "
            "keep both"
        )
    return study


def _depends(search: Search) -> dict[str, Any]:
    """All that decides the trials of a search."""
    fingerprint = records.fingerprint(search.algorithm, search.task, search.tier, search.variant, search.changes)
    return {
        "settings": fingerprint["config"], "sources": fingerprint["code"], "space": space(search).choices,
        "seed": search.seed, "startup": search.startup, "prune": search.prune,
    }  # fmt: skip


def _try(
    search: Search, tried: list[FrozenTrial], jobs: int, device: str, report: Report
) -> tuple[Outcome, dict[int, float]]:
    """Suggest and train the next trial, or finish the one that was interrupted; also its scores along the way."""
    number = len(tried)
    trial = _ask(search, tried, number)
    params = trial.params
    for twin in map(_outcome, tried):
        if twin.params == params:  # the same seeds would give the same scores
            same = twin.reason or f"the settings of trial {twin.number}"
            return twin._replace(number=number, reason=same, wall_s=0.0), tried[twin.number].intermediate_values

    plan = search.plan(params, f"trials/{number:04d}")
    try:
        _ = plan.config
    except InputError as error:
        return Outcome(number, params, "refused", str(error), None, {}, 0.0), {}
    wall_s = 0.0

    def watch(progress: runs.Progress) -> None:
        nonlocal wall_s
        wall_s = progress.wall_s
        report(number, progress)
        if search.prune and progress.phase == "curve":
            trial.report(progress.score, progress.update)
            if trial.should_prune():
                raise _Pruned(f"below the median at update {progress.update}")

    if search.prune:
        for update, score in runs.so_far(plan):
            trial.report(score, update)
    try:
        record = _made(plan, jobs, device, watch)
    except (Diverged, _Pruned) as error:
        records.discard(plan.checkpoints)
        state: State = "pruned" if isinstance(error, _Pruned) else "diverged"
        along = trial.study.trials[number].intermediate_values if state == "pruned" else {}
        return Outcome(number, params, state, str(error), None, {}, wall_s), along
    scores = _scores(record)
    mean = float(np.mean(list(scores.values())))
    along = trial.study.trials[number].intermediate_values
    return Outcome(number, params, "complete", "", mean, scores, record.meta["wall_s"]), along


def _ask(search: Search, tried: list[FrozenTrial], number: int) -> optuna.Trial:
    """The trial `number` as Optuna's TPE suggests it, in a copy of the study in memory.

    A sampler is made for each trial from (seed, number), so that nothing but the finished trials is carried on. The
    suggestion is kept on disk: an interrupted trial keeps it even under another version of Optuna.
    """
    sampler = optuna.samplers.TPESampler(
        seed=derive(search.seed, "search", number) % 2**32, n_startup_trials=search.startup
    )
    pruner = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=search.config.updates // 3)
    study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)
    study.add_trials(tried)
    kept = search.folder / "trials" / f"{number:04d}.json"
    if kept.exists():
        study.enqueue_trial(json.loads(kept.read_text(encoding="utf-8")))
    trial = study.ask({name: CategoricalDistribution(values) for name, values in space(search).choices.items()})
    if not kept.exists():
        records.write_atomic(kept, json.dumps(trial.params).encode())
    return trial


def _made(
    plan: runs.Plan, jobs: int, device: str, report: Callable[[runs.Progress], None] = lambda progress: None
) -> records.Record:
    """The record of a plan: read, finished or made."""
    if plan.path.exists():
        record = records.read(plan.path)
        if record.freshness() == "FRESH":
            return record
    return records.read(runs.train(plan, jobs, device, report=report))


def _scores(record: records.Record) -> dict[int, float]:
    """Closing score of each seed: best parameters, the first evaluation mode, the task's metric."""
    metric = envs.make(record.task, num_envs=1, **record.config["env_options"]).spec.metric
    final = records.final(record, "best", record.config["eval_modes"][0], metric)
    return {int(str(seed)): float(score) for seed, score in final.items()}


def _frozen(search: Search, outcome: Outcome, along: dict[int, float]) -> FrozenTrial:
    """An outcome as Optuna keeps it. What is not complete counts as pruned: TPE takes it for worse than the rest."""
    values = space(search).choices
    return optuna.trial.create_trial(
        state=TrialState.COMPLETE if outcome.state == "complete" else TrialState.PRUNED,
        value=outcome.score,
        params=outcome.params,
        distributions={name: CategoricalDistribution(values[name]) for name in outcome.params},
        user_attrs=records.plain(
            {"state": outcome.state, "reason": outcome.reason, "scores": outcome.scores, "wall_s": outcome.wall_s}
        ),
        intermediate_values=along,
    )


def _outcome(trial: FrozenTrial) -> Outcome:
    kept = trial.user_attrs
    scores = {int(seed): score for seed, score in kept["scores"].items()}
    score = trial.value if kept["state"] == "complete" else None
    return Outcome(trial.number, trial.params, kept["state"], kept["reason"], score, scores, kept["wall_s"])


def _best(outcomes: list[Outcome]) -> Outcome | None:
    """The complete trial with the highest score; among equals the first."""
    complete = [outcome for outcome in outcomes if outcome.state == "complete"]
    return max(complete, key=lambda outcome: -np.inf if outcome.score is None else outcome.score, default=None)


def check(
    search: Search,
    seeds: int,
    jobs: int = 1,
    device: str = "cpu",
    report: Callable[[str, runs.Progress], None] = lambda which, progress: None,
) -> dict[str, dict[int, float]]:
    """Train the best trial's settings and the tier's own again, on seeds that the search has not seen.

    The score that a search ends with is the largest of many: part of it is luck. These scores are not.

    Args:
        seeds: how many; they follow the search's own.
        report: called with "best" or "own" at every sign of life.

    Returns:
        "best" and "own" -> seed -> score; the search's table has them too.

    Raises:
        InputError: no trial is complete, fewer than two seeds, or as `run`.
    """
    if seeds < 2:
        raise InputError(f"a check needs at least 2 seeds, not {seeds}")
    first = max(search.config.seeds) + 1
    fresh = tuple(range(first, first + seeds))
    with _claimed(search):
        tried = _open(search, restart=False).get_trials()
        chosen = _best([_outcome(trial) for trial in tried])
        if chosen is None:
            raise InputError(f"no trial of {search.folder} is complete")
        made: dict[str, records.Record] = {}
        for role, params in (("best", chosen.params), ("own", {})):
            plan = search.plan(params, _check_file(role, chosen, seeds), seeds=fresh)
            made[role] = _made(plan, jobs, device, functools.partial(report, role))
        _write(search, tried)
    return {role: _scores(record) for role, record in made.items()}


def _check_file(role: str, chosen: Outcome, seeds: int | str) -> str:
    return f"check/{f'trial-{chosen.number:04d}' if role == 'best' else role}-{seeds}"


def _checks(search: Search, chosen: Outcome | None) -> dict[str, records.Record]:
    """The check of the best trial that has most seeds; empty where there is none."""
    if chosen is None:
        return {}
    ends = [path.stem.rpartition("-")[2] for path in search.folder.glob(f"{_check_file('best', chosen, '*')}.parquet")]
    for seeds in sorted(map(int, ends), reverse=True):
        paths = {role: search.folder / f"{_check_file(role, chosen, seeds)}.parquet" for role in ("best", "own")}
        if all(path.exists() for path in paths.values()):
            return {role: records.read(path) for role, path in paths.items()}
    return {}


# --------------------------------------------------------------------------------------------------------------- table


def folders() -> tuple[Path, Path]:
    """Where searches lie: this machine's own and the archived ones."""
    own, archived = records.folders()
    return own / "searches", archived.parent / "searches"


def _write(search: Search, tried: list[FrozenTrial]) -> None:
    """Write the table of trials and of their check, with all that made it in the metadata."""
    config, outcomes, own_space = search.config, [_outcome(trial) for trial in tried], space(search)
    chosen = _best(outcomes)
    rows: list[dict[str, Any]] = [
        {"role": "trial", "trial": one.number, "state": one.state, "reason": one.reason, "seed": seed,
         "score": one.scores.get(seed, np.nan), "wall_s": one.wall_s, **one.params}
        for one in outcomes for seed in config.seeds
    ]  # fmt: skip
    for role, record in _checks(search, chosen).items():
        number = chosen.number if chosen is not None and role == "best" else -1
        searched = {name: record.config[name] for name in own_space.choices}
        rows += [
            {"role": role, "trial": number, "state": "complete", "reason": "", "seed": seed, "score": score,
             "wall_s": record.meta["wall_s"], **searched}
            for seed, score in _scores(record).items()
        ]  # fmt: skip
    columns = ["role", "trial", "state", "reason", "seed", "score", *own_space.choices, "wall_s"]
    frame = pd.DataFrame(rows, columns=columns)
    meta = {
        "task": search.task, "algorithm": search.algorithm, "variant": search.variant, "tier": search.tier,
        "name": search.name, "changes": records.plain(search.changes),
        "config": records.plain(dataclasses.asdict(config)),
        "fingerprint": records.fingerprint(search.algorithm, search.task, search.tier, search.variant, search.changes),
        "seed": search.seed, "startup": search.startup, "prune": search.prune, "space": own_space._asdict(),
        "commit": runs.commit(), "hardware": provenance.processor(),
        "versions": runs.versions() | {"optuna": optuna.__version__},
        "date": datetime.now(UTC).date().isoformat(),
    }  # fmt: skip
    records.write_atomic(search.table, records.to_bytes(frame, meta))


def find() -> list[Path]:
    """The tables of all searches here, this machine's own before the archived ones."""
    return [path for folder in folders() for path in sorted(folder.glob("*/*/*/*.parquet"))]


def load(search: Search) -> records.Record:
    """The table of a search, this machine's own or the archived one.

    `frame` has a row per trial and seed: `role` ("trial"; from a check "best", "own"), `trial` (-1 for the tier's own
    settings), `state` (see `State`), `reason`, `seed`, `score` (NaN unless complete), the searched settings, `wall_s`
    (of the trial's whole training). `meta` is that of a run record, with `name`, `seed`, `startup`, `prune` and
    `space` (`Space`) of the search.

    Raises:
        MissingRecord: not there.
        CorruptRecord: damaged.
    """
    for folder in folders():
        if (folder / search.file).is_file():
            return records.read(folder / search.file)
    raise records.MissingRecord(f"no search {search.file}; make it with: {command(search)}")


def command(search: Search, trials: int | None = None) -> str:
    """The command that makes a search."""
    parts = [f"python -m inconcert search {search.algorithm} {search.task} --tier {search.tier}"]
    parts += [f"--variant {search.variant}"] if search.variant else []
    parts += [f"--name {search.name}"] if search.name else []
    changes = dict(search.changes)
    seeds = changes.pop("seeds", ())
    parts += ["--set", *(shlex.quote(f"{name}={_told(value)}") for name, value in changes.items())] if changes else []
    parts += ["--seeds " + " ".join(map(str, seeds))] if seeds else []
    parts += ["--prune"] if search.prune else []
    for option in ("seed", "startup"):
        default = next(one.default for one in dataclasses.fields(Search) if one.name == option)
        parts += [f"--{option} {getattr(search, option)}"] if getattr(search, option) != default else []
    parts += [f"--trials {trials}"] if trials else []
    return " ".join(parts)


def _told(value: Any) -> str:
    """A setting as `--set` reads it."""
    return value if isinstance(value, str) else json.dumps(records.plain(value), separators=(",", ":"))


def archive(path: Path) -> Path:
    """Copy the table of a search of this machine into the archive that the book ships.

    Raises:
        CorruptRecord: damaged.
    """
    records.read(path)
    target = folders()[1] / path.relative_to(folders()[0])
    records.write_atomic(target, path.read_bytes())
    return target


# ------------------------------------------------------------------------------------------------------------- reading


def trials_of(table: records.Record) -> pd.DataFrame:
    """A row per trial, indexed by its number: `state`, `reason`, `score` (mean over seeds), the settings, `wall_s`."""
    rows = table.frame[table.frame["role"] == "trial"]
    means = rows.groupby("trial")["score"].mean()
    return rows.drop_duplicates("trial").set_index("trial").drop(columns=["role", "seed"]).assign(score=means)


def importance(table: records.Record, shuffles: int = 200, seed: int = 0, top: float = 0.25) -> pd.DataFrame:
    """How much each setting decides whether a trial is among the best (PED-ANOVA, Watanabe et al. 2023).

    With few trials every setting looks as if it mattered. So the same is computed with the scores shuffled among the
    trials: an importance below what the shuffled ones often reach says nothing.

    Args:
        shuffles: how many times.
        top: the share of trials that count as the best.

    Returns:
        Columns `setting`, `importance` (shares of 1), `by_chance` (95th percentile of the shuffled ones); the most
        important first.

    Raises:
        InputError: fewer than four complete trials.
    """
    tried = trials_of(table)
    tried = tried[tried["state"] == "complete"]
    if len(tried) < 4:
        raise InputError(f"importances need at least 4 complete trials, not {len(tried)}")
    values = table.meta["space"]["choices"]
    spread: dict[str, BaseDistribution] = {name: CategoricalDistribution(values[name]) for name in values}
    params = [{name: row[name] for name in values} for row in tried[list(values)].to_dict("records")]
    scores = tried["score"].to_numpy()
    rng = np.random.default_rng(seed)
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def shares(order: np.ndarray) -> pd.Series:
        study = optuna.create_study(direction="maximize")
        study.add_trials(
            [
                optuna.trial.create_trial(params=one, distributions=spread, value=float(score))
                for one, score in zip(params, scores[order], strict=True)
            ]
        )
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=top)
        return pd.Series(optuna.importance.get_param_importances(study, evaluator=evaluator))

    found = shares(np.arange(len(scores)))
    chance = pd.DataFrame([shares(rng.permutation(len(scores))) for _ in range(shuffles)])
    result = pd.DataFrame({"importance": found, "by_chance": chance.quantile(0.95)}).rename_axis("setting")
    return result.sort_values("importance", ascending=False).reset_index()
