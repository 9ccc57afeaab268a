"""Many starts of a fit as one compiled program, and what became of each."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from simkit.fitting.optimisation import least_squares_start, minimise_start, suited
from simkit.fitting.posterior import Posterior
from solvers.gradients import Forward


class StartOutcome(eqx.Module):
    """What became of one start; under `vmap` with a leading axis of starts.

    - `x`: the last vector; `objective` and `gradient` there.
    - `information`: what the measurements tell there about each free number: the
      curvature and the squared slope of the likelihood along it, for unit steps.
    - `steps`: iterations of the optimiser.
    - `stop`: why the optimiser stopped, a member of `solvers.optimisers.base.STOP`;
      `running` where the allowed steps ended first. Of optimistix' own methods it is
      `successful` or `nonlinear_max_steps_reached` and no more.
    """

    x: Float[Array, " parameters"]
    objective: Float[Array, ""]
    gradient: Float[Array, " parameters"]
    information: Float[Array, " parameters"]
    steps: Int[Array, ""]
    stop: Any


@eqx.filter_jit
def run_starts(
    posterior: Posterior,
    starts: Float[ArrayLike, "starts parameters"],
    max_steps: int,
    least_squares: bool,
    optimiser: Any = None,
) -> StartOutcome:
    """Run all starts as one program; a failed one costs the others nothing.

    With `least_squares` the optimiser moves on the residuals, in turn with the noise
    scales, else on the objective; without `optimiser` it is optimistix' own.

    On a CPU they run one after the other: lanes of a `vmap` wait in every solve for the
    slowest, which cost four times as much on the lynx-hare fit, and twice the tracing.
    An accelerator runs them side by side.
    """
    moved, mover = suited(posterior, optimiser)

    def one(x: Array) -> StartOutcome:
        run = least_squares_start if least_squares else minimise_start
        x, steps, stop = run(moved, x, max_steps, mover)
        objective, gradient, information = _judge(posterior, x)
        return StartOutcome(x, objective, gradient, information, steps, stop)

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
