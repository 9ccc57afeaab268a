"""Results that are larger than the memory, written block by block."""

import contextlib
import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import h5py

from simkit.results import Fit, Trajectory
from simkit.store.atomic import written_whole
from simkit.store.tables import Waiting
from simkit.stored import IN_MEMORY, StoredArray, as_stored, member_blocks


def is_large(result: Trajectory | Fit) -> bool:
    """Whether the states of a result are too many to build its file in memory."""
    if not isinstance(result, Trajectory) or not result.is_ensemble:
        return False
    return sum(values.nbytes for values in result.states.values()) > IN_MEMORY


def with_stored_states(result: Trajectory) -> Trajectory:
    """The same ensemble with states that are read in parts."""
    states: dict[str, Any] = {name: as_stored(values) for name, values in result.states.items()}
    return dataclasses.replace(result, states=states)


def fill(waiting: Waiting) -> Iterator[int]:
    """Fill datasets side by side, so that what they come from is read once.

    Yields how many members are done.
    """
    if not waiting:
        return
    # Blocks of the chunks that are written, whatever those are in which it is read.
    dataset, first = waiting[0]
    cut = StoredArray(first.shape, first.dtype, dataset.chunks or first.chunks, first.part)
    for members in member_blocks(cut, len(waiting)):
        for dataset, values in waiting:
            dataset[members] = values.part(members, slice(None))
        yield members.stop


class _Sink(io.RawIOBase):
    """A file under HDF5 that never fails: after a failed write HDF5 may end the process.

    - `error`: the first error, or `None`. What is written after it goes nowhere.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__()
        self.error: BaseException | None = None
        self._stream = stream

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        return self._stream.seek(place, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def readinto(self, buffer: Any) -> int:
        return self._stream.readinto(buffer)  # pyright: ignore[reportAttributeAccessIssue]

    def write(self, content: Any) -> int:
        if self.error is None:
            try:
                self._stream.write(content)
            except BaseException as error:  # a signal too would reach HDF5
                self.error = error
        return len(content)

    def truncate(self, size: int | None = None) -> int:
        if self.error is None:
            try:
                return self._stream.truncate(size)
            except BaseException as error:
                self.error = error
        return size or 0

    def flush(self) -> None:
        if self.error is None:
            try:
                self._stream.flush()
            except BaseException as error:
                self.error = error


@contextlib.contextmanager
def file_under_hdf5(target: Path, overwrite: bool) -> Iterator[tuple[io.RawIOBase, "_Check"]]:
    """What HDF5 may write to, moved into place when it is whole, and a check for its errors.

    **Raises:** what went wrong with writing, as for a full disk, from the check or at the end.
    """
    with written_whole(target, overwrite) as stream:
        sink = _Sink(stream)
        check = _Check(sink)
        try:
            yield sink, check
        except Exception:
            check()  # the error of the disk is the cause of what HDF5 says
            raise
        check()


@contextlib.contextmanager
def hdf5_on_disk(
    target: Path, overwrite: bool, options: dict[str, Any]
) -> Iterator[tuple[h5py.File, "_Check"]]:
    """An HDF5 file as [`file_under_hdf5`][simkit.store.streaming.file_under_hdf5] has it."""
    with (
        file_under_hdf5(target, overwrite) as (sink, check),
        h5py.File(sink, "w", **options) as file,
    ):
        yield file, check


class _Check:
    """Raises what went wrong with the file, if anything did."""

    def __init__(self, sink: _Sink) -> None:
        self._sink = sink

    def __call__(self) -> None:
        if self._sink.error is not None:
            raise self._sink.error
