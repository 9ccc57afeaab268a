"""Is a point where an optimiser stopped a minimum, as far as the gradient tells?"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from solvers.optimisers.base import STOP, SUCCESSFUL, full_bounds


_PROBE = 1e-4
"""The length of the probing step, relative to the parameters."""

FAR = 1e-2
"""A minimum along the steepest descent farther away than this, relatively, is another."""

_WORTH = 1e-8
"""A possible decrease below this fraction of the objective is none."""


def examine_minimum(
    function: Callable[[PyTree], Float[Array, ""]],
    y: PyTree,
    start: PyTree,
    objective: Float[Array, ""],
    options: dict[str, Any],
    *,
    forward: bool,
) -> tuple[Any, Float[Array, ""]]:
    """Judge a point by its projected gradient.

    With each parameter measured in its own size (its value, or the way it came if that is
    more) one goes down the gradient, and a second gradient beside tells the curvature along
    that line: so how far away the lowest point of the line is. No units play a part, neither
    those of the parameters nor those of the objective. Stiff directions prevail: a point in a
    curved valley passes, one that lies beside the valley does not.

    **Arguments:**

    - `function`: the objective of `y`; `objective` is its value.
    - `start`: where the optimiser began.
    - `options`: with bounds as `lower` and `upper`, or without.
    - `forward`: differentiate in forward mode.

    **Returns:** `STOP.successful`, `STOP.flat` where neither gradient has any component, or
    `STOP.false_convergence`; and the distance to the lowest point of the line, relative to
    the parameters.
    """
    x, unravel = ravel_pytree(y)
    lower, upper = (
        ravel_pytree(bound)[0]
        for bound in full_bounds(y, options.get("lower"), options.get("upper"))
    )
    way = jnp.abs(x - ravel_pytree(start)[0])
    size = jnp.maximum(jnp.abs(x), way)
    size = jnp.where(size > 0, size, 1.0)
    differentiate = (jax.jacfwd if forward else jax.grad)(lambda x: function(unravel(x)))

    def measure(point: Array, _: None) -> tuple[Array, Array]:
        gradient = differentiate(point)
        return x + _downhill(gradient, x, size, lower, upper), gradient

    # A loop, so that the gradient is traced and compiled once.
    _, gradients = jax.lax.scan(measure, x, None, length=2)
    step = _downhill(gradients[0], x, size, lower, upper)
    free = step != 0
    slope = jnp.dot(gradients[0], step)
    curvature = jnp.dot(gradients[1] - gradients[0], step)
    convex = curvature > 0
    share = jnp.where(convex, -slope / jnp.where(convex, curvature, 1.0), jnp.inf)
    distance = jnp.where(slope == 0, 0.0, _PROBE * share)
    # Along a line that bends down nothing ends; what it promises within reach counts.
    gain = -slope * jnp.where(convex, 0.5 * share, FAR / _PROBE)
    far = ~(distance <= FAR) & ~(gain <= _WORTH * jnp.abs(objective))
    flat = jnp.all(jnp.where(free[None, :], gradients, 0.0) == 0) & jnp.any(free)
    verdict = STOP.where(far, STOP.false_convergence, SUCCESSFUL)
    return STOP.where(flat, STOP.flat, verdict), distance


def _downhill(gradient: Array, x: Array, size: Array, lower: Array, upper: Array) -> Array:
    """A short step down the gradient; without one, a step that looks at all parameters."""
    scaled = size * gradient
    room = jnp.where(gradient > 0, x - lower, upper - x)
    pressed = (room <= _PROBE * size) & (gradient != 0)
    scaled = jnp.where(pressed, 0.0, scaled)
    longest = jnp.max(jnp.abs(scaled))
    share = -scaled / jnp.where(longest > 0, longest, 1.0)
    # Where nothing slopes, towards the farther bound.
    inwards = jnp.where(upper - x >= x - lower, 1.0, -1.0)
    share = jnp.where((longest > 0) | jnp.any(pressed), share, inwards)
    step = _PROBE * size * share
    return jnp.clip(x + step, lower, upper) - x
