"""What all tests share."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "workflow"))  # its programs import each other by name
sys.path.insert(0, str(Path(__file__).resolve().parent / "algorithms"))  # `common`, the checks of all algorithms


@pytest.fixture(autouse=True)
def same_draws_every_time():
    """Torch's global generator starts each test from one seed: no test passes or fails by the luck of its draws."""
    torch.manual_seed(0)
