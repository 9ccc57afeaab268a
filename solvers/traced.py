"""A traced function as a parameter of a primitive of jax."""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import jaxpr_as_fun
from jaxtyping import Array


class Traced:
    """A function of flat arrays, traced once for their shapes.

    Jax looks into programs that it finds among the parameters of a primitive, and from
    0.12 on wants a rule of its own for some of them; this one it takes as it is.
    """

    def __init__(self, function: Callable[..., Any], *shapes: Any):
        self._program = jax.make_jaxpr(function)(*shapes)

    def __call__(self, *operands: Any) -> list[Array]:
        """The results for these operands."""
        return jaxpr_as_fun(self._program)(*operands)

    @property
    def out_avals(self) -> list[Any]:
        """Shapes and types of the results."""
        return self._program.out_avals
