"""Arrays of symbols: what a value of a traced function is while it is written out."""

from collections.abc import Callable
from typing import Any

import numpy as np

from solvers.ensemble.scalarise.builder import Symbol


def is_symbolic(value: Any) -> bool:
    """Whether some element is not known before the program runs."""
    return isinstance(value, np.ndarray) and value.dtype == object


def as_symbols(value: np.ndarray) -> np.ndarray:
    """The array with Python numbers and symbols as its elements."""
    return value.astype(object)


def boxed(value: Any) -> Any:
    """A single element, which is what NumPy gives at a place of an array, as an array."""
    if not isinstance(value, Symbol | float | int):
        return value
    alone = np.empty((), object)
    alone[()] = value
    return alone


def settle(value: Any, kind: Any) -> np.ndarray:
    """An array without symbols as an ordinary one, of the given type."""
    if not is_symbolic(value):
        return np.asarray(value, kind)
    if any(isinstance(x, Symbol) for x in value.flat):
        return value
    return np.array(value.tolist(), dtype=kind).reshape(value.shape)


def each(function: Callable[..., Any], *values: np.ndarray) -> np.ndarray:
    """A function of the elements of arrays of one shape, or of scalars and arrays."""
    symbols = np.broadcast_arrays(*(as_symbols(np.asarray(value)) for value in values))
    result = np.empty(symbols[0].shape, object)
    rows = zip(*(x.reshape(-1) for x in symbols), strict=True)
    result.reshape(-1)[:] = _column([function(*row) for row in rows])
    return result


def _column(elements: list[Any]) -> np.ndarray:
    column = np.empty(len(elements), object)
    for place, element in enumerate(elements):
        column[place] = element
    return column


def stack(values: list[np.ndarray]) -> np.ndarray:
    """Arrays of one shape along a new first axis."""
    return np.stack([as_symbols(np.asarray(value)) for value in values])
