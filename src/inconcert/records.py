"""Run records and checkpoints: what a training run leaves behind, how it is read, and whether it is still fresh.

A record is one parquet file for one (task, algorithm, variant, tier), all seeds in it, a row per evaluation episode,
and everything needed to judge and repeat it in the file's metadata. Records lie under `runs/` (this machine's own) and
`data/runs/` (archived with the book) at `<suite>/<task>/<algorithm>[@variant]/<tier>.parquet`.
Every file is written beside its place and then moved there, and carries a checksum: it is whole or it is refused.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from inconcert import envs, provenance
from inconcert.config import TIERS, InputError, unknown
from inconcert.evaluate import Evaluation
from inconcert.published import data_folder

KEYS = ("seed", "update", "env_steps", "phase", "mode", "episode")
"""Columns that tell the rows of a record apart; the others are what was measured, and `wall_s` the clock."""


class MissingRecord(InputError):
    """No such record; the text gives the command that makes it."""


class CorruptRecord(InputError):
    """A record or checkpoint that is damaged; the text names the file. It is never half-read."""


class RecordKey(NamedTuple):
    """What a record is of, and where it lies."""

    task: str
    algorithm: str
    variant: str
    tier: str
    path: Path

    @property
    def command(self) -> str:
        """The command that makes this record."""
        return command(self.task, self.algorithm, self.tier, self.variant)


@dataclass(frozen=True)
class Record:
    """All evaluation episodes of one run, and how they came about.

    Attributes:
        frame: columns seed, update, env_steps, phase ("curve", "best", "last"), mode ("sampled", "greedy"), episode,
            episode_return (mean over agents) and further quantities of the task, wall_s (seconds since the start).
        meta: task, algorithm, variant, tier, config, changes, fingerprint, commit, versions,
            hardware, date, wall_s, cpu_s.
    """

    frame: pd.DataFrame
    meta: dict[str, Any]
    path: Path

    @property
    def task(self) -> str:
        return self.meta["task"]

    @property
    def algorithm(self) -> str:
        return self.meta["algorithm"]

    @property
    def variant(self) -> str:
        return self.meta["variant"]

    @property
    def tier(self) -> str:
        return self.meta["tier"]

    @property
    def config(self) -> dict[str, Any]:
        return self.meta["config"]

    @property
    def seeds(self) -> list[int]:
        return sorted(int(seed) for seed in self.frame["seed"].unique())

    def freshness(self) -> str:
        """FRESH if today's sources and settings are those that made the record, else STALE(code | config | both)."""
        try:
            now = fingerprint(self.algorithm, self.task, self.tier, self.variant, self.meta["changes"])
        except (InputError, TypeError):  # today's sources do not know the algorithm or a setting of the run any more
            return "STALE(code)"
        stale = [part for part in ("code", "config") if now[part] != self.meta["fingerprint"][part]]
        return f"STALE({', '.join(stale)})" if stale else "FRESH"


# ------------------------------------------------------------------------------------------------------ names, places


def algorithms() -> list[str]:
    """Names of the algorithms, one file each in `inconcert/algorithms`."""
    return sorted(path.stem for path in (provenance.PACKAGE / "algorithms").glob("[a-z]*.py"))


def algorithm_module(name: str) -> Any:
    """The module of an algorithm: `configure`, `train`, `restore`, `VARIANTS`.

    Raises:
        InputError: there is none of that name.
    """
    if name not in algorithms():
        raise unknown("algorithm", name, algorithms())
    return importlib.import_module(f"inconcert.algorithms.{name}")


def folders() -> tuple[Path, Path]:
    """Where records lie: this machine's own runs (`$INCONCERT_RUNS` or `runs/`) and the archive (`data/runs/`)."""
    data = data_folder()
    return Path(os.environ.get("INCONCERT_RUNS") or data.parent / "runs"), data / "runs"


def relative_path(task: str, algorithm: str, tier: str, variant: str = "") -> Path:
    """`<suite>/<task>/<algorithm>[@variant]/<tier>.parquet`."""
    return Path(task) / (f"{algorithm}@{variant}" if variant else algorithm) / f"{tier}.parquet"


def command(task: str, algorithm: str, tier: str, variant: str = "") -> str:
    """The command that makes a record."""
    return f"python -m inconcert train {algorithm} {task} --tier {tier}" + (f" --variant {variant}" if variant else "")


def swept(reading: str, parameter: str, value: float | str) -> str:
    """The variant with one setting changed: `<reading>-<parameter>-<value>`, such as "clamped-delta-1.2"."""
    shown = value if isinstance(value, str) else f"{value:g}"
    return "-".join(filter(None, (reading, parameter, shown)))


def same_setting(task: str, algorithm: str, tier: str, variant: str) -> str:
    """The variant under which a setting is recorded: the plain reading where `variant` changes nothing in it.

    A sweep passes through the setting of the main runs ("clamped-delta-1.2" is "clamped" where 1.2 is the tier's own
    delta); that point is not trained twice.
    """
    reading, *change = variant.rsplit("-", 2) if variant.count("-") > 1 else ("", *variant.split("-"))
    if len(change) < 2 or algorithm not in algorithms():
        return variant
    parameter, value = change
    module = algorithm_module(algorithm)
    own = getattr(module.configure(task, tier, reading), _FIELDS.get(parameter, parameter), None)
    shown = f"{own:g}" if isinstance(own, (int, float)) else own
    return reading if shown == value and reading in module.VARIANTS else variant


_FIELDS = {"lambda": "rl_lambda"}
"""Parameters whose name in a variant is not that of the setting."""


def find() -> list[RecordKey]:
    """All records here, this machine's own before the archived ones."""
    found = []
    for folder in folders():
        for path in sorted(folder.glob("*/*/*/*.parquet")):
            suite, task, player, name = path.relative_to(folder).parts
            algorithm, _, variant = player.partition("@")
            found.append(RecordKey(f"{suite}/{task}", algorithm, variant, Path(name).stem, path))
    return found


def load(task: str, algorithm: str, tier: str = "recorded", variant: str = "") -> Record:
    """The record of a run. Tier "recorded" takes the best there is: paper, else laptop, else smoke.

    Raises:
        InputError: an unknown tier.
        MissingRecord: not there; the text gives the command that makes it.
        CorruptRecord: damaged.
    """
    if tier not in (*TIERS, "recorded"):
        raise unknown("tier", tier, [*TIERS, "recorded"])
    tiers = reversed(TIERS) if tier == "recorded" else (tier,)
    for one in tiers:
        for folder in folders():
            path = folder / relative_path(task, algorithm, one, variant)
            if path.is_file():
                return read(path)
    wanted = "laptop" if tier == "recorded" else tier
    name = f"{algorithm}@{variant}" if variant else algorithm
    raise MissingRecord(f"no record of {name} on {task}; make it with: {command(task, algorithm, wanted, variant)}")


# -------------------------------------------------------------------------------------------------------- fingerprint


def plain(value: Any) -> Any:
    """`value` as JSON keeps it (tuples become lists), so that stored and fresh settings compare equal."""
    return json.loads(json.dumps(value))


def fingerprint(algorithm: str, task: str, tier: str, variant: str, changes: Mapping[str, Any]) -> dict[str, str]:
    """Two hashes: of the setting ("config") and of the sources that the run executes ("code").

    Comments, docstrings and blank lines do not count: they cannot move a number.
    """
    module = algorithm_module(algorithm)
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in changes.items()}
    config = json.dumps(asdict(module.configure(task, tier, variant, **values)), sort_keys=True)
    sources = provenance.closure([module.__name__, envs.SUITES[task.partition("/")[0]]])
    return {"code": provenance.fingerprint(sources), "config": hashlib.sha256(config.encode()).hexdigest()}


# -------------------------------------------------------------------------------------------------------------- files


def write_atomic(path: Path, content: bytes) -> None:
    """Put `content` at `path` as a whole or not at all; a full disk or a killed process leaves the old file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes files that only their owner may read
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def digest(frame: pd.DataFrame) -> str:
    """Hash of everything measured, the clock left out: two runs that agree bit for bit have the same."""
    content = hashlib.sha256()
    for name in frame.columns.drop("wall_s"):
        column = frame[name]
        values = (
            column.astype(str).str.cat(sep=",").encode()
            if column.dtype.kind not in "iuf"
            else column.to_numpy().tobytes()
        )
        content.update(f"{name}:{column.dtype.kind}:".encode() + values)
    return content.hexdigest()


def _seal(meta: str, content: str) -> bytes:
    return hashlib.sha256(f"{meta}\n{content}".encode()).hexdigest().encode()


def to_bytes(frame: pd.DataFrame, meta: Mapping[str, Any]) -> bytes:
    """A record file's content; `frame` and `meta` as in `Record`."""
    text = json.dumps(meta, sort_keys=True)
    table = pa.Table.from_pandas(frame, preserve_index=False)
    table = table.replace_schema_metadata(
        {b"inconcert": text.encode(), b"inconcert.sha256": _seal(text, digest(frame))}
    )
    buffer = BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def read(path: Path) -> Record:
    """Read a record file and check it.

    Raises:
        CorruptRecord: truncated, altered or not a record.
    """
    try:
        table = pq.read_table(path)
        metadata = table.schema.metadata or {}
        text = metadata[b"inconcert"].decode()
        frame = table.to_pandas()
        whole = _seal(text, digest(frame)) == metadata[b"inconcert.sha256"]
        meta = json.loads(text)
    except (OSError, pa.ArrowException, KeyError, ValueError, TypeError) as error:
        raise CorruptRecord(
            f"{path} is damaged or not a record ({type(error).__name__}); delete it and run again"
        ) from error
    if not whole:
        raise CorruptRecord(f"{path} is damaged: its checksum does not match; delete it and run again")
    return Record(frame, meta, path)


def tabulate(evaluation: Evaluation, seeds: tuple[int, ...], wall_s: float) -> pd.DataFrame:
    """The rows of one evaluation: a row per seed, mode and episode."""
    parts = []
    for mode, outcomes in evaluation.outcomes.items():
        count = next(iter(outcomes.values())).shape[1]
        index = pd.MultiIndex.from_product([seeds, range(count)], names=["seed", "episode"])
        part = pd.DataFrame({name: values.flatten().numpy() for name, values in outcomes.items()}, index=index)
        parts.append(part.reset_index().assign(mode=mode))
    frame = pd.concat(parts, ignore_index=True).assign(
        update=evaluation.update, env_steps=evaluation.env_steps, phase=evaluation.phase, wall_s=wall_s
    )
    types = {"seed": "int32", "update": "int32", "env_steps": "int64", "episode": "int16", "wall_s": "float32"}
    frame = frame.astype({**types, "phase": "str", "mode": "str"})
    return frame[[*KEYS, *frame.columns.drop([*KEYS, "wall_s"]), "wall_s"]]


def save_tensors(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write named tensors and JSON metadata as safetensors: loading them runs no code."""
    ready = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    text = json.dumps(meta, sort_keys=True)
    metadata = {"inconcert": text, "sha256": _tensor_seal(text, ready)}
    write_atomic(path, safetensors.torch.save(ready, metadata))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Inverse of `save_tensors`.

    Raises:
        CorruptRecord: truncated, altered or not such a file.
    """
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
        text = metadata["inconcert"]
        whole = _tensor_seal(text, tensors) == metadata["sha256"]
        meta = json.loads(text)
    except (OSError, safetensors.SafetensorError, KeyError, ValueError) as error:
        raise CorruptRecord(f"{path} is damaged ({type(error).__name__}); delete it and run again") from error
    if not whole:
        raise CorruptRecord(f"{path} is damaged: its checksum does not match; delete it and run again")
    return tensors, meta


def _tensor_seal(text: str, tensors: Mapping[str, Tensor]) -> str:
    content = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        content.update(name.encode())
        content.update(tensors[name].contiguous().flatten().view(torch.uint8).numpy().data)
    return content.hexdigest()


def archive(key: RecordKey) -> Path:
    """Copy a record of this machine into the archive that the book ships. Records under 1 MB only.

    Raises:
        InputError: too large.
        CorruptRecord: damaged.
    """
    record = read(key.path)
    size = key.path.stat().st_size
    if size > 1_000_000:
        raise InputError(f"{key.path} has {size / 1e6:.1f} MB; archived records stay under 1 MB")
    target = folders()[1] / relative_path(record.task, record.algorithm, record.tier, record.variant)
    write_atomic(target, key.path.read_bytes())
    return target


def discard(folder: Path) -> None:
    """Remove a folder of checkpoints."""
    shutil.rmtree(folder, ignore_errors=True)


# ------------------------------------------------------------------------------------------------------------ reading


def curve(
    record: Record, mode: str = "sampled", convention: str = "after", metric: str = "episode_return"
) -> pd.DataFrame:
    """Learning curve: columns seed, update, env_steps and mean_return (mean of `metric` over the episodes).

    Args:
        mode: "sampled" or "greedy" actions.
        convention: "after" draws parameters at the steps that trained them; "before" draws them one evaluation
            later, as the MAGPO authors' code does, and never shows the last ones.
    """
    if convention not in ("after", "before"):
        raise unknown("convention", convention, ["after", "before"])
    rows = _rows(record, "curve", mode)
    points = rows.groupby(["seed", "update", "env_steps"])[metric].mean().rename("mean_return").reset_index()
    if convention == "before":
        points["env_steps"] = points.groupby("seed")["env_steps"].shift(-1)
        points = points.dropna(subset="env_steps").astype({"env_steps": "int64"})
    return points


def final(record: Record, phase: str = "best", mode: str = "sampled", metric: str = "episode_return") -> pd.Series:
    """Closing score of each seed: phase "best" is the absolute metric, "last" the final parameters."""
    return _rows(record, phase, mode).groupby("seed")[metric].mean()


def _rows(record: Record, phase: str, mode: str) -> pd.DataFrame:
    for what, name in (("phase", phase), ("mode", mode)):
        valid = record.frame[what].unique().tolist()
        if name not in valid:
            raise unknown(what, name, valid)
    return record.frame[(record.frame["phase"] == phase) & (record.frame["mode"] == mode)]
