"""What a method of dynamics promises, and the moves that all of them share."""

import abc
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from solvers.molecular.state import MolecularState, inertia, kinetic_energy
from systems.molecular.model import MolecularModel


class AbstractDynamics(eqx.Module):
    """One step, in two parts: all before the forces at the new positions, and all after.

    A method is a value; its options are its fields. The driver evaluates the forces
    between the two parts and counts the step after them.

    - `conserves_momentum`: whether the total momentum stays as it is, so that three
      degrees of freedom are fixed.
    - `needs_virial`: whether the virial is evaluated with the forces of each step.
    - `overdamped`: whether there are no velocities, so that the kinetic part of the
      pressure is that of the temperature.
    - `sorts`: whether stored particles may be put in another order.
    """

    overdamped: ClassVar[bool] = False
    sorts: ClassVar[bool] = True

    @property
    @abc.abstractmethod
    def conserves_momentum(self) -> bool:
        """Whether the total momentum stays as it is."""

    @property
    def needs_virial(self) -> bool:
        """Whether a step looks at the virial; most do not."""
        return False

    @property
    @abc.abstractmethod
    def duration(self) -> Float[Array, ""]:
        """Time that one step takes, in the unit of time."""

    def start(self, state: MolecularState, model: MolecularModel) -> Any:
        """The variables of the method before the first step; most have none."""
        del state, model
        return None

    @abc.abstractmethod
    def before_forces(self, state: MolecularState, model: MolecularModel) -> MolecularState:
        """All that happens before the forces at the new positions are known."""

    def after_forces(self, state: MolecularState, model: MolecularModel) -> MolecularState:
        """All that happens after; `state.forces` are those at its positions."""
        del model
        return state

    def strides(
        self, state: MolecularState, model: MolecularModel
    ) -> Float[Array, "particles 3"]:
        """How far each particle goes in one step, as far as forces and velocities tell."""
        del model
        return state.velocities * self.duration

    def conserved(
        self, state: MolecularState, model: MolecularModel, potential: Float[Array, ""]
    ) -> Float[Array, ""]:
        """The energy that exact motion would conserve; not a number if there is none."""
        del model, potential
        return jnp.full((), jnp.nan, state.positions.dtype)


class AbstractThermostat(AbstractDynamics):
    """Dynamics that sample a temperature.

    - `temperature`: in the model's unit.
    """

    temperature: eqx.AbstractVar[Float[Any, ""]]


class AbstractMinimiser(AbstractDynamics):
    """Steps towards a minimum of the energy."""

    @abc.abstractmethod
    def converged(self, state: MolecularState, model: MolecularModel) -> Bool[Array, ""]:
        """Whether the minimum is reached."""


def kicked(state: MolecularState, model: MolecularModel, time) -> MolecularState:
    """Velocities after the forces have acted for a time."""
    velocities = state.velocities + time * state.forces / inertia(model, state.velocities.dtype)
    return eqx.tree_at(lambda s: s.velocities, state, velocities)


def drifted(state: MolecularState, time) -> MolecularState:
    """Positions after the particles have flown for a time."""
    return eqx.tree_at(lambda s: s.positions, state, state.positions + time * state.velocities)


def with_velocities(state: MolecularState, velocities: Array) -> MolecularState:
    """The state with other velocities."""
    return eqx.tree_at(lambda s: s.velocities, state, velocities)


def with_variables(state: MolecularState, variables: Any) -> MolecularState:
    """The state with other variables of the method."""
    return eqx.tree_at(lambda s: s.variables, state, variables, is_leaf=lambda x: x is None)


def total_energy(
    state: MolecularState, model: MolecularModel, potential: Float[Array, ""]
) -> Float[Array, ""]:
    """Kinetic and potential energy together."""
    return kinetic_energy(state.velocities, model) + potential


def thermal_energy(temperature, model: MolecularModel, dtype) -> Float[Array, ""]:
    """Boltzmann constant times temperature."""
    return jnp.asarray(temperature, dtype) * model.units.boltzmann


def as_value(value: Any) -> Any:
    """A number as an array of the default precision, so that it may be traced or mapped."""
    return jnp.asarray(value, dtype=float)
