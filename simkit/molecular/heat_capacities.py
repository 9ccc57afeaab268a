r"""The heat capacity from fluctuations, in the canonical and microcanonical ensembles.

$$C_V = \frac{\langle E^2 \rangle - \langle E \rangle^2}{k T^2} \quad\text{(constant T)},
  \qquad
  \frac{\langle K^2 \rangle - \langle K \rangle^2}{\langle K \rangle^2}
  = \frac{2}{f} \Big(1 - \frac{f k}{2 C_V}\Big) \quad\text{(constant E)}$$

with $f$ degrees of freedom; $2/3N$ for an ideal thermostat of $N$ particles. Errors are by the
jackknife over blocks longer than the memory of the energy. Sources: M. P. Allen, D. J.
Tildesley, *Computer Simulation of Liquids*, 2nd ed. (2017), section 2.5; J. L. Lebowitz, J. K.
Percus, L. Verlet, Phys. Rev. 153, 250 (1967).
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import ArrayLike, Float

from simkit.molecular.block_errors import autocorrelation_time
from simkit.molecular.values import Average
from systems.molecular.units import REDUCED, Units


_MOST_BLOCKS = 50
_FEWEST_BLOCKS = 8


def heat_capacity(
    energy: Float[ArrayLike, " frames"],
    temperature: float,
    *,
    units: Units = REDUCED,
) -> Average:
    """The heat capacity at constant volume of all particles, in the canonical ensemble.

    **Arguments:**

    - `energy`: total energy of each frame of a run at constant temperature; of the
      potential energy alone it is the part beyond the ideal gas.
    - `temperature`: that of the thermostat.
    - `units`: of energy and temperature.

    **Returns:** in energy per temperature.

    Raises `ValueError` for fewer than 16 frames, too few for their memory, numbers that are
    not finite, and a temperature that is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"The temperature is {temperature}, expected a positive number.")

    def capacity(values: np.ndarray) -> float:
        return float(np.var(values) / (units.boltzmann * temperature**2))

    return _jackknifed(energy, capacity, units)


def microcanonical_heat_capacity(
    kinetic_energy: Float[ArrayLike, " frames"],
    degrees_of_freedom: float,
    *,
    units: Units = REDUCED,
) -> Average:
    """The heat capacity at constant volume of all particles, at constant energy.

    **Arguments:**

    - `kinetic_energy`: of each frame of a run at constant energy.
    - `degrees_of_freedom`: of the velocities, `3 particles - 3` with a fixed total momentum.
    - `units`: of energy and temperature.

    **Returns:** in energy per temperature.

    Raises `ValueError` for fewer than 16 frames, too few for their memory, and numbers that
    are not finite.
    """

    def capacity(values: np.ndarray) -> float:
        scatter = np.var(values) / np.mean(values) ** 2
        half = degrees_of_freedom / 2
        return float(half * units.boltzmann / (1 - half * scatter))

    return _jackknifed(kinetic_energy, capacity, units)


def _jackknifed(
    series: Float[ArrayLike, " frames"], capacity: Callable[[np.ndarray], float], units: Units
) -> Average:
    values = np.asarray(series, float)
    if values.ndim != 1 or len(values) < 2 * _FEWEST_BLOCKS:
        raise ValueError(
            f"The energies have shape {values.shape}, expected at least "
            f"{2 * _FEWEST_BLOCKS} frames."
        )
    memory = float(autocorrelation_time((values - values.mean()) ** 2))
    count = int(min(_MOST_BLOCKS, len(values) / (2 * max(memory, 1.0))))
    if count < _FEWEST_BLOCKS:
        raise ValueError(
            f"The {len(values)} frames remember each other for {memory:.3g} of them, which "
            f"leaves {count} independent blocks, expected at least {_FEWEST_BLOCKS}; "
            "run longer."
        )
    places = np.array_split(np.arange(len(values)), count)
    left_out = np.asarray([capacity(np.delete(values, place)) for place in places])
    error = np.sqrt((count - 1) * np.var(left_out))
    unit = "1" if units.energy == "1" else f"{units.energy}/{units.temperature}"
    return Average("heat capacity", unit, np.asarray(capacity(values)), np.asarray(error))
