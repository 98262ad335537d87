"""Measurements that are no training runs: one table in one file, made piece by piece, read and archived like a record.

What is measured says which pieces there are (`missing`) and what its numbers hang on (`changed`); where the files lie,
which of two is read and what may be archived is the same for all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import pandas as pd

from inconcert import records
from inconcert.config import InputError
from inconcert.published import data_folder


def folders() -> tuple[Path, Path]:
    """Where measurements lie: this machine's own, and those that ship with the book."""
    return records.folders()[0] / "measurements", data_folder() / "measurements"


@dataclass(frozen=True)
class Measurements(ABC):
    """A table of measurements.

    Attributes:
        frame: the rows of all pieces so far.
        meta: how they came about.
        path: the file.
    """

    frame: pd.DataFrame
    meta: dict[str, Any]
    path: Path

    file: ClassVar[str]
    """Its name, in both `folders`."""
    command: ClassVar[str]
    """What makes it."""
    whole: ClassVar[bool] = True
    """Whether it ships only when no piece is missing; else its pages say what is."""

    @property
    @abstractmethod
    def missing(self) -> Sequence[Any]:
        """The pieces of the whole that are not there yet."""

    @abstractmethod
    def changed(self) -> dict[str, bool]:
        """What the numbers hang on, and whether it is another today."""

    def freshness(self) -> str:
        """FRESH if nothing that the numbers hang on has changed, else STALE(what has)."""
        stale = [part for part, differs in self.changed().items() if differs]
        return f"STALE({', '.join(stale)})" if stale else "FRESH"

    @property
    def archived(self) -> bool:
        """Whether it is the one that ships with the book."""
        return self.path.is_relative_to(folders()[1])

    @classmethod
    def own(cls) -> Path:
        """The file that this machine writes."""
        return folders()[0] / cls.file

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file.

        Raises:
            CorruptRecord: truncated, altered or not a record.
        """
        found = records.read(path)
        return cls(found.frame, found.meta, path)

    @classmethod
    def recorded(cls) -> Self:
        """This machine's own, or the one that ships with the book where that has more pieces.

        Raises:
            MissingRecord: there is none; the text gives the command that makes it.
            CorruptRecord: damaged.
        """
        found = [cls.read(folder / cls.file) for folder in folders() if (folder / cls.file).is_file()]
        if not found:
            raise records.MissingRecord(f"{cls.file} is not there yet; make it with: {cls.command}")
        return min(found, key=lambda one: len(one.missing))  # of equals the first

    @classmethod
    def archive(cls) -> Path:
        """Copy this machine's own to those that ship with the book; returns the copy.

        Raises:
            MissingRecord: there is none.
            InputError: it is not whole and should be, or what its numbers hang on has changed.
        """
        own, shipped = (folder / cls.file for folder in folders())
        if not own.is_file():
            raise records.MissingRecord(f"{own} is missing; make it with: {cls.command}")
        found = cls.read(own)
        if found.missing and cls.whole:
            raise InputError(f"{own} lacks {len(found.missing)} pieces; make them with: {cls.command}")
        if found.freshness() != "FRESH":
            raise InputError(f"{own} is {found.freshness()}; begin again with: {cls.command} --restart")
        records.write_atomic(shipped, own.read_bytes())
        return shipped
