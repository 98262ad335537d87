"""Without JAX: the suites are listed, and making a task answers with the one command that installs them."""

import subprocess
import sys

import pytest

TASKS = ("lbf/8x8-2p-2f-coop", "rware/tiny-2ag", "connector/con-5x5x3a", "smax/2s3z", "jaxmpe/spread_3ag")
WRONG = "smax/2s3"
CODE = f"""
import sys
sys.modules["jax"] = None
from inconcert import envs
from inconcert.config import InputError
for task in {(*TASKS, WRONG)}:
    try:
        envs.make(task)
    except InputError as error:
        print(error)
print(len(envs.tasks("smax")))
"""


@pytest.fixture(scope="module")
def answers():
    """What a Python without JAX says: a line for each of the tasks and the wrong one, and how many SMAX has."""
    return subprocess.run([sys.executable, "-c", CODE], check=True, capture_output=True, text=True).stdout.splitlines()


@pytest.mark.parametrize(("index", "task"), enumerate(TASKS))
def test_a_missing_suite_names_its_one_command(answers, index, task):
    assert answers[index].startswith("JAX is not installed; install the JAX suites with: pip install "), task
    assert "jumanji==" in answers[index]
    assert "--no-deps" in answers[index]


def test_a_wrong_name_is_told_before_a_missing_suite(answers):
    assert answers[len(TASKS)].startswith(f"unknown task '{WRONG}'; nearest: smax/2s3z")


def test_names_are_known_without_jax(answers):
    assert len(answers) == len(TASKS) + 2
    assert int(answers[-1]) >= 10
