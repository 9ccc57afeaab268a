"""A case tried once, before the long run: one solve, and one gradient where it is fitted."""

import dataclasses
from collections import Counter

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array

from simkit.config.errors import CaseError, described, one_line
from simkit.config.reader import LoadedCase
from simkit.engines import asked_for
from simkit.fitting.assembly import posterior_from_case
from simkit.fitting.gradient_check import GradientCheck, check_gradient, objective
from simkit.fitting.parameters import Parameters
from simkit.fitting.posterior import Posterior
from simkit.precision import use_double_precision
from simkit.progress import Progress, silent
from simkit.simulation import simulate
from solvers.solution import RESULTS, Solution, status_names


MEMBERS = 4
"""So many members of an ensemble are tried."""
POINTS = 8
"""So many points of a fit are tried until one can be solved: the case's own values, then
points drawn like starts."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """What a trial found.

    - `solves`: how many ended with which status.
    - `engine`: what solved them, `""` for one solve.
    - `gradient`: of a fit that can be solved.
    - `warnings`: what need not be wrong.
    - `failure`: what is wrong, or `""`.
    """

    solves: dict[str, int]
    engine: str = ""
    gradient: GradientCheck | None = None
    warnings: tuple[str, ...] = ()
    failure: str = ""


def try_case(loaded: LoadedCase, progress: Progress | None = None) -> Trial:
    """Solve a case once, and compare the gradient of its fit with finite differences.

    A fit is tried where the case has one, at its own values or the first of some points drawn
    like starts that can be solved; else one solve, or some members of the ensemble.

    **Raises:** `CaseError` for what can only be seen with the live classes, an engine that
    cannot serve, and a system of the user's own that cannot be traced.
    """
    use_double_precision()
    tell = progress or silent
    try:
        if loaded.case.fit is None:
            return _try_simulation(loaded, tell)
        with asked_for(loaded.case.fit.engine, "fit.engine", loaded):
            return _try_fit(posterior_from_case(loaded), loaded.case.fit.seed, tell)
    except CaseError:
        raise
    except Exception as error:
        name = loaded.case.system.type
        if ":" not in name:
            raise
        raise CaseError(
            loaded.source,
            "system.type",
            f"is {described(name)}, which cannot be solved ({_first_line(error)})",
            "a system whose law jax can trace",
        ) from error


def _try_simulation(loaded: LoadedCase, tell: Progress) -> Trial:
    tell(0, 0, "solving once")
    found = simulate(loaded.with_members(MEMBERS))
    solves = dict(Counter(np.atleast_1d(found.status).tolist()))
    failed = _failed(solves)
    which = "" if loaded.case.ensemble is None else f" of {sum(solves.values())} members"
    failure = f"the trial solve{which} failed: {failed}" if failed else ""
    return Trial(solves, found.engine, failure=failure)


def _try_fit(posterior: Posterior, seed: int, tell: Progress) -> Trial:
    tell(0, 0, "solving once")
    points = np.asarray(_draw(posterior.parameters, seed))
    finite = (k for k in range(POINTS) if np.isfinite(objective(posterior, points[k])))
    chosen = next(finite, None)
    solves, why = {"successful": len(posterior.measurements.groups)}, ""
    warnings = []
    if chosen != 0:
        solves, why = _why_not(posterior, points[0])
    engine = eqx.filter_eval_shape(_solutions, posterior, points[0]).engine
    if chosen is None:
        sentence = (
            f"at the case's own values {why}, nor can {POINTS - 1} other points be solved"
        )
        return Trial(solves, engine, failure=sentence)
    if chosen != 0:
        warnings.append(f"At the case's own values {why}; another point was looked at.")
    ranges = np.ptp(points, axis=0)
    ranges = np.where(ranges > 0, ranges, np.maximum(1.0, np.abs(points[0])))
    gradient = check_gradient(posterior, points[chosen], ranges, tell)
    unjudged = [
        name for name, ok in zip(gradient.names, gradient.judged, strict=True) if not ok
    ]
    if unjudged:
        warnings.append(
            f"The objective is too rough for finite differences to judge {_list(unjudged)}; "
            "tolerances of the method that are tighter may help."
        )
    return Trial(solves, engine, gradient, tuple(warnings), _wrong(gradient))


def _wrong(gradient: GradientCheck) -> str:
    """What is wrong with a gradient, or `""`."""
    if not np.any(gradient.wrong):
        return ""
    worst, count = gradient.worst, int(np.sum(gradient.wrong))
    others = f" ({count} of {len(gradient.names)} parameters are off)" if count > 1 else ""
    return (
        f"the gradient of the objective is wrong for {gradient.names[worst]}: it is "
        f"{gradient.gradient[worst] + 0.0:.6g}, by finite differences "
        f"{gradient.differences[worst]:.6g}{others}; a part of the law may have no derivative, "
        "or the tolerances of the method are too loose"
    )


def _why_not(posterior: Posterior, x: np.ndarray) -> tuple[dict[str, int], str]:
    """The statuses of the solves at a point where the objective is not finite, and a clause."""
    codes = np.atleast_1d(np.asarray(_statuses(posterior, x)))
    solves = dict(Counter(np.array(status_names())[codes].tolist()))
    failed = _failed(solves)
    if failed:
        return solves, f"the solve failed ({failed})"
    return solves, "the objective is not finite (the noise model cannot have such values)"


def _failed(solves: dict[str, int]) -> str:
    """The statuses of solves that failed, each with its number and with what to try."""
    parts = []
    for name, count in solves.items():
        if name != "successful":
            advice = one_line(str(RESULTS[getattr(RESULTS, name)])).rstrip(".")
            parts.append(f"{count} with {name}: {advice}")
    return "; ".join(parts)


@eqx.filter_jit
def _draw(parameters: Parameters, seed: int) -> Array:
    return parameters.draw_starts(jax.random.key(seed), POINTS)


def _solutions(posterior: Posterior, x: np.ndarray) -> Solution:
    return posterior.solutions(jax.numpy.asarray(x), posterior.measurements.times)


@eqx.filter_jit
def _statuses(posterior: Posterior, x: np.ndarray) -> Array:
    return _solutions(posterior, x).status._value


def _first_line(error: Exception) -> str:
    text = str(error).strip().partition("\n")[0]
    return one_line(f"{type(error).__name__}: {text}")


def _list(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} others"
