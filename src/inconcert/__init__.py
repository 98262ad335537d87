"""Policies in Concert: algorithms, environments and evidence of four multi-agent reinforcement-learning papers."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`inconcert.make`, found on first use, so that importing one module does not load (or depend on) the others."""
    if name == "make":
        return import_module(".envs", __name__).make
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
