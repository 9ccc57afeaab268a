"""One start of a fit, and many of them as one compiled program.

Least squares: Levenberg-Marquardt on the residuals with the noise scales held fixed,
then each noise scale at its conditional optimum, in turn until nothing moves. Otherwise:
BFGS on the objective. Both are optimistix solvers.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
from jaxtyping import Array, Float, Int

from simkit.fitting.posterior import Posterior
from solvers.gradients import Forward


TOLERANCE = 1e-5
"""Relative and absolute change of the unbounded vector at which an optimiser stops. The
best start is refined to rounding afterwards."""

ROUNDS = 25
"""At most so many rounds between parameters and noise scales."""


class StartOutcome(eqx.Module):
    """What became of one start; under `vmap` with a leading axis of starts.

    - `x`: the last vector; `objective` and `gradient` there.
    - `steps`: iterations of the optimiser.
    - `finished`: whether the optimiser met its own stopping rule.
    """

    x: Float[Array, " parameters"]
    objective: Float[Array, ""]
    gradient: Float[Array, " parameters"]
    steps: Int[Array, ""]
    finished: Any


@eqx.filter_jit
def run_starts(
    posterior: Posterior,
    starts: Float[Array, "starts parameters"],
    max_steps: int,
    least_squares: bool,
) -> StartOutcome:
    """Run all starts as one program; a failed one costs the others nothing.

    On a CPU they run one after the other: lanes of a `vmap` wait in every solve for the
    slowest, which cost four times as much on the lynx-hare fit, and twice the tracing.
    An accelerator runs them side by side.
    """

    def one(x: Array) -> StartOutcome:
        run = _least_squares if least_squares else _minimise
        x, steps, finished = run(posterior, x, max_steps)
        objective, gradient = _objective_and_gradient(posterior, x)
        return StartOutcome(x, objective, gradient, steps, finished)

    lanes = None if jax.default_backend() == "cpu" else len(starts)
    return jax.lax.map(one, starts, batch_size=lanes)


def _objective_and_gradient(posterior: Posterior, x: Array) -> tuple[Array, Array]:
    if not isinstance(posterior.gradient, Forward):
        return jax.value_and_grad(posterior.negative_log_posterior)(x)

    def twice(x: Array) -> tuple[Array, Array]:
        objective = posterior.objective_given(x, posterior.predictions(x))
        return objective, objective

    gradient, objective = jax.jacfwd(twice, has_aux=True)(x)
    return objective, gradient


def _minimise(posterior: Posterior, x: Array, max_steps: int) -> tuple[Array, Array, Array]:
    mode = "fwd" if isinstance(posterior.gradient, Forward) else "bwd"
    solution = optx.minimise(
        lambda x, posterior: posterior.negative_log_posterior(x),
        optx.BFGS(rtol=TOLERANCE, atol=TOLERANCE),
        x,
        posterior,
        options={"autodiff_mode": mode},
        max_steps=max_steps,
        throw=False,
    )
    steps = jnp.asarray(solution.stats["num_steps"])
    return solution.value, steps, solution.result == optx.RESULTS.successful


def _least_squares(posterior: Posterior, x: Array, max_steps: int) -> Any:
    entries = posterior.parameters.entries
    scales = np.array([entry.target.role == "noise" for entry in entries])
    moved, held = np.flatnonzero(~scales), np.flatnonzero(scales)

    def optimise(x: Array) -> tuple[Array, Array, Array, Array]:
        solution = optx.least_squares(
            lambda part, args: args[0].residuals(args[1].at[moved].set(part)),
            optx.LevenbergMarquardt(rtol=TOLERANCE, atol=TOLERANCE),
            x[moved],
            (posterior, x),
            has_aux=True,
            max_steps=max_steps,
            throw=False,
        )
        steps = jnp.asarray(solution.stats["num_steps"])
        success = solution.result == optx.RESULTS.successful
        return x.at[moved].set(solution.value), solution.aux, steps, success

    if held.size == 0:
        x, _, steps, finished = optimise(x)
        return x, steps, finished

    def step(carry: Any) -> Any:
        x, steps, _, rounds, _ = carry
        x, predicted, more, finished = optimise(x)
        new = _fit_noise_scales(posterior, x, predicted, held)
        change = jnp.max(jnp.abs(new[held] - x[held]))
        going = (change > TOLERANCE) & jnp.all(jnp.isfinite(new))
        return new, steps + more, finished, rounds + 1, going

    def unfinished(carry: Any) -> Array:
        _, steps, _, rounds, going = carry
        return going & (rounds < ROUNDS) & (steps < max_steps)

    begin = (x, jnp.asarray(0), jnp.asarray(False), jnp.asarray(0), jnp.asarray(True))
    x, steps, finished, _, going = jax.lax.while_loop(unfinished, step, begin)
    return x, steps, finished & ~going


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
