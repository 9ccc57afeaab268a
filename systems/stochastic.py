"""Stochastic systems whose moments are known exactly."""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from systems.base import (
    AbstractSDE,
    Inputs,
    Interpretation,
    NoiseKind,
    State,
    parameter,
)


class OrnsteinUhlenbeck(AbstractSDE):
    r"""A quantity that returns to its mean and is disturbed by white noise.

    $$dx = \theta\,(\bar x - x)\,dt + \sigma\,dW \quad\text{(Ito)}$$

    with reversion rate $\theta$, long-term mean $\bar x$ and volatility $\sigma$. The
    noise does not depend on the state, so the Stratonovich form is the same. At every
    time $x$ is normal with [`mean`][systems.stochastic.OrnsteinUhlenbeck.mean] and
    [`variance`][systems.stochastic.OrnsteinUhlenbeck.variance].

    Source: G. E. Uhlenbeck, L. S. Ornstein, Phys. Rev. 36, 823 (1930); C. Gardiner,
    *Stochastic Methods*, 4th ed. (2009), section 4.5.4.
    """

    reversion_rate: Float[Any, ""] = parameter(
        1.0, unit="1/s", positive=True, description="rate of return to the mean"
    )
    long_term_mean: Float[Any, ""] = parameter(
        0.0, description="mean after a long time, in the unit of the state"
    )
    volatility: Float[Any, ""] = parameter(
        0.5, unit="1/s^0.5", positive=True, description="factor of the noise"
    )
    states: ClassVar[tuple[State, ...]] = (State("x", 1.0, "1", "the quantity"),)
    derived_units: ClassVar[Mapping[str, str]] = {
        "relaxation_time": "s",
        "stationary_variance": "1",
    }
    interpretation: ClassVar[Interpretation] = Interpretation.ITO
    noise: ClassVar[NoiseKind] = NoiseKind.DIAGONAL
    noise_dimension: ClassVar[int] = 1

    def vector_field(
        self, t: Real[Array, ""], y: Float[Array, " states"], inputs: Inputs
    ) -> Float[Array, " states"]:
        """Drift; see the class."""
        del t, inputs
        return self.reversion_rate * (self.long_term_mean - y)

    def diffusion(
        self, t: Real[Array, ""], y: Float[Array, " states"], inputs: Inputs
    ) -> Float[Array, " states"]:
        """Factor of the noise, shape `(states,)`; see the class."""
        del t, inputs
        return self.volatility * jnp.ones_like(y)

    def mean(self, t: Real[Array, "..."], start: Real[Array, ""]) -> Float[Array, "..."]:
        r"""$\bar x + (x_0 - \bar x)\,e^{-\theta t}$ at the time `t` after the start."""
        departure = start - self.long_term_mean
        return self.long_term_mean + departure * jnp.exp(-self.reversion_rate * t)

    def variance(self, t: Real[Array, "..."], start: Real[Array, ""]) -> Float[Array, "..."]:
        r"""$\sigma^2 (1 - e^{-2\theta t}) / 2\theta$ at the time `t`, for $\theta > 0$.

        It is the same for every `start` that is known exactly.
        """
        del start
        doubled_rate = 2 * self.reversion_rate
        return -(self.volatility**2) * jnp.expm1(-doubled_rate * t) / doubled_rate

    def derived_quantities(self) -> dict[str, Float[Any, ""]]:
        r"""Relaxation time $1/\theta$ and stationary variance $\sigma^2 / 2\theta$."""
        return {
            "relaxation_time": 1 / self.reversion_rate,
            "stationary_variance": self.volatility**2 / (2 * self.reversion_rate),
        }


class GeometricBrownianMotion(AbstractSDE):
    r"""A positive quantity whose relative change has noise of constant strength.

    $$dx = \mu\,x\,dt + \sigma\,x\,dW \quad\text{(Ito)}$$

    with growth rate $\mu$ and volatility $\sigma$. The path for a given Wiener path $W$
    is $x_0 \exp\bigl((\mu - \sigma^2/2)\,t + \sigma W\bigr)$, so $x$ is log-normal. Read
    as a Stratonovich equation the same formula would grow at $\mu + \sigma^2/2$.

    Source: P. E. Kloeden, E. Platen, *Numerical Solution of Stochastic Differential
    Equations* (1992), section 4.4.
    """

    growth_rate: Float[Any, ""] = parameter(
        0.05, unit="1/year", description="growth rate of the mean"
    )
    volatility: Float[Any, ""] = parameter(
        0.2, unit="1/year^0.5", positive=True, description="relative strength of the noise"
    )
    states: ClassVar[tuple[State, ...]] = (State("x", 1.0, "1", "the quantity, positive"),)
    derived_units: ClassVar[Mapping[str, str]] = {"median_growth_rate": "1/year"}
    interpretation: ClassVar[Interpretation] = Interpretation.ITO
    noise: ClassVar[NoiseKind] = NoiseKind.DIAGONAL
    noise_dimension: ClassVar[int] = 1

    def vector_field(
        self, t: Real[Array, ""], y: Float[Array, " states"], inputs: Inputs
    ) -> Float[Array, " states"]:
        """Drift; see the class."""
        del t, inputs
        return self.growth_rate * y

    def diffusion(
        self, t: Real[Array, ""], y: Float[Array, " states"], inputs: Inputs
    ) -> Float[Array, " states"]:
        """Factor of the noise, shape `(states,)`; see the class."""
        del t, inputs
        return self.volatility * y

    def path(
        self,
        t: Real[Array, "..."],
        wiener: Real[Array, "..."],
        start: Real[Array, ""],
    ) -> Float[Array, "..."]:
        """The exact solution where the Wiener path has the value `wiener` at time `t`."""
        median_growth = self.growth_rate - self.volatility**2 / 2
        return start * jnp.exp(median_growth * t + self.volatility * wiener)

    def mean(self, t: Real[Array, "..."], start: Real[Array, ""]) -> Float[Array, "..."]:
        r"""$x_0\,e^{\mu t}$ at the time `t` after the start."""
        return start * jnp.exp(self.growth_rate * t)

    def variance(self, t: Real[Array, "..."], start: Real[Array, ""]) -> Float[Array, "..."]:
        r"""$x_0^2\,e^{2\mu t}\,(e^{\sigma^2 t} - 1)$ at the time `t` after the start."""
        return self.mean(t, start) ** 2 * jnp.expm1(self.volatility**2 * t)

    def derived_quantities(self) -> dict[str, Float[Any, ""]]:
        r"""Growth rate of the median, $\mu - \sigma^2/2$."""
        return {"median_growth_rate": self.growth_rate - self.volatility**2 / 2}
