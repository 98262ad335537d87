"""CITATION.cff and the book's bibliography: readable, complete, and of one mind."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pybtex.database import BibliographyData, parse_file

import inconcert
from inconcert.published import PAPERS

ROOT = Path(__file__).resolve().parents[1]
REQUIRED = {
    "article": {"journal"},
    "inproceedings": {"booktitle"},
    "book": {"publisher"},
    "unpublished": {"note"},
    "misc": set(),
}


@pytest.fixture(scope="module")
def bibliography() -> BibliographyData:
    return parse_file(ROOT / "book" / "references.bib")  # refuses repeated keys


@pytest.fixture(scope="module")
def citation() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def plain(title: str) -> str:
    return title.replace("{", "").replace("}", "")


def test_every_entry_has_what_its_kind_needs(bibliography: BibliographyData) -> None:
    for key, entry in bibliography.entries.items():
        assert {"title", "year"} | REQUIRED[entry.type] <= set(entry.fields), key
        assert entry.persons["author"], key
        assert re.fullmatch(r"\d{4}", entry.fields["year"]), key
        year = re.search(r"\d{4}", key)
        assert year is None or year.group() == entry.fields["year"], key


def test_identifiers_are_well_formed_and_not_shared(bibliography: BibliographyData) -> None:
    patterns = {"doi": r"10\.\d{4,9}/\S+", "eprint": r"\d{4}\.\d{4,5}", "url": r"https://\S+"}
    for field, pattern in patterns.items():
        found = [entry.fields[field] for entry in bibliography.entries.values() if field in entry.fields]
        assert all(re.fullmatch(pattern, text) for text in found), field
        assert len(found) == len(set(found)), field


def test_titles_differ(bibliography: BibliographyData) -> None:
    titles = [plain(entry.fields["title"]).lower() for entry in bibliography.entries.values()]
    assert len(titles) == len(set(titles))


def cited(folder: Path) -> Iterator[tuple[Path, str]]:
    for path in [*folder.rglob("*.md"), *folder.rglob("*.ipynb")]:
        if "_build" in path.parts or "_extra" in path.parts:
            continue
        for keys in re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", path.read_text(encoding="utf-8")):
            yield from ((path, key.strip()) for key in keys.split(","))


def test_every_citation_has_an_entry(bibliography: BibliographyData) -> None:
    for path, key in [*cited(ROOT / "book"), *cited(ROOT / "notebooks")]:
        assert key in bibliography.entries, f"{path.relative_to(ROOT)} cites {key}"


def test_citation_file_is_cff_of_this_version(citation: dict[str, Any]) -> None:
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == inconcert.__version__
    assert citation["license"] == "MIT"
    assert citation["authors"] == [{"name": "The Policies in Concert authors"}]
    assert {"message", "title", "type"} <= set(citation)


def test_citation_file_names_the_four_papers_as_the_book_does(
    citation: dict[str, Any], bibliography: BibliographyData
) -> None:
    entries = [bibliography.entries[paper] for paper in PAPERS]
    expected = {plain(entry.fields["title"]): entry for entry in entries}
    assert {reference["title"] for reference in citation["references"]} == set(expected)
    for reference in citation["references"]:
        entry = expected[reference["title"]]
        assert str(reference["year"]) == entry.fields["year"]
        names = [author.get("family-names") or author["name"] for author in reference["authors"]]
        assert names == [plain(" ".join(person.last_names)) for person in entry.persons["author"]]
