"""What the notebooks' sentences share: numbers glued into the text, and how lists and intervals are written."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from inconcert.stats import Interval


def sayer(prefix: str = "") -> Callable[..., None]:
    """A function that glues its keyword arguments into the page's text, each as `<prefix>_<name>` (or `<name>`).

    Numbers are glued as plain Python values, which is what `{glue:text}` formats; keys must be unique in the book.
    """
    from myst_nb import glue

    def say(**values: Any) -> None:
        for name, value in values.items():
            key = f"{prefix}_{name}" if prefix else name
            glue(key, value.item() if hasattr(value, "item") else value, display=False)

    return say


def listed(values: Iterable[Any]) -> str:
    """Different values in order, such as tiers or numbers of seeds.

    >>> listed([5, 3, 5])
    '3, 5'
    """
    return ", ".join(map(str, sorted(set(values)))) or "none yet"


def signed(found: Interval, digits: int = 2, scale: float = 1.0) -> str:
    """A difference and its interval with signs, times `scale`.

    >>> signed(Interval(0.5, -0.26, 1.24, 0.95, "t"), digits=1)
    '+0.5 [-0.3, +1.2]'
    """
    estimate, low, high = (f"{scale * value:+.{digits}f}" for value in (found.estimate, found.low, found.high))
    return f"{estimate} [{low}, {high}]"
