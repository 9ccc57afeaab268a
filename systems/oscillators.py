"""Oscillators: one that conserves energy, one that settles on a limit cycle."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from systems.base import AbstractHamiltonian, AbstractODE, Inputs, State, parameter


class HarmonicOscillator(AbstractHamiltonian):
    r"""A mass on a spring.

    $$H(q, p) = \frac{p^2}{2m} + \frac{k q^2}{2}, \qquad
      \dot q = p / m, \qquad \dot p = -k q$$

    with mass $m$ and stiffness $k$; the angular frequency is $\sqrt{k/m}$.

    Source: L. D. Landau, E. M. Lifshitz, *Mechanics*, 3rd ed. (1976), section 21.
    """

    mass: Float[Any, ""] = parameter(
        1.0, unit="kg", positive=True, description="mass that moves"
    )
    stiffness: Float[Any, ""] = parameter(
        1.0, unit="N/m", positive=True, description="force of the spring per displacement"
    )
    states: ClassVar[tuple[State, ...]] = (
        State("position", 1.0, "m", "displacement from rest"),
        State("momentum", 0.0, "kg * m/s", "mass times velocity"),
    )
    derived_units: ClassVar[Mapping[str, str]] = {"angular_frequency": "rad/s", "period": "s"}

    def kinetic_energy(self, momenta: Float[Array, " half"]) -> Float[Array, ""]:
        r"""$p^2 / 2m$."""
        return jnp.sum(momenta**2) / (2 * self.mass)

    def potential_energy(self, positions: Float[Array, " half"]) -> Float[Array, ""]:
        r"""$k q^2 / 2$."""
        return self.stiffness * jnp.sum(positions**2) / 2

    def derived_quantities(self) -> dict[str, Float[Any, ""]]:
        r"""Angular frequency $\sqrt{k/m}$ and period $2\pi\sqrt{m/k}$."""
        angular_frequency = jnp.sqrt(self.stiffness / self.mass)
        return {
            "angular_frequency": angular_frequency,
            "period": 2 * math.pi / angular_frequency,
        }


class VanDerPol(AbstractODE):
    r"""Van der Pol's oscillator.

    $$\dot x = v, \qquad \dot v = \mu\,(1 - x^2)\,v - x$$

    with the damping $\mu$, which is negative within $|x| < 1$ and positive outside, so
    that all motion settles on one limit cycle. At $\mu = 0$ it is the harmonic
    oscillator; from about $\mu = 100$ on it is stiff and wants an implicit method
    ($\mu = 1000$ is the usual test). Time is in units of the inverse frequency.

    Source: B. van der Pol, Phil. Mag. 2, 978 (1926); as a stiff test: E. Hairer,
    G. Wanner, *Solving Ordinary Differential Equations II* (1996), section IV.1.
    """

    damping: Float[Any, ""] = parameter(
        1.0, positive=True, description="strength of the nonlinear damping, mu"
    )
    states: ClassVar[tuple[State, ...]] = (
        State("position", 2.0, "1", "displacement"),
        State("velocity", 0.0, "1", "its time derivative"),
    )

    def vector_field(
        self, t: Real[Array, ""], y: Float[Array, " states"], inputs: Inputs
    ) -> Float[Array, " states"]:
        """See the class."""
        del t, inputs
        position, velocity = y
        # (1 - x)(1 + x) keeps its digits near x = 1, where 1 - x**2 cancels and a
        # damping of 1000 would magnify the error.
        damping = self.damping * (1 - position) * (1 + position)
        return jnp.stack([velocity, damping * velocity - position])
