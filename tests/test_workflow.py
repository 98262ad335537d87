"""The build graph on a small copy of the repository: what runs, what does not, and what bad input is told."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import build
import graph
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from inconcert.config import InputError

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.timeout(900)  # whole builds, in processes of their own

CHECK = """from dataclasses import dataclass
from typing import Literal
from inconcert.config import read_parameters

@dataclass(frozen=True)
class Parameters:
    tier: Literal["smoke", "recorded"]

config = read_parameters(Parameters, globals())"""

PICTURES = ("book/_static/logo.svg", "book/_static/favicon.svg")  # named in _config.yml

EXHIBITS = """
- {id: paths, paper: environments, exhibit: One, title: First, notebook: notebooks/environments/paths.ipynb}
- {id: sources, paper: magpo, exhibit: Two, title: Second, notebook: notebooks/magpo/sources.ipynb,
   records: [coins/*/dummy/*], runs: [{algorithm: dummy, tasks: [coins/2, coins/3]}]}
- {id: later, paper: magpo, exhibit: Three, title: Third, needs: time}
"""

TRAINER = '''"""Stands in for the training program: goes on from its checkpoint, the record appears when complete."""

import os
import sys
import time
from pathlib import Path

verb, algorithm, task, _, tier, *variant = sys.argv[1:]
player = f"{algorithm}@{variant[1]}" if variant else algorithm
record = Path("runs", task, player, f"{tier}.parquet")
checkpoint = record.with_suffix(".ckpt") / "steps"
checkpoint.parent.mkdir(parents=True, exist_ok=True)
with open("calls.txt", "a") as calls:
    calls.write(f"{verb} {task} {player} {tier}\\n")
for step in range(len(checkpoint.read_text()) if checkpoint.exists() else 0, 5):
    with checkpoint.open("a") as file:
        file.write(str(step))
    if step == 2 and os.environ.get("HANG"):
        time.sleep(600)
record.write_text(checkpoint.read_text())
'''


def write_notebook(path: Path, code: str) -> None:
    cells = [
        new_markdown_cell(f"# {path.stem}\n\n" + "A page needs some words to be a page. " * 8),
        new_code_cell('tier = "smoke"', metadata={"tags": ["parameters"]}),
        new_code_cell(CHECK),
        new_code_cell(code),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = new_notebook(cells=cells, metadata={"kernelspec": kernel})
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workflow and the sources, with two small notebooks and one page, in a folder with a space in its name."""
    root = tmp_path_factory.mktemp("copy") / "a house"
    skip = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("src", "workflow"):
        shutil.copytree(ROOT / name, root / name, ignore=skip)
    for name in ("requirements.lock", "_config.yml", "data/published/README.md", "book/references.bib", *PICTURES):
        if (ROOT / name).exists():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)
    (root / "book" / "_extra" / "mathjax").mkdir(parents=True)
    (root / "book" / "_extra" / "mathjax" / "tex-chtml.js").touch()
    (root / "book" / "exhibits.yml").write_text(EXHIBITS)
    words = "Words that make a page, and a few more of them. " * 5
    (root / "book" / "index.md").write_text(f"# Title\n\n{words}\n\n```{{include}} generated/exhibits.md\n```\n")
    (root / "data" / "claims.yml").write_text("[]\n")
    (root / "src" / "inconcert" / "__main__.py").write_text(TRAINER)
    write_notebook(root / "notebooks/environments/paths.ipynb", "from inconcert.exhibits import ROOT\nprint(ROOT.name)")
    write_notebook(
        root / "notebooks/magpo/sources.ipynb", "from inconcert import provenance\nprint(provenance.PACKAGE.name)"
    )
    return root


def call(root: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python workflow/build.py ...` in the copy, with the copy's own sources."""
    return subprocess.run(
        [sys.executable, "workflow/build.py", *arguments],
        cwd=root,
        env=variables(root, **environment),
        capture_output=True,
        text=True,
        check=False,
    )


def variables(root: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(root / "src"), **more}


def executed(done: subprocess.CompletedProcess[str]) -> set[str]:
    assert done.returncode == 0, done.stdout + done.stderr
    return set(re.findall(r"notebooks/\w+/(\w+)\.ipynb: executed", done.stdout))


def planned(root: Path) -> set[str]:
    """Notebooks that `make book` would execute now."""
    done = call(root, "book", "--dry-run")
    assert done.returncode == 0, done.stdout + done.stderr
    return set(re.findall(r"output: build/notebooks/\w+/(\w+)\.ipynb", done.stdout + done.stderr))


@pytest.fixture(scope="module")
def built(copy: Path) -> Path:
    """The copy after its first `make book`."""
    assert executed(call(copy, "book")) == {"paths", "sources"}
    return copy


def test_first_build_makes_every_page(built: Path) -> None:
    html = built / "book" / "_build" / "html"
    for name in ("index", "notebooks/environments/paths", "notebooks/magpo/sources"):
        assert (html / f"{name}.html").is_file()
    index = (html / "index.html").read_text()
    assert "not run here yet" in index
    assert 'href="notebooks/magpo/sources.html"' in index
    notebook = nbformat.read(built / "build/notebooks/magpo/sources.ipynb", as_version=4)
    assert notebook.metadata.papermill.parameters == {"tier": "recorded"}
    assert {"duration_s", "peak_memory_mb", "python", "versions", "hardware", "date"} <= set(
        notebook.metadata.inconcert
    )


def test_second_build_runs_nothing(built: Path) -> None:
    before = (built / "book/_build/html/index.html").stat().st_mtime_ns
    done = call(built, "book")
    assert executed(done) == set()
    assert done.stderr == ""
    assert (built / "book/_build/html/index.html").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("src/inconcert/provenance.py", {"sources"}),
        ("src/inconcert/exhibits.py", {"paths"}),
        ("src/inconcert/config.py", {"paths", "sources"}),
        ("src/inconcert/tabular.py", set()),
        ("notebooks/magpo/sources.ipynb", {"sources"}),
        ("workflow/execute.py", set()),
        ("book/exhibits.yml", set()),
    ],
)
def test_touching_a_file_executes_exactly_the_notebooks_that_use_it(built: Path, path: str, expected: set[str]) -> None:
    file = built / path
    before = file.stat()
    os.utime(file)
    try:
        assert planned(built) == expected
    finally:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("src/inconcert/provenance.py", {"sources"}),
        ("workflow/execute.py", {"paths", "sources"}),
        ("runs/coins/9/dummy/smoke.parquet", {"sources"}),
        ("runs/coins/9/other/smoke.parquet", set()),
    ],
)
def test_changed_content_counts_even_with_an_old_date(built: Path, path: str, expected: set[str]) -> None:
    file = built / path
    before = file.read_text() if file.exists() else None
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{before}\n# changed\n")
    os.utime(file, (1e9, 1e9))
    try:
        assert planned(built) == expected
    finally:
        if before is None:
            file.unlink()
        else:
            file.write_text(before)
            os.utime(file, (1e9, 1e9))


def test_changed_parameters_execute_their_notebook(built: Path) -> None:
    file = built / "book" / "exhibits.yml"
    file.write_text(EXHIBITS.replace("title: Second", "title: Second, params: {tier: smoke}"))
    try:
        assert planned(built) == {"sources"}
    finally:
        file.write_text(EXHIBITS)
        graph.write_parameters(graph.with_notebooks(built)["magpo/sources"], built)
        os.utime(built / "build/parameters/magpo/sources.yml", (1e9, 1e9))
    assert planned(built) == set()


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "is not a readable notebook (FileNotFoundError)"), ("{", "is not a readable notebook (JSONDecodeError)")],
)
def test_an_unreadable_notebook_is_named(built: Path, text: str | None, message: str) -> None:
    notebook = built / "notebooks/magpo/sources.ipynb"
    before = notebook.read_bytes(), notebook.stat()
    notebook.unlink() if text is None else notebook.write_text(text)
    done = call(built, "book")
    notebook.write_bytes(before[0])
    os.utime(notebook, ns=(before[1].st_atime_ns, before[1].st_mtime_ns))
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"{notebook} {message}\n")


def test_a_failing_notebook_is_named_and_the_old_book_stays(built: Path) -> None:
    page = built / "book/_build/html/notebooks/magpo/sources.html"
    text, notebook = page.read_text(), built / "notebooks/magpo/sources.ipynb"
    before = notebook.read_text()
    notebook.write_text(before.replace("provenance.PACKAGE.name", "provenance.package"))
    try:
        done = call(built, "book")
        assert done.returncode != 0
        assert "notebooks/magpo/sources.ipynb, cell 4: AttributeError" in done.stderr
        assert page.read_text() == text
        assert not list(built.glob("build/notebooks/magpo/*")), "a failed notebook leaves nothing behind"
    finally:
        notebook.write_text(before)
    assert executed(call(built, "book")) == {"sources"}


def test_a_page_with_a_warning_fails_the_build_and_the_old_book_stays(built: Path) -> None:
    index, page = built / "book" / "index.md", built / "book/_build/html/index.html"
    before, text = index.read_text(), page.read_text()
    index.write_text(f"{before}\n[nowhere](nowhere.md)\n")
    try:
        done = call(built, "book")
        assert done.returncode != 0
        assert "nowhere.md" in done.stderr
        assert page.read_text() == text
    finally:
        index.write_text(before)
    assert executed(call(built, "book")) == set()


# ------------------------------------------------------------------------------------------------------------ records


def calls(root: Path) -> list[str]:
    log = root / "calls.txt"
    return log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def no_runs(copy: Path) -> Path:
    shutil.rmtree(copy / "runs", ignore_errors=True)
    (copy / "calls.txt").unlink(missing_ok=True)
    return copy


def test_runs_makes_each_record_once_and_never_for_a_file_s_age(no_runs: Path) -> None:
    assert call(no_runs, "runs", "sources", "smoke").returncode == 0
    assert sorted(calls(no_runs)) == ["train coins/2 dummy smoke", "train coins/3 dummy smoke"]
    for path in [*(no_runs / "src").rglob("*.py"), no_runs / "workflow/Snakefile"]:
        os.utime(path)
    snakefile = no_runs / "workflow" / "Snakefile"
    before = snakefile.read_text()
    snakefile.write_text(before.replace('" --tier {wildcards.tier}', '"  --tier {wildcards.tier}'))
    assert snakefile.read_text() != before
    assert call(no_runs, "runs", "sources", "smoke").returncode == 0
    snakefile.write_text(before)
    assert len(calls(no_runs)) == 2
    (no_runs / "runs/coins/2/dummy/smoke.parquet").unlink()
    assert call(no_runs, "runs", "sources", "smoke").returncode == 0
    assert calls(no_runs)[2:] == ["train coins/2 dummy smoke"]


def test_a_killed_run_goes_on_from_its_checkpoints(no_runs: Path) -> None:
    checkpoint = no_runs / "runs/coins/2/dummy/laptop.ckpt/steps"
    command = [sys.executable, "workflow/build.py", "runs", "sources", "laptop"]
    process = subprocess.Popen(
        command,
        cwd=no_runs,
        env=variables(no_runs, HANG="1"),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 120
        while not (checkpoint.exists() and checkpoint.read_text() == "012"):
            assert time.monotonic() < deadline, "the training did not start"
            assert process.poll() is None, "the training ended by itself"
            time.sleep(0.2)
        busy = call(no_runs, "runs", "sources", "laptop")
        assert busy.returncode == 2
        assert busy.stderr == "another `make runs` is at work in this folder\n"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = call(no_runs, "runs", "sources", "laptop")
    assert done.returncode == 0, done.stderr
    for task in ("2", "3"):
        assert (no_runs / f"runs/coins/{task}/dummy/laptop.parquet").read_text() == "01234"


@pytest.mark.parametrize(
    ("exhibit", "tier", "message"),
    [
        ("source", "smoke", "unknown exhibit 'source'; nearest: sources; valid: paths, sources, later"),
        ("sources", "laptob", "unknown tier 'laptob'; nearest: laptop; valid: smoke, laptop, paper"),
        ("sources", "", "unknown tier ''; valid: smoke, laptop, paper"),
        ("paths", "smoke", "exhibit 'paths' needs no runs: its notebook computes everything live; with runs: sources"),
        ("later", "smoke", "exhibit 'later' needs no runs: it is not run here yet; with runs: sources"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(copy: Path, exhibit: str, tier: str, message: str) -> None:
    done = call(copy, "runs", exhibit, tier)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"{message}\n")


def test_an_exhibit_of_measurements_names_its_command() -> None:
    with pytest.raises(InputError, match="needs no runs: its measurements are made by `python -m inconcert measure`"):
        build.record_targets("magpo-figure-8", "laptop")


def test_profiles(monkeypatch: pytest.MonkeyPatch) -> None:
    assert build.profile_arguments("default") == []
    with pytest.raises(InputError, match="unknown profile 'slrum'; nearest: slurm; valid: default, slurm"):
        build.profile_arguments("slrum")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install snakemake-executor-plugin-slurm"):
        build.profile_arguments("slurm")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert build.profile_arguments("slurm") == ["--profile", str(ROOT / "workflow/profiles/slurm")]


# -------------------------------------------------------------------------------------------------------------- graph


def test_data_of_a_notebook(tmp_path: Path) -> None:
    """Published numbers and claims count where the code reads them, and so do modules that a claim calls by name."""
    for name in ("config", "published", "claims", "tabular", "provenance"):
        (tmp_path / "src/inconcert").mkdir(parents=True, exist_ok=True)
        uses = "from inconcert import published\n" if name == "claims" else ""
        (tmp_path / f"src/inconcert/{name}.py").write_text(uses)
    (tmp_path / "src/inconcert/__init__.py").touch()
    (tmp_path / "data/published").mkdir(parents=True)
    (tmp_path / "data/published/magpo_table_1.csv").touch()
    claim = "- {id: c, exhibit: EXHIBIT, criterion: {type: exact_value, function: inconcert.tabular:success}}\n"
    (tmp_path / "data/claims.yml").write_text(claim.replace("EXHIBIT", "x") + claim.replace("EXHIBIT", "y"))
    write_notebook(tmp_path / "notebooks/magpo/p.ipynb", "from inconcert.published import load")
    write_notebook(tmp_path / "notebooks/magpo/c.ipynb", "from inconcert import claims")

    def depends(name: str, exhibit: str) -> set[str]:
        row = graph.Exhibit(exhibit, "magpo", "Table 1", "T", notebook=f"notebooks/magpo/{name}.ipynb")
        return {path.name for path in graph.depends(row, tmp_path)}

    published = {"__init__.py", "config.py", "published.py", "magpo_table_1.csv"}
    assert depends("p", "x") == published
    assert depends("c", "x") == published | {"claims.py", "claims.yml", "tabular.py"}
    assert depends("c", "z") == published | {"claims.py", "claims.yml"}


def test_the_book_does_not_depend_on_unfinished_or_built_files(tmp_path: Path) -> None:
    wanted = ["book/index.md", "runs/s/t/a/laptop.parquet", "data/runs/s/t/a/smoke.parquet", "workflow/pages.py"]
    others = ["runs/s/t/a/laptop.ckpt/seeds-0.parquet", "book/_build/html/a.js", "src/inconcert/__pycache__/a.pyc"]
    for name in [*wanted, *others]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = {path.as_posix() for path in graph.book_depends(tmp_path)}
    assert found == {*wanted, "_config.yml", "requirements.lock"}


def test_content_sees_names_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    (tmp_path / "b").write_text("1")
    one, other = graph.content([Path("a")], tmp_path), graph.content([Path("b")], tmp_path)
    assert one != other
    (tmp_path / "a").write_text("2")
    assert graph.content([Path("a")], tmp_path) != one


# ----------------------------------------------------------------------------------------------------- make and shell


def test_make_help_lists_every_target() -> None:
    done = subprocess.run(["make", "-C", str(ROOT)], capture_output=True, text=True, check=True)
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert {"help", "setup", "book", "test", "lab", "runs", "bench", "lint", "clean"} <= set(targets)
    for target in targets:
        assert f"make {target} " in done.stdout


@pytest.fixture
def debian(tmp_path: Path) -> dict[str, str]:
    """An environment whose dpkg knows one package, `here`, and whose apt-get and sudo only write down their calls."""
    tools = {
        "dpkg-query": '[ "${@: -1}" = here ] && printf installed || exit 1',
        "apt-get": f'echo "apt-get $*" >> {tmp_path}/log',
        "id": "echo ${FAKE_ID:-1000}",
        "sudo": '[ -n "$FAKE_SUDO" ] || exit 1; [ "$2" = true ] && exit 0; shift; exec "$@"',
    }
    for name, body in tools.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    return {"PATH": f"{tmp_path}:{os.environ['PATH']}", "LOG": str(tmp_path / "log")}


@pytest.mark.parametrize(
    ("rights", "packages", "code", "said", "installed"),
    [
        ({}, ["here"], 0, "", False),
        ({}, ["here", "gone"], 1, "sudo apt-get update && sudo apt-get install --yes gone", False),
        ({"FAKE_ID": "0"}, ["here", "gone"], 0, "Installing gone", True),
        ({"FAKE_SUDO": "1"}, ["gone", "away"], 0, "Installing gone away", True),
    ],
)
def test_debian_packages(
    debian: dict[str, str], rights: dict[str, str], packages: list[str], code: int, said: str, installed: bool
) -> None:
    script = ROOT / "workflow" / "debian.sh"
    done = subprocess.run(
        [script, *packages], env={**os.environ, **debian, **rights}, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    assert said in done.stdout + done.stderr
    log = Path(debian["LOG"])
    assert log.exists() is installed
    if installed:
        update, install = log.read_text().splitlines()
        assert update.endswith("update")
        assert install.endswith(" ".join(["install", *[name for name in packages if name != "here"]]))
