"""Products with a symmetric matrix that is known as a function: its own transpose.

The derivative of forces with respect to positions is minus the Hessian of the energy, which
is symmetric. Jax does not know that: it would transpose the product operation by operation,
and make a scatter of every gather. Here the transposed product is the product itself.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float, PyTree


def symmetric_product(
    product: Callable[[Any, Float[Array, "..."]], Float[Array, "..."]],
    at: PyTree,
    vector: Float[Array, "..."],
) -> Float[Array, "..."]:
    """`product(at, vector)`, of which the caller promises that it is linear and symmetric.

    It has derivatives of every order and both modes with respect to `vector`, and to the
    inexact arrays in `at`; it can be mapped.

    Args:
        product: Linear in its second argument, with a result of the same shape, and
            symmetric: `u . product(at, v) == v . product(at, u)`.
        at: What the matrix depends on; all that is traced must come in here.
        vector: What the matrix is multiplied with.
    """
    arrays, static = eqx.partition(at, eqx.is_array)
    leaves, tree = jax.tree.flatten(arrays)

    def flat(*operands: Array) -> Array:
        *parts, last = operands
        return product(eqx.combine(jax.tree.unflatten(tree, parts), static), last)

    return _product.bind(*leaves, vector, flat=flat)


_product = Primitive("symmetric_product")


@_product.def_impl
def _evaluate(*operands, flat):
    return flat(*operands)


@_product.def_abstract_eval
def _shape(*operands, flat):
    del flat
    return operands[-1]


def _derivative(primals, tangents, *, flat):
    *parts, vector = primals
    value = _product.bind(*primals, flat=flat)
    moved = [i for i, t in enumerate(tangents[:-1]) if type(t) is not ad.Zero]
    change = None
    if moved:

        def of_moved(some):
            values = list(parts)
            for i, one in zip(moved, some, strict=True):
                values[i] = one
            return flat(*values, vector)

        at = [parts[i] for i in moved]
        _, change = jax.jvp(of_moved, (at,), ([tangents[i] for i in moved],))
    if type(tangents[-1]) is not ad.Zero:
        along = _product.bind(*parts, tangents[-1], flat=flat)
        change = along if change is None else change + along
    return value, jax.numpy.zeros_like(value) if change is None else change


def _transposed(cotangent, *operands, flat):
    nothing = [None] * (len(operands) - 1)
    if type(cotangent) is ad.Zero:
        return [*nothing, ad.Zero(operands[-1].aval)]
    return [*nothing, _product.bind(*operands[:-1], cotangent, flat=flat)]


def _mapped(operands, axes, *, flat):
    # The vector is mapped in any case, as the result is.
    size = next(
        operand.shape[axis]
        for operand, axis in zip(operands, axes, strict=True)
        if axis is not batching.not_mapped
    )
    *parts, vector = operands
    *mapped, last = axes
    if last is batching.not_mapped:
        vector = jax.numpy.broadcast_to(vector, (size, *vector.shape))
    else:
        vector = jax.numpy.moveaxis(vector, last, 0)
    over = (*(None if a is batching.not_mapped else a for a in mapped), 0)
    return _product.bind(*parts, vector, flat=jax.vmap(flat, in_axes=over)), 0


ad.primitive_jvps[_product] = _derivative
ad.primitive_transposes[_product] = _transposed
batching.primitive_batchers[_product] = _mapped
mlir.register_lowering(_product, mlir.lower_fun(_evaluate, multiple_results=False))
