"""Motion with friction and noise: Langevin's equation, and its limit without inertia."""

from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from solvers.molecular.dynamics import (
    AbstractThermostat,
    as_value,
    drifted,
    kicked,
    thermal_energy,
    with_velocities,
)
from solvers.molecular.noise import particle_noise
from solvers.molecular.state import MolecularState, inertia
from systems.molecular.model import MolecularModel


class Langevin(AbstractThermostat):
    r"""Langevin dynamics by BAOAB: constant temperature, with friction.

    $$dx = v\,dt, \qquad m\,dv = F\,dt - \gamma m v\,dt + \sqrt{2 \gamma k T m}\,dW$$

    Positions are sampled with an error of order 2 that is small for soft liquids up to
    large steps; friction and noise are exact for any time step.

    - `time_step`: in the unit of time.
    - `temperature`: $T$, in the unit of temperature.
    - `friction`: $\gamma$, in one over the unit of time; 0.1 to 1 disturbs the motion of a
      liquid little, 1 to 10 reaches equilibrium soon.

    Source: B. Leimkuhler, C. Matthews, Appl. Math. Res. Express 2013, 34 (2013).
    """

    time_step: Float[Any, ""] = eqx.field(converter=as_value)
    temperature: Float[Any, ""] = eqx.field(converter=as_value)
    friction: Float[Any, ""] = eqx.field(converter=as_value)

    conserves_momentum: ClassVar[bool] = False

    @property
    def duration(self) -> Float[Array, ""]:
        """The time step."""
        return self.time_step

    def before_forces(self, state: MolecularState, model: MolecularModel) -> MolecularState:
        """B, A, O, A: half a kick, half a drift, friction and noise, half a drift."""
        half = self.time_step / 2
        state = drifted(kicked(state, model, half), half)
        dtype = state.velocities.dtype
        kept = jnp.exp(-self.friction * self.time_step)
        spread = jnp.sqrt(thermal_energy(self.temperature, model, dtype) * (1 - kept**2))
        noise = particle_noise(state.key, state.step, 0, state.identity, dtype)
        width = spread / jnp.sqrt(inertia(model, dtype))
        return drifted(with_velocities(state, kept * state.velocities + width * noise), half)

    def after_forces(self, state: MolecularState, model: MolecularModel) -> MolecularState:
        """B: the other half of the kick."""
        return kicked(state, model, self.time_step / 2)


class Brownian(AbstractThermostat):
    r"""Brownian dynamics: the limit of much friction, without velocities.

    $$dx = \frac{F}{\gamma m}\,dt + \sqrt{\frac{2 k T}{\gamma m}}\,dW$$

    Each step takes the mean of its own noise and that of the next, which makes averages
    over positions exact to order 2 at the cost of the Euler-Maruyama step.

    - `time_step`: in the unit of time.
    - `temperature`: $T$, in the unit of temperature.
    - `friction`: $\gamma$, in one over the unit of time; the diffusion constant of a free
      particle is $k T / \gamma m$.

    Source: B. Leimkuhler, C. Matthews, Appl. Math. Res. Express 2013, 34 (2013).
    """

    time_step: Float[Any, ""] = eqx.field(converter=as_value)
    temperature: Float[Any, ""] = eqx.field(converter=as_value)
    friction: Float[Any, ""] = eqx.field(converter=as_value)

    conserves_momentum: ClassVar[bool] = False
    overdamped: ClassVar[bool] = True

    @property
    def duration(self) -> Float[Array, ""]:
        """The time step."""
        return self.time_step

    def before_forces(self, state: MolecularState, model: MolecularModel) -> MolecularState:
        """The whole move; velocities become zero."""
        dtype = state.positions.dtype
        drag = self.friction * inertia(model, dtype)
        now = particle_noise(state.key, state.step, 0, state.identity, dtype)
        then = particle_noise(state.key, state.step + 1, 0, state.identity, dtype)
        thermal = thermal_energy(self.temperature, model, dtype)
        width = jnp.sqrt(thermal * self.time_step / (2 * drag))
        moved = state.positions + self.time_step * state.forces / drag + width * (now + then)
        state = eqx.tree_at(lambda s: s.positions, state, moved)
        return with_velocities(state, jnp.zeros_like(state.velocities))

    def strides(
        self, state: MolecularState, model: MolecularModel
    ) -> Float[Array, "particles 3"]:
        """What the forces do in a step, without the noise."""
        drag = self.friction * inertia(model, state.positions.dtype)
        return self.time_step * state.forces / drag
