"""Sparse Hessians and Jacobians from few products, by a colouring made beforehand.

```python
pattern = probed_hessian_pattern(objective, y, key=key)
colouring = colour_hessian(pattern)
matrix = coloured_hessian(objective, y, colouring=colouring)   # under jit, at any y
```
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from solvers.curvature.colouring import Colouring
from solvers.curvature.flat import (
    MEMORY,
    Product,
    batch_size,
    flat_form,
    floating,
    map_batched,
)


class SparseMatrix(eqx.Module):
    """A matrix by its entries, in the order of `jax.flatten_util.ravel_pytree`.

    `scipy.sparse.coo_array((data, (rows, columns)), shape)` takes it as it is.
    """

    data: Float[Array, " entries"]
    rows: Int[Array, " entries"]
    columns: Int[Array, " entries"]
    shape: tuple[int, int] = eqx.field(static=True)
    is_symmetric: bool = eqx.field(static=True, default=False)

    def product(self, vector: Float[Array, " columns"]) -> Float[Array, " rows"]:
        """The product with a flat vector."""
        terms = self.data * vector[self.columns]
        return jax.ops.segment_sum(terms, self.rows, self.shape[0])

    def dense(self) -> Float[Array, "rows columns"]:
        """The whole matrix."""
        return jnp.zeros(self.shape, self.data.dtype).at[self.rows, self.columns].add(self.data)

    def operator(self, *, positive: bool = False) -> lx.FunctionLinearOperator:
        """As a lineax operator on flat vectors.

        `positive`: the caller vouches that it is positive semidefinite.
        """
        structure = jax.ShapeDtypeStruct(self.shape[1:], self.data.dtype)
        tags = [lx.symmetric_tag] if self.is_symmetric else []
        tags += [lx.positive_semidefinite_tag] if positive else []
        return lx.FunctionLinearOperator(self.product, structure, tags)

    def discrepancy(
        self, operator: lx.AbstractLinearOperator, *, key: PRNGKeyArray
    ) -> Float[Array, ""]:
        """How far products with a random vector differ, relative to the operator's own.

        Rounding if the pattern was right. An entry that it lacks shows here.
        """
        product, zeros, _ = flat_form(operator)
        vector = jax.random.normal(key, zeros.shape, zeros.dtype)
        true = product(vector)
        scale = jnp.maximum(jnp.linalg.norm(true), jnp.finfo(true.dtype).tiny)
        return jnp.linalg.norm(self.product(vector) - true) / scale


def coloured_hessian(
    objective: Callable[[Any, Any], Any],
    y: PyTree,
    args: PyTree = None,
    *,
    colouring: Colouring,
    forward_only: bool = False,
    memory: int = MEMORY,
) -> SparseMatrix:
    """The Hessian of `objective(y, args)` from one product for each colour.

    - `colouring`: from `colour_hessian`.
    - `forward_only`: for objectives without reverse mode; each product then costs as much
      as a dense gradient in forward mode.

    **Raises:** `ValueError` for a colouring of a Jacobian, or of another size.
    """
    flat, unravel = ravel_pytree(floating(y))
    if not colouring.is_symmetric:
        raise ValueError("The colouring is of a Jacobian: make one by colour_hessian.")
    _check_size(colouring, flat.size, flat.size)
    differentiate = jax.jacfwd if forward_only else jax.grad
    _, product = jax.linearize(differentiate(lambda x: objective(unravel(x), args)), flat)
    return _recover(product, flat, colouring, memory)


def coloured_jacobian(
    function: Callable[[Any, Any], Any],
    y: PyTree,
    args: PyTree = None,
    *,
    colouring: Colouring,
    memory: int = MEMORY,
) -> SparseMatrix:
    """The Jacobian of `function(y, args)` from one product for each colour.

    - `colouring`: from `colour_jacobian`; by columns the products are in forward mode, by
      rows in reverse mode.

    **Raises:** `ValueError` for a colouring of a Hessian, or of another size.
    """
    flat, unravel = ravel_pytree(floating(y))
    if colouring.is_symmetric:
        raise ValueError("The colouring is of a Hessian: make one by colour_jacobian.")

    def on_vectors(x: Array) -> Array:
        return ravel_pytree(floating(function(unravel(x), args)))[0]

    if colouring.by_rows:
        value, pull = jax.vjp(on_vectors, flat)
        _check_size(colouring, value.size, flat.size)
        return _recover(lambda v: pull(v)[0], value, colouring, memory)
    value, push = jax.linearize(on_vectors, flat)
    _check_size(colouring, value.size, flat.size)
    return _recover(push, flat, colouring, memory)


def _check_size(colouring: Colouring, rows: int, columns: int) -> None:
    shape = colouring.pattern.shape
    if shape != (rows, columns):
        raise ValueError(f"The colouring is of shape {shape}, the matrix of {(rows, columns)}.")


def _recover(product: Product, like: Array, colouring: Colouring, memory: int) -> SparseMatrix:
    pattern = colouring.pattern
    colours = jnp.asarray(colouring.colours)
    size = batch_size(colouring.count, sum(pattern.shape) * like.dtype.itemsize, memory)

    def compressed(colour: Array) -> Array:
        return product((colours == colour).astype(like.dtype))

    table = map_batched(compressed, jnp.arange(colouring.count), size)
    return SparseMatrix(
        data=table[colouring.read_colour, colouring.read_row],
        rows=jnp.asarray(pattern.rows),
        columns=jnp.asarray(pattern.columns),
        shape=pattern.shape,
        is_symmetric=colouring.is_symmetric,
    )
