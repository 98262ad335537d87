"""The command line: `python -m inconcert list | train | evaluate | archive | verdicts`.

Exit codes: 0 done, 1 the work failed (a diverged loss, a full disk), 2 bad input (one line names the valid choices),
130 interrupted (the same command continues).
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass, field
from typing import Annotated, Any, cast, get_args

import tyro
import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from inconcert import envs, exhibits, records, runs
from inconcert.config import TIERS, InputError, check_fields, unknown
from inconcert.evaluate import Diverged, Mode, play


@dataclass(frozen=True)
class List:
    """List what there is: tasks, algorithms, exhibits or records."""

    what: tyro.conf.Positional[str] = "exhibits"
    """tasks, algorithms, exhibits or records"""

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
        changes: dict[str, Any] = {"seeds": self.seeds} if self.seeds else {}
        for one in self.set:
            name, equals, value = one.partition("=")
            if not equals:
                raise InputError(f"--set takes NAME=VALUE, not {one!r}")
            changes[name] = yaml.safe_load(value)
        if self.variant not in module.VARIANTS and not changes:
            raise unknown("variant", self.variant, filter(None, module.VARIANTS))
        if self.variant in module.VARIANTS and changes:
            names = ", ".join(changes)
            raise InputError(f"changed settings ({names}) need a name of their own: add --variant NAME, a new one")
        base = dataclasses.asdict(module.configure(self.task, self.tier, self.variant))
        checked = check_fields(module.Config, {**base, **changes})
        return runs.Plan(
            self.algorithm, self.task, self.tier, self.variant, {name: getattr(checked, name) for name in changes}
        )


@dataclass(frozen=True)
class Evaluate:
    """Play fresh episodes with the best parameters of a run made on this machine."""

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
    device: str = "cpu"

    def run(self) -> None:
        plan = runs.Plan(self.algorithm, self.task, self.tier, self.variant, {})
        module = records.algorithm_module(self.algorithm)
        if self.mode not in get_args(Mode):
            raise unknown("mode", self.mode, get_args(Mode))
        if not plan.policy.exists():
            make = records.command(self.task, self.algorithm, self.tier, self.variant)
            raise records.MissingRecord(f"no policy at {plan.policy}; make it with: {make}")
        parameters, meta = records.load_tensors(plan.policy)
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
    """Copy fresh records from runs/ into data/runs/, which is committed and ships with the book."""

    only: tyro.conf.Positional[str] = ""
    """a part of the record's path, such as coordsum/3x10-30/mappo"""

    def run(self) -> None:
        own = records.folders()[0]
        keys = [key for key in records.find() if key.path.is_relative_to(own) and self.only in str(key.path)]
        if not keys:
            raise InputError(f"no record under {own} matches {self.only!r}; see: inconcert list records")
        stale = [str(key.path) for key in keys if records.read(key.path).freshness() != "FRESH"]
        if stale:
            raise InputError(f"stale records are not archived, run them again or delete them: {', '.join(stale)}")
        for key in keys:
            print(records.archive(key))


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
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Archive, tyro.conf.subcommand("archive")]
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
    except (Diverged, OSError) as error:
        print(f"failed: {error}; checkpoints are whole, the same command continues", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
