"""The starts of a fit, run in segments."""

import dataclasses
from typing import Any

import equinox as eqx
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from simkit.fitting.posterior import Posterior
from simkit.fitting.starts import StartOutcome, run_starts
from simkit.progress import Progress
from simkit.segments import Checkpoint, Rows, compute_in_segments, default_segment
from solvers.optimisers.base import STOP


LEAST_SEGMENT = 8
"""So many starts are run together where nobody says how many: enough for the devices of one
machine, and few enough that little is lost with a segment."""


@dataclasses.dataclass(frozen=True)
class StartWork:
    """What is to be done with the starts of a fit.

    - `initial`: where they begin, on the optimiser's scale.
    - `max_steps`, `least_squares`, `optimiser`: as in
      [`run_starts`][simkit.fitting.starts.run_starts].
    - `mesh`: devices over which they are spread.
    """

    posterior: Posterior
    initial: Float[np.ndarray, "starts parameters"]
    max_steps: int
    least_squares: bool
    optimiser: Any = None
    mesh: Mesh | None = None


def run_in_segments(
    work: StartWork,
    segment: int | None = None,
    checkpoint: Checkpoint | None = None,
    progress: Progress | None = None,
) -> StartOutcome:
    """Run all starts, segment by segment.

    **Arguments:**

    - `segment`: starts of a segment; default: a 32nd of them, but at least
      `LEAST_SEGMENT`.
    - `checkpoint`, `progress`: as in
      [`compute_in_segments`][simkit.segments.compute_in_segments], which says also what
      is raised.

    **Returns:** what became of each start, as numpy arrays.
    """
    starts = len(work.initial)
    # With others at work nobody could say how many have ended while a segment is run.
    alone = checkpoint is None or checkpoint.processes.count == 1

    def compute(rows: np.ndarray) -> Rows:
        outcome = run_starts(
            work.posterior,
            work.initial[rows],
            work.max_steps,
            work.least_squares,
            work.optimiser,
            mesh=work.mesh,
            progress=_further(progress, int(rows[0]), starts) if alone else None,
        )
        return _to_arrays(outcome)

    size = segment or default_segment(starts, LEAST_SEGMENT)
    rows = compute_in_segments(compute, starts, size, "starts", checkpoint, progress)
    return _from_arrays(rows)


def _further(progress: Progress | None, before: int, starts: int) -> Progress | None:
    """Progress within a segment, of which others came before."""
    if progress is None:
        return None
    return lambda done, total, message: progress(min(before + done, starts), starts, message)


def _to_arrays(outcome: StartOutcome) -> Rows:
    values = {field.name: getattr(outcome, field.name) for field in dataclasses.fields(outcome)}
    values["stop"] = outcome.stop._value
    return {name: np.asarray(value) for name, value in values.items()}


def _from_arrays(rows: Rows) -> StartOutcome:
    stop = eqx.tree_at(lambda item: item._value, STOP.running, rows["stop"])
    return StartOutcome(**{**rows, "stop": stop})
