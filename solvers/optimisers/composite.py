"""Objectives that are a loss of outputs, for methods that use that structure."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
from jaxtyping import Array, Float, PyTree

from solvers.optimisers.base import half_sum_of_squares


class Composite(eqx.Module):
    """An objective that is a loss of outputs: `loss(outputs(y, args), args)`.

    - `outputs`: `outputs(y, args)`, any pytree of real arrays.
    - `loss`: `loss(outputs, args)`, a scalar, convex in the outputs; half the sum of
      squares if left out, so that the outputs are residuals.
    - `reverse`: the same outputs in a form that has reverse mode, for `outputs` that have
      forward mode alone (or have it cheaper).
    """

    outputs: Callable[[Any, Any], Any]
    loss: Callable[[Any, Any], Any] | None = None
    reverse: Callable[[Any, Any], Any] | None = None

    def __call__(self, y: PyTree, args: PyTree) -> Float[Array, ""]:
        """The objective."""
        return self.loss_of(self.outputs(y, args), args)

    def loss_of(self, outputs: PyTree, args: PyTree) -> Float[Array, ""]:
        """The loss of outputs."""
        return half_sum_of_squares(outputs) if self.loss is None else self.loss(outputs, args)
