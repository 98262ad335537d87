"""Execute one notebook with papermill, strictly: `python workflow/execute.py NOTEBOOK OUTPUT [-f PARAMS.yml]`.

What it adds to plain papermill: parameters that the notebook does not have, or of a wrong type, are refused before a
kernel starts (papermill only logs them); the notebook runs in the repository's folder with one thread; the output
appears complete or not at all; and the run's versions, hardware and memory are kept for the status page.

Exit code 2 for bad input (one line on stderr), 1 for a notebook that fails (its error and where), 0 otherwise.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import re
import resource
import sys
import types
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nbformat
import yaml

from inconcert.config import InputError
from inconcert.exhibits import ROOT
from inconcert.provenance import processor

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
PACKAGES = ("inconcert", "torch", "numpy", "pandas", "matplotlib", "papermill")


def read_yaml(path: Path) -> dict[str, Any]:
    """The parameters in the YAML file at `path`.

    Raises:
        InputError: the file is missing, is not YAML, or holds something else than `name: value` pairs.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError:
        raise InputError(f"parameter file {path} is missing") from None
    except yaml.YAMLError as error:
        raise InputError(f"parameter file {path} is not YAML: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise InputError(f"parameter file {path} must hold `name: value` pairs")
    return values


def check_parameters(notebook: nbformat.NotebookNode, parameters: dict[str, Any]) -> None:
    """Run the notebook's own check on `parameters`: its parameters cell, then the cell that validates it.

    These two cells import nothing but the standard library and `inconcert.config`, so this takes milliseconds.

    Raises:
        InputError: what the notebook itself would say in its first cells; or it has no parameters cell.
    """
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    tagged = [number for number, cell in enumerate(code) if "parameters" in cell.metadata.get("tags", [])]
    if not tagged or tagged[0] + 1 >= len(code):
        raise InputError("the notebook has no cell tagged 'parameters' with a cell after it that checks them")
    module = types.ModuleType("__parameters__")
    sys.modules[module.__name__] = module  # dataclasses look their module up
    try:
        exec(code[tagged[0]].source, module.__dict__)
        module.__dict__.update(parameters)
        exec(code[tagged[0] + 1].source, module.__dict__)
    finally:
        del sys.modules[module.__name__]


def machine() -> dict[str, Any]:
    """Processor, number of cores usable by this process, and operating system."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"processor": processor(), "cores": cores, "system": f"{platform.system()} {platform.machine()}"}


def execute(source: Path, target: Path, parameters: dict[str, Any]) -> float:
    """Execute `source` with `parameters` into `target`; returns its duration in seconds.

    Raises:
        InputError: bad parameters, or the notebook raised an `InputError` (a missing record, say).
        papermill.PapermillExecutionError: a cell failed otherwise.
    """
    import papermill

    try:
        notebook = nbformat.read(source, as_version=4)
    except OSError:
        raise InputError(f"notebook {source} is missing") from None
    except (nbformat.reader.NotJSONError, nbformat.ValidationError) as error:
        raise InputError(f"{source} is not a notebook ({type(error).__name__})") from None
    check_parameters(notebook, parameters)
    os.environ.update(ONE_THREAD)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.stem}.{os.getpid()}.ipynb")
    try:
        result = papermill.execute_notebook(
            str(source),
            str(unfinished),
            parameters,
            cwd=str(ROOT),
            progress_bar=False,
            start_timeout=180,
            extra_arguments=["--IPKernelApp.log_level=CRITICAL"],  # no remarks on local sockets and on its own end
        )
        run = result.metadata.papermill
        run["input_path"], run["output_path"] = _shown(source), _shown(target)
        result.metadata["inconcert"] = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "duration_s": round(run["duration"], 2),
            "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / _RSS_PER_MB),
            "python": platform.python_version(),
            "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
            "hardware": machine(),
        }
        nbformat.write(result, unfinished)
        unfinished.replace(target)
        return float(run["duration"])
    except papermill.PapermillExecutionError as error:
        if error.traceback == [f"{error.ename}: {error.evalue}"]:  # how InputError and its kin show themselves
            raise InputError(f"cell {_cell(error, parameters)}: {error.evalue}") from None
        raise
    finally:
        unfinished.unlink(missing_ok=True)


_RSS_PER_MB = 1024**2 if sys.platform == "darwin" else 1024


def _cell(error: Any, parameters: dict[str, Any]) -> int:
    """The failing cell's place in the committed notebook, from 1; papermill adds a cell if there are parameters."""
    return error.cell_index + (0 if parameters else 1)


def _shown(path: Path) -> str:
    path = path.resolve()
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="execute.py", description="Execute one notebook with papermill, strictly.")
    parser.add_argument("notebook", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("-f", "--parameters", type=Path, metavar="PARAMS.yml", help="parameters, as papermill's -f")
    chosen = parser.parse_args(arguments)
    from papermill.exceptions import PapermillExecutionError

    parameters: dict[str, Any] = {}
    try:
        parameters = read_yaml(chosen.parameters) if chosen.parameters else {}
        duration = execute(chosen.notebook, chosen.output, parameters)
    except InputError as error:
        print(f"{chosen.notebook}: {error}", file=sys.stderr)
        return 2
    except PapermillExecutionError as error:
        print(re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback)), file=sys.stderr)
        print(f"{chosen.notebook}, cell {_cell(error, parameters)}: {error.ename}: {error.evalue}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{chosen.notebook}: interrupted", file=sys.stderr)
        return 130
    print(f"{chosen.notebook}: executed in {duration:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
