r"""Robust losses: large residuals count less than their square.

With a loss the objective is $\tfrac12 c^2 \sum_i \rho\bigl((r_i / c)^2\bigr)$, where $c$ is
the scale at which a residual begins to count as an outlier.

Reference: B. Triggs et al., "Bundle adjustment, a modern synthesis", in *Vision
Algorithms* (2000), section 4.3, for the weights of `reweighted`.
"""

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float


Squares = Float[Array, " rows"]


class AbstractLoss(eqx.Module):
    """A function `rho` of the squared residuals, with `rho(z)` close to `z` at zero."""

    scale: eqx.AbstractVar[float]

    @abc.abstractmethod
    def values(self, z: Squares) -> tuple[Squares, Squares, Squares]:
        """`rho`, its first and its second derivative at the squares `z` of shape (rows,)."""


class SoftL1(AbstractLoss):
    """`rho(z) = 2 (sqrt(1 + z) - 1)`: a smooth absolute value."""

    scale: float = 1.0

    def values(self, z: Squares) -> tuple[Squares, Squares, Squares]:
        """See the class."""
        root = jnp.sqrt(1 + z)
        return 2 * z / (1 + root), 1 / root, -0.5 / root**3


class Huber(AbstractLoss):
    """`rho(z) = z` up to 1 and `2 sqrt(z) - 1` beyond: the square, then the modulus."""

    scale: float = 1.0

    def values(self, z: Squares) -> tuple[Squares, Squares, Squares]:
        """See the class."""
        root = jnp.sqrt(jnp.maximum(z, 1.0))
        near = z <= 1
        return (
            jnp.where(near, z, 2 * root - 1),
            1 / root,
            jnp.where(near, 0.0, -0.5 / root**3),
        )


class Cauchy(AbstractLoss):
    """`rho(z) = log(1 + z)`: outliers hardly count, but there may be several minima."""

    scale: float = 1.0

    def values(self, z: Squares) -> tuple[Squares, Squares, Squares]:
        """See the class."""
        return jnp.log1p(z), 1 / (1 + z), -1 / (1 + z) ** 2


class Arctan(AbstractLoss):
    """`rho(z) = arctan(z)`: what one residual can add is limited."""

    scale: float = 1.0

    def values(self, z: Squares) -> tuple[Squares, Squares, Squares]:
        """See the class."""
        return jnp.arctan(z), 1 / (1 + z**2), -2 * z / (1 + z**2) ** 2


class Weights(eqx.Module):
    """A loss at given residuals, expanded to second order; arrays of shape (rows,).

    - `objective`: its value.
    - `slope`: derivative by each residual.
    - `curvature`: second derivative by each residual, which may be negative.
    - `residuals`, `root`: the plain least-squares problem with the same gradient and, as
      far as it is positive, the same Gauss-Newton matrix: `residuals` stands for the
      residuals, and each row of the Jacobian is multiplied by `root`.
    """

    objective: Float[Array, ""]
    slope: Squares
    curvature: Squares
    residuals: Squares
    root: Squares


def reweighted(loss: AbstractLoss | None, residuals: Squares) -> Weights:
    """Expand a loss about residuals of shape (rows,); `None` is the plain square."""
    if loss is None:
        ones = jnp.ones_like(residuals)
        objective = 0.5 * jnp.sum(jnp.square(residuals))
        return Weights(objective, residuals, ones, residuals, ones)
    z = jnp.square(residuals / loss.scale)
    rho, first, second = loss.values(z)
    curvature = first + 2 * second * z
    # Beyond the turning point the loss is concave. A weight of its own order keeps the model
    # convex there, and the residuals it stands for small enough to be added to others.
    root = jnp.sqrt(jnp.maximum(curvature, 0.1 * first))
    slope = first * residuals
    return Weights(0.5 * loss.scale**2 * jnp.sum(rho), slope, curvature, slope / root, root)
