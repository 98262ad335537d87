"""From executed notebooks and prose to the HTML book: stage, generate, render strictly, check, put in place.

`python workflow/pages.py` does all of it; `python workflow/pages.py check` only checks the finished book.
The book is rendered as a whole each time (a partial Sphinx build would keep old glued numbers and forget warnings),
next to the finished one, which is replaced only after every check has passed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

import graph
import nbformat
import yaml

from inconcert import exhibits
from inconcert.config import InputError
from inconcert.exhibits import CHAPTERS, ROOT, Exhibit

SITE = Path("build/site")
RENDERED = Path("build/rendered")
LOG = Path("build/book.log")
BOOK = Path("book/_build/html")

FRONT = ("how_to_read", "how_to_rerun")
BACK = ("deviation_ledger", "status", "references")

MIN_TEXT = 150
"""Characters of text below which a page counts as empty."""


# ---------------------------------------------------------------------------------------------- table of contents


def table_of_contents(pages: Iterable[str], rows: Sequence[Exhibit]) -> dict[str, Any]:
    """The `_toc.yml` of the book: front matter, a part per chapter, then ledger, status and references.

    A chapter holds the pages of its folder (its `index` first) and the notebooks of its exhibits, in the order of
    `rows`. Pages and chapters that do not exist yet are left out.

    Args:
        pages: prose pages relative to `book/`, without suffix, such as "magpo/index".

    Raises:
        InputError: a page that belongs to no part of the book.
    """
    left = set(pages) - {"index"}

    def take(names: Iterable[str]) -> list[dict[str, str]]:
        chosen = [name for name in names if name in left]
        left.difference_update(chosen)
        return [{"file": name} for name in chosen]

    parts = [{"caption": "Start here", "chapters": take(FRONT)}]
    for chapter, caption in CHAPTERS.items():
        prose = sorted(name for name in left if name.startswith(f"{chapter}/"))
        prose.sort(key=lambda name: not name.endswith("/index"))
        own = [row for row in rows if row.notebook and row.paper == chapter]
        pages_of_notebooks = [{"file": f"notebooks/{graph.name_of(row)}"} for row in own]
        parts.append({"caption": caption, "chapters": take(prose) + pages_of_notebooks})
    parts.append({"caption": "Evidence", "chapters": take(BACK)})
    if left:
        raise InputError(f"pages in no part of the book (FRONT, BACK in workflow/pages.py): {', '.join(sorted(left))}")
    return {"format": "jb-book", "root": "index", "parts": [part for part in parts if part["chapters"]]}


def files_of(contents: Mapping[str, Any]) -> list[str]:
    """The pages of a table of contents, in order, without suffix."""
    return [contents["root"], *(page["file"] for part in contents["parts"] for page in part["chapters"])]


# --------------------------------------------------------------------------------------------------------- the check


class Page(HTMLParser):
    """What the check needs to know of an HTML page."""

    LOADS: ClassVar = {
        "script": "src",
        "img": "src",
        "iframe": "src",
        "source": "src",
        "video": "src",
        "object": "data",
    }

    FETCHED: ClassVar = {"stylesheet", "icon", "preload", "prefetch", "preconnect", "dns-prefetch", "modulepreload"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.title = ""
        self.body = ""  # the text of the article
        self.loaded: list[str] = []  # what a browser fetches to show the page
        self.outputs = 0  # outputs of notebook cells
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "link" and self.FETCHED & set(values.get("rel", "").split()):
            self.loaded.append(values.get("href", ""))
        if values.get(self.LOADS.get(tag, ""), ""):
            self.loaded.append(values[self.LOADS[tag]])
        if "cell_output" in values.get("class", "").split():
            self.outputs += 1
        if tag in ("article", "h1", "script", "style"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if "article" in self._open and not {"script", "style"} & set(self._open):
            self.body += data
            if "h1" in self._open:
                self.title += data


def problems(folder: Path, files: Iterable[str]) -> list[str]:
    """What is wrong with the HTML book in `folder`, a line per finding; empty if it is whole.

    Every page of `files` must exist and have a title and text, a notebook's page must show outputs, and whatever a
    page loads must lie in the folder: the book opens without a network.
    """
    found = []
    for file in files:
        path = folder / f"{file}.html"
        if not path.is_file():
            found.append(f"{file}: the page is missing")
            continue
        page = Page(path.read_text(encoding="utf-8"))
        if not page.title.strip():
            found.append(f"{file}: the page has no title")
        if len("".join(page.body.split())) < MIN_TEXT:
            found.append(f"{file}: the page is empty")
        if file.startswith("notebooks/") and not page.outputs:
            found.append(f"{file}: the notebook shows no outputs")
    for path in sorted(path for path in folder.rglob("*.html") if "_static" not in path.parts):
        for url in Page(path.read_text(encoding="utf-8")).loaded:
            parts = urlsplit(url)
            if parts.scheme == "data" or not parts.path:
                continue
            if parts.scheme or parts.netloc:
                found.append(f"{path.relative_to(folder)}: loads {url} from the network")
            elif not (path.parent / unquote(parts.path)).is_file():
                found.append(f"{path.relative_to(folder)}: loads {url}, which is not there")
    return found


# ---------------------------------------------------------------------------------------------------------- building


def stage(site: Path, contents: Mapping[str, Any], generated: Mapping[str, str], root: Path = ROOT) -> None:
    """Lay out the sources of the book in `site`: prose, executed notebooks, generated tables, table of contents."""
    shutil.rmtree(site, ignore_errors=True)
    shutil.copytree(root / "book", site, ignore=shutil.ignore_patterns("_build", "exhibits.yml", ".*"))
    for file in files_of(contents):
        if file.startswith("notebooks/"):
            target = site / f"{file}.ipynb"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / graph.BUILD / f"{file}.ipynb", target)
    (site / "generated").mkdir()
    for name, text in generated.items():
        (site / "generated" / name).write_text(text, encoding="utf-8")
    (site / "_toc.yml").write_text(yaml.safe_dump(dict(contents), sort_keys=False), encoding="utf-8")


def render(site: Path, target: Path, root: Path = ROOT) -> list[str]:
    """Run Jupyter Book strictly from `site` into `target`/_build/html; returns its warnings and errors.

    It would exit with 0 for a book with warnings but for `-W`, and for a page with an exception but for `-n -W`.
    """
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    call = "import sys; from jupyter_book.cli.main import main; sys.argv[0] = 'jupyter-book'; main()"
    command = [sys.executable, "-c", call, "build", str(site), "--all", "-n", "-W", "--keep-going"]
    command += ["--config", str(root / "_config.yml"), "--toc", str(site / "_toc.yml"), "--path-output", str(target)]
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    output = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
    (root / LOG).write_text(output, encoding="utf-8")
    if done.returncode == 0:
        return []
    lines = [line.replace(f"{site}/", "") for line in output.splitlines() if line.strip()]
    marked = [line for line in lines if re.search(r"\b(WARNING|ERROR|CRITICAL|Error|Exception)\b", line)]
    return list(dict.fromkeys(marked)) or lines[-10:]


def put_in_place(rendered: Path, book: Path) -> None:
    """Replace the finished book by the new one in two renames."""
    old = rendered.parent / "replaced"
    shutil.rmtree(old, ignore_errors=True)
    book.parent.mkdir(parents=True, exist_ok=True)
    if book.exists():
        book.rename(old)
    rendered.rename(book)
    shutil.rmtree(old, ignore_errors=True)


def prose_pages(root: Path = ROOT) -> list[str]:
    """The prose pages of `book/`, without suffix."""
    folder = root / "book"
    pages = [path.relative_to(folder).with_suffix("") for path in folder.rglob("*.md")]
    return sorted(page.as_posix() for page in pages if not page.parts[0].startswith(("_", ".")))


def build(root: Path = ROOT) -> list[str]:
    """Build the book from the executed notebooks; returns what is wrong (the old book then stays)."""
    import tables  # these three load torch, which `check` does not need

    from inconcert import claims, records

    rows = exhibits.load(root / "book" / "exhibits.yml")
    pages = prose_pages(root)
    contents = table_of_contents(pages, rows)
    executed = {name: root / graph.BUILD / "notebooks" / f"{name}.ipynb" for name in graph.with_notebooks(root)}
    metadata = {name: nbformat.read(path, as_version=4).metadata for name, path in executed.items()}
    judged = claims.verdicts()
    found = tables.survey(records.find(), records.folders()[1])
    status = tables.status_table(rows, metadata, [*tables.recorded(found), *tables.measured()])
    generated = {
        "scoreboard.md": tables.scoreboard(claims.scoreboard(judged), rows, pages),
        **tables.exhibit_tables(rows, judged),
        **tables.claim_tables(judged),
        "records.md": tables.record_table(found),
        "status.md": f"{status}\n{tables.machine_table(metadata)}",
    }
    stage(root / SITE, contents, generated, root)
    wrong = render(root / SITE, root / RENDERED, root)
    rendered = root / RENDERED / "_build" / "html"
    wrong = wrong or problems(rendered, files_of(contents))
    for path in rendered.rglob("*.html"):
        wrong += [f"{path.stem}: {finding}" for finding in claims.check_page(path.read_text(encoding="utf-8"), judged)]
    if not wrong:
        put_in_place(rendered, root / BOOK)
    return wrong


def main(arguments: list[str]) -> int:
    """Command line; returns the exit code."""
    try:
        if arguments == ["check"]:
            contents = table_of_contents(prose_pages(), exhibits.load())
            wrong, advice = problems(ROOT / BOOK, files_of(contents)), "make clean book"
        else:
            wrong, advice = build(), f"the whole log: {LOG}"
    except InputError as error:
        print(f"book: {error}", file=sys.stderr)
        return 2
    for line in wrong:
        print(f"book: {line}", file=sys.stderr)
    if wrong:
        print(f"book: {len(wrong)} problem(s) ({advice})", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
