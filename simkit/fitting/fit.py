"""From a case or a posterior to fitted parameters."""

import contextlib
import dataclasses
import os
from datetime import UTC, datetime
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from simkit.config.optimisers import OPTIMISERS
from simkit.config.reader import LoadedCase, read_case, resolved_json
from simkit.config.schema import FitTable
from simkit.engines import asked_for
from simkit.fitting.assembly import posterior_from_case
from simkit.fitting.curvature import Optimum, hessian_obstacle, refine
from simkit.fitting.optimisation import build_optimiser, choose_method
from simkit.fitting.parameters import Parameters
from simkit.fitting.posterior import Posterior
from simkit.fitting.segments import StartWork, run_in_segments
from simkit.fitting.starts import StartOutcome
from simkit.fitting.tables import assemble_fit, rank_starts
from simkit.identity import case_facts, object_facts
from simkit.precision import use_double_precision
from simkit.progress import Progress
from simkit.provenance import collect
from simkit.results import Fit
from simkit.segments import Checkpoint, kept_in


def fit(
    subject: LoadedCase | Posterior | str,
    *,
    options: FitTable | None = None,
    title: str | None = None,
    time_unit: str = "1",
    progress: Progress | None = None,
    checkpoint: Checkpoint | str | os.PathLike[str] | None = None,
    mesh: Mesh | None = None,
) -> Fit:
    """Fit the free parameters to the measurements, from many starts.

    **Arguments:**

    - `subject`: a case, the path of a case file, or a
      [`Posterior`][simkit.fitting.posterior.Posterior] built in Python.
    - `options`: for a posterior: method, its options, starts, seed, max_steps,
      segment, and an engine where it shall not be that of the posterior.
    - `title`, `time_unit`: for a posterior: what tables and pictures say.
    - `progress`: called between segments of starts.
    - `checkpoint`: a folder in which finished segments are kept until the end: the same
      call goes on from there after the process was ended, and gives the same bits.
    - `mesh`: devices over which the starts of a segment are spread, as from
      [`make_mesh`][solvers.sharding.make_mesh].

    **Returns:** the fit at the best of the starts that converged. A start whose solve
    failed, or that stopped short, is told in `fit.starts` and never ranked; if none
    converged, `fit.status` says so. What solved the equation, and why that, stands in
    `fit.engine` and `fit.engine_reason`. Double precision is switched on.

    **Raises:** `CaseError` for a broken case, `ValueError` for options given beside one,
    an unknown method or option, a method that the noise models do not allow, an engine
    that cannot serve, or a checkpoint of another run.

    The optimum is that of the posterior density of the parameters in their own units,
    so it does not depend on the scale on which the optimiser moves.
    """
    use_double_precision()
    started = datetime.now(UTC)
    if isinstance(subject, str):
        subject = read_case(subject)
    if isinstance(subject, LoadedCase):
        if options is not None or title is not None or time_unit != "1":
            raise ValueError(
                "fit: a case says its own options, title and time unit; give them for a "
                "posterior alone, or override keys where the case is read."
            )
        case = subject.case
        posterior = posterior_from_case(subject)
        options = case.fit or FitTable()
        title, time_unit = case.title, case.times.unit
        collected = ("simkit fit", subject.text, resolved_json(case))
    else:
        posterior, options = subject, options or FitTable()
        if options.engine != "auto":
            posterior = dataclasses.replace(posterior, engine=options.engine)
        collected = ("simkit.fit", "", "{}")
    choice = _choose(posterior, options)

    def facts() -> dict[str, Any]:
        if isinstance(subject, LoadedCase):
            return case_facts("fit", subject)
        return object_facts("fit", posterior, repr(options))

    refusing = contextlib.nullcontext()
    if isinstance(subject, LoadedCase):
        refusing = asked_for(options.engine, "fit.engine", subject)
    with refusing, kept_in(checkpoint, posterior.system, facts) as kept:
        initial = np.asarray(_draw(posterior.parameters, options.seed, options.starts))
        work = StartWork(
            posterior, initial, options.max_steps, choice.least_squares, choice.optimiser, mesh
        )
        outcome = run_in_segments(work, options.segment, kept, progress)
        starts = rank_starts(posterior, initial, outcome)
        best = int(np.flatnonzero(starts.rank == 0)[0]) if np.any(starts.rank == 0) else None
        result = assemble_fit(
            posterior,
            _optimum(posterior, outcome, best),
            starts,
            title=title or type(posterior.system).__name__,
            method=choice.name,
            reason=choice.reason,
            converged=best is not None,
            time_unit=time_unit,
            provenance=collect(*collected, options.seed, started),
        )
    return dataclasses.replace(result, memory=posterior)


@dataclasses.dataclass(frozen=True)
class _Choice:
    """An optimiser, what it is called, and why it was taken.

    - `least_squares`: whether it moves on the residuals.
    - `optimiser`: `None` for optimistix' own.
    """

    name: str
    reason: str
    least_squares: bool
    optimiser: Any = None


def _choose(posterior: Posterior, options: FitTable) -> _Choice:
    """The optimiser that the case names, or the one that suits the objective."""
    optimiser = build_optimiser(options)
    method, obstacle = options.method, posterior.least_squares_obstacle()
    reason = "asked for by the case"
    if optimiser is not None:
        reason = f"{reason}: {OPTIMISERS[method].purpose}"
    if method == "auto":
        method, reason = choose_method(posterior)
        optimiser = build_optimiser(FitTable(method=method, seed=options.seed))
    known = OPTIMISERS[method]
    if known.squares and obstacle is not None:
        raise ValueError(
            f"fit.method is '{method}', but {obstacle}; expected 'auto', 'minimise' or "
            "'trust_region_newton'."
        )
    return _Choice(known.name, reason, known.squares, optimiser)


@eqx.filter_jit
def _draw(parameters: Parameters, seed: int, starts: int) -> Array:
    """As one program: done eagerly, each operation would be compiled for itself."""
    return parameters.draw_starts(jax.random.key(seed), starts)


def _optimum(posterior: Posterior, outcome: StartOutcome, best: int | None) -> Optimum:
    """The best start refined to rounding, or the least bad one as it stands."""
    steps = 40 if best is not None else 1
    if best is None:
        objective = np.where(np.isfinite(outcome.objective), outcome.objective, np.inf)
        best = int(np.argmin(objective))
    x = jnp.asarray(outcome.x[best])
    if hessian_obstacle(posterior) is not None:
        return Optimum(
            x,
            jnp.asarray(outcome.objective[best]),
            jnp.asarray(outcome.gradient[best]),
            jnp.full((x.size, x.size), jnp.nan),
        )
    return refine(posterior, x, 0.0, max_steps=steps)
