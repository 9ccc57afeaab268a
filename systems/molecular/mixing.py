"""Mixing rules: parameters of unlike pairs from those of each species.

A rule takes epsilon and sigma of every species, shape `(species,)`, and gives both as
symmetric matrices of shape `(species, species)`.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float


Table = Float[Array, "species species"]
MixingRule = Callable[[Float[Array, " species"], Float[Array, " species"]], tuple[Table, Table]]


def lorentz_berthelot(
    epsilon: Float[Array, " species"], sigma: Float[Array, " species"]
) -> tuple[Table, Table]:
    """Arithmetic mean of sigma, geometric mean of epsilon.

    Source: H. A. Lorentz, Ann. Phys. 248, 127 (1881); D. Berthelot, Compt. Rend. 126,
    1703 (1898).
    """
    return geometric_mean(epsilon), (sigma[:, None] + sigma[None, :]) / 2


def geometric(
    epsilon: Float[Array, " species"], sigma: Float[Array, " species"]
) -> tuple[Table, Table]:
    """Geometric means of both.

    Source: R. J. Good, C. J. Hope, J. Chem. Phys. 53, 540 (1970); the rule of OPLS.
    """
    return geometric_mean(epsilon), geometric_mean(sigma)


def waldman_hagler(
    epsilon: Float[Array, " species"], sigma: Float[Array, " species"]
) -> tuple[Table, Table]:
    r"""Sixth-power mean of sigma, and epsilon such that the dispersion is a geometric mean.

    With $\sigma_{ij}^6 = (\sigma_i^6 + \sigma_j^6) / 2$, the product
    $\epsilon_{ij} \sigma_{ij}^6$ is the geometric mean of that of the two species.

    Source: M. Waldman, A. T. Hagler, J. Comput. Chem. 14, 1077 (1993).
    """
    sixth = (sigma[:, None] ** 6 + sigma[None, :] ** 6) / 2
    cubes = sigma[:, None] ** 3 * sigma[None, :] ** 3
    return geometric_mean(epsilon) * cubes / sixth, sixth ** (1 / 6)


def geometric_mean(values: Float[Array, " species"]) -> Table:
    """The geometric means of all pairs of numbers, as a matrix."""
    roots = jnp.sqrt(values)
    return roots[:, None] * roots[None, :]
