"""Populations that interact: predators and prey, epidemics."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from systems.base import AbstractODE, Inputs, State, parameter


class LotkaVolterra(AbstractODE):
    r"""Predator and prey.

    $$\dot u = (\alpha - \beta v)\,u, \qquad \dot v = (\delta u - \gamma)\,v$$

    with prey $u$, predator $v$, prey growth $\alpha$, predation $\beta$, predator
    death $\gamma$ and conversion $\delta$. The quantity
    $\delta u - \gamma \ln u + \beta v - \alpha \ln v$ is conserved.

    The defaults are near the posterior mean for the Hudson Bay pelts, 1900-1920.

    Source: A. J. Lotka, *Elements of Physical Biology* (1925); V. Volterra, Nature
    118, 558 (1926).
    """

    prey_growth: Float[Array, ""] = parameter(
        0.55,
        unit="1/year",
        positive=True,
        description="growth of prey without predators",
    )
    predation: Float[Array, ""] = parameter(
        0.028,
        unit="1/(year * thousand)",
        positive=True,
        description="loss of prey per predator",
    )
    predator_death: Float[Array, ""] = parameter(
        0.80, unit="1/year", positive=True, description="loss of predators without prey"
    )
    conversion: Float[Array, ""] = parameter(
        0.024,
        unit="1/(year * thousand)",
        positive=True,
        description="growth of predators per prey",
    )
    states = (
        State("prey", 34.0, "thousand", "number of prey"),
        State("predator", 6.0, "thousand", "number of predators"),
    )

    def vector_field(
        self, t: Real[Array, ""], y: Float[Array, " states"], inputs: Inputs
    ) -> Float[Array, " states"]:
        """See the class."""
        del t, inputs
        prey, predator = y
        return jnp.stack(
            [
                (self.prey_growth - self.predation * predator) * prey,
                (self.conversion * prey - self.predator_death) * predator,
            ]
        )
