"""Many starts of a fit as one compiled program, and what became of each."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, ArrayLike, Float, Int

from simkit.fitting.alternation import NoiseAlternation
from simkit.fitting.optimisation import suited
from simkit.fitting.posterior import Posterior
from simkit.progress import Progress
from solvers.gradients import Forward
from solvers.optimisers.base import STEP_LIMIT, STOP, SUCCESSFUL, Minimisation
from solvers.optimisers.multistart import Abandonment, optimise_many


GRADIENT_TOLERANCE = 1e-2
"""Largest gradient component, on the optimiser's scale, of a start that converged. On a
log scale it means that a change by one per cent alters the objective by 1e-4."""

RUNG = 10
"""Iterations of each start between two looks at all of them."""

HOPELESS = Abandonment(excess=20.0, rungs=2, caution=10.0)
"""An optimum whose posterior density is e^20 times smaller is of no interest. On the
lynx-hare fit from 64 starts no start is lost that would reach the best optimum."""


class StartOutcome(eqx.Module):
    """What became of one start; of many, with a leading axis of starts.

    - `x`: the last vector; `objective` and `gradient` there.
    - `information`: what the measurements tell there about each free number: the
      curvature and the squared slope of the likelihood along it, for unit steps.
    - `steps`: iterations of the optimiser.
    - `stop`: why the optimiser stopped, a member of `solvers.optimisers.base.STOP`;
      `running` where the allowed steps ended first. Of optimistix' own methods it is
      `successful` or `nonlinear_max_steps_reached` and no more. A success where the
      gradient is far from zero is `false_convergence`.
    """

    x: Float[Array, " parameters"]
    objective: Float[Array, ""]
    gradient: Float[Array, " parameters"]
    information: Float[Array, " parameters"]
    steps: Int[Array | np.ndarray, ""]
    stop: Any


def run_starts(
    posterior: Posterior,
    starts: Float[ArrayLike, "starts parameters"],
    max_steps: int,
    least_squares: bool,
    optimiser: Any = None,
    *,
    mesh: Mesh | None = None,
    progress: Progress | None = None,
) -> StartOutcome:
    """Run all starts as one program; a failed one costs the others nothing.

    With `least_squares` the optimiser moves on the residuals, in turn with the noise
    scales, else on the objective; without `optimiser` it is optimistix' own. A `mesh`
    spreads the starts over its devices, which changes no result. `progress` is told how
    many starts have ended.

    **Returns:** plain arrays with the starts in front, whole in every process.
    """
    moved, method = suited(posterior, optimiser, least_squares)
    forward = isinstance(moved.gradient, Forward)
    found = optimise_many(
        Minimisation(_objective),
        NoiseAlternation(inner=method) if least_squares else method,
        starts,
        (moved, posterior),
        max_steps=max_steps,
        rung=RUNG,
        mesh=mesh,
        abandonment=HOPELESS,
        check=_check,
        options={"jac" if least_squares else "autodiff_mode": "fwd" if forward else "bwd"},
        report=progress,
    )
    objective, gradient, information = found.evidence
    stop = found.stop
    if optimiser is not None:
        code, limit = np.asarray(stop._value), STEP_LIMIT._value
        code = np.where(code == limit, STOP.running._value, code)
        stop = eqx.tree_at(lambda item: item._value, stop, code)
    return StartOutcome(found.value, objective, gradient, information, found.steps, stop)


def _objective(x: Array, posteriors: tuple[Posterior, Posterior]) -> Array:
    return posteriors[0].negative_log_posterior(x)


def _check(x: Array, posteriors: tuple[Posterior, Posterior]) -> tuple[Any, Any]:
    """Whether the gradient vanishes, and all that is told of where a start ended."""
    posterior = posteriors[1]
    objective, gradient, information = _judge(posterior, x)
    # The optimum of an objective with kinks may be one of them.
    vanished = posterior.has_kinks() | jnp.all(jnp.abs(gradient) <= GRADIENT_TOLERANCE)
    verdict = STOP.where(vanished, SUCCESSFUL, STOP.false_convergence)
    return verdict, (objective, gradient, information)


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
