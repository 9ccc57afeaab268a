"""Constant temperature with the total momentum conserved: chains and rescaling."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from solvers.molecular.dynamics import (
    AbstractThermostat,
    as_value,
    drifted,
    kicked,
    thermal_energy,
    total_energy,
    with_variables,
    with_velocities,
)
from solvers.molecular.noise import draw_key
from solvers.molecular.state import MolecularState, kinetic_energy
from systems.molecular.model import MolecularModel


# Weights of the symmetric composition of fourth order (Suzuki, Yoshida).
_OUTER = 1 / (2 - 2 ** (1 / 3))
_WEIGHTS = (_OUTER, 1 - 2 * _OUTER, _OUTER)


class NoseHooverChain(AbstractThermostat):
    r"""Nose-Hoover chains: constant temperature by deterministic, reversible motion.

    The first thermostat exchanges energy with the particles, each next one with the one
    before it; their masses are $g k T \tau^2$ and $k T \tau^2$, with $g$ degrees of
    freedom. Small and stiff systems may be sampled slowly; take a stochastic method there.

    - `time_step`: in the unit of time.
    - `temperature`: $T$, in the unit of temperature.
    - `relaxation_time`: $\tau$, in the unit of time; 20 to 100 time steps or more.
    - `length`: how many thermostats the chain has, at least 2.

    Source: G. J. Martyna, M. E. Tuckerman, D. J. Tobias, M. L. Klein, Mol. Phys. 87, 1117
    (1996).
    """

    time_step: Float[Any, ""] = eqx.field(converter=as_value)
    temperature: Float[Any, ""] = eqx.field(converter=as_value)
    relaxation_time: Float[Any, ""] = eqx.field(converter=as_value)
    length: int = eqx.field(default=3, static=True)

    conserves_momentum: ClassVar[bool] = True

    def __check_init__(self) -> None:
        if self.length < 2:
            raise ValueError(f"NoseHooverChain: length is {self.length}, expected at least 2.")

    @property
    def duration(self) -> Float[Array, ""]:
        """The time step."""
        return self.time_step

    def start(
        self, state: MolecularState, model: MolecularModel
    ) -> tuple[Float[Array, " chain"], Float[Array, " chain"]]:
        """Positions and velocities of the thermostats, all zero."""
        del model
        zeros = jnp.zeros(self.length, state.positions.dtype)
        return zeros, zeros

    def before_forces(self, state: MolecularState, model: MolecularModel) -> MolecularState:
        """Half a step of the chain, half a kick, the drift."""
        state = self._chain(state, model)
        return drifted(kicked(state, model, self.time_step / 2), self.time_step)

    def after_forces(self, state: MolecularState, model: MolecularModel) -> MolecularState:
        """Half a kick, half a step of the chain."""
        return self._chain(kicked(state, model, self.time_step / 2), model)

    def conserved(
        self, state: MolecularState, model: MolecularModel, potential: Float[Array, ""]
    ) -> Float[Array, ""]:
        """Energy of the particles and of the chain."""
        places, speeds = state.variables
        thermal, masses = self._masses(state, model)
        chain = jnp.sum(masses * speeds**2) / 2 + thermal * (
            state.degrees_of_freedom * places[0] + jnp.sum(places[1:])
        )
        return total_energy(state, model, potential) + chain

    def _masses(
        self, state: MolecularState, model: MolecularModel
    ) -> tuple[Float[Array, ""], Float[Array, " chain"]]:
        thermal = thermal_energy(self.temperature, model, state.positions.dtype)
        counts = jnp.ones(self.length, state.positions.dtype)
        counts = counts.at[0].set(state.degrees_of_freedom)
        return thermal, counts * thermal * self.relaxation_time**2

    def _chain(self, state: MolecularState, model: MolecularModel) -> MolecularState:
        places, speeds = state.variables
        thermal, masses = self._masses(state, model)
        doubled = 2 * kinetic_energy(state.velocities, model)
        wanted = state.degrees_of_freedom * thermal
        scale = jnp.ones((), state.velocities.dtype)
        place, speed = list(places), list(speeds)
        last = self.length - 1

        def push(i: int) -> Array:
            if i == 0:
                return (doubled - wanted) / masses[0]
            return (masses[i - 1] * speed[i - 1] ** 2 - thermal) / masses[i]

        for weight in _WEIGHTS:
            whole = weight * self.time_step / 2
            half, eighth = whole / 2, whole / 4
            for i in range(last, -1, -1):
                brake = jnp.exp(-eighth * speed[i + 1]) if i < last else 1.0
                speed[i] = (
                    (speed[i] * brake + half * push(i)) * brake
                    if i < last
                    else (speed[i] + half * push(i))
                )
            factor = jnp.exp(-whole * speed[0])
            scale, doubled = scale * factor, doubled * factor**2
            for i in range(self.length):
                place[i] = place[i] + whole * speed[i]
            for i in range(self.length):
                brake = jnp.exp(-eighth * speed[i + 1]) if i < last else 1.0
                speed[i] = (
                    (speed[i] * brake + half * push(i)) * brake
                    if i < last
                    else (speed[i] + half * push(i))
                )
        state = with_velocities(state, state.velocities * scale)
        return with_variables(state, (jnp.stack(place), jnp.stack(speed)))


class StochasticVelocityRescaling(AbstractThermostat):
    r"""Stochastic velocity rescaling: constant temperature, with little change to the motion.

    All velocities are scaled by one random factor, such that the kinetic energy follows
    its own stochastic equation with the canonical distribution as its answer.

    - `time_step`: in the unit of time.
    - `temperature`: $T$, in the unit of temperature.
    - `relaxation_time`: $\tau$, in the unit of time.

    Source: G. Bussi, D. Donadio, M. Parrinello, J. Chem. Phys. 126, 014101 (2007).
    """

    time_step: Float[Any, ""] = eqx.field(converter=as_value)
    temperature: Float[Any, ""] = eqx.field(converter=as_value)
    relaxation_time: Float[Any, ""] = eqx.field(converter=as_value)

    conserves_momentum: ClassVar[bool] = True

    @property
    def duration(self) -> Float[Array, ""]:
        """The time step."""
        return self.time_step

    def start(self, state: MolecularState, model: MolecularModel) -> Float[Array, ""]:
        """The energy that the thermostat has given so far."""
        del model
        return jnp.zeros((), state.positions.dtype)

    def before_forces(self, state: MolecularState, model: MolecularModel) -> MolecularState:
        """Half a kick and the drift."""
        return drifted(kicked(state, model, self.time_step / 2), self.time_step)

    def after_forces(self, state: MolecularState, model: MolecularModel) -> MolecularState:
        """The other half of the kick, then the rescaling."""
        state = kicked(state, model, self.time_step / 2)
        kinetic = kinetic_energy(state.velocities, model)
        dtype = state.velocities.dtype
        freedom = state.degrees_of_freedom
        thermal = thermal_energy(self.temperature, model, dtype)
        one, others = jax.random.split(draw_key(state.key, state.step, 1))
        first = jax.random.normal(one, (), dtype)
        # The sum of the squares of all other normal numbers.
        rest = 2 * jax.random.gamma(others, (freedom - 1) / 2, dtype=dtype)
        kept = jnp.exp(-self.time_step / self.relaxation_time)
        ratio = (1 - kept) * thermal / 2 / jnp.maximum(kinetic, jnp.finfo(dtype).tiny)
        squared = kept + ratio * (first**2 + rest) + 2 * first * jnp.sqrt(kept * ratio)
        # Particles at rest have no direction that could be scaled.
        squared = jnp.where(kinetic > 0, squared, 1.0)
        state = with_velocities(state, state.velocities * jnp.sqrt(squared))
        return with_variables(state, state.variables + (squared - 1) * kinetic)

    def conserved(
        self, state: MolecularState, model: MolecularModel, potential: Float[Array, ""]
    ) -> Float[Array, ""]:
        """Energy of the particles less what the thermostat has given."""
        return total_energy(state, model, potential) - state.variables
