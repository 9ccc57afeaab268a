"""The members of an ensemble, solved in segments: on one device, many, or several processes."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray

from simkit.experiment import Experiment
from simkit.progress import Progress
from simkit.segments import Checkpoint, Rows, compute_in_segments, default_segment
from solvers.ensemble.members import count_members, ensemble
from solvers.integrators.base import AbstractMethod
from solvers.per_shard import Kind, evaluate
from solvers.problem import InitialValueProblem, is_stochastic
from solvers.sharding import pad_rows, row_layout
from solvers.solution import Solution
from solvers.solve import solve


LEAST_SEGMENT = 256
"""So many members are solved at once where nobody says how many: fewer would leave
vector units idle, and compute no sooner."""

_STATISTICS = "statistics/"
_DOUBLE = 8


class Served(NamedTuple):
    """Which engine solved the members, and why that; `""` for one solve."""

    engine: str = ""
    reason: str = ""


def solve_once(experiment: Experiment, seed: int, checkpoint: Checkpoint | None) -> Rows:
    """One solve; the arrays of [`solve_members`][simkit.members.solve_members] without
    the axis of members.
    """  # noqa: D205

    def compute(rows: np.ndarray) -> Rows:
        del rows
        problem = experiment.problem()
        solution = solve(
            problem,
            experiment.method,
            save_at=experiment.times,
            key=_key(problem, seed),
            throw=False,
        )
        return {name: array[None] for name, array in _to_arrays(solution).items()}

    found = compute_in_segments(compute, 1, 1, "solves", checkpoint)
    return {name: array[0] for name, array in found.items()}


def solve_members(
    experiment: Experiment,
    parameters: Mapping[str, np.ndarray],
    initial_states: np.ndarray | None,
    members: int | None,
    seed: int,
    *,
    engine: str = "auto",
    segment: int | None = None,
    mesh: Mesh | None = None,
    checkpoint: Checkpoint | None = None,
    progress: Progress | None = None,
) -> tuple[dict[str, Any], Served]:
    """Solve all members, segment by segment.

    **Arguments:**

    - `parameters`, `initial_states`: what varies, with members in front.
    - `members`: how many, for an ensemble in which only the noise varies.
    - `seed`: of the noise; member `i` depends on it and `i` alone.
    - `engine`: as of [`ensemble`][solvers.ensemble.members.ensemble].
    - `segment`: members of a segment; default: a 32nd of them, but at least
      `LEAST_SEGMENT`, and fewer where their states come to more than 64 MiB.
    - `mesh`: devices over which the members of a segment are spread.
    - `checkpoint`, `progress`: as in
      [`compute_in_segments`][simkit.segments.compute_in_segments].

    **Returns:** `states` of shape `(member, time, state)`, which may stay in the segments
    (`KeptRows`), `status` as numbers, and `statistics/NAME`; and what solved them.

    **Raises:** `ValueError` if the sizes disagree; `EngineRefusal` if an engine asked for by
    name cannot serve; `RunRefused` if another engine solved the segments that are kept; and
    what `compute_in_segments` raises.
    """
    problem = experiment.problem()
    count = count_members(problem, parameters, initial_states, members)
    row_bytes = np.size(experiment.times) * np.size(problem.initial_state) * _DOUBLE
    if segment is not None and segment < 1:
        raise ValueError(f"`segment` is {segment}, expected a number of at least 1.")
    key = _key(problem, seed)
    served = Served()

    def compute(rows: np.ndarray) -> Rows:
        nonlocal served
        part = {name: values[rows] for name, values in parameters.items()}
        states = None if initial_states is None else initial_states[rows]
        shared = (problem, experiment.method, key, engine, experiment.times)
        if mesh is None:
            solution = _solve(*shared, (rows, part, states))
        else:
            solution = _solve_on_mesh(*shared, (rows, part, states), mesh)
        served = _keep_served(Served(solution.engine, solution.engine_reason), checkpoint)
        return _to_arrays(solution)

    size = segment or default_segment(count, LEAST_SEGMENT, row_bytes)
    found = compute_in_segments(compute, count, size, "members", checkpoint, progress)
    return found, served if checkpoint is None else _kept_served(checkpoint)


def _keep_served(served: Served, checkpoint: Checkpoint | None) -> Served:
    """Keep what serves beside the segments, which hold numbers alone.

    It is a fact of the run, as its bits depend on it: `auto` may choose another engine where
    the run goes on. The reason may be worded otherwise there, and is that of the first.
    """
    if checkpoint is None:
        return served
    reason = checkpoint.folder.fact("engine_reason") or served.reason
    checkpoint.folder.confirm({"engine": served.engine, "engine_reason": reason})
    return Served(served.engine, reason)


def _kept_served(checkpoint: Checkpoint) -> Served:
    fact = checkpoint.folder.fact
    return Served(fact("engine") or "", fact("engine_reason") or "")


def _key(problem: InitialValueProblem, seed: int) -> PRNGKeyArray | None:
    return jax.random.fold_in(jax.random.key(seed), 0) if is_stochastic(problem) else None


def _solve(
    problem: InitialValueProblem,
    method: AbstractMethod,
    key: PRNGKeyArray | None,
    engine: str,
    times: Any,
    members: tuple[Any, Mapping[str, Any], Any],
) -> Solution:
    """Members by their numbers, which follow each other, their parameters and states."""
    numbers, parameters, states = members
    return ensemble(
        problem,
        method,
        parameters=parameters,
        initial_states=states,
        key=key,
        members=numbers.shape[0],
        first=numbers[0],
        save_at=times,
        engine=engine,
    )


@eqx.filter_jit
def _solve_on_mesh(
    problem: InitialValueProblem,
    method: AbstractMethod,
    key: PRNGKeyArray | None,
    engine: str,
    times: Any,
    members: Any,
    mesh: Mesh,
) -> Solution:
    """The same with the members spread over devices, none of which waits for another."""
    count = members[0].shape[0]

    def local(common: Any, some: Any) -> Solution:
        del common
        return _solve(problem, method, key, engine, times, some)

    rows = pad_rows(members, mesh).values
    found = evaluate(local, row_layout(mesh), (), rows, Kind.ROWS)
    return jax.tree.map(lambda leaf: leaf[:count], found)


def _to_arrays(solution: Solution) -> Rows:
    counts = {_STATISTICS + name: count for name, count in solution.statistics.items()}
    arrays = {"states": solution.states, "status": solution.status._value, **counts}
    return {name: np.asarray(array) for name, array in arrays.items()}


def statistics_of(rows: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The counts of the solver by name."""
    return {
        name.removeprefix(_STATISTICS): array
        for name, array in rows.items()
        if name.startswith(_STATISTICS)
    }
