"""Coordinates in which an optimiser may move without leaving the bounds.

A parameter `p` has a *scale* (`c = p` for linear and logit, `c = log p` for log), and
its bounds on that scale are kept by a smooth bijection from an unbounded coordinate `x`:

- no bound: `c = centre + width * x`,
- one bound: `c = lower + exp(x)` or `c = upper - exp(x)`,
- two bounds: `c = lower + (upper - lower) / (1 + exp(-x))`.
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


class Transform(eqx.Module):
    """The bijection of one parameter; see the module.

    - `scale`: `"linear"`, `"log"` or `"logit"`.
    - `lower`, `upper`: bounds of the parameter itself.
    - `centre`, `width`: where and how large steps are on an unbounded scale; `width` is
      also what counts as small beside a single bound.
    """

    scale: str = eqx.field(static=True)
    lower: float = eqx.field(static=True)
    upper: float = eqx.field(static=True)
    centre: float = eqx.field(static=True)
    width: float = eqx.field(static=True)

    def to_natural(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """From the unbounded coordinate to the parameter."""
        c = self._coordinate(x)
        return jnp.exp(c) if self.scale == "log" else c

    def _coordinate(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """The parameter, or on a log scale its logarithm."""
        lower, upper = self._bounds()
        if math.isinf(lower) and math.isinf(upper):
            return self.centre + self.width * x
        if math.isinf(upper):
            return lower + jnp.exp(x)
        if math.isinf(lower):
            return upper - jnp.exp(x)
        return lower + (upper - lower) * jax.nn.sigmoid(x)

    def to_unbounded(self, value: np.ndarray) -> np.ndarray:
        """From the parameter, which must lie strictly inside its bounds."""
        return self._invert(np.asarray(value, dtype=float), np)

    def to_unbounded_traced(self, value: Float[Array, "..."]) -> Float[Array, "..."]:
        """The same for values of a compiled program."""
        return self._invert(value, jnp)

    def _invert(self, value: Any, library: Any) -> Any:
        lower, upper = self._bounds()
        c = library.log(value) if self.scale == "log" else value
        if math.isinf(lower) and math.isinf(upper):
            return (c - self.centre) / self.width
        if math.isinf(upper):
            return library.log(c - lower)
        if math.isinf(lower):
            return library.log(upper - c)
        return library.log(c - lower) - library.log(upper - c)

    def log_slope(self, x: Float[Array, ""]) -> Float[Array, ""]:
        """Logarithm of |dp/dx|: what turns a density of `p` into one of `x`."""
        lower, upper = self._bounds()
        # Written out, as the logarithm of a slope that has vanished in rounding has no
        # derivative.
        if math.isinf(lower) and math.isinf(upper):
            slope = jnp.full_like(x, math.log(self.width))
        elif math.isinf(lower) or math.isinf(upper):
            slope = x
        else:
            both = jax.nn.log_sigmoid(x) + jax.nn.log_sigmoid(-x)
            slope = math.log(upper - lower) + both
        return slope + self._coordinate(x) if self.scale == "log" else slope

    def at_bound(self, value: float) -> bool:
        """Whether the value lies within a millionth of the range from a finite bound.

        With one bound `width` stands for the range; zero is no bound on a log scale.
        """
        lower, upper = self._bounds()
        if math.isinf(lower) and math.isinf(upper):
            return False
        c = value
        if self.scale == "log":
            c = math.log(value) if value > 0 else -math.inf
        span = upper - lower
        distance = min(c - lower, upper - c)
        return distance <= 1e-6 * (self.width if math.isinf(span) else span)

    def _bounds(self) -> tuple[float, float]:
        if self.scale != "log":
            return self.lower, self.upper
        low = math.log(self.lower) if self.lower > 0 else -math.inf
        return low, math.log(self.upper)


def make_transform(
    scale: str | None, lower: float, upper: float, value: float, width: float | None = None
) -> Transform:
    """Choose the coordinate: logit with two bounds, log if positive, else linear.

    `value` is where steps of an unbounded linear coordinate are centred, `width` their
    size (default: `|value|`, or 1 at zero).
    """
    if scale is None:
        if math.isfinite(lower) and math.isfinite(upper):
            scale = "logit"
        elif lower >= 0:
            scale = "log"
        else:
            scale = "linear"
    width = width or abs(value) or 1.0
    if scale == "log":
        value, width = 0.0, 1.0  # a step of one is a factor of e
    return Transform(scale, float(lower), float(upper), float(value), float(width))
