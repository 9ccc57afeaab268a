"""Arrays that stay on the disk: the states of ensembles that are larger than the memory.

Parts of such an array are read when they are asked for. Nothing here knows a file format;
whoever makes a [`StoredArray`][simkit.stored.StoredArray] gives it a way to read.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np


IN_MEMORY = 64 * 1024**2
"""Bytes up to which the states of an ensemble are simply held in memory."""
BLOCK_BYTES = 32 * 1024**2
"""About so many bytes of an array are looked at together."""
_CHUNK = 2**16
"""Numbers in a chunk on the disk: half a megabyte of doubles."""


class StoredArray:
    """An array of shape `(member, time)` whose parts are read when they are asked for.

    - `shape`, `dtype`: those of the whole array.
    - `chunks`: members and times that are best read together.
    - `memo`: what was found out about the values, so that they are not read again.

    `np.asarray` reads all of it.
    """

    ndim = 2

    def __init__(
        self,
        shape: tuple[int, int],
        dtype: np.dtype,
        chunks: tuple[int, int],
        read: Callable[[slice, slice], np.ndarray],
    ) -> None:
        self.shape = shape
        self.dtype = dtype
        self.chunks = chunks
        self.memo: dict[Any, Any] = {}
        self._read = read

    @property
    def nbytes(self) -> int:
        """Bytes of the whole array."""
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    def part(self, members: slice, times: slice) -> np.ndarray:
        """The values of some members at some times; both slices go up by one."""
        return self._read(
            slice(*members.indices(self.shape[0])[:2]), slice(*times.indices(self.shape[1])[:2])
        )

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        del copy  # what is read is always new
        values = self.part(slice(None), slice(None))
        return values if dtype is None else values.astype(dtype)


def is_stored(values: Any) -> bool:
    """Whether an array stays on the disk."""
    return isinstance(values, StoredArray)


def as_array(values: Any) -> Any:
    """A numpy array, or the stored one as it is."""
    return values if isinstance(values, StoredArray) else np.asarray(values)


def as_stored(values: Any) -> StoredArray:
    """An array of shape `(member, time)` in memory, to be used as a stored one."""
    if isinstance(values, StoredArray):
        return values
    array = np.asarray(values)
    members, times = array.shape
    return StoredArray(
        (members, times), array.dtype, chunk_shape(members, times), lambda m, t: array[m, t]
    )


def some_members(values: Any, members: np.ndarray) -> np.ndarray:
    """The rows of a few members, shape `(chosen, time)`; one solve is one row."""
    if not isinstance(values, StoredArray):
        return np.atleast_2d(values)[members]
    key = ("rows", members.tobytes())
    if key not in values.memo:
        found = np.empty((members.size, values.shape[1]), values.dtype)
        for row, member in zip(found, members.tolist(), strict=True):
            row[:] = values.part(slice(member, member + 1), slice(None))[0]
        values.memo[key] = found
    return values.memo[key]


def chunk_shape(members: int, times: int) -> tuple[int, int]:
    """How an array is cut on the disk.

    All members at the times of one chunk are no more than a block where that is possible,
    so that statistics over members read each chunk once; and few members are enough to
    write whole chunks.
    """
    width = min(times, _CHUNK, max(1, BLOCK_BYTES // 8 // max(1, members)))
    # Chunks at the end are stored in full, so all have nearly the same size.
    width = -(-times // -(-times // max(1, width)))
    height = min(members, max(1, _CHUNK // width))
    return -(-members // -(-members // height)), width


def member_blocks(values: StoredArray, alike: int = 1) -> Iterator[slice]:
    """The members, in blocks of whole chunks; `alike` such arrays are read side by side."""
    chunk = values.chunks[0]
    fitting = BLOCK_BYTES // max(1, values.shape[1] * values.dtype.itemsize * alike)
    return _blocks(values.shape[0], max(chunk, fitting // chunk * chunk))


def time_blocks(values: StoredArray) -> Iterator[slice]:
    """The times, in blocks at which all members fit together."""
    chunk = values.chunks[1]
    fitting = max(1, BLOCK_BYTES // max(1, values.shape[0] * 8))
    return _blocks(values.shape[1], max(fitting // chunk * chunk, min(chunk, fitting)))


def _blocks(size: int, step: int) -> Iterator[slice]:
    for first in range(0, size, step):
        yield slice(first, min(first + step, size))
