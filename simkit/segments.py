"""A long computation in segments, each of which is kept when it is finished.

The rows of a computation (members, starts) are independent of each other. They are cut into
segments of one size, so that one program serves all, and always in the same way: so a run
that was stopped and went on, or that was shared by processes, gives the bits of one that
was not.
"""

import contextlib
import dataclasses
import math
import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

from simkit.identity import live_facts
from simkit.progress import Progress, silent
from simkit.store.run_folder import RunFolder, begin
from simkit.store.schema import StoreError
from simkit.stored import IN_MEMORY
from solvers.distributed import ALONE, Processes


MOST_SEGMENTS = 32
"""Into so many segments a run is cut where nobody says how, or more for the next limit."""
SEGMENT_BYTES = 64 * 1024**2
"""What the arrays of a segment may come to where nobody says how many rows it has."""
FEWEST = 8
"""Rows of a segment however large they are: what a vector unit does at once."""

Rows = dict[str, np.ndarray]
"""Arrays by name with the rows in front."""


class KeptRows:
    """An array of all rows whose parts stay in their segments until they are asked for.

    - `shape`, `dtype`: those of the whole array.
    - `size`: rows of a segment.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype,
        size: int,
        read: Callable[[int], np.ndarray],
    ) -> None:
        self.shape = shape
        self.dtype = dtype
        self.size = size
        self._read = read
        self._last: tuple[int, np.ndarray] | None = None

    def part(self, rows: slice) -> np.ndarray:
        """Some rows, which follow each other."""
        first, last = rows.start // self.size, (rows.stop - 1) // self.size
        pieces = []
        for index in range(first, last + 1):
            begin = index * self.size
            segment = self._segment(index)
            pieces.append(segment[max(0, rows.start - begin) : rows.stop - begin])
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _segment(self, index: int) -> np.ndarray:
        # The last one is kept: rows are mostly asked for in order, and more than once.
        if self._last is None or self._last[0] != index:
            self._last = None
            self._last = (index, self._read(index))
        return self._last[1]


class Stopped(Exception):
    """A run that was asked to stop and did so between two segments.

    - `done`, `total`: segments that are kept, and all.
    """

    def __init__(self, done: int, total: int):
        self.done = done
        self.total = total
        super().__init__(f"{done} of {total} segments are done")


class PartDone(Exception):
    """This process has done its part of a run; the first one has the result."""


class StopAsked(Protocol):
    """Who can ask a run to stop."""

    def asked(self) -> bool:
        """Whether it shall stop at once."""
        ...

    def late(self) -> bool:
        """Whether there is no time for one more segment."""
        ...

    def guard(self) -> contextlib.AbstractContextManager[None]:
        """What surrounds a segment, which is finished before the run stops."""
        ...


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Where the segments of a run are kept, who computes which, and who may stop it.

    - `folder`: kept segments.
    - `processes`: those that share the run, and see the folder.
    - `stop`: asked between segments; `None`: nobody stops the run.
    - `stays`: whether arrays that are large are left in the segments, as
      [`KeptRows`][simkit.segments.KeptRows], for an owner who writes them out from there.
    - `notify`: told of damaged segments, in a sentence.
    """

    folder: RunFolder
    processes: Processes = ALONE
    stop: StopAsked | None = None
    stays: bool = False
    notify: Callable[[str], None] = lambda sentence: warnings.warn(sentence, stacklevel=2)


@contextlib.contextmanager
def kept_in(
    place: Checkpoint | str | os.PathLike[str] | None,
    system: Any,
    facts: Callable[[], dict[str, Any]],
) -> Iterator[Checkpoint | None]:
    """The checkpoint of a run.

    **Arguments:**

    - `place`: a folder, from which a run with the same `facts` goes on, and which is taken
      away at the end; or a checkpoint, whose owner does that.
    - `system`: what is simulated.

    **Raises:** `RunRefused` if the folder belongs to another run.
    """
    if place is None:
        yield None
        return
    if isinstance(place, Checkpoint):
        place.folder.confirm(live_facts(system))
        yield place
        return
    with begin(place, facts(), resume=True) as folder:
        folder.confirm(live_facts(system))
        yield Checkpoint(folder)
        folder.remove()


def default_segment(rows: int, least: int, row_bytes: int = 0) -> int:
    """Rows of a segment where nobody says how many; `row_bytes` is what one row comes to."""
    fitting = SEGMENT_BYTES // row_bytes if row_bytes else rows
    return min(max(least, math.ceil(rows / MOST_SEGMENTS)), max(FEWEST, fitting))


def compute_in_segments(
    compute: Callable[[np.ndarray], Rows],
    rows: int,
    segment: int,
    what: str,
    checkpoint: Checkpoint | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Compute all rows, segment by segment.

    **Arguments:**

    - `compute`: from the numbers of the rows of a segment to their arrays. Each segment
      has the same size; the last is filled up with copies of the last row.
    - `rows`: how many there are.
    - `segment`: how many a segment has.
    - `what`: the rows in a word, for `progress`, which counts them.
    - `checkpoint`: where segments are kept; those that are there are not computed again.

    **Returns:** the arrays of all rows; a large one of a checkpoint with `stays` as
    `KeptRows`.

    **Raises:** `Stopped` if asked to stop; `PartDone` in every process but the first;
    `OSError` if a segment cannot be kept.
    """
    grid = _Grid(rows, min(segment, rows))
    progress = progress or silent
    if checkpoint is None:
        return _joined(grid, _computed(compute, grid, what, progress))
    checkpoint.folder.confirm({"rows": {what: rows, "segment": grid.size}})
    _compute_own(compute, grid, what, checkpoint, progress)
    _wait_for_others(checkpoint)
    done = len(checkpoint.folder.finished())
    processes, stop = checkpoint.processes, checkpoint.stop
    if processes.asked_to_stop() or (stop is not None and stop.asked()):
        processes.ask_to_stop()
        raise Stopped(done, grid.count)
    if not processes.is_first:
        raise PartDone
    if done < grid.count:
        raise Stopped(done, grid.count)
    return _joined(grid, _kept(compute, grid, checkpoint), checkpoint)


@dataclasses.dataclass(frozen=True)
class _Grid:
    """Rows cut into segments of one size."""

    rows: int
    size: int

    @property
    def count(self) -> int:
        return math.ceil(self.rows / self.size)

    def padded(self, index: int) -> np.ndarray:
        """The rows of a segment, the last one repeated where there are no more."""
        first = index * self.size
        return np.minimum(np.arange(first, first + self.size), self.rows - 1)

    def place(self, index: int) -> slice:
        return slice(index * self.size, min((index + 1) * self.size, self.rows))

    def trimmed(self, index: int, arrays: Rows) -> Rows:
        place = self.place(index)
        return {name: array[: place.stop - place.start] for name, array in arrays.items()}

    def done(self, segments: int) -> int:
        return min(segments * self.size, self.rows)


def _computed(
    compute: Callable[[np.ndarray], Rows], grid: _Grid, what: str, progress: Progress
) -> Iterator[Rows]:
    for index in range(grid.count):
        yield grid.trimmed(index, compute(grid.padded(index)))
        progress(grid.done(index + 1), grid.rows, what)


def _compute_own(
    compute: Callable[[np.ndarray], Rows],
    grid: _Grid,
    what: str,
    checkpoint: Checkpoint,
    progress: Progress,
) -> None:
    """Compute and keep the missing segments of this process."""
    folder, processes, stop = checkpoint.folder, checkpoint.processes, checkpoint.stop
    there = _first_says(checkpoint, grid)
    # Dealt out like cards: the rows of neighbouring segments may be alike in cost.
    missing = np.flatnonzero(~there)[processes.index :: processes.count]
    progress(grid.done(int(np.sum(there))), grid.rows, what)
    for index in missing.tolist():
        if processes.asked_to_stop() or (stop is not None and (stop.asked() or stop.late())):
            processes.ask_to_stop()
            return
        with stop.guard() if stop is not None else contextlib.nullcontext():
            folder.write(index, grid.trimmed(index, compute(grid.padded(index))))
        progress(grid.done(len(folder.finished())), grid.rows, what)


def _first_says(checkpoint: Checkpoint, grid: _Grid) -> np.ndarray:
    """Which segments are there, as the first process sees it."""
    there = np.zeros(grid.count, dtype=bool)
    if checkpoint.processes.is_first:
        there[sorted(checkpoint.folder.finished(checkpoint.notify))] = True
    return np.frombuffer(checkpoint.processes.share(there.tobytes()), dtype=bool)


def _wait_for_others(checkpoint: Checkpoint) -> None:
    """The first waits here; the others when they leave the run."""
    if not checkpoint.processes.is_first:
        return
    stop = checkpoint.stop
    with stop.guard() if stop is not None else contextlib.nullcontext():
        while not checkpoint.processes.wait_for_others(0.2):
            if stop is not None and stop.asked():
                checkpoint.processes.ask_to_stop()


def _kept(
    compute: Callable[[np.ndarray], Rows], grid: _Grid, checkpoint: Checkpoint
) -> Iterator[Rows]:
    """The kept segments in order; one that was harmed meanwhile is computed again."""
    for index in range(grid.count):
        try:
            yield checkpoint.folder.read(index)
        except StoreError as error:
            checkpoint.notify(f"{error} It is computed again.")
            arrays = grid.trimmed(index, compute(grid.padded(index)))
            checkpoint.folder.write(index, arrays)
            yield arrays


def _joined(
    grid: _Grid, parts: Iterator[Rows], checkpoint: Checkpoint | None = None
) -> dict[str, Any]:
    """All rows as one array of each name; at no time are there two copies of all."""
    stays_on_disk = checkpoint is not None and checkpoint.stays
    if grid.count == 1 and not stays_on_disk:
        (only,) = parts
        return only
    whole: dict[str, Any] = {}
    for index, part in enumerate(parts):
        for name, array in part.items():
            if name not in whole:
                shape = (grid.rows, *array.shape[1:])
                # Those of members over time alone: what there is once for each row is small.
                size = math.prod(shape) * array.dtype.itemsize
                large = len(shape) > 2 and size > IN_MEMORY
                if checkpoint is not None and stays_on_disk and large:
                    whole[name] = _left(checkpoint.folder, name, shape, array.dtype, grid.size)
                else:
                    whole[name] = np.empty(shape, array.dtype)
            if isinstance(whole[name], np.ndarray):
                whole[name][grid.place(index)] = array
    return whole


def _left(
    folder: RunFolder, name: str, shape: tuple[int, ...], dtype: np.dtype, size: int
) -> KeptRows:
    return KeptRows(shape, dtype, size, lambda index: folder.read(index)[name])
