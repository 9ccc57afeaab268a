"""The linear model of the residuals about a point, in scaled variables, and what it tells.

Sources are named in `solvers/optimisers/least_squares.py`.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from solvers.optimisers.damping import Factors, factorise, undamped_step
from solvers.optimisers.final_steps import rounding_noise
from solvers.optimisers.losses import AbstractLoss, reweighted
from solvers.optimisers.reflection import distances


Vector = Float[Array, " n"]
Scalar = Float[Array, ""]

VANISHED = 1e-8
"""A column of the Jacobian that shrank to this fraction says nothing of its parameter any
more. (At the 54 solutions of NIST's problems the smallest fraction is 0.007.)"""

SETTLED = 1e-3
"""The undamped step, relatively, beyond which the parameters still wander."""


class LocalModel(eqx.Module):
    """The residuals expanded about an accepted point, in scaled variables.

    - `objective`: at the point.
    - `matrix`, `roots`: the scaled Jacobian (m, n) and the weights of the loss (m,).
    - `gradient`: of the objective by the scaled variables, of shape (n,).
    - `unscale`: makes parameters of scaled variables, of shape (n,).
    - `largest`: the largest norms the Jacobian's columns have had, of shape (n,).
    - `size`: the length of the start, in variables scaled by those norms.
    - `factors`: singular values and vectors, the curvature of the bounds included.
    - `offset`: the fraction of the residuals that the columns can explain.
    - `noise`: what rounding may change the objective by.
    - `settled`: whether the undamped step is small beside the parameters.
    - `still`: whether it is no more than rounding.
    - `flat`: whether a parameter has lost its influence, though residuals remain.
    """

    objective: Scalar
    matrix: Float[Array, "m n"]
    roots: Float[Array, " m"]
    gradient: Vector
    unscale: Vector
    largest: Vector
    size: Scalar
    factors: Factors
    offset: Scalar
    noise: Scalar
    settled: Bool[Array, ""]
    still: Bool[Array, ""]
    flat: Bool[Array, ""]


def empty_model(rows: int, n: int, dtype: Any) -> LocalModel:
    """A model before anything was evaluated: any objective is lower than its own."""
    vector, none = jnp.zeros(n, dtype), jnp.zeros((), bool)
    infinite = jnp.full((), jnp.inf, dtype)
    return LocalModel(
        objective=infinite,
        matrix=jnp.zeros((rows, n), dtype),
        roots=jnp.zeros(rows, dtype),
        gradient=vector,
        unscale=vector,
        largest=vector,
        size=jnp.zeros((), dtype),
        factors=Factors(vector, jnp.zeros((n, n), dtype), vector),
        offset=infinite,
        noise=jnp.zeros((), dtype),
        settled=none,
        still=none,
        flat=none,
    )


def positive_scale(largest: Vector) -> Vector:
    """The scale of the variables; 1 for those that never had an influence."""
    scale: Any = jnp.where(largest > 0, largest, 1.0)
    return scale


def size_of(scaled: Vector) -> Scalar:
    """The length of a point in scaled variables, or 1 for the origin."""
    length = jnp.linalg.norm(scaled)
    size: Any = jnp.where((length > 0) & jnp.isfinite(length), length, 1.0)
    return size


def expand(
    loss: AbstractLoss | None,
    values: Float[Array, " m"],
    jacobian: Float[Array, "m n"],
    y: Vector,
    lower: Vector,
    upper: Vector,
    before: LocalModel,
) -> LocalModel:
    """The model about `y`, from residuals and Jacobian there and the model before."""
    weights = reweighted(loss, values)
    jacobian = weights.root[:, None] * jacobian
    jacobian = jnp.where(jnp.isfinite(jacobian), jacobian, 0.0)
    lengths = jnp.linalg.norm(jacobian, axis=0)
    largest = jnp.maximum(before.largest, lengths)
    scale = positive_scale(largest)
    gradient = jacobian.T @ weights.residuals
    apart, towards = distances(y, gradient, lower, upper)
    unscale = jnp.where(towards, jnp.sqrt(apart / scale), 1 / scale)
    matrix = jacobian * unscale[None, :]
    # What the scaling by distances to bounds adds to the curvature.
    barrier = jnp.diag(jnp.sqrt(jnp.where(towards, jnp.abs(gradient) / scale, 0.0)))
    factors = factorise(
        jnp.concatenate([matrix, barrier]),
        jnp.concatenate([weights.residuals, jnp.zeros_like(y)]),
    )
    total = jnp.linalg.norm(weights.residuals)
    offset = jnp.linalg.norm(factors.projected) / jnp.where(total > 0, total, 1.0)
    change = unscale * undamped_step(factors)
    size = jnp.where(before.size > 0, before.size, size_of(scale * y))
    effect, present = jnp.linalg.norm(lengths * change), jnp.linalg.norm(lengths * y)
    settled = (jnp.linalg.norm(scale * change) <= SETTLED * size) | (
        effect <= SETTLED * present
    )
    gone = (lengths <= VANISHED * largest) & (largest > 0) & ~towards
    return LocalModel(
        objective=weights.objective,
        matrix=matrix,
        roots=weights.root,
        gradient=unscale * gradient,
        unscale=unscale,
        largest=largest,
        size=size,
        factors=factors,
        offset=offset,
        noise=rounding_noise(weights.residuals, jacobian, y),
        settled=settled,
        still=effect <= 4 * jnp.finfo(y.dtype).eps * present,
        flat=(jnp.any(gone) | jnp.all(lengths == 0)) & (total > 0),
    )


def on_bounds(
    y: Vector, model: LocalModel, lower: Vector, upper: Vector
) -> tuple[Vector, Bool[Array, " n"]]:
    """The point with variables put on the bounds they are pressed to, and which those are."""
    unscale = jnp.where(model.unscale > 0, model.unscale, 1.0)
    gradient = model.gradient / unscale
    curvature = jnp.sum(jnp.square(model.matrix / unscale[None, :]), axis=0)
    apart, towards = distances(y, gradient, lower, upper)
    pressed = towards & (apart * curvature <= jnp.abs(gradient))
    snapped = jnp.where(pressed, jnp.where(gradient > 0, lower, upper), y)
    return snapped, pressed | (lower == upper)
