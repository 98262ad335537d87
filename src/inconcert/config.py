"""Bad input and how it is answered: one line, the nearest valid choices, never a stack trace from torch."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin

TIERS: tuple[str, ...] = ("smoke", "laptop", "paper")
"""Budgets, cheapest first (see the design's table of tiers)."""

T = TypeVar("T")

_NOTEBOOK_NAMES = frozenset({"In", "Out", "exit", "quit", "open", "get_ipython"})


class InputError(ValueError):
    """Wrong input from a person: its text is one line that names what is valid. The command line exits with 2."""

    def _render_traceback_(self) -> list[str]:
        """IPython asks for this: a notebook shows the line alone, without the frames above it."""
        return [f"{type(self).__name__}: {self}"]


def unknown(kind: str, name: object, valid: Iterable[str]) -> InputError:
    """The error for an unknown `name` of some `kind`, naming the nearest of the `valid` ones.

    >>> str(unknown("tier", "laptp", ["smoke", "laptop", "paper"]))
    "unknown tier 'laptp'; nearest: laptop; valid: smoke, laptop, paper"
    """
    names = list(valid)
    near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
    hint = f"nearest: {', '.join(near)}; " if near else ""
    shown = ", ".join(names[:12]) + (f", ... ({len(names)} in all)" if len(names) > 12 else "")
    return InputError(f"unknown {kind} {name!r}; {hint}valid: {shown}")


def _spell(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(repr(choice) for choice in get_args(annotation))
    if isinstance(annotation, type):
        return annotation.__name__
    return str(annotation)


def _fits(value: Any, annotation: Any) -> bool:
    origin, args = get_origin(annotation), get_args(annotation)
    if annotation is Any:
        return True
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in args)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, arg) for arg in args)
    if annotation is None or annotation is type(None):
        return value is None
    if origin in (list, tuple):
        item = args[0] if args else Any
        return isinstance(value, (list, tuple)) and all(_fits(entry, item) for entry in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(k, args[0]) and _fits(v, args[1]) for k, v in value.items())
    if annotation is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, annotation)


def check_fields(cls: type[T], values: Mapping[str, Any], kind: str = "parameter") -> T:
    """Build the dataclass `cls` from `values`, refusing unknown names and wrong types.

    Floats accept integers; tuples accept lists (JSON and YAML know no tuple). Nothing else is converted.

    Raises:
        InputError: an unknown name (with the nearest ones), a missing value, or a value of the wrong type.
    """
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for name in values:
        if name not in fields:
            raise unknown(kind, name, fields)
    ready: dict[str, Any] = {}
    for name, field in fields.items():
        if name not in values:
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                raise InputError(f"{kind} {name!r} has no value; it must be {_spell(hints[name])}")
            continue
        value, annotation = values[name], hints[name]
        if not _fits(value, annotation):
            raise InputError(f"{kind} {name!r} must be {_spell(annotation)}, not {value!r} ({type(value).__name__})")
        if get_origin(annotation) is tuple:
            value = tuple(value)
        elif annotation is float:
            value = float(value)
        ready[name] = value
    return cls(**ready)


def read_parameters(cls: type[T], namespace: Mapping[str, Any]) -> T:
    """A notebook's typed parameters, read from its `globals()` right after the parameters cell.

    papermill only logs an unknown parameter and runs on with the default; here whatever plain value stands in the
    namespace without being a field of `cls` is an error, as is a value of the wrong type.

    Raises:
        InputError: see `check_fields`.
    """
    values = {
        name: value
        for name, value in namespace.items()
        if not name.startswith("_")
        and name not in _NOTEBOOK_NAMES
        and not isinstance(value, (types.ModuleType, type))
        and not callable(value)
        and get_origin(value) is None
        and value is not Literal
        and not (hasattr(value, "compiler_flag"))  # `from __future__ import annotations` binds a name
    }
    return check_fields(cls, values)
