"""The Lanczos process, and eigenpairs at the ends of a spectrum.

The basis is kept whole and orthogonalised twice against itself in every step, so that no
eigenvalue comes twice for loss of orthogonality.
"""

from functools import partial
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from solvers.curvature.flat import Product, check_symmetric, flat_form


class Tridiagonal(eqx.Module):
    """What the Lanczos process made of an operator and a first vector.

    - `diagonal`, `off_diagonal`: the projection of the operator on the basis. Where the
      space of the first vector is exhausted, the rest is zero.
    - `basis`: orthonormal rows.
    """

    diagonal: Float[Array, " steps"]
    off_diagonal: Float[Array, " steps-1"]
    basis: Float[Array, "steps n"]

    def matrix(self) -> Float[Array, "steps steps"]:
        """The projection as a dense matrix."""
        off = self.off_diagonal
        return jnp.diag(self.diagonal) + jnp.diag(off, 1) + jnp.diag(off, -1)


def tridiagonalise(product: Product, start: Float[Array, " n"], steps: int) -> Tridiagonal:
    """So many steps of the Lanczos process from this vector.

    Source: C. Lanczos, J. Res. Natl. Bur. Stand. 45, 255 (1950); twice is enough:
    L. Giraud et al., Numer. Math. 101, 87 (2005).
    """
    steps = min(steps, start.size)
    basis = jnp.zeros((steps + 1, start.size), start.dtype)
    basis = basis.at[0].set(start / _length(start))
    tiny = start.size * jnp.finfo(start.dtype).eps

    def step(carry: tuple[Array, Array], i: Array) -> Any:
        basis, size = carry
        image = product(basis[i])
        here = jnp.vdot(basis[i], image)
        size = jnp.maximum(size, _length(image))
        rest = _orthogonal_to(basis, image)
        length = _length(rest)
        # What is left of an exhausted space is rounding; a zero row ends the process.
        going = length > tiny * size
        length = jnp.where(going, length, 0)
        following = jnp.where(going, rest / jnp.where(going, length, 1), 0)
        return (basis.at[i + 1].set(following), size), (here, length)

    zero = jnp.zeros((), start.dtype)
    carry, (diagonal, lengths) = jax.lax.scan(step, (basis, zero), jnp.arange(steps))
    return Tridiagonal(diagonal, lengths[:-1], carry[0][:-1])


def _length(vector: Array) -> Array:
    return jnp.sqrt(jnp.sum(jnp.square(vector), axis=-1))


def _orthogonal_to(basis: Array, vector: Array) -> Array:
    for _ in range(2):
        vector = vector - (basis @ vector) @ basis
    return vector


class Eigenpairs(eqx.Module):
    r"""Eigenpairs of a symmetric operator.

    - `values`: eigenvalues, the wanted end first.
    - `vectors`: a pytree like the operator's input, each leaf with a first axis of pairs;
      of unit length.
    - `residuals`: the norm of $Av - \lambda v$ for each pair, from one more product. Some
      true eigenvalue is as close as that to the value told.
    - `converged`: whether each residual is below the tolerance. It does not tell whether a
      pair in between was missed, which a first vector orthogonal to it could do.
    - `products`: with the operator, in all.
    """

    values: Float[Array, " pairs"]
    vectors: PyTree
    residuals: Float[Array, " pairs"]
    converged: Bool[Array, " pairs"]
    products: Int[Array, ""]


class _Space(eqx.Module):
    """A basis, with one vector more to go on from, and the operator projected on it.

    `ritz_values` and `ritz_vectors` (columns) are those of the full projection, the wanted
    ones first; `coupling` is the length of the vector to go on from before it was made one.
    """

    basis: Float[Array, "size+1 n"]
    projection: Float[Array, "size size"]
    ritz_values: Float[Array, " size"]
    ritz_vectors: Float[Array, "size size"]
    coupling: Float[Array, ""]
    key: PRNGKeyArray
    rounds: Int[Array, ""]
    products: Int[Array, ""]


def extreme_eigenpairs(
    operator: lx.AbstractLinearOperator,
    count: int,
    which: Literal["largest", "smallest", "magnitude"] = "largest",
    *,
    key: PRNGKeyArray,
    tolerance: float | None = None,
    subspace: int | None = None,
    max_restarts: int = 300,
) -> Eigenpairs:
    """The `count` eigenpairs at one end of the spectrum of a symmetric operator.

    By the Lanczos process with thick restarts.

    **Arguments:**

    - `which`: `largest` or `smallest` (by sign), or `magnitude` (largest in modulus).
    - `key`: of the first vector.
    - `tolerance`: of the residual norms, relative to the largest eigenvalue in modulus
      seen; default: 1e-10, in single precision 1e-5.
    - `subspace`: rows of the basis; default: the larger of 20 and 2 `count` + 10.
    - `max_restarts`: rounds after which it gives back what it has.

    Eigenvalues are good to the square of the residual over the gap to the next one.

    **Raises:** `ValueError` if the operator is not tagged as symmetric, and for a count
    that is not between one and the size.

    Source: K. Wu and H. Simon, SIAM J. Matrix Anal. Appl. 22, 602 (2000).
    """
    check_symmetric(operator)
    product, zeros, unravel = flat_form(operator)
    size = zeros.size
    if not 1 <= count <= size:
        raise ValueError(f"{count} eigenpairs are asked for, expected 1 to {size}.")
    if which not in ("largest", "smallest", "magnitude"):
        raise ValueError(
            f"`which` is {which!r}, expected 'largest', 'smallest' or 'magnitude'."
        )
    if tolerance is None:
        tolerance = 1e-10 if zeros.dtype == jnp.float64 else 1e-5
    rows = min(size, max(20, 2 * count + 10) if subspace is None else max(subspace, count + 2))
    # A few more than are asked for are kept, so that the next ones do not come anew.
    kept = min(count + (rows - count) // 2, rows - 1)

    def going(space: _Space) -> Array:
        errors = jnp.abs(space.coupling * space.ritz_vectors[-1, :count])
        # Below the tolerance, as the products at the end add rounding of their own.
        unfinished = jnp.any(errors > 0.3 * tolerance * jnp.max(jnp.abs(space.ritz_values)))
        return (space.rounds == 0) | (
            unfinished & (space.rounds <= max_restarts) & (rows < size)
        )

    def next_round(space: _Space) -> _Space:
        first = space.rounds == 0
        compressed = _compress(space, kept)
        space = jax.tree.map(partial(jnp.where, first), space, compressed)
        return _ordered(_expand(product, space, jnp.where(first, 0, kept)), which)

    space = jax.lax.while_loop(going, next_round, _first_space(key, rows, zeros))
    values = space.ritz_values[:count]
    found = space.ritz_vectors[:, :count].T @ space.basis[:-1]
    found = found / _length(found)[:, None]
    residuals = _length(jax.vmap(product)(found) - values[:, None] * found)
    return Eigenpairs(
        values=values,
        vectors=jax.vmap(unravel)(found),
        residuals=residuals,
        converged=residuals <= tolerance * jnp.max(jnp.abs(space.ritz_values)),
        products=space.products + count,
    )


def _first_space(key: PRNGKeyArray, rows: int, like: Array) -> _Space:
    first, rest = jax.random.split(key)
    start = jax.random.normal(first, like.shape, like.dtype)
    basis = jnp.zeros((rows + 1, like.size), like.dtype)
    square = jnp.zeros((rows, rows), like.dtype)
    return _Space(
        basis=basis.at[0].set(start / _length(start)),
        projection=square,
        ritz_values=square[0],
        ritz_vectors=square,
        coupling=square[0, 0],
        key=rest,
        rounds=jnp.asarray(0),
        products=jnp.asarray(0),
    )


def _ordered(space: _Space, which: str) -> _Space:
    """The space with its Ritz pairs, the wanted ones first."""
    # A step sees only the rows before it, so that the upper triangle alone is filled.
    upper = jnp.triu(space.projection)
    values, vectors = jnp.linalg.eigh(upper + jnp.triu(upper, 1).T)
    rank = {"largest": -values, "smallest": values, "magnitude": -jnp.abs(values)}[which]
    order = jnp.argsort(rank)
    pairs = (values[order], vectors[:, order])
    return eqx.tree_at(lambda s: (s.ritz_values, s.ritz_vectors), space, pairs)


def _compress(space: _Space, kept: int) -> _Space:
    """The space of the best Ritz vectors, and the vector to go on from."""
    among = jnp.arange(space.projection.shape[0]) < kept
    ritz = space.ritz_vectors[:, :kept].T @ space.basis[:-1]
    basis = jnp.zeros_like(space.basis).at[:kept].set(ritz).at[kept].set(space.basis[-1])
    projection = jnp.diag(jnp.where(among, space.ritz_values, 0))
    return eqx.tree_at(lambda s: (s.basis, s.projection), space, (basis, projection))


def _expand(product: Product, space: _Space, filled: Array) -> _Space:
    """Steps of the process until the basis is full."""
    rows = space.projection.shape[0]
    tiny = space.basis.shape[1] * jnp.finfo(space.basis.dtype).eps

    def step(i: Array, carry: tuple[Array, Array, Array, Any]) -> Any:
        basis, projection, _, key = carry
        image = product(basis[i])
        # Rows beyond `i` are zero, so that their coefficients are.
        first = basis @ image
        rest = image - first @ basis
        second = basis @ rest
        rest = rest - second @ basis
        length = _length(rest)
        exhausted = length <= tiny * _length(image)
        # An invariant space: go on from any vector outside it, to find what else there is.
        key, fresh = jax.random.split(key)
        other = _orthogonal_to(basis, jax.random.normal(fresh, rest.shape, rest.dtype))
        following = jnp.where(
            exhausted,
            other / _length(other),
            rest / jnp.where(exhausted, 1, length),
        )
        projection = projection.at[:, i].set((first + second)[:-1])
        return (
            basis.at[i + 1].set(following),
            projection,
            jnp.where(exhausted, 0, length),
            key,
        )

    carry = (space.basis, space.projection, space.coupling, space.key)
    basis, projection, coupling, key = jax.lax.fori_loop(filled, rows, step, carry)
    return _Space(
        basis=basis,
        projection=projection,
        ritz_values=space.ritz_values,
        ritz_vectors=space.ritz_vectors,
        coupling=coupling,
        key=key,
        rounds=space.rounds + 1,
        products=space.products + rows - filled,
    )


def condition_number(
    operator: lx.AbstractLinearOperator,
    *,
    key: PRNGKeyArray,
    tolerance: float | None = None,
    subspace: int | None = None,
    max_restarts: int = 300,
) -> tuple[Float[Array, ""], Bool[Array, ""]]:
    """Largest over smallest eigenvalue of a positive definite operator.

    Returned with whether it can be trusted: both ends have converged, and the smallest
    eigenvalue is above the residual of its pair. Otherwise, as for an operator that is not
    positive definite, the number says nothing but that the condition is bad. The other
    arguments are those of `extreme_eigenpairs`.
    """
    options: dict[str, Any] = {
        "tolerance": tolerance,
        "subspace": subspace,
        "max_restarts": max_restarts,
    }
    above, below = jax.random.split(key)
    large = extreme_eigenpairs(operator, 1, "largest", key=above, **options)
    small = extreme_eigenpairs(operator, 1, "smallest", key=below, **options)
    trusted = large.converged & small.converged & (small.values > 2 * small.residuals)
    return large.values[0] / small.values[0], trusted[0]
