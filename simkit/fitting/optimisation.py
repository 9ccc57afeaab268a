"""Which optimiser a fit takes, and the derivatives that go with it."""

import dataclasses
from typing import Any

import jax
import optimistix as optx

from simkit.config.errors import choice, dotted, quoted
from simkit.config.optimisers import OPTIMISERS, find_option_mistakes
from simkit.config.schema import FitTable
from simkit.fitting.alternation import roles
from simkit.fitting.posterior import Posterior
from solvers.gradients import FORWARD_LIMIT, Forward, Replayed
from solvers.optimisers.diagonal import AdaHessian
from solvers.optimisers.least_squares import LevenbergMarquardt
from solvers.optimisers.newton import CubicNewton, TrustRegionNewton
from solvers.optimisers.quasi_newton import LBFGSB
from solvers.optimisers.truncated_newton import NewtonCG


TOLERANCE = 1e-5
"""Relative and absolute change of the unbounded vector at which an optimiser stops. The
best start is refined to rounding afterwards."""

_CLASSES: dict[str, type] = {
    "trust_region_newton": TrustRegionNewton,
    "cubic_newton": CubicNewton,
    "newton_cg": NewtonCG,
    "lbfgsb": LBFGSB,
}


def build_optimiser(options: FitTable) -> Any:
    """The optimiser that `fit.method` names, with its `fit.options`.

    `None` for `auto`, `least_squares` and `minimise`, which leave the choice to the fit.

    **Raises:** `ValueError` for a method or an option that there is not.
    """
    if options.method not in OPTIMISERS:
        expected = choice(options.method, [*OPTIMISERS])
        raise ValueError(f"fit.method is {quoted(options.method)}, expected {expected}.")
    for mistake in find_option_mistakes(options.method, options.options):
        raise ValueError(f"{dotted(mistake.path)} {mistake.came}, expected {mistake.expected}.")
    known = OPTIMISERS[options.method].options
    given: dict[str, Any] = {
        name: int(value) if known[name].whole else float(value)
        for name, value in options.options.items()
    }
    match options.method:
        case "auto" | "least_squares" | "minimise":
            return None
        case "levenberg_marquardt":
            # The best start is refined with the exact Hessian anyway, and acceleration, by
            # second derivatives, doubles the time to compile: on the lynx-hare fit it
            # brought no further start to its end.
            return LevenbergMarquardt(polish=False, **{"acceleration": 0.0, **given})
        case "adahessian":
            return AdaHessian(key=jax.random.key(options.seed), **given)
        case name:
            return _CLASSES[name](**given)


DENSE_LIMIT = 200
"""Free numbers up to which a fit takes methods with a matrix of that size."""


def choose_method(posterior: Posterior) -> tuple[Any, str]:
    """The name of the method that suits the objective, and why, in a few words."""
    count = len(posterior.parameters.entries)
    numbers = f"{count} free number{'s' if count > 1 else ''}"
    obstacle = posterior.least_squares_obstacle()
    if count > DENSE_LIMIT:
        return "newton_cg", f"{numbers} are too many for a matrix of curvatures"
    if obstacle is None:
        _, scales = roles(posterior)
        given = " for given noise scales, which take turns" if scales.size else ""
        return "levenberg_marquardt", f"the objective is a sum of squares in {numbers}{given}"
    if posterior.has_kinks():
        return "minimise", f"no sum of squares: {obstacle}, whose density has a kink"
    why = f"no sum of squares: {obstacle}; {numbers} allow exact Hessians"
    return "trust_region_newton", why


def suited(posterior: Posterior, optimiser: Any, least_squares: bool) -> tuple[Posterior, Any]:
    """Posterior and optimiser, set to the derivatives that go with each other.

    Without an optimiser it is optimistix' own.

    For few free numbers second derivatives are taken in forward mode throughout: solved by
    diffrax, the program of the lynx-hare fit (8 of them, 16 starts) took 11 to 17 s to
    compile where that of forward over reverse mode took 23 to 30, and 1.6 s to run where
    that took 1.0.
    """
    gradient = posterior.gradient
    if optimiser is None:
        kind = optx.LevenbergMarquardt if least_squares else optx.BFGS
        return posterior, kind(rtol=TOLERANCE, atol=TOLERANCE)
    forward = isinstance(gradient, Forward)
    if isinstance(optimiser, LBFGSB):
        suits = not forward
    elif isinstance(optimiser, LevenbergMarquardt):
        suits = isinstance(gradient, Forward | Replayed)
    else:
        forward &= len(posterior.parameters.entries) <= FORWARD_LIMIT
        suits = forward or isinstance(gradient, Replayed)
        optimiser = dataclasses.replace(optimiser, forward=forward)
    if not suits:
        posterior = dataclasses.replace(posterior, gradient=Replayed())
    return posterior, optimiser
