"""The numbers of a fit as labelled tables, and warnings in plain words."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from simkit.fitting.curvature import Optimum, hessian_obstacle
from simkit.fitting.posterior import Posterior, over_groups
from simkit.fitting.starts import GRADIENT_TOLERANCE, StartOutcome
from simkit.results import (
    CurveTable,
    DerivedTable,
    Fit,
    ObservationTable,
    ParameterTable,
    Provenance,
    StartTable,
)
from solvers.optimisers.base import stop_names


INFORMATION_TOLERANCE = 1e-8
"""Where the measurements tell less than this about every parameter, a start is stuck: even
steps of many units, factors of e on a log scale, change nothing."""

CURVE_POINTS = 121

_OUT_OF_STEPS = "stopped after the allowed number of steps"

_NOT_CONVERGED = {
    "running": _OUT_OF_STEPS,
    "stalled": "stalled where no step lowers the objective",
    "flat": "stopped where the objective is flat",
    "unbounded": "the objective falls without limit",
    "nonfinite_start": "the gradient is not finite",
    "abandoned": "given up early, far behind the others",
    "false_convergence": "stopped where the gradient is not zero",
}
"""What optimisers with reasons to stop say of a start that they did not bring to an end."""


def rank_starts(posterior: Posterior, initial: np.ndarray, outcome: StartOutcome) -> StartTable:
    """Tell converged starts from the others, and rank those by their objective."""
    statuses = np.array([_status(posterior, outcome, i) for i in range(len(initial))])
    converged = statuses == "converged"
    objective = np.where(np.isfinite(outcome.objective), outcome.objective, np.nan)
    rank = np.full(len(initial), -1)
    order = np.argsort(np.where(converged, objective, np.inf), kind="stable")
    count = int(np.sum(converged))
    rank[order[:count]] = np.arange(count)
    natural = np.asarray(_natural(posterior, jnp.asarray(np.stack([initial, outcome.x]))))
    return StartTable(
        initial=natural[0],
        final=natural[1],
        objective=objective,
        status=statuses,
        steps=np.asarray(outcome.steps),
        rank=rank,
    )


def _status(posterior: Posterior, outcome: StartOutcome, i: int) -> str:
    if not np.isfinite(outcome.objective[i]):
        return "the solve failed"
    gradient = outcome.gradient[i]
    if not np.all(np.isfinite(gradient)):
        return "the gradient is not finite"
    moved = np.array([e.target.role != "noise" for e in posterior.parameters.entries])
    if np.any(moved) and np.all(outcome.information[i][moved] < INFORMATION_TOLERANCE):
        return "stuck where the predictions do not depend on the parameters"
    reason = stop_names()[int(outcome.stop._value[i])]
    # At a bound a parameter loses its influence, on the optimiser's scale, for good reason.
    at_bound = reason == "flat" and np.any(bounded(posterior, np.asarray(outcome.x[i])))
    if reason in _NOT_CONVERGED and not at_bound:
        return _NOT_CONVERGED[reason]
    if np.max(np.abs(gradient)) <= GRADIENT_TOLERANCE:
        return "converged"
    if reason == "nonlinear_max_steps_reached":
        return _OUT_OF_STEPS
    return "converged" if posterior.has_kinks() else "stopped where the gradient is not zero"


@eqx.filter_jit
def _natural(posterior: Posterior, x: Array) -> Array:
    return jax.vmap(jax.vmap(posterior.parameters.natural))(x)


def assemble_fit(
    posterior: Posterior,
    optimum: Optimum,
    starts: StartTable,
    *,
    title: str,
    method: str,
    reason: str,
    converged: bool,
    time_unit: str,
    provenance: Provenance,
) -> Fit:
    """Put together everything that a fit says."""
    data, entries = posterior.measurements, posterior.parameters.entries
    at_bound = bounded(posterior, np.asarray(optimum.x))
    # Where the solve failed the derivatives are zero, which says nothing.
    known = np.isfinite(optimum.objective)
    covariance, singular = covariance_of(np.where(known, optimum.hessian, np.nan), at_bound)
    grid = curve_times(posterior)
    found, (engine, engine_reason) = _facts(
        posterior, optimum.x, jnp.asarray(grid), jnp.asarray(covariance)
    )
    facts = jax.tree.map(np.asarray, found)
    estimate, slope = facts["natural"], facts["slope"]
    natural_covariance = covariance * np.outer(slope, slope)
    # A parameter at its bound has no standard error: its optimum lies beyond.
    natural_covariance[at_bound, :] = natural_covariance[:, at_bound] = np.nan
    parameters = ParameterTable(
        name=np.array([entry.label for entry in entries]),
        unit=np.array([entry.unit for entry in entries]),
        scale=np.array([entry.transform.scale for entry in entries]),
        estimate=estimate,
        standard_error=np.sqrt(np.diag(natural_covariance)),
        lower=np.array([entry.transform.lower for entry in entries]),
        upper=np.array([entry.transform.upper for entry in entries]),
        at_bound=at_bound,
    )
    return Fit(
        title=title,
        system=type(posterior.system).__name__,
        method=method,
        reason=reason,
        status="converged" if converged else "no start converged",
        objective=float(optimum.objective),
        log_likelihood=float(facts["log_likelihood"]),
        gradient_norm=float(np.max(np.abs(optimum.gradient))),
        parameters=parameters,
        covariance=natural_covariance,
        starts=starts,
        observations=_observations(posterior, facts["predicted"], facts["residuals"]),
        curves=curve_table(posterior, grid, facts["curves"]),
        derived=derived_table(posterior, facts["derived"], facts["derived_error"]),
        observable_units={item.name: item.unit for item in data.observables},
        time_unit=time_unit,
        warnings=_warnings(
            starts, parameters, singular, converged, hessian_obstacle(posterior)
        ),
        engine=engine,
        engine_reason=engine_reason,
        provenance=provenance,
    )


def bounded(posterior: Posterior, x: np.ndarray) -> np.ndarray:
    """Which parameters lie at a bound, shape `(parameters,)`."""
    values = np.asarray(_natural(posterior, jnp.asarray(x)[None, None]))[0, 0]
    pairs = zip(posterior.parameters.entries, values.tolist(), strict=True)
    return np.array([entry.transform.at_bound(value) for entry, value in pairs])


def covariance_of(hessian: np.ndarray, held: np.ndarray) -> tuple[np.ndarray, bool]:
    """Inverse of a Hessian, and whether it is not safely positive definite.

    The parameters that are `held`, at a bound, are kept there: the curvature of an
    optimum beyond the bound says nothing, so their variance is zero.

    Directions without positive curvature get an infinite variance's stand-in, the
    inverse of the smallest trusted curvature, so that nothing looks well determined.
    What can be trusted is judged with the parameters measured in their own standard
    deviations, so that one that is known very well does not make others look unknown.
    """
    if not np.all(np.isfinite(hessian)):
        return np.full(hessian.shape, np.nan), True
    covariance, free = np.zeros(hessian.shape), np.flatnonzero(~held)
    if free.size == 0:
        return covariance, False
    part = hessian[np.ix_(free, free)]
    diagonal = np.diag(part)
    unit = np.sqrt(np.maximum(diagonal, 1e-14 * np.max(np.abs(part)) or 1.0))
    values, vectors = np.linalg.eigh(part / np.outer(unit, unit))
    floor = max(1e-10 * np.max(np.abs(values)), 1e-300)
    inverse = (vectors / np.maximum(values, floor)) @ vectors.T / np.outer(unit, unit)
    covariance[np.ix_(free, free)] = inverse
    return covariance, bool(np.min(values) <= floor)


def curve_times(posterior: Posterior) -> np.ndarray:
    """Times of the smooth curves, shape `(group, point)`, from the start to the last
    measurement of each group.
    """  # noqa: D205
    stops = np.asarray(posterior.measurements.stops)
    return np.linspace(posterior.start, stops, CURVE_POINTS, axis=1)


@eqx.filter_jit
def _facts(
    posterior: Posterior, x: Array, grid: Array, covariance: Array
) -> tuple[dict[str, Array], tuple[str, str]]:
    """Numbers at the optimum; and what solved, which is known wherever a solve is traced."""
    parameters = posterior.parameters
    predicted = posterior.predictions(x)
    slope = jax.jvp(parameters.natural, (x,), (jnp.ones_like(x),))[1]
    derived = derived_values(posterior, x)
    jacobian = jax.jacfwd(lambda x: derived_values(posterior, x))(x)
    solutions = posterior.solutions(x, grid)
    facts = {
        "natural": parameters.natural(x),
        "slope": slope,
        "predicted": predicted,
        "residuals": posterior.standardised_residuals(x, predicted),
        "log_likelihood": -posterior.objective_given(x, predicted)
        - posterior.log_prior(x, 0.0),
        "curves": posterior.observed(solutions),
        "derived": derived,
        "derived_error": jnp.sqrt(jnp.einsum("di,ij,dj->d", jacobian, covariance, jacobian)),
    }
    return facts, (solutions.engine, solutions.engine_reason)


def derived_values(posterior: Posterior, x: Array) -> Array:
    """Derived quantities of the fitted system, shape `(derived,)`.

    With a value for each group they are those of every group in turn.
    """
    per_group = over_groups(lambda z: _derived_of_group(posterior, z))(
        x[posterior.slot_index()]
    )
    return per_group.ravel() if is_grouped(posterior) else per_group[0]


def _derived_of_group(posterior: Posterior, z: Array) -> Array:
    values = posterior.system_of(z).derived_quantities()
    return jnp.stack([jnp.asarray(v) for v in values.values()]) if values else jnp.zeros((0,))


def is_grouped(posterior: Posterior) -> bool:
    """Whether any parameter of the system has a value for each group."""
    return any(
        entry.group is not None and entry.target.role == "parameter"
        for entry in posterior.parameters.entries
    )


def derived_names(posterior: Posterior) -> list[str]:
    """Names that go with `derived_values`."""
    names = list(posterior.system.derived_quantities())
    if not is_grouped(posterior):
        return names
    return [f"{name}[{group}]" for group in posterior.measurements.groups for name in names]


def derived_table(posterior: Posterior, values: np.ndarray, errors: np.ndarray) -> DerivedTable:
    """The derived quantities with their standard errors."""
    names = derived_names(posterior)
    units = posterior.system.derived_units
    return DerivedTable(
        name=np.array(names, dtype=np.str_),
        unit=np.array(
            [units.get(name.partition("[")[0], "1") for name in names], dtype=np.str_
        ),
        estimate=values,
        standard_error=errors,
    )


def curve_table(posterior: Posterior, grid: np.ndarray, curves: np.ndarray) -> CurveTable:
    """Smooth curves by observable, without bands."""
    observables = posterior.measurements.observables
    return CurveTable(
        group=np.array(posterior.measurements.groups, dtype=np.str_),
        time=grid,
        fitted={item.name: curves[:, :, o] for o, item in enumerate(observables)},
        lower={},
        upper={},
        predictive_lower={},
        predictive_upper={},
        units={item.name: item.unit for item in observables},
    )


def _observations(
    posterior: Posterior, predicted: np.ndarray, residuals: np.ndarray
) -> ObservationTable:
    """One row per measurement, in order of group, observable, time."""
    data = posterior.measurements
    g, o, t = np.nonzero(np.moveaxis(np.asarray(data.present), 2, 1))
    observables = data.observables
    return ObservationTable(
        group=np.array(data.groups, dtype=np.str_)[g],
        observable=np.array([item.name for item in observables])[o],
        time=np.asarray(data.times)[g, t],
        measured=np.asarray(data.values)[g, t, o],
        predicted=predicted[g, t, o],
        residual=residuals[g, t, o],
        noise=np.array([item.noise for item in observables])[o],
    )


def _warnings(
    starts: StartTable,
    parameters: ParameterTable,
    singular: bool,
    converged: bool,
    without_hessian: str | None,
) -> tuple[str, ...]:
    found = []
    if not converged:
        found.append(
            "No start converged: the numbers are those of the least bad one, and no "
            "optimum. Try more starts, other start ranges, or more steps."
        )
    failed = {str(s): int(np.sum(starts.status == s)) for s in np.unique(starts.status)}
    failed.pop("converged", None)
    for status, count in failed.items():
        found.append(f"{count} of {len(starts.status)} starts do not count: {status}.")
    if np.sum(starts.rank >= 0) > 1 and np.sum(starts.at_best) == 1:
        found.append(
            "Only one start reached the best objective: there may be a better optimum. "
            "Try more starts."
        )
    for name in parameters.name[parameters.at_bound]:
        found.append(f"{name} lies at its bound, where it is held; it has no standard error.")
    if without_hessian is not None:
        found.append(f"There are no standard errors: {without_hessian}.")
    elif singular and converged:
        found.append(
            "The Hessian at the optimum is not safely positive definite: some combination "
            "of parameters is not determined by these data."
        )
    return tuple(found)
