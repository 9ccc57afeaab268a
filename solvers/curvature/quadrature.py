r"""Stochastic Lanczos quadrature: traces of functions of an operator, and its spectrum.

From a random vector $v$ the Lanczos process gives a Gauss rule for the spectrum as $v$ sees
it; the mean over vectors is the spectral density.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from solvers.curvature.estimate import Estimate, mean_of
from solvers.curvature.flat import MEMORY, batch_size, check_symmetric, flat_form, map_batched
from solvers.curvature.lanczos import tridiagonalise


class Spectrum(eqx.Module):
    """The eigenvalues of an operator of `size` rows, as random probes see them.

    - `nodes`, `weights`: for each probe a rule whose weights sum to one. A weight is the
      share of the eigenvalues about its node.
    """

    nodes: Float[Array, "probes steps"]
    weights: Float[Array, "probes steps"]
    size: int = eqx.field(static=True)

    def trace_of(self, function: Callable[[Array], Array]) -> Estimate:
        """The sum of `function` over all eigenvalues, with its error over the probes.

        Nodes without weight are left out, so that a logarithm of an exact zero that the
        operator does not see does no harm. The error that too few steps leave is not told.
        """
        # Weights of steps that were not made are rounding.
        seen = self.weights > self.nodes.shape[1] * jnp.finfo(self.nodes.dtype).eps ** 2
        safe = jnp.where(seen, self.nodes, 1)
        terms = jnp.where(seen, self.weights * function(safe), 0)
        return mean_of(self.size * jnp.sum(terms, axis=1))

    def density(self, at: Float[ArrayLike, " points"], width: float | Array) -> Estimate:
        """The density of eigenvalues at these places, blurred by a Gaussian of this width.

        It integrates to one.

        Source: B. Ghorbani, S. Krishnan and Y. Xiao, ICML (2019).
        """
        at = jnp.asarray(at, self.nodes.dtype)

        def of_probe(nodes: Array, weights: Array) -> Array:
            standard = (at[:, None] - nodes[None, :]) / width
            peak = weights / (width * jnp.sqrt(2 * jnp.pi))
            return jnp.sum(jnp.exp(-0.5 * standard**2) * peak[None, :], axis=1)

        return mean_of(jax.vmap(of_probe)(self.nodes, self.weights))

    def count_below(self, bound: float | Array) -> Estimate:
        """How many eigenvalues lie below the bound."""
        return mean_of(
            self.size * jnp.sum(jnp.where(self.nodes < bound, self.weights, 0), axis=1)
        )


def spectral_density(
    operator: lx.AbstractLinearOperator,
    *,
    key: PRNGKeyArray,
    probes: int = 30,
    steps: int = 60,
    memory: int = MEMORY,
) -> Spectrum:
    """The spectrum of a symmetric operator by stochastic Lanczos quadrature.

    **Arguments:**

    - `key`: of the probes, random signs.
    - `probes`: how many; the errors told fall with one over their root.
    - `steps`: of the Lanczos process from each; `2 steps - 1` moments of the spectrum come
      out exactly for each probe. It costs a product each, and its basis is kept.
    - `memory`: bytes that the bases in work at one time may take.

    **Raises:** `ValueError` if the operator is not tagged as symmetric, and for fewer than
    two probes.

    Source: S. Ubaru, J. Chen and Y. Saad, SIAM J. Matrix Anal. Appl. 38, 1075 (2017).
    """
    check_symmetric(operator)
    if probes < 2:
        raise ValueError(f"{probes} probes give no standard error, expected at least 2.")
    product, zeros, _ = flat_form(operator)
    steps = min(steps, zeros.size)

    def rule(probe: Array) -> tuple[Array, Array]:
        nodes, vectors = jnp.linalg.eigh(tridiagonalise(product, probe, steps).matrix())
        return nodes, vectors[0] ** 2

    signs = jax.random.rademacher(key, (probes, zeros.size), zeros.dtype)
    size = batch_size(probes, (steps + 3) * zeros.nbytes, memory)
    nodes, weights = map_batched(rule, signs, size)
    return Spectrum(nodes, weights, zeros.size)


def log_determinant(
    operator: lx.AbstractLinearOperator,
    *,
    key: PRNGKeyArray,
    probes: int = 30,
    steps: int = 60,
    memory: int = MEMORY,
) -> Estimate:
    """The logarithm of the determinant of a positive definite operator.

    The arguments are those of `spectral_density`. NaN where the operator is seen not to be
    positive definite. Its error is over the probes; too few `steps` for a badly conditioned
    operator leave another that is not told: see whether more of them change the answer.
    """
    spectrum = spectral_density(operator, key=key, probes=probes, steps=steps, memory=memory)
    return spectrum.trace_of(jnp.log)
