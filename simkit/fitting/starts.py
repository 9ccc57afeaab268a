"""One start of a fit, and many of them as one compiled program.

Least squares: Levenberg-Marquardt on the residuals with the noise scales held fixed,
then each noise scale at its conditional optimum, in turn until nothing moves. Otherwise:
BFGS on the objective. Both are optimistix solvers.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
from jaxtyping import Array, ArrayLike, Float, Int

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
    - `information`: what the measurements tell there about each free number: the
      curvature and the squared slope of the likelihood along it, for unit steps.
    - `steps`: iterations of the optimiser.
    - `finished`: whether the optimiser met its own stopping rule.
    """

    x: Float[Array, " parameters"]
    objective: Float[Array, ""]
    gradient: Float[Array, " parameters"]
    information: Float[Array, " parameters"]
    steps: Int[Array, ""]
    finished: Any


@eqx.filter_jit
def run_starts(
    posterior: Posterior,
    starts: Float[ArrayLike, "starts parameters"],
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
        objective, gradient, information = _judge(posterior, x)
        return StartOutcome(x, objective, gradient, information, steps, finished)

    lanes = None if jax.default_backend() == "cpu" else jnp.shape(starts)[0]
    return jax.lax.map(one, starts, batch_size=lanes)


def _judge(posterior: Posterior, x: Array) -> tuple[Array, Array, Array]:
    r"""The objective, its gradient, and what the measurements tell about each number.

    With measurements $m$ that have predictions $h_m$ and log likelihoods $l_m$, the
    information about $x_i$ is the sum of
    $(\lvert l_m'' \rvert + l_m'^2) (\partial h_m / \partial x_i)^2$.
    """
    follow = _forward if isinstance(posterior.gradient, Forward) else _reverse
    predicted, contract = follow(posterior, x)

    def slope_of(predicted: Array) -> Array:
        return jax.grad(lambda h: posterior.objective_given(x, h))(predicted)

    # Each measurement depends on its own prediction alone: all curvatures in one sweep.
    slope, curvature = jax.jvp(slope_of, (predicted,), (jnp.ones_like(predicted),))
    objective, direct = jax.value_and_grad(posterior.objective_given)(x, predicted)
    along, information = contract(slope, jnp.sqrt(jnp.abs(curvature) + slope**2))
    return objective, direct + along, information


def _forward(posterior: Posterior, x: Array) -> tuple[Array, Callable[..., Any]]:
    """Predictions, and what contracts weights of them with their derivatives.

    It takes the slopes and the roots of the curvatures; with them it gives the gradient
    and the sum of squares.
    """

    def twice(x: Array) -> tuple[Array, Array]:
        predicted = posterior.predictions(x)
        return predicted, predicted

    jacobian, predicted = jax.jacfwd(twice, has_aux=True)(x)

    def contract(slope: Array, root: Array) -> tuple[Array, Array]:
        weights = jnp.stack([slope, root])[..., None]
        # Where nothing was measured a derivative need not be finite.
        terms = jnp.where(weights == 0, 0.0, weights * jacobian[None])
        axes = tuple(range(slope.ndim))
        return jnp.sum(terms[0], axis=axes), jnp.sum(jnp.square(terms[1]), axis=axes)

    return predicted, contract


def _reverse(posterior: Posterior, x: Array) -> tuple[Array, Callable[..., Any]]:
    """The same in reverse, where the sum of squares is estimated: with random signs the
    square of a sum has it as its mean.
    """  # noqa: D205
    predicted, pull = jax.vjp(posterior.predictions, x)

    def contract(slope: Array, root: Array) -> tuple[Array, Array]:
        signs = jax.random.rademacher(jax.random.key(0), root.shape, root.dtype)
        along, probe = jax.vmap(lambda w: pull(w)[0])(jnp.stack([slope, signs * root]))
        return along, jnp.square(probe)

    return predicted, contract


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
            options={"jac": "fwd" if isinstance(posterior.gradient, Forward) else "bwd"},
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
