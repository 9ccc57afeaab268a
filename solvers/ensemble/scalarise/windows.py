"""Which elements a gather takes and a scatter changes, for known indices."""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jax.lax import GatherScatterMode


class _Geometry(NamedTuple):
    """What gathers and scatters have in common, under names for both.

    - `window`: axes of the result (or of the updates) along a window.
    - `dropped`: axes of the operand that windows do not have.
    - `indexed`: axes of the operand that the index vectors are for.
    - `batched`, `batched_indices`: axes of operand and indices that go together.
    - `sizes`: of a window along the axes of the operand.
    """

    window: tuple[int, ...]
    dropped: tuple[int, ...]
    indexed: tuple[int, ...]
    batched: tuple[int, ...]
    batched_indices: tuple[int, ...]
    sizes: tuple[int, ...]
    mode: Any


Pair = tuple[tuple[int, ...], tuple[int, ...] | None]
"""A place in the result (or in the updates) and one in the operand, if it is inside."""


def gathered(params: Any, shape: tuple[int, ...], indices: np.ndarray) -> Iterator[Pair]:
    """For each element of a gather where it comes from; `None` is the filling."""
    numbers = params["dimension_numbers"]
    geometry = _Geometry(
        numbers.offset_dims,
        (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims),
        numbers.start_index_map,
        numbers.operand_batching_dims,
        numbers.start_indices_batching_dims,
        tuple(params["slice_sizes"]),
        params["mode"],
    )
    return _pairs(geometry, shape, indices)


def scattered(
    params: Any, shape: tuple[int, ...], indices: np.ndarray, updates: tuple[int, ...]
) -> Iterator[Pair]:
    """For each element of the updates where it goes; `None` is nowhere."""
    numbers = params["dimension_numbers"]
    dropped = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
    lengths = iter(updates[axis] for axis in numbers.update_window_dims)
    sizes = tuple(1 if axis in dropped else next(lengths) for axis in range(len(shape)))
    geometry = _Geometry(
        numbers.update_window_dims,
        dropped,
        numbers.scatter_dims_to_operand_dims,
        numbers.operand_batching_dims,
        numbers.scatter_indices_batching_dims,
        sizes,
        params["mode"],
    )
    return _pairs(geometry, shape, indices)


def _pairs(geometry: _Geometry, shape: tuple[int, ...], indices: np.ndarray) -> Iterator[Pair]:
    extents = [size for axis, size in enumerate(geometry.sizes) if axis not in geometry.dropped]
    for batch in np.ndindex(*indices.shape[:-1]):
        begin = _begin(geometry, shape, indices, batch)
        for offset in itertools.product(*map(range, extents)):
            yield _place(geometry, batch, offset), _source(geometry, begin, offset)


def _begin(
    geometry: _Geometry, shape: tuple[int, ...], indices: np.ndarray, batch: tuple[int, ...]
) -> list[int] | None:
    """Where the window begins, `None` if it is not inside and counts for nothing."""
    begin = [0] * len(shape)
    for axis, index in zip(geometry.indexed, indices[batch].tolist(), strict=True):
        begin[axis] = index
    for axis, of_indices in zip(geometry.batched, geometry.batched_indices, strict=True):
        begin[axis] = batch[of_indices]
    last = [n - size for n, size in zip(shape, geometry.sizes, strict=True)]
    inside = all(0 <= i <= most for i, most in zip(begin, last, strict=True))
    if not inside and geometry.mode == GatherScatterMode.FILL_OR_DROP:
        return None
    return [min(max(i, 0), most) for i, most in zip(begin, last, strict=True)]


def _place(
    geometry: _Geometry, batch: tuple[int, ...], offset: tuple[int, ...]
) -> tuple[int, ...]:
    along, others = iter(offset), iter(batch)
    rank = len(batch) + len(offset)
    return tuple(next(along if axis in geometry.window else others) for axis in range(rank))


def _source(
    geometry: _Geometry, begin: list[int] | None, offset: tuple[int, ...]
) -> tuple[int, ...] | None:
    if begin is None:
        return None
    along = iter(offset)
    return tuple(
        i if axis in geometry.dropped else i + next(along) for axis, i in enumerate(begin)
    )
