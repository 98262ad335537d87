"""The committed notebooks follow their convention, and wrong parameters get a clear answer in the first cells.

That they run at their committed tier is checked by nbval, which `make test` turns on.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import execute
import nbformat
import pytest
import yaml

from inconcert.config import InputError

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*/*.ipynb"))
FIGURE_1 = ROOT / "notebooks" / "magpo" / "figure_1.ipynb"


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.relative_to(ROOT / "notebooks").as_posix())
def notebook(request: pytest.FixtureRequest) -> nbformat.NotebookNode:
    return nbformat.read(request.param, as_version=nbformat.NO_CONVERT)


def test_there_are_notebooks() -> None:
    assert FIGURE_1 in NOTEBOOKS


def test_format_and_kernel(notebook: nbformat.NotebookNode) -> None:
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.metadata.kernelspec.language == "python"


def test_no_outputs_are_committed(notebook: nbformat.NotebookNode) -> None:
    for cell in notebook.cells:
        assert not cell.get("outputs"), f"cell {cell.id} has outputs"
        assert cell.get("execution_count") is None, f"cell {cell.id} has been run"
    assert "papermill" not in notebook.metadata
    assert "widgets" not in notebook.metadata


def test_order_of_the_first_cells(notebook: nbformat.NotebookNode) -> None:
    title, parameters, check = notebook.cells[:3]
    assert title.cell_type == "markdown"
    assert title.source.startswith("# ")
    assert parameters.metadata.tags == ["parameters"]
    assert re.search(r'^tier = "smoke"', parameters.source, flags=re.MULTILINE), "the committed tier is smoke"
    assert "config = read_parameters(Parameters, globals())" in check.source
    modules = {line.split()[1] for line in check.source.splitlines() if line.startswith(("import ", "from "))}
    assert modules <= {"dataclasses", "typing", "inconcert.config"}, "the check needs nothing heavy"


def test_parameters_are_checked(notebook: nbformat.NotebookNode) -> None:
    execute.check_parameters(notebook, {})
    with pytest.raises(InputError, match="unknown parameter 'teir'; nearest: tier"):
        execute.check_parameters(notebook, {"teir": "smoke"})
    with pytest.raises(InputError, match=r"parameter 'tier' must be one of 'smoke'.* not 'tiny'"):
        execute.check_parameters(notebook, {"tier": "tiny"})
    with pytest.raises(InputError, match="parameter 'tier' must be"):
        execute.check_parameters(notebook, {"tier": 3})


def test_a_notebook_without_parameters_is_refused() -> None:
    with pytest.raises(InputError, match="no cell tagged 'parameters'"):
        execute.check_parameters(nbformat.v4.new_notebook(), {})


WRONG = pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"seeds": "five"}, "parameter 'seeds' must be int | None, not 'five' (str)"),
        ({"sedes": 5}, "unknown parameter 'sedes'; nearest: seeds, seed"),
    ],
)


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)


@WRONG
def test_execute_refuses_wrong_parameters(tmp_path: Path, parameters: dict[str, object], message: str) -> None:
    (tmp_path / "params.yml").write_text(yaml.safe_dump(parameters))
    output = tmp_path / "out.ipynb"
    done = run("workflow/execute.py", str(FIGURE_1), str(output), "-f", str(tmp_path / "params.yml"))
    assert done.returncode == 2
    assert done.stderr.startswith(f"{FIGURE_1}: {message}")
    assert done.stderr.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["params.yml"]


@WRONG
def test_papermill_itself_shows_the_error_in_the_first_cells(
    tmp_path: Path, parameters: dict[str, object], message: str
) -> None:
    (tmp_path / "params.yml").write_text(yaml.safe_dump(parameters))
    output = tmp_path / "out.ipynb"
    done = run("-m", "papermill", str(FIGURE_1), str(output), "-f", str(tmp_path / "params.yml"))
    assert done.returncode == 1
    code = [cell for cell in nbformat.read(output, as_version=4).cells if cell.cell_type == "code"]
    failed = [number for number, cell in enumerate(code) if any(out.output_type == "error" for out in cell.outputs)]
    checked = [number for number, cell in enumerate(code) if "read_parameters(Parameters" in cell.source]
    assert failed == checked, "the cell that checks the parameters is the one that fails"
    (error,) = [out for out in code[failed[0]].outputs if out.output_type == "error"]
    assert error.ename == "InputError"
    assert error.evalue.startswith(message)
    assert len(error.traceback) == 1, "one line, no stack trace"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "must hold `name: value` pairs"),
        ("a: [", "is not YAML"),
        (None, "is missing"),
    ],
)
def test_unreadable_parameter_files_are_named(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "params.yml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=rf"params\.yml {message}"):
        execute.read_yaml(path)


def small(folder: Path, code: str) -> Path:
    """A notebook with one parameter and `code`."""
    check = """from dataclasses import dataclass
from inconcert.config import read_parameters

@dataclass(frozen=True)
class Parameters:
    tier: str

config = read_parameters(Parameters, globals())"""
    cells = [
        nbformat.v4.new_code_cell('tier = "smoke"', metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(check),
        nbformat.v4.new_code_cell(code),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path = folder / "small.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


def test_execute_keeps_what_the_status_page_needs(tmp_path: Path) -> None:
    source = small(tmp_path, "import os\nprint(os.environ['OMP_NUM_THREADS'], os.getcwd(), tier)")
    target = tmp_path / "deep" / "out.ipynb"
    duration = execute.execute(source, target, {"tier": "laptop"})
    result = nbformat.read(target, as_version=4)
    assert result.cells[-1].outputs[0].text == f"1 {ROOT} laptop\n"
    facts = result.metadata.inconcert
    assert facts.duration_s == pytest.approx(duration, abs=0.01)
    assert 10 < facts.peak_memory_mb < 4000
    assert facts.versions.keys() == set(execute.PACKAGES)
    assert facts.hardware.cores >= 1
    assert result.metadata.papermill.parameters == {"tier": "laptop"}
    assert [path.name for path in target.parent.iterdir()] == ["out.ipynb"]


def test_a_failing_notebook_keeps_the_old_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "out.ipynb"
    target.write_text("old")
    assert execute.main([str(small(tmp_path, "1 / 0")), str(target)]) == 1
    assert capsys.readouterr().err.endswith("cell 3: ZeroDivisionError: division by zero\n")
    assert target.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.ipynb", "small.ipynb"]


def test_bad_input_inside_a_notebook_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = "from inconcert.config import unknown\nraise unknown('task', 'coin', ['coins'])"
    source = small(tmp_path, code)
    assert execute.main([str(source), str(tmp_path / "out.ipynb")]) == 2
    assert capsys.readouterr().err == f"{source}: cell 3: unknown task 'coin'; nearest: coins; valid: coins\n"
