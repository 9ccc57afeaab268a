"""What the body does to a drug: one compartment, dosed by mouth."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from systems.base import AbstractODE, Input, Inputs, State, parameter


class OneCompartmentOral(AbstractODE):
    r"""One compartment with first-order absorption and first-order elimination.

    $$\dot A = -k_a A, \qquad \dot C = \frac{k_a}{V} A - k_e C$$

    with the amount $A$ in the gut per body weight and the concentration $C$ in plasma;
    $k_a$ is the absorption rate, $k_e$ the elimination rate and $V$ the volume of
    distribution per body weight (over the bioavailability). The dose is in the gut at
    the start: $A(0) = D$, $C(0) = 0$.

    The data determine the pair $(k_a, k_e)$ only up to its order: exchanged rates with
    the volume $V k_e / k_a$ give the same concentrations (flip-flop kinetics). A fit
    has to say by its starts or bounds that absorption is the faster one.

    The defaults are near the mean of the twelve subjects of the theophylline study.

    Source: M. Gibaldi, D. Perrier, *Pharmacokinetics*, 2nd ed. (1982), chapter 1.
    """

    absorption_rate: Float[Any, ""] = parameter(
        1.5, unit="1/h", positive=True, description="absorption from the gut"
    )
    elimination_rate: Float[Any, ""] = parameter(
        0.08, unit="1/h", positive=True, description="elimination from plasma"
    )
    volume: Float[Any, ""] = parameter(
        0.5,
        unit="L/kg",
        positive=True,
        description="volume of distribution per body weight, over bioavailability",
    )
    states: ClassVar[tuple[State, ...]] = (
        State("gut", 4.0, "mg/kg", "amount in the gut per body weight"),
        State("concentration", 0.0, "mg/L", "concentration in plasma"),
    )
    inputs: ClassVar[tuple[Input, ...]] = (
        Input("dose", 4.0, "mg/kg", "dose by mouth at the start, per body weight"),
    )
    derived_units: ClassVar[Mapping[str, str]] = {
        "clearance": "L/(h * kg)",
        "half_life": "h",
    }

    def initial_state(self, inputs: Inputs) -> Float[Array, " states"]:
        """The whole dose in the gut, none in plasma."""
        dose = jnp.asarray(inputs["dose"])
        return jnp.stack([dose, jnp.zeros_like(dose)])

    def vector_field(
        self, t: Real[Array, ""], y: Float[Array, " states"], inputs: Inputs
    ) -> Float[Array, " states"]:
        """See the class."""
        del t, inputs
        gut, concentration = y
        absorption = self.absorption_rate * gut
        elimination = self.elimination_rate * concentration
        return jnp.stack([-absorption, absorption / self.volume - elimination])

    def derived_quantities(self) -> dict[str, Float[Any, ""]]:
        r"""Clearance $k_e V$ and half-life $\ln 2 / k_e$ of elimination."""
        return {
            "clearance": self.elimination_rate * self.volume,
            "half_life": math.log(2) / self.elimination_rate,
        }


class OneCompartmentMichaelisMenten(AbstractODE):
    r"""One compartment with first-order absorption and saturable elimination.

    $$\dot A = -k_a A, \qquad
      \dot C = \frac{k_a}{V} A - \frac{V_m}{V}\,\frac{C}{K_m + C}$$

    with the amount $A$ in the gut and the concentration $C$ in plasma; $k_a$ is the
    absorption rate, $V_m$ the greatest elimination rate and $K_m$ the concentration at
    which elimination runs at half of it. The dose $D$ is in the gut at the start,
    $A(0) = D$, $C(0) = 0$, so that $k_a A / V = k_a D e^{-k_a t} / V$; dose and volume
    are known and therefore inputs.

    The defaults are near the posterior mean for the simulated data of the benchmark.

    Source: the model `one_comp_mm_elim_abs` of posteriordb (M. Magnusson et al.,
    AISTATS 2025), from Stan's benchmarks; there $V_m$ is labelled 1/day, its dimension
    in the equation is amount per time.
    """

    absorption_rate: Float[Any, ""] = parameter(
        0.76, unit="1/day", positive=True, description="absorption from the gut"
    )
    michaelis_constant: Float[Any, ""] = parameter(
        2.5,
        unit="mg/L",
        positive=True,
        description="concentration at half the greatest elimination",
    )
    maximum_elimination_rate: Float[Any, ""] = parameter(
        0.98,
        unit="mg/day",
        positive=True,
        description="elimination at high concentration",
    )
    states: ClassVar[tuple[State, ...]] = (
        State("gut", 30.0, "mg", "amount in the gut"),
        State("concentration", 0.0, "mg/L", "concentration in plasma"),
    )
    inputs: ClassVar[tuple[Input, ...]] = (
        Input("dose", 30.0, "mg", "dose by mouth at the start"),
        Input("volume", 2.0, "L", "volume of the compartment"),
    )
    derived_units: ClassVar[Mapping[str, str]] = {"intrinsic_clearance": "L/day"}

    def initial_state(self, inputs: Inputs) -> Float[Array, " states"]:
        """The whole dose in the gut, none in plasma."""
        dose = jnp.asarray(inputs["dose"])
        return jnp.stack([dose, jnp.zeros_like(dose)])

    def vector_field(
        self, t: Real[Array, ""], y: Float[Array, " states"], inputs: Inputs
    ) -> Float[Array, " states"]:
        """See the class."""
        del t
        gut, concentration = y
        absorption = self.absorption_rate * gut
        elimination = (
            self.maximum_elimination_rate
            * concentration
            / (self.michaelis_constant + concentration)
        )
        return jnp.stack([-absorption, (absorption - elimination) / inputs["volume"]])

    def derived_quantities(self) -> dict[str, Float[Any, ""]]:
        """Intrinsic clearance $V_m / K_m$, the clearance at low concentration."""
        return {"intrinsic_clearance": self.maximum_elimination_rate / self.michaelis_constant}
