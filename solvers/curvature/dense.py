"""Dense Hessians and Jacobians, column by column within a budget of memory.

Rows and columns are in the order of `jax.flatten_util.ravel_pytree`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from solvers.curvature.flat import (
    MEMORY,
    Product,
    batch_size,
    flat_form,
    floating,
    map_batched,
)


def as_dense(
    operator: lx.AbstractLinearOperator,
    *,
    memory: int = MEMORY,
    bytes_per_column: int | None = None,
) -> Float[Array, "out_size in_size"]:
    """The matrix of an operator from its products with unit vectors, many at a time.

    **Arguments:**

    - `memory`: bytes that the columns in work at one time may take; the result comes on
      top.
    - `bytes_per_column`: what one of them takes; default: a vector in, and a vector out.
      What the function holds in between is known to XLA alone: see `measure_column_bytes`.

    A symmetric operator gives an exactly symmetric matrix.
    """
    product, zeros, _ = flat_form(operator)
    matrix = _columns(product, zeros, operator.out_size(), memory, bytes_per_column)
    return 0.5 * (matrix + matrix.T) if lx.is_symmetric(operator) else matrix


def measure_column_bytes(operator: lx.AbstractLinearOperator) -> int:
    """What one more column in work takes, as XLA's plan of the compiled program says.

    It compiles the products with one and with nine vectors, so call it outside `jit`.
    """
    product, zeros, _ = flat_form(operator)
    sizes = []
    for count in (1, 9):
        stack = jnp.broadcast_to(zeros, (count, zeros.size))
        plan = jax.jit(jax.vmap(product)).lower(stack).compile().memory_analysis()
        if plan is None:
            raise RuntimeError("This backend does not tell what a program needs of memory.")
        sizes.append(plan.temp_size_in_bytes + plan.output_size_in_bytes + stack.nbytes)
    return max(1, -(-(sizes[1] - sizes[0]) // 8))


def hessian(
    objective: Callable[[Any, Any], Any],
    y: PyTree,
    args: PyTree = None,
    *,
    memory: int = MEMORY,
    forward_only: bool = False,
    bytes_per_column: int | None = None,
) -> Float[Array, "n n"]:
    """The Hessian of `objective(y, args)`, a scalar; exactly symmetric.

    Columns are tangents of the gradient. With `forward_only` each entry of the upper
    triangle is a second-order tangent along two unit vectors, for objectives that have
    no reverse mode. `memory` and `bytes_per_column`: see `as_dense`.
    """
    flat, unravel = ravel_pytree(floating(y))

    def function(vector: Array) -> Array:
        value = jnp.asarray(objective(unravel(vector), args))
        if value.shape != ():
            raise ValueError(f"The objective has shape {value.shape}, expected a scalar.")
        return value

    if forward_only:
        return _by_pairs(function, flat, memory, bytes_per_column)
    _, product = jax.linearize(jax.grad(function), flat)
    matrix = _columns(product, flat, flat.size, memory, bytes_per_column)
    return 0.5 * (matrix + matrix.T)


def jacobian(
    function: Callable[[Any, Any], Any],
    y: PyTree,
    args: PyTree = None,
    *,
    memory: int = MEMORY,
    reverse: bool = False,
    bytes_per_column: int | None = None,
) -> Float[Array, "outputs inputs"]:
    """The Jacobian of `function(y, args)`, any pytree of real arrays, by `y`.

    By columns in forward mode or, with `reverse`, by rows in reverse mode.
    `memory` and `bytes_per_column` (or per row): see `as_dense`.
    """
    flat, unravel = ravel_pytree(floating(y))

    def on_vectors(vector: Array) -> Array:
        return ravel_pytree(floating(function(unravel(vector), args)))[0]

    if not reverse:
        value, push = jax.linearize(on_vectors, flat)
        return _columns(push, flat, value.size, memory, bytes_per_column)
    value, pull = jax.vjp(on_vectors, flat)
    rows = _columns(lambda v: pull(v)[0], value, flat.size, memory, bytes_per_column)
    return rows.T


def _columns(
    product: Product, like: Array, out_size: int, memory: int, each: int | None
) -> Float[Array, "out_size in_size"]:
    count = like.size
    if each is None:
        each = (count + out_size) * like.dtype.itemsize
    units = jnp.arange(count)

    def column(index: Array) -> Array:
        return product((units == index).astype(like.dtype))

    return map_batched(column, units, batch_size(count, each, memory)).T


def _by_pairs(
    function: Callable[[Array], Array], y: Array, memory: int, each: int | None
) -> Float[Array, "n n"]:
    """The Hessian from second-order tangents along pairs of unit vectors."""
    rows, columns = np.triu_indices(y.size)
    units = jnp.arange(y.size)

    def entry(pair: Array) -> Array:
        first, second = (
            (units == pair[0]).astype(y.dtype),
            (units == pair[1]).astype(y.dtype),
        )

        def slope(y: Array) -> Array:
            return jax.jvp(function, (y,), (first,))[1]

        return jax.jvp(slope, (y,), (second,))[1]

    # Two tangents of first order and one of second.
    size = batch_size(rows.size, each or 3 * y.size * y.dtype.itemsize, memory)
    entries = map_batched(entry, jnp.asarray(np.stack([rows, columns], axis=1)), size)
    upper = jnp.zeros((y.size, y.size), entries.dtype).at[rows, columns].set(entries)
    return upper + jnp.triu(upper, 1).T
