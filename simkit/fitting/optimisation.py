"""One start of a fit: an optimiser on the residuals or on the objective.

Least squares: Levenberg-Marquardt on the residuals with the noise scales held fixed,
then each noise scale at its conditional optimum, in turn until nothing moves. Otherwise
the optimiser minimises the negative log posterior in all free numbers at once.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
from jaxtyping import Array, Float, Int

from simkit.config.errors import choice, dotted, quoted
from simkit.config.optimisers import OPTIMISERS, find_option_mistakes
from simkit.config.schema import FitTable
from simkit.fitting.posterior import Posterior
from solvers.gradients import FORWARD_LIMIT, Forward, Replayed
from solvers.optimisers.base import STOP
from solvers.optimisers.diagonal import AdaHessian
from solvers.optimisers.least_squares import LevenbergMarquardt
from solvers.optimisers.newton import CubicNewton, TrustRegionNewton
from solvers.optimisers.quasi_newton import LBFGSB
from solvers.optimisers.truncated_newton import NewtonCG


TOLERANCE = 1e-5
"""Relative and absolute change of the unbounded vector at which an optimiser stops. The
best start is refined to rounding afterwards."""

ROUNDS = 25
"""At most so many rounds between parameters and noise scales."""

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


def suited(posterior: Posterior, optimiser: Any) -> tuple[Posterior, Any]:
    """Posterior and optimiser, set to the derivatives that go with each other.

    For few free numbers second derivatives are taken in forward mode throughout: on the
    lynx-hare fit (8 of them, 16 starts) its program took 11 to 17 s to compile where that
    of forward over reverse mode took 23 to 30, and 1.6 s to run where that took 1.0.
    """
    gradient = posterior.gradient
    if optimiser is None:
        return posterior, None
    forward = isinstance(gradient, Forward)
    if isinstance(optimiser, LBFGSB):
        suits = not forward
    elif isinstance(optimiser, LevenbergMarquardt):
        suits = isinstance(gradient, Forward | Replayed)
    else:
        forward &= len(posterior.parameters.entries) <= FORWARD_LIMIT
        suits = forward or isinstance(gradient, Replayed)
        optimiser = dataclasses.replace(optimiser, forward=forward)
    return (
        posterior if suits else dataclasses.replace(posterior, gradient=Replayed())
    ), optimiser


def minimise_start(
    posterior: Posterior, x: Float[Array, " parameters"], max_steps: int, optimiser: Any
) -> tuple[Float[Array, " parameters"], Int[Array, ""], Any]:
    """Minimise the objective from one start: the last vector, steps, reason to stop."""
    mode = "fwd" if isinstance(posterior.gradient, Forward) else "bwd"
    solution = optx.minimise(
        lambda x, posterior: posterior.negative_log_posterior(x),
        optx.BFGS(rtol=TOLERANCE, atol=TOLERANCE) if optimiser is None else optimiser,
        x,
        posterior,
        options={"autodiff_mode": mode},
        max_steps=max_steps,
        throw=False,
    )
    return solution.value, jnp.asarray(solution.stats["num_steps"]), _reason(solution)


_GIVEN_UP = STOP.promote(optx.RESULTS.nonlinear_max_steps_reached)


def _reason(solution: Any) -> Any:
    """Why it stopped; optimistix' own methods know success and failure only."""
    if "stop" in solution.stats:
        return solution.stats["stop"]
    success = solution.result == optx.RESULTS.successful
    return STOP.where(success, STOP.promote(optx.RESULTS.successful), _GIVEN_UP)


def least_squares_start(
    posterior: Posterior, x: Float[Array, " parameters"], max_steps: int, optimiser: Any
) -> tuple[Float[Array, " parameters"], Int[Array, ""], Any]:
    """Least squares from one start, in turn with the noise scales."""
    unfinished = STOP.running
    if optimiser is None:
        optimiser = optx.LevenbergMarquardt(rtol=TOLERANCE, atol=TOLERANCE)
        unfinished = _GIVEN_UP
    entries = posterior.parameters.entries
    scales = np.array([entry.target.role == "noise" for entry in entries])
    moved, held = np.flatnonzero(~scales), np.flatnonzero(scales)

    def optimise(x: Array) -> tuple[Array, Array, Array, Any]:
        solution = optx.least_squares(
            lambda part, args: args[0].residuals(args[1].at[moved].set(part)),
            optimiser,
            x[moved],
            (posterior, x),
            has_aux=True,
            options={"jac": "fwd" if isinstance(posterior.gradient, Forward) else "bwd"},
            max_steps=max_steps,
            throw=False,
        )
        steps = jnp.asarray(solution.stats["num_steps"])
        return x.at[moved].set(solution.value), solution.aux, steps, _reason(solution)

    if held.size == 0:
        x, _, steps, stop = optimise(x)
        return x, steps, stop

    def step(carry: Any) -> Any:
        x, steps, _, rounds, _ = carry
        x, predicted, more, stop = optimise(x)
        new = _fit_noise_scales(posterior, x, predicted, held)
        change = jnp.max(jnp.abs(new[held] - x[held]))
        going = (change > TOLERANCE) & jnp.all(jnp.isfinite(new))
        return new, steps + more, stop, rounds + 1, going

    def going_on(carry: Any) -> Array:
        _, steps, _, rounds, going = carry
        return going & (rounds < ROUNDS) & (steps < max_steps)

    begin = (x, jnp.asarray(0), STOP.running, jnp.asarray(0), jnp.asarray(True))
    x, steps, stop, _, going = jax.lax.while_loop(going_on, step, begin)
    return x, steps, STOP.where(going, unfinished, stop)


def _fit_noise_scales(
    posterior: Posterior, x: Array, predicted: Array, held: np.ndarray
) -> Array:
    """Noise scales at their optimum for given predictions.

    Given the predictions the objective is a sum over the noise scales, so a Newton step
    with the diagonal of the Hessian treats them all at once.
    """

    def objective(scales: Array) -> Array:
        return posterior.objective_given(x.at[held].set(scales), predicted)

    def newton(_: int, scales: Array) -> Array:
        ones = jnp.ones_like(scales)
        slope, curvature = jax.jvp(jax.grad(objective), (scales,), (ones,))
        step = -slope / jnp.maximum(jnp.abs(curvature), 1e-12)
        return scales + jnp.clip(step, -1.0, 1.0)

    return x.at[held].set(jax.lax.fori_loop(0, 40, newton, x[held]))
