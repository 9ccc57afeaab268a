"""Reading from a file that may be damaged or made to do harm.

An HDF5 file can make its reader open other files (external links, external storage,
virtual datasets), fill the memory (a terabyte of zeros takes a few bytes) or keep it busy
for hours. A `Guard` looks at each thing before it is read. It also turns the many ways in
which HDF5 reports damage into one `StoreError`.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from simkit.store.chunks import find_danger, memory_of
from simkit.store.datasets import path_of
from simkit.store.heaps import find_broken_heap
from simkit.store.schema import BOOLEAN, StoreError
from simkit.stored import StoredArray


_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_ANY_FILE = 64 * 1024**2
_MOST_EXPANDED = 100
"""Unless a caller allows more, a file may not come to more than `_MOST_EXPANDED` times its
size, above what `_ANY_FILE` may: numbers of a solve compress to a half or a tenth."""


class Guard:
    """A result file opened for reading.

    - `path`: the file, for messages; `file`: its root group.
    - `remaining`: how many bytes may still be read.
    - `stays_from`: bytes from which the arrays of members over time are left on the disk.
    """

    stays_from: int | None = None

    def __init__(self, path: Path, file: h5py.File, max_bytes: int) -> None:
        self.path = path
        self.file = file
        self.max_bytes = max_bytes
        self.remaining = max_bytes
        self.file_size = path.stat().st_size
        self._left = 0  # bytes of the arrays that stay on the disk

    def group(self, outer: h5py.Group, name: str) -> h5py.Group:
        """A group within a group. Raises `StoreError` if it is missing or a link."""
        found = self.item(outer, name)
        if not isinstance(found, h5py.Group):
            raise StoreError(f"{self.path}: {found.name} is no group.")
        return found

    def array(self, outer: h5py.Group, name: str, rank: int | None = None) -> np.ndarray:
        """The values of a dataset within a group: numbers, booleans or text.

        Raises `StoreError` if it is missing, of another rank, too large or stored in
        another file.
        """
        dataset = self.dataset(outer, name, rank)
        self.charge(dataset, memory_of(dataset))
        self._refuse_danger(dataset)
        if h5py.check_string_dtype(dataset.dtype) is not None:
            return self._text(dataset)
        values = np.asarray(dataset[()])
        if values.dtype.kind not in "fiu":
            raise StoreError(
                f"{self.path}: {dataset.name} has the type {values.dtype}, expected real "
                "numbers, booleans or text."
            )
        marked = "dtype" in dataset.attrs and self.attribute(dataset, "dtype", str) == BOOLEAN
        return values.astype(bool) if marked else values

    def dataset(self, outer: h5py.Group, name: str, rank: int | None = None) -> h5py.Dataset:
        """A dataset within a group that has values. Raises `StoreError` otherwise."""
        dataset = self.item(outer, name)
        if not isinstance(dataset, h5py.Dataset):
            raise StoreError(f"{self.path}: {dataset.name} is no dataset.")
        if rank is not None and dataset.ndim != rank:
            raise StoreError(
                f"{self.path}: {dataset.name} has {dataset.ndim} axes, expected {rank}."
            )
        if dataset.shape is None:
            raise StoreError(f"{self.path}: {dataset.name} has no values.")
        return dataset

    def stored(self, outer: h5py.Group, name: str) -> StoredArray:
        """A dataset of numbers with two axes that stays on the disk.

        It can be read as long as the file is open, with `StoreError` for damage. Raises
        `StoreError` for what `array` refuses, but for its size: it may come to the hundredfold
        of the file.
        """
        dataset = self.dataset(outer, name, 2)
        self._left_there(dataset)

        def read(members: slice, times: slice) -> np.ndarray:
            with translated(self.path):
                return np.asarray(dataset[members, times])

        members, times = map(int, dataset.shape)
        chunks = dataset.chunks or (1, times)
        return StoredArray((members, times), dataset.dtype, chunks, read)

    def parts(
        self, outer: h5py.Group, name: str, rank: int
    ) -> tuple[tuple[int, ...], Callable[[slice], np.ndarray]]:
        """The shape of a dataset of numbers that stays on the disk, and what reads it.

        Parts are taken along the first axis. Limits and errors are those of `stored`.
        """
        dataset = self.dataset(outer, name, rank)
        self._left_there(dataset)

        def read(part: slice) -> np.ndarray:
            with translated(self.path):
                return np.asarray(dataset[part])

        return tuple(map(int, dataset.shape)), read

    def _left_there(self, dataset: h5py.Dataset) -> None:
        """Raise `StoreError` for a dataset of which no part may be read."""
        self._left += memory_of(dataset)
        if self._left > max(self.max_bytes, expanded(self.file_size)):
            raise StoreError(
                f"{self.path}: {dataset.name} makes it more than a hundred times larger than "
                "the file; such files are not read."
            )
        self._refuse_danger(dataset)
        if dataset.dtype.kind not in "fiu":
            raise StoreError(
                f"{self.path}: {dataset.name} has the type {dataset.dtype}, expected numbers."
            )

    def _refuse_danger(self, dataset: h5py.Dataset) -> None:
        danger = find_danger(dataset)
        if danger:
            raise StoreError(f"{self.path}: {dataset.name} {danger}; such files are not read.")

    def attribute(self, target: h5py.HLObject, name: str, kind: type) -> Any:
        """A text, integer or number of a group. Raises `StoreError` if it is missing."""
        where = f"{self.path}: the attribute {name!r} of {target.name}"
        if name not in target.attrs:
            raise StoreError(f"{where} is missing.")
        stored = target.attrs.get_id(name)
        if stored.shape != ():
            raise StoreError(f"{where} is no single value.")
        if stored.get_storage_size() > self.file_size:
            raise StoreError(f"{where} is larger than its file.")
        value = target.attrs[name]
        if isinstance(value, np.generic):
            value = value.item()
        if type(value) is not kind:
            raise StoreError(
                f"{where} is of the type {type(value).__name__}, expected {kind.__name__}."
            )
        return value

    def item(self, outer: h5py.Group, name: str) -> h5py.Group | h5py.Dataset:
        """What stands in a group under a name, after a look at how it is stored."""
        where = f"{self.path}: {path_of(outer, name)}"
        link = outer.get(name, getlink=True, default=None)
        if link is None:
            raise StoreError(f"{where} is missing.")
        if not isinstance(link, h5py.HardLink):
            raise StoreError(f"{where} is a link to another place; such files are not read.")
        found = outer[name]
        if isinstance(found, h5py.Dataset):
            if found.is_virtual:
                raise StoreError(f"{where} is a virtual dataset; such files are not read.")
            if found.external:
                raise StoreError(
                    f"{where} keeps its values in another file; such files are not read."
                )
        elif not isinstance(found, h5py.Group):
            raise StoreError(f"{where} is neither group nor dataset.")
        return found

    def charge(self, target: h5py.HLObject, number: int) -> None:
        """Count bytes that are read. Raises `StoreError` if they are too many."""
        self.remaining -= number
        if self.remaining < 0:
            raise StoreError(
                f"{self.path}: {target.name} needs more memory than the {self.max_bytes} "
                "bytes that may be read; a larger max_bytes of simkit.store.load allows it."
            )

    def _text(self, dataset: h5py.Dataset) -> np.ndarray:
        # Many items can share one long text, so what a block may need is known only as
        # items times the size of the file.
        block = max(1, self.max_bytes // max(1, self.file_size))
        reader = dataset.asstr()
        texts: list[str] = []
        for index in np.ndindex(dataset.shape[:-1]):
            for start in range(0, dataset.shape[-1] if dataset.ndim else 1, block):
                last = (slice(start, start + block),) if dataset.ndim else ()
                new = np.asarray(reader[(*index, *last)], dtype=object).ravel().tolist()
                self.charge(dataset, 4 * sum(map(len, new)))
                texts += new
        # Numpy makes every item as wide as the longest.
        self.charge(dataset, 4 * len(texts) * max(map(len, texts), default=0))
        return np.array(texts, dtype=str).reshape(dataset.shape)


def expanded(file_size: int) -> int:
    """What the arrays of a file of this size may come to: see `_MOST_EXPANDED`."""
    return _ANY_FILE + _MOST_EXPANDED * file_size


@contextlib.contextmanager
def opened(path: str | os.PathLike[str], max_bytes: int) -> Iterator[Guard]:
    """Open a file for reading, and take every error within the block for damage.

    Raises `OSError` if there is no such file or it may not be read, and `StoreError` for a
    file that is not HDF5 or that proves to be damaged.
    """
    with open_guarded(path, max_bytes) as guard, translated(guard.path):
        yield guard


@contextlib.contextmanager
def open_guarded(path: str | os.PathLike[str], max_bytes: int) -> Iterator[Guard]:
    """Open a file for reading.

    Through Python's own file: HDF5's would take a lock, which fails on file systems that
    are read-only or know no locks, and while another part of the process has the file
    open. Raises `OSError` if there is no such file or it may not be read, and
    `StoreError` for a file that is not HDF5 or that proves to be damaged.
    """
    path = Path(path)
    with open(path, "rb") as stream:
        if stream.read(len(_SIGNATURE)) != _SIGNATURE:
            raise StoreError(f"{path} is not an HDF5 file.")
        stream.seek(0)
        if find_broken_heap(path) is not None:
            raise StoreError(f"{path} is damaged or incomplete: a list of texts has no end.")
        with translated(path):
            file = h5py.File(stream, "r")
        try:
            yield Guard(path, file, max_bytes)
        finally:
            with translated(path):
                file.close()


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """The many ways in which HDF5 reports damage as one `StoreError`."""
    try:
        yield
    except StoreError:
        raise
    except (
        OSError,
        RuntimeError,
        LookupError,
        ValueError,
        TypeError,
        MemoryError,
    ) as error:
        reason = str(error).strip("\"'").splitlines()[0] if str(error) else "unreadable"
        raise StoreError(f"{path} is damaged or incomplete: {reason}.") from error
