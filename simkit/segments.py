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
from solvers.distributed import ALONE, Processes


MOST_SEGMENTS = 32
"""Into so many segments a run is cut where nobody says how."""

Rows = dict[str, np.ndarray]
"""Arrays by name with the rows in front."""


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
    - `notify`: told of damaged segments, in a sentence.
    """

    folder: RunFolder
    processes: Processes = ALONE
    stop: StopAsked | None = None
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


def default_segment(rows: int, least: int) -> int:
    """Rows of a segment where nobody says how many."""
    return max(least, math.ceil(rows / MOST_SEGMENTS))


def compute_in_segments(
    compute: Callable[[np.ndarray], Rows],
    rows: int,
    segment: int,
    what: str,
    checkpoint: Checkpoint | None = None,
    progress: Progress | None = None,
) -> Rows:
    """Compute all rows, segment by segment.

    **Arguments:**

    - `compute`: from the numbers of the rows of a segment to their arrays. Each segment
      has the same size; the last is filled up with copies of the last row.
    - `rows`: how many there are.
    - `segment`: how many a segment has.
    - `what`: the rows in a word, for `progress`, which counts them.
    - `checkpoint`: where segments are kept; those that are there are not computed again.

    **Returns:** the arrays of all rows.

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
    return _joined(grid, _kept(compute, grid, checkpoint))


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


def _joined(grid: _Grid, parts: Iterator[Rows]) -> Rows:
    """All rows as one array of each name; at no time are there two copies of all."""
    if grid.count == 1:
        (only,) = parts
        return only
    whole: Rows = {}
    for index, part in enumerate(parts):
        for name, array in part.items():
            if name not in whole:
                whole[name] = np.empty((grid.rows, *array.shape[1:]), array.dtype)
            whole[name][grid.place(index)] = array
    return whole
