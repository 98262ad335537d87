"""requirements.lock, environment.yml and pyproject.toml agree on every version, in both directions."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9][A-Za-z0-9.!+_-]*)$")


def canonical(name: str) -> str:
    """Package names are the same whatever their case and separators (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(lines: list[str]) -> dict[str, str]:
    """Canonical name -> exact version; fails on a line that is no exact pin and on a name given twice."""
    found: dict[str, str] = {}
    for line in lines:
        match = PIN.match(line)
        assert match, f"not an exact pin: {line!r}"
        assert canonical(match[1]) not in found, f"pinned twice: {line!r}"
        found[canonical(match[1])] = match[2]
    return found


@pytest.fixture(scope="module")
def lock() -> dict[str, str]:
    return pins((ROOT / "requirements.lock").read_text().splitlines())


@pytest.fixture(scope="module")
def conda_lines() -> list[str]:
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (pip,) = [entry["pip"] for entry in dependencies if isinstance(entry, dict)]
    return pip


def direct_dependencies() -> dict[str, str]:
    """Canonical name -> what pyproject.toml says of the version ("" or "==1.0")."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *extras["book"], *extras["test"]]
    names = {line: re.match(r"[A-Za-z0-9._-]+", line) for line in lines}
    return {canonical(match[0]): line[match.end() :] for line, match in names.items() if match}


def test_every_direct_dependency_is_locked(lock: dict[str, str]) -> None:
    for name, version in direct_dependencies().items():
        assert name in lock, f"{name} of pyproject.toml is not in requirements.lock"
        assert version in ("", f"=={lock[name]}"), f"{name}: pyproject.toml says {version}, the lock {lock[name]}"


def test_environment_yml_lists_exactly_the_direct_dependencies(lock: dict[str, str], conda_lines: list[str]) -> None:
    listed = pins([line for line in conda_lines if not line.startswith("-")])
    assert set(listed) == set(direct_dependencies())
    assert listed == {name: lock[name] for name in listed}


def test_environment_yml_takes_the_rest_from_the_lock_and_the_package_from_here(conda_lines: list[str]) -> None:
    assert "-c requirements.lock" in conda_lines
    assert "-e ." in conda_lines


def test_jupyter_book_stays_on_its_first_major_version(lock: dict[str, str]) -> None:
    """Version 2 ignores `_config.yml` and needs the network."""
    assert lock["jupyter-book"].split(".")[0] == "1"


@pytest.mark.parametrize("line", ["torch", "torch>=2", "torch==2.*", "torch @ https://example.org/torch.whl", ""])
def test_a_line_that_is_no_exact_pin_is_noticed(line: str) -> None:
    with pytest.raises(AssertionError, match="not an exact pin"):
        pins([line])
