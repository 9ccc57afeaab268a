r"""The last steps of a least-squares fit: Newton's method, until rounding stops it.

Gauss-Newton steps leave an error that shrinks linearly where residuals remain, and the
objective cannot tell parameters apart that differ in their last eight digits. The gradient
can: here steps are taken with the exact Hessian, and kept while the part of the residuals
that the Jacobian's columns can still explain falls. The Hessian is built in the basis of
the Jacobian's singular vectors, so that $J^T J$ with its squared condition is never formed.

References: D. M. Bates and D. G. Watts, Technometrics 23, 179 (1981), for the measure;
Å. Björck, *Numerical Methods for Least Squares Problems* (1996), section 9.2.2.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from solvers.optimisers.damping import factorise
from solvers.optimisers.losses import AbstractLoss, reweighted


Vector = Float[Array, " n"]
Scalar = Float[Array, ""]
Residuals = Callable[[Vector], Float[Array, " m"]]

_MOST_NEWTON = 8
_MOST_GAUSS_NEWTON = 60


class Polished(eqx.Module):
    """Where the last steps ended.

    - `y`, `objective`: the point of shape (n,), and the objective there.
    - `offset`: how much of the residuals the free columns can explain, relatively.
    - `evaluations`: points at which residuals, Jacobian and Hessian were computed.
    """

    y: Vector
    objective: Scalar
    offset: Scalar
    evaluations: Int[Array, ""]


class _Carry(eqx.Module):
    best: Polished
    trial: Vector
    going: Bool[Array, ""]


def final_steps(
    residuals: Residuals,
    y: Vector,
    trial: Vector,
    objective: Scalar,
    offset: Scalar,
    wanted: Bool[Array, ""],
    *,
    fixed: Bool[Array, " n"],
    lower: Vector,
    upper: Vector,
    loss: AbstractLoss | None,
    newton: bool,
) -> Polished:
    """Improve a converged point `y` between the bounds.

    **Arguments:**

    - `residuals`: a function of an array of shape (n,).
    - `trial`: where to begin: `y`, or a point beside it.
    - `objective`, `offset`: at `y`, which is returned if no point is better.
    - `wanted`: whether to do anything.
    - `fixed`: variables that stay, because they are on a bound.
    - `loss`: as for `reweighted`.
    - `newton`: take the exact Hessian; otherwise Gauss-Newton steps.
    """
    needed = 0.5 if newton else 0.9
    most = _MOST_NEWTON if newton else _MOST_GAUSS_NEWTON
    rounding = 100 * jnp.finfo(y.dtype).eps
    first = Polished(y, objective, jnp.full_like(offset, jnp.inf), jnp.asarray(0))

    def going(carry: _Carry) -> Array:
        return carry.going

    def step(carry: _Carry) -> _Carry:
        best = carry.best
        values, jacobian, bent = _expand(residuals, carry.trial, loss, newton)
        reached, measured, change = _newton_step(values, jacobian, bent, fixed, loss)
        finite = jnp.isfinite(reached) & jnp.all(jnp.isfinite(change))
        # Near the minimum the objective is flat to rounding, so it may rise by that much.
        lower_or_equal = reached <= best.objective * (1 + rounding) + rounding_noise(
            values, jacobian, carry.trial
        )
        better = finite & lower_or_equal & (measured < needed * best.offset)
        count = best.evaluations + 1
        found = Polished(carry.trial, reached, measured, count)
        kept = Polished(best.y, best.objective, best.offset, count)
        best = jax.tree.map(lambda a, b: jnp.where(better, a, b), found, kept)
        trial = jnp.clip(best.y + change, lower, upper)
        more = better & (measured > 0) & (count < most) & jnp.any(trial != best.y)
        return _Carry(best, trial, more)

    last = jax.lax.while_loop(going, step, _Carry(first, trial, wanted)).best
    return eqx.tree_at(
        lambda p: p.offset, last, jnp.where(jnp.isfinite(last.offset), last.offset, offset)
    )


def rounding_noise(
    residuals: Float[Array, " m"], jacobian: Float[Array, "m n"], y: Vector
) -> Scalar:
    """About what rounding inside the model may change the half sum of squares by.

    The terms of which the model is made are guessed from their derivatives.
    """
    eps = jnp.finfo(y.dtype).eps
    terms = eps * jnp.linalg.norm(jnp.abs(jacobian) @ jnp.abs(y))
    return jnp.linalg.norm(residuals) * terms + 0.5 * terms**2


def jacobian_columns(residuals: Residuals, y: Vector) -> tuple[Array, Array]:
    """Residuals of shape (m,) and Jacobian of shape (m, n), by forward mode."""
    basis = jnp.eye(y.size, dtype=y.dtype)
    values, columns = jax.vmap(lambda e: jax.jvp(residuals, (y,), (e,)))(basis)
    return values[0], columns.T


def _expand(
    residuals: Residuals, y: Vector, loss: AbstractLoss | None, newton: bool
) -> tuple[Array, Array, Array]:
    """Residuals, Jacobian, and the residuals' own part of the Hessian (or zeros)."""
    if not newton:
        values, jacobian = jacobian_columns(residuals, y)
        return values, jacobian, jnp.zeros((y.size, y.size), y.dtype)

    def gradient(y: Vector) -> tuple[Vector, tuple[Array, Array]]:
        values, jacobian = jacobian_columns(residuals, y)
        # Held constant, so that the derivative leaves out what the Jacobian gives.
        held = jax.lax.stop_gradient(reweighted(loss, values).slope)
        return jacobian.T @ held, (values, jacobian)

    basis = jnp.eye(y.size, dtype=y.dtype)
    _, columns, (values, jacobian) = jax.vmap(
        lambda e: jax.jvp(gradient, (y,), (e,), has_aux=True)
    )(basis)
    return values[0], jacobian[0], 0.5 * (columns + columns.T)


def _newton_step(
    values: Array, jacobian: Array, bent: Array, fixed: Array, loss: AbstractLoss | None
) -> tuple[Scalar, Scalar, Vector]:
    """Objective, relative offset and the next step."""
    weights = reweighted(loss, values)
    columns = weights.root[:, None] * jnp.where(fixed[None, :], 0.0, jacobian)
    lengths = jnp.linalg.norm(columns, axis=0)
    size: Any = jnp.where(lengths > 0, lengths, 1.0)
    factors = factorise(columns / size[None, :], weights.residuals)
    keep = factors.regular
    # Parameters that the regular directions reach, in units of what the residuals feel.
    inverse: Any = jnp.where(keep, 1 / jnp.where(keep, factors.values, 1.0), 0.0)
    basis = factors.vectors * inverse[None, :] / size[:, None]
    missing = weights.curvature - weights.root**2
    bent = bent + jacobian.T @ (missing[:, None] * jacobian)
    bent = jnp.where(fixed[:, None] | fixed[None, :], 0.0, bent)
    whitened: Any = jnp.eye(size.size, dtype=values.dtype) + basis.T @ bent @ basis
    clean: Any = jnp.where(jnp.isfinite(whitened), whitened, 0.0)
    curvatures, directions = jnp.linalg.eigh(0.5 * (clean + clean.T))
    # A curvature that is not positive is no minimum's: the Gauss-Newton one stands in.
    curvatures = jnp.where(curvatures > 0.01, curvatures, 1.0)
    inner = directions @ ((directions.T @ factors.projected) / curvatures)
    norm = jnp.linalg.norm(weights.residuals)
    measured = jnp.linalg.norm(factors.projected) / jnp.where(norm > 0, norm, 1.0)
    return weights.objective, measured, -basis @ inner
