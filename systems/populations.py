"""Populations that interact: predators and prey, epidemics."""

from collections.abc import Mapping
from typing import Any, ClassVar

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

    prey_growth: Float[Any, ""] = parameter(
        0.55,
        unit="1/year",
        positive=True,
        description="growth of prey without predators",
    )
    predation: Float[Any, ""] = parameter(
        0.028,
        unit="1/(year * thousand)",
        positive=True,
        description="loss of prey per predator",
    )
    predator_death: Float[Any, ""] = parameter(
        0.80, unit="1/year", positive=True, description="loss of predators without prey"
    )
    conversion: Float[Any, ""] = parameter(
        0.024,
        unit="1/(year * thousand)",
        positive=True,
        description="growth of predators per prey",
    )
    states: ClassVar[tuple[State, ...]] = (
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


class SIR(AbstractODE):
    r"""An epidemic in a closed population: susceptible, infected, recovered.

    $$\dot S = -\beta\, S I / N, \qquad \dot I = \beta\, S I / N - \gamma I,
      \qquad \dot R = \gamma I$$

    with transmission rate $\beta$, recovery rate $\gamma$ and population
    $N = S + I + R$, which is conserved. Transmission is frequency-dependent: a person
    meets others at a rate that does not depend on $N$. The basic reproduction number
    is $\beta / \gamma$.

    The default start is one infected among the 763 boys of an English boarding school,
    1978; the default rates are near the posterior mean for it.

    Source: W. O. Kermack, A. G. McKendrick, Proc. R. Soc. Lond. A 115, 700 (1927).
    """

    transmission_rate: Float[Any, ""] = parameter(
        1.73,
        unit="1/day",
        positive=True,
        description="infectious contacts per infected person and time",
    )
    recovery_rate: Float[Any, ""] = parameter(
        0.54,
        unit="1/day",
        positive=True,
        description="inverse of the mean time for which a person infects others",
    )
    states: ClassVar[tuple[State, ...]] = (
        State("susceptible", 762.0, "person", "number who can catch the infection"),
        State("infected", 1.0, "person", "number who are infected and infect others"),
        State("recovered", 0.0, "person", "number who were infected and are immune"),
    )
    derived_units: ClassVar[Mapping[str, str]] = {
        "basic_reproduction_number": "1",
        "recovery_time": "day",
    }

    def vector_field(
        self, t: Real[Array, ""], y: Float[Array, " states"], inputs: Inputs
    ) -> Float[Array, " states"]:
        """See the class."""
        del t, inputs
        susceptible, infected, recovered = y
        population = susceptible + infected + recovered
        infections = self.transmission_rate * susceptible * infected / population
        recoveries = self.recovery_rate * infected
        return jnp.stack([-infections, infections - recoveries, recoveries])

    def derived_quantities(self) -> dict[str, Float[Any, ""]]:
        """Basic reproduction number and mean time to recovery."""
        return {
            "basic_reproduction_number": self.transmission_rate / self.recovery_rate,
            "recovery_time": 1 / self.recovery_rate,
        }
