"""Whether a result fits together, so that all that draws or tells it may rely on it."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from simkit.results import CurveTable, Fit, Trajectory
from simkit.store.schema import FieldSchema, Form, axes_of, schema_of
from simkit.stored import as_array


_KINDS = {"numbers": "fiu", "texts": "U", "truths": "b"}
_MAY_BE_EMPTY = frozenset(["derived", "draw"])
"""Axes that a sound result can have with no points."""
_SHARED = frozenset(["parameter"])
"""Axes that mean the same in a result and in every table within it."""

Sizes = dict[str, tuple[int, str]]
"""The size of each axis, and the field that has it."""


def find_fault(result: Trajectory | Fit) -> str | None:
    """The first thing that does not fit, without a full stop; `None` for a sound result."""
    return next(_faults(result, type(result).__name__, {}), None)


def fits_kind(field: FieldSchema, array: np.ndarray) -> bool:
    """Whether an array holds what the field says: numbers, texts or truths."""
    return array.dtype.kind in _KINDS[field.holds]


def _faults(table: Any, where: str, shared: Sizes) -> Iterator[str]:
    sizes = dict(shared)
    for name, field, array in _arrays(table):
        yield from _array_faults(field, array, f"{where}.{name}", sizes)
    inherited = {axis: size for axis, size in sizes.items() if axis in _SHARED}
    for field in schema_of(type(table)):
        inner = getattr(table, field.name)
        if field.form is Form.TABLE and inner is not None:
            yield from _faults(inner, f"{where}.{field.name}", inherited)
    match table:
        case Trajectory():
            yield from _trajectory_faults(table)
        case CurveTable() if not table.fitted:
            yield f"{where}.fitted holds no curve"
        case Fit():
            yield from _fit_faults(table)


def _array_faults(
    field: FieldSchema, array: np.ndarray, where: str, sizes: Sizes
) -> Iterator[str]:
    if not fits_kind(field, array):
        yield f"{where} has the type {array.dtype}, expected {field.holds}"
    axes = axes_of(field.dimensions, array.ndim)
    if axes is None:
        yield f"{where} has {array.ndim} axes, expected {field.dimensions}"
        return
    for axis, size in zip(axes, array.shape, strict=True):
        axis = axis.removesuffix("_2")
        expected, other = sizes.setdefault(axis, (size, where))
        if size != expected:
            yield f"{where} has the size {size} along {axis}, but {other} has {expected}"
        if size == 0 and axis not in _MAY_BE_EMPTY:
            yield f"{where} has no points along {axis}"


def _arrays(table: Any) -> Iterator[tuple[str, FieldSchema, Any]]:
    for field in schema_of(type(table)):
        value = getattr(table, field.name)
        if field.form in (Form.ARRAY, Form.DRAWS):
            yield field.name, field, np.asarray(value)
        elif field.form is Form.ARRAYS_BY_NAME:
            for name, array in value.items():
                yield f"{field.name}[{name!r}]", field, as_array(array)


def _trajectory_faults(result: Trajectory) -> Iterator[str]:
    if not result.states:
        yield "Trajectory.states holds no state"
    for name, values in result.states.items():
        if np.ndim(values) != result.status.ndim + 1:
            yield (
                f"Trajectory.states[{name!r}] has {np.ndim(values)} axes, but the status has "
                f"{result.status.ndim}"
            )
    for field in ("parameters", "statistics"):
        for name, values in getattr(result, field).items():
            if np.ndim(values) > result.status.ndim:
                yield f"Trajectory.{field}[{name!r}] has members, but the status has none"


def _fit_faults(fit: Fit) -> Iterator[str]:
    names = fit.parameters.name.tolist()
    if len(set(names)) < len(names):
        yield "Fit.parameters.name has a name more than once"
    if fit.uncertainty is not None and sorted(fit.uncertainty.name.tolist()) != sorted(names):
        yield "Fit.uncertainty.name has other names than Fit.parameters.name"
