r"""Traces and diagonals of operators from random probes.

Each estimate carries the standard error that its own probes show, and each takes a key.
"""

import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, PRNGKeyArray

from solvers.curvature.estimate import Estimate, exactly, mean_of
from solvers.curvature.flat import (
    MEMORY,
    Product,
    batch_size,
    check_symmetric,
    flat_form,
    map_batched,
)


EXACT_LIMIT = 200
"""Sizes up to which `trace` and `diagonal` are exact: there probes would cost as much."""


def trace(
    operator: lx.AbstractLinearOperator,
    *,
    key: PRNGKeyArray,
    probes: int = 100,
    memory: int = MEMORY,
) -> Estimate:
    """The trace: exact where `probes` products suffice for that, otherwise by Hutch++.

    `memory`: bytes that the products in work at one time may take.
    """
    if operator.in_size() <= max(probes, EXACT_LIMIT):
        return exactly(jnp.sum(_unit_diagonal(operator, memory)))
    return hutch_plus_plus_trace(operator, key=key, probes=probes, memory=memory)


def hutchinson_trace(
    operator: lx.AbstractLinearOperator,
    *,
    key: PRNGKeyArray,
    probes: int = 100,
    memory: int = MEMORY,
) -> Estimate:
    """The mean of $z^T A z$ over random signs $z$.

    The error falls with one over the root of the number of probes.

    Source: M. F. Hutchinson, Commun. Stat. Simul. Comput. 19, 433 (1990).
    """
    product, zeros, _ = flat_form(operator)
    signs = _signs(key, probes, zeros)
    return mean_of(map_batched(lambda z: z @ product(z), signs, _batch(zeros, memory)))


def hutch_plus_plus_trace(
    operator: lx.AbstractLinearOperator,
    *,
    key: PRNGKeyArray,
    probes: int = 99,
    memory: int = MEMORY,
) -> Estimate:
    """Hutch++: the trace on a sketched range exactly, the rest by random signs.

    A third of the `probes` products each for the sketch, its trace, and the rest. For
    positive semidefinite operators the error falls with one over the number of probes,
    and much faster where few eigenvalues dominate. The operator must be symmetric.

    **Raises:** `ValueError` for fewer than 6 probes, and for an operator that is not
    tagged as symmetric.

    Source: R. A. Meyer, C. Musco, C. Musco and D. P. Woodruff, SOSA (2021), algorithm 1.
    """
    product, zeros, third, size = _sketch_plan(operator, probes, memory)
    first, second = jax.random.split(key)
    basis = _sketched_range(product, _signs(first, third, zeros), size)
    on_range = jnp.sum(basis * map_batched(product, basis, size))
    rest = _outside(basis, _signs(second, probes - 2 * third, zeros))
    estimate = mean_of(map_batched(lambda z: z @ product(z), rest, size))
    return Estimate(on_range + estimate.value, estimate.standard_error)


def diagonal(
    operator: lx.AbstractLinearOperator,
    *,
    key: PRNGKeyArray,
    probes: int = 100,
    memory: int = MEMORY,
) -> Estimate:
    """The diagonal, a pytree like the input.

    Exact where `probes` products suffice for that, otherwise by `sketched_diagonal`.
    """
    if operator.in_size() <= max(probes, EXACT_LIMIT):
        return exactly(exact_diagonal(operator, memory=memory))
    return sketched_diagonal(operator, key=key, probes=probes, memory=memory)


def exact_diagonal(operator: lx.AbstractLinearOperator, *, memory: int = MEMORY):
    """The diagonal from products with all unit vectors, a pytree like the input.

    The matrix is never held: each column is dropped but for one entry.
    """
    return flat_form(operator)[2](_unit_diagonal(operator, memory))


def hutchinson_diagonal(
    operator: lx.AbstractLinearOperator,
    *,
    key: PRNGKeyArray,
    probes: int = 100,
    memory: int = MEMORY,
) -> Estimate:
    """The mean of $z * (A z)$ over random signs $z$, a pytree like the input.

    The variance of an entry is the sum of squares of the others in its row.

    Source: C. Bekas, E. Kokiopoulou and Y. Saad, Appl. Numer. Math. 57, 1214 (2007).
    """
    product, zeros, unravel = flat_form(operator)
    signs = _signs(key, probes, zeros)
    samples = map_batched(lambda z: z * product(z), signs, _batch(zeros, memory))
    return mean_of(jax.vmap(unravel)(samples))


def sketched_diagonal(
    operator: lx.AbstractLinearOperator,
    *,
    key: PRNGKeyArray,
    probes: int = 99,
    memory: int = MEMORY,
) -> Estimate:
    """Diag++: the diagonal on a sketched range exactly, the rest by random signs.

    To the diagonal what Hutch++ is to the trace; the same cost, the same errors raised.

    Source: R. A. Baston and Y. Nakatsukasa, arXiv:2201.10684 (2022).
    """
    product, zeros, third, size = _sketch_plan(operator, probes, memory)
    _, _, unravel = flat_form(operator)
    first, second = jax.random.split(key)
    basis = _sketched_range(product, _signs(first, third, zeros), size)
    # Symmetric: the rows of Q^T A are the products with the columns of Q.
    images = map_batched(product, basis, size)
    on_range = jnp.sum(basis * images, axis=0)

    def sample(z: Array) -> Array:
        # The operator less its part in the range, never formed: (1 - Q Q^T) A z.
        image = product(z)
        return z * (image - (basis @ image) @ basis)

    signs = _signs(second, probes - 2 * third, zeros)
    estimate = mean_of(map_batched(sample, signs, size))
    return Estimate(unravel(on_range + estimate.value), unravel(estimate.standard_error))


def _signs(key: PRNGKeyArray, count: int, like: Array) -> Float[Array, "count n"]:
    return jax.random.rademacher(key, (count, like.size), like.dtype)


def _batch(like: Array, memory: int, count: int = 2**31) -> int:
    # A probe, its image, and what is made of them.
    return batch_size(count, 3 * like.nbytes, memory)


def _sketch_plan(
    operator: lx.AbstractLinearOperator, probes: int, memory: int
) -> tuple[Product, Array, int, int]:
    check_symmetric(operator)
    if probes < 6:
        raise ValueError(f"{probes} probes are too few to sketch with, expected at least 6.")
    product, zeros, _ = flat_form(operator)
    third = min(probes // 3, zeros.size)
    return product, zeros, third, _batch(zeros, memory)


def _sketched_range(product: Product, probes: Array, size: int) -> Float[Array, "rank n"]:
    """Orthonormal rows that span the images of the probes."""
    return jnp.linalg.qr(map_batched(product, probes, size).T)[0].T


def _outside(basis: Array, vectors: Array) -> Array:
    return vectors - (vectors @ basis.T) @ basis


def _unit_diagonal(operator: lx.AbstractLinearOperator, memory: int) -> Array:
    product, zeros, _ = flat_form(operator)
    units = jnp.arange(zeros.size)

    def entry(index: Array) -> Array:
        return product((units == index).astype(zeros.dtype))[index]

    return map_batched(entry, units, _batch(zeros, memory))
