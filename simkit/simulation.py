"""From a system or a case to a trajectory or an ensemble of them."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import ArrayLike

from simkit.config.reader import LoadedCase, read_case, resolved_json
from simkit.config.schema import Distribution, EnsembleTable
from simkit.distributions import quantile
from simkit.engines import asked_for
from simkit.experiment import Experiment, experiment_from_case
from simkit.identity import case_facts, object_facts
from simkit.members import Served, solve_members, solve_once, statistics_of
from simkit.precision import use_double_precision
from simkit.progress import Progress
from simkit.provenance import collect
from simkit.results import Trajectory
from simkit.segments import Checkpoint, KeptRows, kept_in
from simkit.stored import StoredArray
from solvers.ensemble.choice import check_engine
from solvers.integrators.base import AbstractMethod
from solvers.integrators.deterministic import Tsit5
from solvers.problem import InitialValueProblem
from solvers.solution import status_names
from systems.base import (
    AbstractSystem,
    get_parameter,
    parameter_declarations,
    state_names,
)


def simulate(
    subject: AbstractSystem | LoadedCase | str | os.PathLike[str],
    *,
    times: ArrayLike | Sequence[float] | None = None,
    start: float | None = None,
    method: AbstractMethod | None = None,
    initial_state: Mapping[str, float] | None = None,
    inputs: Mapping[str, float] | None = None,
    parameters: Mapping[str, ArrayLike | Sequence[float]] | None = None,
    initial_states: Mapping[str, ArrayLike | Sequence[float]] | None = None,
    members: int | None = None,
    seed: int = 0,
    engine: str | None = None,
    segment: int | None = None,
    title: str | None = None,
    time_unit: str = "1",
    progress: Progress | None = None,
    checkpoint: Checkpoint | str | os.PathLike[str] | None = None,
    mesh: Mesh | None = None,
) -> Trajectory:
    """Simulate a system, or what a case describes.

    **Arguments:**

    - `subject`: a system; or a case, or the path of a case file, which then says all
      the rest but `progress`, `checkpoint` and `mesh`.
    - `times`: times to save, increasing; the last ends the simulation.
    - `start`: time of the initial state; default: the first of `times`.
    - `method`: default: `Tsit5()`, for equations that are not stiff.
    - `initial_state`, `inputs`: by name; the system's own stand where left out.
    - `parameters`, `initial_states`: by name, one value per member of an ensemble.
    - `members`: how many, for a stochastic ensemble in which only the noise varies.
    - `seed`: of the noise. Member `i` depends on the seed and `i` alone.
    - `engine`: what solves an ensemble: `"native"`, `"lanes"`, `"diffrax"`, or, the default,
      `"auto"`, the fastest that can serve. The result says in `engine` and `engine_reason`
      which and why.
    - `segment`: members that are solved at once, and kept together; default: a 32nd of
      them, but at least 256.
    - `progress`: called between segments.
    - `checkpoint`: a folder in which finished segments are kept until the end: the same
      call goes on from there after the process was ended, and gives the same bits.
    - `mesh`: devices over which the members of a segment are spread, as from
      [`make_mesh`][solvers.sharding.make_mesh].

    **Returns:** the trajectory; a solve that fails is told in its `status` and leaves
    NaN from there on. Double precision is switched on.

    **Raises:** `ValueError` for what does not fit together, an engine that cannot serve, or a
    checkpoint of another run; `CaseError` for a broken case.

    ```python
    import numpy as np
    import simkit as sk

    trajectory = sk.simulate(sk.systems.LotkaVolterra(), times=np.linspace(0, 20, 101))
    trajectory.states["prey"]
    ```
    """
    use_double_precision()
    started = datetime.now(UTC)
    if isinstance(subject, str | os.PathLike):
        subject = read_case(subject)
    if isinstance(subject, LoadedCase):
        _refuse_beside_a_case(
            times=times,
            start=start,
            method=method,
            initial_state=initial_state,
            inputs=inputs,
            parameters=parameters,
            initial_states=initial_states,
            members=members,
            engine=engine,
            segment=segment,
            title=title,
        )
        how = _How(progress, checkpoint, mesh, lambda: case_facts("simulate", subject))
        return _simulate_case(subject, how, started)
    if not isinstance(subject, AbstractSystem):
        raise TypeError(
            f"simulate: the subject is of type {type(subject).__name__}, expected a system, "
            "a case that was read, or the path of a case file."
        )
    saved = _saved_times(times, start)
    begin = float(saved[0]) if start is None else start
    experiment = Experiment(
        subject, method or Tsit5(), begin, saved, initial_state or {}, inputs or {}, time_unit
    )
    varied = {
        name: np.asarray(value, dtype=float) for name, value in (parameters or {}).items()
    }
    _check_values(subject, varied)
    states = {k: np.asarray(v, dtype=float) for k, v in (initial_states or {}).items()}
    if engine is not None:
        _check_engine(engine, bool(varied or states) or members is not None)
    given = (experiment, varied, states, members, seed, engine or "auto")
    how = _How(
        progress,
        checkpoint,
        mesh,
        lambda: object_facts("simulate", vars(experiment), given[1:]),
    )
    result = _run(*given, segment, how)
    return dataclasses.replace(
        result,
        title=title or type(subject).__name__,
        provenance=collect("simkit.simulate", "", "{}", seed, started),
    )


def _refuse_beside_a_case(**given: Any) -> None:
    """Raise `ValueError` if anything is given that the case says itself."""
    names = [name for name, value in given.items() if value is not None]
    if names:
        raise ValueError(
            f"simulate: `{names[0]}` is given beside a case, which says it itself; "
            "override its keys where it is read."
        )


def _saved_times(times: ArrayLike | Sequence[float] | None, start: float | None) -> np.ndarray:
    """The times to save, shape `(times,)`; raises `ValueError` where they are none."""
    if times is None:
        raise ValueError(
            "simulate: give the times to save, e.g. times=np.linspace(0, 20, 101)."
        )
    saved = np.asarray(times, dtype=float)
    if saved.ndim != 1 or saved.size == 0 or np.any(np.diff(saved) < 0):
        raise ValueError("simulate: `times` must be increasing numbers, shape (times,).")
    if start is not None and saved[0] < start:
        raise ValueError(f"simulate: times[0] is {saved[0]:g}, before start = {start:g}.")
    return saved


@dataclasses.dataclass(frozen=True)
class _How:
    """What makes no difference to the result.

    - `facts`: what makes two runs the same.
    """

    progress: Progress | None
    checkpoint: Checkpoint | str | os.PathLike[str] | None
    mesh: Mesh | None
    facts: Callable[[], dict[str, Any]]


def _simulate_case(loaded: LoadedCase, how: _How, started: datetime) -> Trajectory:
    case, experiment = loaded.case, experiment_from_case(loaded)
    table = case.ensemble
    seed = table.seed if table else 0
    parameters, states = _draw_members(experiment.system, table) if table else ({}, {})
    engine = table.engine if table else "auto"
    with asked_for(engine, "ensemble.engine", loaded):
        result = _run(
            experiment,
            parameters,
            states,
            table.members if table else None,
            seed,
            engine,
            table.segment if table else None,
            how,
        )
    return dataclasses.replace(
        result,
        title=case.title,
        provenance=collect("simkit simulate", loaded.text, resolved_json(case), seed, started),
    )


def _check_engine(engine: str, is_ensemble: bool) -> None:
    """Raise `ValueError` for an engine that there is not, or that has no members to solve."""
    check_engine(engine)
    if not is_ensemble:
        raise ValueError(
            f"simulate: `engine` is {engine!r}, but engines solve ensembles: give `members`, "
            "`parameters` or `initial_states` too."
        )


def _check_values(system: AbstractSystem, varied: Mapping[str, np.ndarray]) -> None:
    """Values of an ensemble meet the same bounds as those of one system.

    NaN passes: such a member fails and says so.
    """
    for item in parameter_declarations(system):
        values = np.ravel(varied.get(item.name, []))
        outside = values[(values < item.lower) | (values > item.upper)]
        if outside.size:
            raise ValueError(
                f"{type(system).__name__}: parameter {item.name!r} is {outside[0]:g} in a "
                f"member, expected a number from {item.lower:g} to {item.upper:g} "
                f"(unit {item.unit})."
            )


def _draw_members(
    system: AbstractSystem, table: EnsembleTable
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Values of what varies; each quantity has a key of its own, by its place.

    The distribution of a parameter is cut to the bounds that the system declares.
    """
    key = jax.random.key(table.seed)
    bounds = {item.name: (item.lower, item.upper) for item in parameter_declarations(system)}
    names = [("parameters", name) for name in table.parameters]
    names += [("initial_state", name) for name in table.initial_state]
    drawn: dict[str, dict[str, Any]] = {"parameters": {}, "initial_state": {}}
    for place, (kind, name) in enumerate(names):
        # Offset by one, so that the noise of the members has a branch of its own.
        branch = jax.random.fold_in(key, place + 1)
        lower, upper = bounds[name] if kind == "parameters" else (-np.inf, np.inf)
        values = _draw(getattr(table, kind)[name], branch, table.members, lower, upper)
        drawn[kind][name] = np.asarray(values)
    return drawn["parameters"], drawn["initial_state"]


@eqx.filter_jit
def _draw(
    distribution: Distribution, key: jax.Array, members: int, lower: float, upper: float
) -> jax.Array:
    uniform = jax.random.uniform(key, (members,), minval=1e-16)
    return quantile(distribution, uniform, lower, upper)


def _run(
    experiment: Experiment,
    parameters: Mapping[str, np.ndarray],
    states: Mapping[str, np.ndarray],
    members: int | None,
    seed: int,
    engine: str,
    segment: int | None,
    how: _How,
) -> Trajectory:
    served = Served()
    with kept_in(how.checkpoint, experiment.system, how.facts) as checkpoint:
        if not parameters and not states and members is None:
            found = solve_once(experiment, seed, checkpoint)
        else:
            found, served = solve_members(
                experiment,
                parameters,
                _initial_states(experiment.problem(), states),
                members,
                seed,
                engine=engine,
                segment=segment,
                mesh=how.mesh,
                checkpoint=checkpoint,
                progress=how.progress,
            )
    return _label(experiment, found, parameters, served)


def _initial_states(
    problem: InitialValueProblem, states: Mapping[str, np.ndarray]
) -> np.ndarray | None:
    if not states:
        return None
    names = state_names(problem.system)
    unknown = sorted(set(states) - set(names))
    if unknown:
        raise ValueError(f"There is no state {unknown[0]!r}; there are {list(names)}.")
    sizes = {value.shape for value in states.values()}
    if len(sizes) > 1 or len(next(iter(sizes))) != 1:
        raise ValueError(
            f"`initial_states` have shapes {sorted(sizes)}, expected one (members,)."
        )
    base = np.asarray(problem.initial_state)
    columns = [
        states.get(name, np.full(next(iter(sizes)), base[i])) for i, name in enumerate(names)
    ]
    return np.stack(columns, axis=1)


def _label(
    experiment: Experiment,
    found: Mapping[str, Any],
    varied: Mapping[str, np.ndarray],
    served: Served,
) -> Trajectory:
    system, values = experiment.system, found["states"]
    declared = [item for item in parameter_declarations(system) if item.size == 1]
    return Trajectory(
        title=type(system).__name__,
        system=type(system).__name__,
        method=type(experiment.method).__name__,
        times=np.asarray(experiment.times),
        states={state.name: _column(values, i) for i, state in enumerate(system.states)},
        status=_status(found["status"]),
        parameters={
            item.name: np.asarray(
                varied.get(item.name, get_parameter(system, item.name)), float
            )
            for item in declared
        },
        statistics=statistics_of(found),
        state_units={state.name: state.unit for state in system.states},
        parameter_units={item.name: item.unit for item in declared},
        time_unit=experiment.time_unit,
        engine=served.engine,
        engine_reason=served.reason,
    )


def _column(values: np.ndarray | KeptRows, index: int) -> Any:
    """One of the states of shape `(member, time, state)`."""
    if not isinstance(values, KeptRows):
        return values[..., index]
    members, times, _ = values.shape

    def read(rows: slice, at: slice) -> np.ndarray:
        return values.part(rows)[:, at, index]

    return StoredArray((members, times), values.dtype, (values.size, times), read)


def _status(numbers: np.ndarray) -> np.ndarray:
    """Numbers as texts, which are only as wide as those that occur."""
    occurring, places = np.unique(numbers, return_inverse=True)
    names = status_names()
    return np.array([names[number] for number in occurring])[places.reshape(numbers.shape)]
