"""Chaotic systems: deterministic, but close starts separate exponentially."""

from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from systems.base import AbstractODE, Inputs, State, parameter


class Lorenz63(AbstractODE):
    r"""Lorenz's model of convection.

    $$\dot x = \sigma\,(y - x), \qquad \dot y = x\,(\rho - z) - y,
      \qquad \dot z = x y - \beta z$$

    with the Prandtl number $\sigma$, the Rayleigh number $\rho$ relative to its critical
    value, and the shape $\beta$ of the convection cells. Volumes of state space shrink
    at the constant rate $\sigma + 1 + \beta$. At the defaults the motion is chaotic; the
    largest Lyapunov exponent is 0.906.

    Source: E. N. Lorenz, J. Atmos. Sci. 20, 130 (1963); exponent: J. C. Sprott,
    *Chaos and Time-Series Analysis* (2003), appendix A.
    """

    sigma: Float[Any, ""] = parameter(10.0, positive=True, description="Prandtl number")
    rho: Float[Any, ""] = parameter(
        28.0, positive=True, description="Rayleigh number relative to its critical value"
    )
    beta: Float[Any, ""] = parameter(
        8.0 / 3.0, positive=True, description="shape of the convection cells"
    )
    states: ClassVar[tuple[State, ...]] = (
        State("x", 1.0, "1", "intensity of the convection"),
        State("y", 1.0, "1", "temperature difference of rising and sinking currents"),
        State("z", 1.0, "1", "departure of the temperature profile from linearity"),
    )

    def vector_field(
        self, t: Real[Array, ""], y: Float[Array, " states"], inputs: Inputs
    ) -> Float[Array, " states"]:
        """See the class."""
        del t, inputs
        convection, difference, departure = y
        return jnp.stack(
            [
                self.sigma * (difference - convection),
                convection * (self.rho - departure) - difference,
                convection * difference - self.beta * departure,
            ]
        )
