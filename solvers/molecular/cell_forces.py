"""Positions and the strain of the box as one set of coordinates, for minimisation."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from solvers.molecular.barostats import upper_strain
from solvers.molecular.state import MolecularState
from systems.molecular.boxes import OrthorhombicBox
from systems.molecular.model import MolecularModel


class Coordinates(eqx.Module):
    """Moves of all particles, and of the box.

    - `positions`: shape `(particles, 3)`, in the unit of length.
    - `strain`: symmetric, shape `(3, 3)`, times the number of particles and one unit of
      length, so that both are alike in size; zero where the box stays.
    """

    positions: Float[Array, "... particles 3"]
    strain: Float[Array, "... 3 3"]

    def plus(self, other: "Coordinates", mine, theirs) -> "Coordinates":
        """`mine` times these and `theirs` times the others."""
        return Coordinates(
            mine * self.positions + theirs * other.positions,
            mine * self.strain + theirs * other.strain,
        )

    def at(self, place: int) -> "Coordinates":
        """One entry of a history."""
        return Coordinates(self.positions[place], self.strain[place])

    def as_strain(self, state: MolecularState) -> Float[Array, "..."]:
        """The strain as boxes take it."""
        symmetric = self.strain / state.positions.shape[0]
        if isinstance(state.box, OrthorhombicBox):
            return jnp.expm1(jnp.diagonal(symmetric))
        return upper_strain(symmetric)


def scaled(coordinates: Coordinates, factor) -> Coordinates:
    """Coordinates times a number."""
    return Coordinates(coordinates.positions * factor, coordinates.strain * factor)


def dot(a: Coordinates, b: Coordinates) -> Float[Array, ""]:
    """Sum of the products of all components."""
    return jnp.sum(a.positions * b.positions) + jnp.sum(a.strain * b.strain)


def norm(a: Coordinates) -> Float[Array, ""]:
    """Root of the sum of all squares."""
    return jnp.sqrt(dot(a, a))


def generalised_forces(
    state: MolecularState, model: MolecularModel, pressure: Float[Array, ""], with_box: bool
) -> Coordinates:
    """Minus the derivative of the enthalpy by the coordinates."""
    if not with_box:
        return Coordinates(state.forces, jnp.zeros((3, 3), state.positions.dtype))
    dtype = state.positions.dtype
    work = jnp.asarray(pressure, dtype) / model.units.compression * state.box.volume()
    by_strain = state.virial - jnp.eye(3, dtype=dtype) * work
    if isinstance(state.box, OrthorhombicBox):
        by_strain = by_strain * jnp.eye(3, dtype=dtype)
    return Coordinates(state.forces, by_strain / state.positions.shape[0])
