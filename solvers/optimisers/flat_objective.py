"""A scalar objective of one vector between bounds, with its derivatives.

Minimisers see a pytree outside and a vector inside; here is the way between the two, and
how far a step lowered the objective when rounding hides it.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, PyTree

from solvers.optimisers.base import full_bounds


Vector = Float[Array, " n"]
Matrix = Float[Array, "n n"]
Scalar = Float[Array, ""]


class Derivatives(eqx.Module):
    """Objective, gradient and Hessian at a point."""

    value: Scalar
    gradient: Vector
    hessian: Matrix

    def are_finite(self) -> Bool[Array, ""]:
        """Whether all of them are finite numbers."""
        return (
            jnp.isfinite(self.value)
            & jnp.all(jnp.isfinite(self.gradient))
            & jnp.all(jnp.isfinite(self.hessian))
        )


class FlatObjective(eqx.Module):
    """The objective `fn(y, args) -> (value, aux)` as a function of a vector."""

    fn: Callable[..., Any]
    args: PyTree
    unravel: Callable[[Vector], PyTree]
    lower: Vector
    upper: Vector

    def value(self, x: Vector) -> tuple[Scalar, Any]:
        """The objective, and what it returns besides."""
        return self.fn(self.unravel(x), self.args)

    def gradient(self, x: Vector) -> tuple[Vector, tuple[Scalar, Any]]:
        """The gradient by reverse mode, with the objective and its aux."""
        (value, aux), gradient = jax.value_and_grad(self.value, has_aux=True)(x)
        return gradient, (value, aux)

    def forward_gradient(self, x: Vector) -> tuple[Vector, tuple[Scalar, Any]]:
        """The same by forward mode, for objectives that have no reverse mode."""

        def push(direction: Vector) -> tuple[Scalar, Scalar, Any]:
            return jax.jvp(self.value, (x,), (direction,), has_aux=True)

        values, gradient, aux = jax.vmap(push)(jnp.eye(x.size, dtype=x.dtype))
        value, aux = jax.tree.map(lambda leaf: leaf[0], (values, aux))
        return gradient, (value, aux)

    def linear_gradient(
        self,
        x: Vector,
        forward: bool,
        curvature: Callable[[Any, Any], Callable[[Any], Any]] | None = None,
    ) -> tuple[Scalar, Vector, Callable[[Vector], Vector], Any]:
        """Objective, gradient, its linearisation (products with the Hessian), and aux.

        `curvature(y, args)`, where given, returns products of pytrees that stand for
        those; the gradient is not differentiated again then.
        """
        differentiate = self.forward_gradient if forward else self.gradient
        if curvature is None:
            gradient, product, (value, aux) = jax.linearize(differentiate, x, has_aux=True)
            return value, gradient, product, aux
        gradient, (value, aux) = differentiate(x)
        replaced = curvature(self.unravel(x), self.args)
        return value, gradient, lambda v: ravel_pytree(replaced(self.unravel(v)))[0], aux

    def held(self, x: Vector, gradient: Vector) -> Bool[Array, " n"]:
        """Which parameters stand at a bound that the objective pushes them against."""
        return binding(x, gradient, self.lower, self.upper)

    def free(self, x: Vector, gradient: Vector) -> Vector:
        """The gradient by the parameters that no bound holds."""
        return jnp.where(self.held(x, gradient), 0.0, gradient)

    def derivatives(self, x: Vector, forward: bool) -> tuple[Derivatives, Any]:
        """Objective, gradient and Hessian, by one trace of the function, and its aux."""
        value, gradient, product, aux = self.linear_gradient(x, forward)
        columns = jax.vmap(product)(jnp.eye(x.size, dtype=x.dtype))
        return Derivatives(value, gradient, 0.5 * (columns + columns.T)), aux


def flatten(
    fn: Callable[..., Any], y: PyTree, args: PyTree, options: dict[str, Any] | None
) -> tuple[FlatObjective, Vector]:
    """The objective as a function of a vector, and `y` as that vector.

    Bounds are read from `options["lower"]` and `options["upper"]`; either may be missing.
    """
    options = options or {}
    x, unravel = ravel_pytree(y)
    lower, upper = full_bounds(y, options.get("lower"), options.get("upper"))
    objective = FlatObjective(fn, args, unravel, ravel_pytree(lower)[0], ravel_pytree(upper)[0])
    return objective, x


def empty_aux(aux_struct: PyTree) -> PyTree:
    """Zeros in the place of aux before the first evaluation."""
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), aux_struct)


def binding(x: Vector, gradient: Vector, lower: Vector, upper: Vector) -> Bool[Array, " n"]:
    """Which parameters stand at a bound that the objective pushes them against."""
    held_below = (x <= lower) & (gradient > 0)
    held_above = (x >= upper) & (gradient < 0)
    return held_below | held_above | (lower >= upper)


def clip_to_bounds(x: Vector, lower: Vector, upper: Vector) -> Vector:
    """The nearest point between the bounds; what misses a bound by rounding is put on it."""
    inside = jnp.clip(x, lower, upper)
    for bound in (lower, upper):
        near = jnp.abs(inside - bound) <= 4 * jnp.finfo(x.dtype).eps * jnp.abs(bound)
        inside = jnp.where(near & jnp.isfinite(bound), bound, inside)
    return inside


def rounding(value: Scalar, noise: float) -> Scalar:
    """By how much rounding may change an objective of this value."""
    return jnp.maximum(noise, 10 * jnp.finfo(value.dtype).eps) * jnp.abs(value)


def decrease(
    value: Scalar,
    gradient: Vector,
    trial_value: Scalar,
    trial_gradient: Vector,
    step: Vector,
    predicted: Scalar,
    noise: float,
) -> Scalar:
    """How far a step lowered the objective.

    Where the change that was predicted is lost in the rounding of the objective, the
    gradients at both ends tell, by the trapezoidal rule, as long as the objective did not
    rise by more than its rounding: W. W. Hager and H. Zhang, SIAM J. Optim. 16, 170
    (2005), judge line searches in this way.
    """
    error = rounding(value, noise)
    by_value = value - trial_value
    by_gradient = -0.5 * jnp.dot(gradient + trial_gradient, step)
    hidden = (predicted <= 10 * error) & (by_value >= -error)
    return jnp.where(hidden, by_gradient, by_value)
