"""A function that is evaluated in one way and differentiated in another."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jax.custom_derivatives import SymbolicZero


def with_derivatives_of(
    plain: Callable[[Any], Any], recorded: Callable[[Any], Any], inputs: Any
) -> Any:
    """`plain(inputs)`, with the derivatives of `recorded(inputs)`.

    Both have the same value; `plain` does without what only derivatives need.
    """
    smooth, others = eqx.partition(inputs, eqx.is_inexact_array)
    leaves, tree = jax.tree.flatten(smooth)
    # A function with a rule of its own must not close over traced arrays.
    arrays, static = eqx.partition(others, eqx.is_array)

    def restore(leaves: Any, arrays: Any) -> Any:
        return eqx.combine(jax.tree.unflatten(tree, leaves), eqx.combine(arrays, static))

    @jax.custom_jvp
    def evaluated(leaves: Any, arrays: Any) -> Any:
        return plain(restore(leaves, arrays))

    def derivative(primals: Any, tangents: Any) -> Any:
        leaves, arrays = primals
        # What is not differentiated costs nothing.
        moved = [i for i, t in enumerate(tangents[0]) if not isinstance(t, SymbolicZero)]

        def of_moved(some: Any) -> Any:
            values = list(leaves)
            for i, value in zip(moved, some, strict=True):
                values[i] = value
            return recorded(restore(values, arrays))

        at = [leaves[i] for i in moved]
        return jax.jvp(of_moved, (at,), ([tangents[0][i] for i in moved],))

    evaluated.defjvp(derivative, symbolic_zeros=True)
    return evaluated(leaves, arrays)
