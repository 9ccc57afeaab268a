r"""The damped least-squares step whose length is the trust radius.

With the singular value decomposition $A = U \,\mathrm{diag}(s)\, V^T$ of the scaled
Jacobian, the minimiser of $\tfrac12 \|A p + r\|^2$ within $\|p\| \le \Delta$ is
$p = -V (s^2 + \alpha)^{-1} s\, U^T r$, and the damping $\alpha$ is the root of one equation.

Reference: J. J. Moré, "The Levenberg-Marquardt algorithm: implementation and theory", in
*Numerical Analysis*, Lecture Notes in Mathematics 630 (1978), section 5.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


_ROUNDS = 12
"""Rounds of the root finder; it converges quadratically and from one side."""

_PRECISION = 0.01
"""How far the length of the step may be from the radius, relatively."""


class Factors(eqx.Module):
    """The scaled linear model: residuals `r + A p` with `A = U diag(s) V^T`.

    - `values`: `s`, falling, of shape (n,).
    - `vectors`: `V`, of shape (n, n).
    - `projected`: `U^T r`, of shape (n,).
    """

    values: Float[Array, " n"]
    vectors: Float[Array, "n n"]
    projected: Float[Array, " n"]

    @property
    def regular(self) -> Bool[Array, " n"]:
        """Which singular values are above rounding."""
        limit = self.values.size * jnp.finfo(self.values.dtype).eps
        return (self.values > limit * self.values[0]) & (self.values > 0)


def factorise(matrix: Float[Array, "m n"], residuals: Float[Array, " m"]) -> Factors:
    """Factors of a model; one with fewer rows than columns is filled up with zeros."""
    missing = max(matrix.shape[1] - matrix.shape[0], 0)
    matrix = jnp.pad(matrix, ((0, missing), (0, 0)))
    residuals = jnp.pad(residuals, (0, missing))
    left, values, right = jnp.linalg.svd(matrix, full_matrices=False)
    factors = Factors(values, right.T, left.T @ residuals)
    # Directions below rounding explain nothing; their vectors are arbitrary.
    projected = jnp.where(factors.regular, factors.projected, 0.0)
    return Factors(values, right.T, projected)


def undamped_step(factors: Factors) -> Float[Array, " n"]:
    """The shortest of the steps that minimise the model."""
    keep = factors.regular
    part = jnp.where(keep, factors.projected / jnp.where(keep, factors.values, 1.0), 0.0)
    return -factors.vectors @ part


def damped_step(
    factors: Factors, radius: Float[Array, ""]
) -> tuple[Float[Array, " n"], Float[Array, ""]]:
    """The step within the radius that minimises the model, and its damping."""
    full = undamped_step(factors)
    s, pull = factors.values, factors.values * factors.projected
    tiny = jnp.finfo(s.dtype).tiny
    highest = jnp.linalg.norm(pull) / radius

    def excess(damping: Array) -> tuple[Array, Array]:
        denominator = jnp.maximum(s**2 + damping, tiny)
        length = jnp.maximum(jnp.linalg.norm(pull / denominator), tiny)
        slope = -jnp.sum(pull**2 / denominator**3) / length
        return length - radius, jnp.minimum(slope, -tiny)

    def narrow(_: int, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        low, high, damping = carry
        bad = (damping < low) | (damping > high)
        middle = jnp.maximum(0.001 * high, jnp.sqrt(low * high))
        damping = jnp.where(bad, middle, damping)
        value, slope = excess(damping)
        newton = value / slope
        done = jnp.abs(value) < _PRECISION * radius
        better = damping - (value + radius) / radius * newton
        narrowed = (
            jnp.maximum(low, damping - newton),
            jnp.where(value < 0, damping, high),
            better,
        )
        return jax.tree.map(lambda a, b: jnp.where(done, a, b), (low, high, damping), narrowed)

    start = (jnp.zeros_like(highest), highest, 0.001 * highest)
    damping = jax.lax.fori_loop(0, _ROUNDS, narrow, start)[2]
    damped = -factors.vectors @ (pull / jnp.maximum(s**2 + damping, tiny))
    damped *= radius / jnp.maximum(jnp.linalg.norm(damped), tiny)
    fits = jnp.linalg.norm(full) <= radius
    used: Any = jnp.where(fits, 0.0, damping)
    return jnp.where(fits, full, damped), used


def solve_damped(
    factors: Factors, damping: Float[Array, ""], right: Float[Array, " n"]
) -> Float[Array, " n"]:
    """`(A^T A + damping)^{-1} right`, directions below rounding left out."""
    s = factors.values
    keep = factors.regular
    part = factors.vectors.T @ right
    return factors.vectors @ jnp.where(keep, part / jnp.where(keep, s**2 + damping, 1.0), 0.0)


def model_change(
    factors: Factors, gradient: Float[Array, " n"], step: Float[Array, " n"]
) -> Float[Array, ""]:
    """By how much the model's half sum of squares changes along a step."""
    bent = factors.values * (factors.vectors.T @ step)
    return gradient @ step + 0.5 * bent @ bent
