"""Operators and pytrees as vectors, and products with many vectors at a time."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree


Product = Callable[[Array], Array]
"""A linear map of flat vectors."""

MEMORY = 2**28
"""Bytes that the vectors in work at one time may take, unless told otherwise."""


def floating(y: PyTree) -> PyTree:
    """The same tree with arrays of floating point numbers.

    Raises `TypeError` for complex numbers.
    """
    return jax.tree.map(_floating_leaf, y)


def _floating_leaf(leaf: Any) -> Array:
    array = jnp.asarray(leaf)
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise TypeError("Curvature is by real parameters; a complex array came.")
    if jnp.issubdtype(array.dtype, jnp.floating):
        return array
    return array.astype(float)


def zeros_of(structure: PyTree) -> PyTree:
    """Zeros of this structure."""
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), structure)


def flat_form(
    operator: lx.AbstractLinearOperator,
) -> tuple[Product, Float[Array, " in_size"], Callable[[Array], PyTree]]:
    """The product on vectors, a vector of zeros, and the way back to the pytree.

    Vectors hold the leaves in the order of `jax.flatten_util.ravel_pytree`.
    """
    zeros, unravel = ravel_pytree(zeros_of(operator.in_structure()))

    def product(vector: Array) -> Array:
        return ravel_pytree(operator.mv(unravel(vector)))[0]

    return product, zeros, unravel


def check_symmetric(operator: lx.AbstractLinearOperator) -> None:
    """Raise `ValueError` for an operator that does not say it is symmetric."""
    if not (
        lx.is_symmetric(operator)
        or lx.is_positive_semidefinite(operator)
        or lx.is_negative_semidefinite(operator)
    ):
        raise ValueError(
            "The operator is not tagged as symmetric: give it `lineax.symmetric_tag` if it is."
        )


def batch_size(count: int, bytes_each: int, memory: int) -> int:
    """How many of `count` vectors may be in work at one time, at least one.

    Raises `ValueError` for a budget that is not positive.
    """
    if memory <= 0:
        raise ValueError(f"The memory budget is {memory} bytes, expected more than 0.")
    return max(1, min(count, memory // max(bytes_each, 1)))


def map_batched(function: Callable[[Any], Any], xs: Any, size: int) -> Any:
    """`function` of each row of `xs`, `size` of them at a time."""
    count = jax.tree.leaves(xs)[0].shape[0]
    if size >= count:
        return jax.vmap(function)(xs)
    if size == 1:
        return jax.lax.map(function, xs)
    return jax.lax.map(function, xs, batch_size=size)
