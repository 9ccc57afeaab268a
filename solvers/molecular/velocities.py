"""Velocities of a temperature."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float

from solvers.molecular.state import column, inertia, kinetic_energy, temperature_of
from systems.molecular.model import MolecularModel


def without_drift(
    velocities: Float[Array, "particles 3"], model: MolecularModel
) -> Float[Array, "particles 3"]:
    """The velocities less that of the centre of mass."""
    masses = column(jnp.asarray(model.masses, velocities.dtype))
    drift = jnp.sum(masses * velocities, axis=0, keepdims=True) / jnp.sum(masses)
    return velocities - drift


def maxwell_boltzmann(
    model: MolecularModel,
    temperature: Float[ArrayLike, ""],
    *,
    key: Array,
    exact: bool = False,
) -> Float[Array, "particles 3"]:
    r"""Velocities from the Maxwell-Boltzmann distribution, with zero total momentum.

    Each component is normal with variance $k T / m$; then the velocity of the centre of
    mass is taken off, which leaves `3 particles - 3` degrees of freedom.

    **Arguments:**

    - `model`: gives masses and units.
    - `temperature`: in the model's unit, not negative.
    - `key`: a random key.
    - `exact`: scale the velocities so that the temperature is met exactly; else it
      fluctuates as that of a canonical ensemble does.

    Raises `ValueError` for a negative temperature. Source: M. P. Allen, D. J. Tildesley,
    *Computer Simulation of Liquids*, 2nd ed. (2017), section 5.7.2.
    """
    if not isinstance(temperature, Tracer) and not np.all(np.asarray(temperature) >= 0):
        raise ValueError(f"The temperature is {temperature}, expected zero or above.")
    mass = inertia(model, float)
    particles = mass.shape[0]
    width = jnp.sqrt(jnp.asarray(temperature, float) * model.units.boltzmann / mass)
    velocities = width * jax.random.normal(key, (particles, 3))
    if particles == 1:
        return velocities
    velocities = without_drift(velocities, model)
    if not exact:
        return velocities
    freedom = jnp.asarray(3.0 * particles - 3.0)
    now = temperature_of(kinetic_energy(velocities, model), freedom, model)
    return velocities * jnp.sqrt(jnp.where(now > 0, temperature / now, 0.0))
