r"""Averages at one set of parameters from samples at several others: MBAR.

With $u_k(x) = U(x; \theta_k) / kT$ and $N_k$ samples of each state $k$, the free energies solve

$$e^{-f_k} = \sum_n \frac{e^{-u_k(x_n)}}{\sum_j N_j e^{f_j - u_j(x_n)}} ,$$

and an average in a state with $u(x)$ has the weights
$w_n \propto e^{-u(x_n)} / \sum_j N_j e^{f_j - u_j(x_n)}$. Source: M. R. Shirts, J. D. Chodera,
J. Chem. Phys. 129, 124105 (2008).
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float


@eqx.filter_jit
def free_energies(
    reduced: Float[Array, "states samples"],
    counts: Float[Array, " states"],
    *,
    tolerance: float = 1e-10,
    max_steps: int = 10_000,
) -> Float[Array, " states"]:
    """The free energy of each state over $kT$, that of the first one being zero.

    They are found by iterating the equations to themselves, each state in turn with the
    newest of the others, so that states need to overlap with their neighbours.

    **Arguments:**

    - `reduced`: energy over $kT$ of every sample in every state.
    - `counts`: how many of the samples each state gave; all above zero.
    - `tolerance`: of the change in one iteration.
    - `max_steps`: iterations at most.
    """
    logs = jnp.log(counts)

    def step(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        found, _, steps = carry
        new = -logsumexp(-reduced - _denominator(reduced, logs, found)[None, :], axis=1)
        new = new - new[0]
        return new, jnp.max(jnp.abs(new - found)), steps + 1

    def going(carry: tuple[Array, Array, Array]) -> Array:
        return (carry[1] > tolerance) & (carry[2] < max_steps)

    # Mean energies are close to free energies where states differ little.
    begin = jnp.min(reduced, axis=1)
    start = (begin - begin[0], jnp.asarray(jnp.inf, reduced.dtype), jnp.asarray(0))
    return jax.lax.while_loop(going, step, start)[0]


@eqx.filter_jit
def log_mixture(
    reduced: Float[Array, "states samples"],
    counts: Float[Array, " states"],
    free: Float[Array, " states"],
) -> Float[Array, " samples"]:
    r"""$\log \sum_j N_j e^{f_j - u_j(x_n)}$ of each sample: the density it was drawn from."""
    return _denominator(reduced, jnp.log(counts), free)


def _denominator(reduced: Array, logs: Array, free: Array) -> Float[Array, " samples"]:
    return logsumexp((logs + free)[:, None] - reduced, axis=0)


def sample_weights(
    reduced: Float[Array, " samples"], mixture: Float[Array, " samples"]
) -> Float[Array, " samples"]:
    """Weights of the samples in a state, with the sum one.

    **Arguments:**

    - `reduced`: energy over $kT$ of each sample in that state.
    - `mixture`: of [`log_mixture`][simkit.molecular.fits.mbar.log_mixture].
    """
    return jax.nn.softmax(-reduced - mixture)


def effective_size(weights: Float[Array, " samples"]) -> Float[Array, ""]:
    r"""The effective number of samples by Kish, $(\sum w)^2 / \sum w^2$."""
    return jnp.sum(weights) ** 2 / jnp.sum(weights**2)
