"""Call Snakemake for the Makefile: `python workflow/build.py book` or `... runs EXHIBIT TIER`.

Bad input is answered here, before Snakemake starts, with one line and exit code 2. A lock that ends with the process
keeps two calls from writing the same files.
"""

from __future__ import annotations

import argparse
import fcntl
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import graph

from inconcert import exhibits
from inconcert.config import TIERS, InputError, unknown
from inconcert.exhibits import ROOT

WORKFLOW = ROOT / "workflow"
SLURM = "snakemake-executor-plugin-slurm==2.8.0"
FLAGS = {
    "book": ["--rerun-incomplete"],
    # A record appears when it is complete, and only its absence starts a training: no file's age, no changed rule.
    "runs": ["--ignore-incomplete", "--rerun-triggers", "mtime"],
}

CHATTER = re.compile(
    r"(Using workflow specific profile|Assuming unrestricted shared|Building DAG|Select jobs|Execute \d+ jobs"
    r"|Using shell|Elapsed time|Nothing to be done|Complete log|--keep-incomplete mode|Cannot restore"
    r"|Exiting because a job|At least one job|WorkflowError:$|RuleException:$|CalledProcessError in file"
    r"|Command 'set -euo)"
)


def record_targets(exhibit: str, tier: str) -> list[str]:
    """The record files that `exhibit` needs at `tier`, such as "runs/coordsum/3x10-30/mappo/laptop.parquet".

    Raises:
        InputError: unknown exhibit or tier, or an exhibit that needs no records.
    """
    row = exhibits.find(exhibit)
    if tier not in TIERS:
        raise unknown("tier", tier, TIERS)
    if not row.runs:
        reason = "its notebook computes everything live" if row.notebook else "it is not run here yet"
        if row.notebook and row.needs:
            reason = row.needs
        able = [other.id for other in exhibits.load() if other.runs]
        raise InputError(f"exhibit {exhibit!r} needs no runs: {reason}; with runs: {', '.join(able)}")
    from inconcert import records  # loads torch, which the book's targets do not need

    paths = [
        records.relative_path(task, run.algorithm, tier, records.same_setting(task, run.algorithm, tier, run.variant))
        for run in row.runs
        for task in run.tasks
    ]
    return [f"runs/{path.as_posix()}" for path in dict.fromkeys(paths)]


def profile_arguments(profile: str) -> list[str]:
    """Snakemake's arguments for a profile below workflow/profiles.

    Raises:
        InputError: there is no such profile, or the package it needs is not installed.
    """
    if profile == "default":
        return []
    names = sorted(path.name for path in (WORKFLOW / "profiles").iterdir() if path.is_dir())
    if profile not in names:
        raise unknown("profile", profile, names)
    if profile == "slurm" and importlib.util.find_spec(SLURM.partition("==")[0].replace("-", "_")) is None:
        raise InputError(f"the slurm profile needs one more package: {sys.executable} -m pip install {SLURM}")
    return ["--profile", str(WORKFLOW / "profiles" / profile)]


def pace(expected: int) -> list[str]:
    """Snakemake's arguments that keep it from looking for work too often when so many jobs are expected.

    Each job that ends makes it look once more in every span from then on: in every second, by default, which took a
    quarter of a core while the book was built. It also waits for the last span before it ends, so that a short list has
    a short one. The rate of jobs that are allowed stays Snakemake's.
    """
    seconds = max(1, expected // 12)
    return ["--max-jobs-per-timespan", f"{100 * seconds}/{seconds}s"]


@contextmanager
def only_one(lock: Path, what: str) -> Iterator[None]:
    """Hold `lock` while the block runs; the system lets go of it when the process ends, however it ends.

    Raises:
        InputError: another process holds it.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"another `make {what}` is at work in this folder") from None
        yield


def snakemake(targets: list[str], jobs: int, more: list[str], filtered: bool = False) -> int:
    """Run Snakemake in the repository's folder and wait until it has ended, after Ctrl-C too; returns its exit code.

    Args:
        filtered: leave out Snakemake's chatter. Programs that it starts then write to a pipe, not to the terminal.
    """
    cores = [] if "--profile" in more else ["--cores", str(jobs)]
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(WORKFLOW / "Snakefile"), *cores, *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    for elsewhere in ("INCONCERT_RUNS", "INCONCERT_DATA"):  # the book is made of this folder's runs and data
        environment.pop(elsewhere, None)
    stderr = subprocess.PIPE if filtered else None
    with subprocess.Popen([*command, "--", *targets], cwd=ROOT, env=environment, stderr=stderr, text=True) as process:
        while process.poll() is None:
            try:
                for line in process.stderr or []:
                    if not CHATTER.match(line):
                        sys.stderr.write(line)
                process.wait()
            except KeyboardInterrupt:
                continue  # Snakemake had the same signal and stops its jobs
    return process.returncode


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="build.py", description=__doc__.split("\n")[0] if __doc__ else None)
    verbs = parser.add_subparsers(dest="verb", required=True)
    book = verbs.add_parser("book", help="execute what is out of date and build the HTML")
    runs = verbs.add_parser("runs", help="make the run records of an exhibit")
    runs.add_argument("exhibit")
    runs.add_argument("tier")
    runs.add_argument("--profile", default="default", help="a folder of workflow/profiles")
    for verb in (book, runs):
        verb.add_argument("--jobs", type=int, default=2, help="how many jobs at once")
        verb.add_argument("--dry-run", action="store_true", help="only say what would be done, and why")
    chosen = parser.parse_args(arguments)
    more = [*FLAGS[chosen.verb], *(["--dry-run", "--quiet", "host", "progress"] if chosen.dry_run else [])]
    try:
        if chosen.verb == "book":
            rows = graph.with_notebooks().values()
            for row in rows:
                graph.depends(row)  # says in one line what Snakemake would wrap in its own words
            more += pace(len(rows))
            with only_one(ROOT / "build" / ".lock", "book"):
                return snakemake(["book"], chosen.jobs, more, filtered=not chosen.dry_run)
        targets = record_targets(chosen.exhibit, chosen.tier)
        more += pace(len(targets)) + profile_arguments(chosen.profile)
        with only_one(ROOT / "runs" / ".lock", "runs"):
            return snakemake(targets, chosen.jobs, more)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
