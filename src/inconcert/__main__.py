"""The command line: `python -m inconcert list | train | search | evaluate | archive | replay | verdicts`.

Exit codes: 0 done, 1 the work failed (a diverged loss, a full disk), 2 bad input (one line names the valid choices),
130 interrupted (the same command continues).
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, cast, get_args

import tyro
import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from inconcert import envs, exhibits, fusion_trials, offpolicy, policies, records, runs, scaling
from inconcert.config import TIERS, InputError, check_fields, unknown
from inconcert.evaluate import Diverged, Mode, play


@dataclass(frozen=True)
class List:
    """List what there is: tasks, algorithms, exhibits, records or searches."""

    what: tyro.conf.Positional[str] = "exhibits"
    """tasks, algorithms, exhibits, records or searches"""

    def run(self) -> None:
        rows: dict[str, Any] = {
            "tasks": lambda: [(task,) for task in envs.tasks()],
            "algorithms": lambda: [
                (name, " ".join(filter(None, records.algorithm_module(name).VARIANTS))) for name in records.algorithms()
            ],
            "exhibits": lambda: [(one.id, one.notebook or "not run here yet", one.title) for one in exhibits.load()],
            "records": lambda: [
                (key.task, key.algorithm, key.variant, key.tier, records.read(key.path).freshness(), str(key.path))
                for key in records.find()
            ],
            "searches": _searches,
        }
        if self.what not in rows:
            raise unknown("list", self.what, rows)
        for row in rows[self.what]():
            print("\t".join(row))


@dataclass(frozen=True)
class Train:
    """Make one run record (all seeds), or finish a half-finished one."""

    algorithm: tyro.conf.Positional[str]
    """see `inconcert list algorithms`"""
    task: tyro.conf.Positional[str]
    """see `inconcert list tasks`"""
    tier: str = "smoke"
    """smoke (seconds), laptop (up to about half an hour) or paper (the published budget)"""
    variant: str = ""
    """a named variant of the algorithm, or your own name for a run with --set"""
    set: list[str] = field(default_factory=list)
    """single settings, NAME=VALUE; needs --variant NAME"""
    seeds: list[int] = field(default_factory=list)
    """other seeds than the tier's; needs --variant NAME"""
    jobs: int = 1
    """one-thread processes to split the seeds over"""
    device: str = "cpu"
    """cpu or cuda"""
    restart: bool = False
    """forget a half-finished run first"""

    def run(self) -> None:
        plan = self.plan()
        if plan.path.exists() and not self.restart:
            record = records.read(plan.path)
            if record.freshness() == "FRESH":
                print(f"{plan.path} is there and fresh; --restart makes it anew")
                return
        settings = plan.config
        if isinstance(settings, offpolicy.Config):
            spec = envs.make(settings.task, 1, 0, "cpu", **settings.env_options).spec
            print(f"the replay takes {offpolicy.check_memory(settings, spec):.2f} GB", flush=True)
        console = Console()
        bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total} updates"),
            TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[score]}"), console=console,
        )  # fmt: skip
        lines: dict[tuple[int, ...], TaskID] = {}

        def report(sign: runs.Progress) -> None:
            name = "seeds " + " ".join(map(str, sign.seeds))
            score = f"{sign.phase} return {sign.score:.2f}"
            if not console.is_terminal:
                print(f"{name}: update {sign.update}/{sign.updates}, {score}, {sign.wall_s:.0f} s", flush=True)
                return
            if sign.seeds not in lines:
                lines[sign.seeds] = bar.add_task(name, total=sign.updates, score="")
            bar.update(lines[sign.seeds], completed=sign.update, score=score)

        with bar:
            path = runs.train(plan, self.jobs, self.device, self.restart, report)
        print(path)

    def plan(self) -> runs.Plan:
        module = records.algorithm_module(self.algorithm)
        envs.make(self.task, num_envs=1)
        if self.tier not in TIERS:
            raise unknown("tier", self.tier, TIERS)
        if self.jobs < 1:
            raise InputError(f"jobs must be at least 1, not {self.jobs}")
        changes = _changes(module, module.configure(self.task, self.tier, self.variant), self.set, self.seeds)
        if self.variant not in module.VARIANTS and not changes:
            raise unknown("variant", self.variant, filter(None, module.VARIANTS))
        if self.variant in module.VARIANTS and changes:
            names = ", ".join(changes)
            raise InputError(f"changed settings ({names}) need a name of their own: add --variant NAME, a new one")
        return runs.Plan(self.algorithm, self.task, self.tier, self.variant, changes)


def _changes(module: Any, base: Any, assignments: list[str], seeds: list[int]) -> dict[str, Any]:
    """The settings of `--set NAME=VALUE ...` and `--seeds`, checked against the `Config` that they change."""
    changes: dict[str, Any] = {"seeds": seeds} if seeds else {}
    for one in assignments:
        name, equals, value = one.partition("=")
        if not equals:
            raise InputError(f"--set takes NAME=VALUE, not {one!r}")
        changes[name] = yaml.safe_load(value)
        if isinstance(changes[name], str):  # YAML takes 1e-4 and inf for text
            with contextlib.suppress(ValueError):
                changes[name] = float(value)
    checked = check_fields(module.Config, {**dataclasses.asdict(base), **changes})
    return {name: getattr(checked, name) for name in changes}


def _searches() -> list[tuple[str, ...]]:
    """The searches there are; importing Optuna takes most of a second, which other commands need not wait for."""
    from inconcert import search

    tables = [(path, records.read(path)) for path in search.find()]
    return [
        (table.task, table.algorithm, table.variant, table.tier, table.meta["name"], table.freshness(), str(path))
        for path, table in tables
    ]


@dataclass(frozen=True)
class Search:
    """Search settings with TPE over the paper's spaces, or go on with a search."""

    algorithm: tyro.conf.Positional[str]
    """see `inconcert list algorithms`"""
    task: tyro.conf.Positional[str]
    """see `inconcert list tasks`"""
    tier: str = "smoke"
    """budget of a trial, and all settings that are not searched: smoke, laptop or paper"""
    variant: str = ""
    """a named variant of the algorithm"""
    name: str = ""
    """of a search with options of its own (--set, --seeds, --seed, --startup, --prune)"""
    trials: int = 0
    """in all, those of earlier calls included; 0 for the tier's number (smoke 3, else the paper's 40)"""
    set: list[str] = field(default_factory=list)
    """single settings, NAME=VALUE, which are then not searched; needs --name NAME"""
    seeds: list[int] = field(default_factory=list)
    """other seeds of the training than the tier's; needs --name NAME"""
    seed: int = 0
    """of the suggestions"""
    startup: int = 10
    """random trials before TPE takes over"""
    prune: bool = False
    """stop trials early that do worse than the median (needs --jobs 1)"""
    check: int = 0
    """afterwards train the best settings and the tier's own on so many fresh seeds"""
    jobs: int = 1
    """one-thread processes to split the seeds of a trial over"""
    device: str = "cpu"
    """cpu or cuda"""
    restart: bool = False
    """forget the trials there are first"""

    def run(self) -> None:
        from inconcert import search

        plan = self.plan()
        wanted = self.trials or search.TRIALS[self.tier]
        console = Console()
        bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
            TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[score]}"), console=console,
        )  # fmt: skip
        with bar:
            whole = bar.add_task("trials", total=wanted, score="")
            inner = bar.add_task("updates", total=plan.config.updates, score="")

            def report(which: int | str, sign: runs.Progress) -> None:
                name = f"trial {which}" if isinstance(which, int) else f"check of {which}"
                score = f"{sign.phase} return {sign.score:.2f}"
                bar.update(inner, description=name, completed=sign.update, score=score)
                if isinstance(which, int):
                    bar.update(whole, completed=which)

            for one in search.run(plan, wanted, self.jobs, self.device, self.restart, report):
                bar.update(whole, completed=one.number + 1)
                result = one.state if one.score is None else f"{one.score:.2f}"
                shown = " ".join(f"{name}={value:g}" for name, value in one.params.items())
                print(f"trial {one.number}: {result}, {shown} {one.reason}".strip(), flush=True)
            if self.check:
                for role, scores in search.check(plan, self.check, self.jobs, self.device, report).items():
                    print(f"{role} on {len(scores)} fresh seeds: {sum(scores.values()) / len(scores):.2f}", flush=True)
        print(plan.table)

    def plan(self) -> Any:
        from inconcert import search

        envs.make(self.task, num_envs=1)
        if self.jobs < 1:
            raise InputError(f"jobs must be at least 1, not {self.jobs}")
        plain = search.Search(self.algorithm, self.task, self.tier, self.variant, self.name)
        changes = _changes(records.algorithm_module(self.algorithm), plain.config, self.set, self.seeds)
        plan = dataclasses.replace(plain, changes=changes, seed=self.seed, startup=self.startup, prune=self.prune)
        if plan != plain and not self.name:
            raise InputError("a search with options of its own needs a name: add --name NAME")
        return plan


@dataclass(frozen=True)
class Evaluate:
    """Play fresh episodes with a policy that a run has left, on this machine or in the archive."""

    algorithm: tyro.conf.Positional[str]
    task: tyro.conf.Positional[str]
    tier: str = "laptop"
    variant: str = ""
    episodes: int = 320
    """episodes per seed"""
    mode: str = "sampled"
    """sampled or greedy"""
    index: int = 0
    """which set of episodes: another number, other episodes"""
    checkpoint: str = "best"
    """best, or a percentage of training that the run has kept"""
    device: str = "cpu"

    def run(self) -> None:
        module = records.algorithm_module(self.algorithm)
        if self.mode not in get_args(Mode):
            raise unknown("mode", self.mode, get_args(Mode))
        path = policies.find(self.task, self.algorithm, self.tier, self.variant, self.checkpoint)
        parameters, meta = records.load_tensors(path)
        config = check_fields(module.Config, meta["config"])
        player = module.restore(config, parameters, self.device)
        mode = cast(Mode, self.mode)
        outcomes = play(
            player,
            self.task,
            config.env_options,
            config.seeds,
            self.episodes,
            "evaluate",
            self.index,
            mode,
            self.device,
        )
        table = Table("seed", *outcomes, title=f"{self.episodes} episodes, {self.mode} actions, mean")
        for i, seed in enumerate(config.seeds):
            table.add_row(str(seed), *(f"{values[i].mean():.3f}" for values in outcomes.values()))
        Console().print(table)


@dataclass(frozen=True)
class Archive:
    """Copy fresh records, and tables of searches, from runs/ into data/, which is committed and ships with the book."""

    only: tyro.conf.Positional[str] = ""
    """a part of the record's path, such as coordsum/3x10-30/mappo"""
    policies: list[str] = field(default_factory=list)
    """checkpoints to copy along: best, or percentages of training that the runs have kept"""

    def run(self) -> None:
        own = records.folders()[0]
        keys = [key for key in records.find() if key.path.is_relative_to(own) and self.only in str(key.path)]
        tables = [path for path in sorted(own.glob("searches/*/*/*/*.parquet")) if self.only in str(path)]
        if not keys and not tables:
            raise InputError(f"no record under {own} matches {self.only!r}; see: inconcert list records")
        paths = [*(key.path for key in keys), *tables]
        stale = [str(path) for path in paths if records.read(path).freshness() != "FRESH"]
        if stale:
            raise InputError(f"stale records are not archived, run them again or delete them: {', '.join(stale)}")
        for key in keys:
            print(records.archive(key))
            for path in policies.archive(key, self.policies):
                print(path)
        if tables:
            from inconcert import search

            for path in tables:
                print(search.archive(path))


@dataclass(frozen=True)
class Replay:
    """Play the beginning of archived runs again; those that come out the same, bit for bit, count as fresh."""

    only: tyro.conf.Positional[str] = ""
    """a part of the record's path, such as coordsum/3x10-30/mappo; without it, all that are stale"""
    evaluations: int = 3
    """how many evaluations to compare, counted from the untrained policy"""

    def run(self) -> None:
        from inconcert import replay

        archive = records.folders()[1]
        keys = [key for key in records.find() if key.path.is_relative_to(archive) and self.only in str(key.path)]
        stale = [one for one in map(records.read, (key.path for key in keys)) if one.freshness() != "FRESH"]
        if not stale:
            print("every record is fresh")
        different = []
        for record in stale:
            try:
                result = replay.replay(record, self.evaluations)
                replay.accept(record, result)
                print(f"{record.path}: the same up to update {result.updates}, {result.episodes} episodes; fresh now")
            except InputError as error:
                different.append(str(error))
        if different:
            raise InputError("; ".join(different))


@dataclass(frozen=True)
class Measure:
    """Measure what an update costs as agents are added (MAGPO, Figure 8); what is measured already is kept."""

    settings: list[str] = field(default_factory=lambda: list(scaling.SETTINGS))
    """which networks"""
    algorithms: list[str] = field(default_factory=lambda: list(scaling.ALGORITHMS))
    agents: list[int] = field(default_factory=lambda: list(scaling.AGENTS))
    device: str = "cpu"
    """cpu or cuda"""
    restart: bool = False
    """forget first what is measured already"""
    archive: bool = False
    """then copy the record to data/measurements, which is committed and ships with the book"""

    def run(self) -> None:
        for count in self.agents:
            if count not in scaling.AGENTS:
                raise unknown("number of agents", count, map(str, scaling.AGENTS))
        path = scaling.UpdateCosts.own()
        asked = scaling.points(self.settings, self.algorithms, self.agents)
        scaling.extend(path, asked, device=self.device, restart=self.restart)
        print(scaling.UpdateCosts.archive() if self.archive else path)


@dataclass(frozen=True)
class Fuse:
    """Play the fused policies of the KPF chapter; what is played already is kept."""

    world: Literal["particles", "battles"] = "particles"
    """particle worlds, or battles of SMAX"""
    tasks: list[str] = field(default_factory=list)
    """only these (default: all of the world)"""
    restart: bool = False
    """forget first what is played already"""
    replay: bool = False
    """play nothing new, but a part again: if the numbers are the same, the record takes today's code and is FRESH"""
    archive: bool = False
    """then copy the record to data/measurements, which is committed and ships with the book"""

    def run(self) -> None:
        kind = fusion_trials.Trials if self.world == "particles" else fusion_trials.Battles
        known = dict.fromkeys(case.task for case in kind.cases())
        for task in self.tasks:
            if task not in known:
                raise unknown(f"task of the fusions ({self.world})", task, known)
        if self.replay:
            path = kind.recorded().replay().path
        else:
            cases = [case for case in kind.cases() if case.task in (self.tasks or known)]
            path = kind.extend(cases, restart=self.restart).path
        print(kind.archive() if self.archive else path)


@dataclass(frozen=True)
class Verdicts:
    """Judge every claim of data/claims.yml by the records there are."""

    def run(self) -> None:
        from inconcert import claims

        table = Table("verdict", "claim", "evidence")
        for verdict in claims.verdicts():
            table.add_row(verdict.status, verdict.claim.id, verdict.evidence)
        Console().print(table)


Command = (
    Annotated[List, tyro.conf.subcommand("list")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Search, tyro.conf.subcommand("search")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Archive, tyro.conf.subcommand("archive")]
    | Annotated[Replay, tyro.conf.subcommand("replay")]
    | Annotated[Measure, tyro.conf.subcommand("measure")]
    | Annotated[Fuse, tyro.conf.subcommand("fuse")]
    | Annotated[Verdicts, tyro.conf.subcommand("verdicts")]
)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    command = tyro.cli(Command, prog="inconcert", description=__doc__, args=arguments)
    try:
        command.run()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        return 130
    except (Diverged, BrokenProcessPool, OSError) as error:
        print(f"failed: {error}; what is done is kept, the same command continues", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
