"""Keeping the compiler of a CPU from computing the same many times."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array


Result = TypeVar("Result")


def apart(function: Callable[..., Result], always: Array, *operands: Any) -> Result:
    """The function of the operands, computed by itself on a CPU.

    XLA makes one loop over the lanes for each array that a step gives, and computes in
    each of them again what they share: all stages of a Runge-Kutta step for every state,
    its slope and the error. It does not look into the branches of a condition, so that
    what a branch gives is computed before, and once. (Barriers for its optimiser are
    dropped on a CPU before loops are made.) Other devices share work within a loop.

    **Arguments:**

    - `always`: a truth that is always true, which the compiler must not know.
    """
    found = jax.eval_shape(function, *operands)

    def never(*operands: Any) -> Result:
        del operands
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), found)

    def alone(*operands: Any) -> Result:
        return jax.lax.cond(always, function, never, *operands)

    return jax.lax.platform_dependent(*operands, cpu=alone, default=function)
