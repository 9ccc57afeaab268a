r"""Cut-off schemes: how a potential of infinite range ends at a radius.

Each wraps a pair energy and is one itself, with the radius as its range. They differ in
what stays smooth at the radius:

| scheme | energy | force | changes within |
| --- | --- | --- | --- |
| `Truncated` | jumps | jumps | nothing |
| `Shifted` | smooth | jumps | the energy, by a constant |
| `ForceShifted` | smooth | smooth | the force, by a constant |
| `Switched` | smooth to its second derivative | smooth | both, beyond the onset |

Source: M. P. Allen, D. J. Tildesley, *Computer Simulation of Liquids*, 2nd ed. (2017),
section 5.2; the switch: P. Eastman et al., *OpenMM User Guide*, section 19.6.1.
"""

import equinox as eqx
import jax.numpy as jnp

from systems.molecular.pairwise import (
    AbstractPairEnergy,
    AbstractPairEnergyWithSlope,
    Species,
    SquaredDistance,
    Values,
    check_positive,
)


class AbstractCutOff(AbstractPairEnergyWithSlope):
    """A pair energy that ends at a radius.

    - `pair`: the potential.
    - `radius`: the cut-off, positive, unit of length; a plain number.
    """

    pair: AbstractPairEnergy
    radius: eqx.AbstractVar[float]

    def __check_init__(self) -> None:
        _check_radius(self, self.pair, self.radius)

    @property
    def range(self) -> float | None:
        """The radius."""
        return self.radius


class Truncated(AbstractCutOff):
    r"""The potential as it is within a radius, and zero beyond.

    Energies of a moving system jump as pairs cross the radius; what is neglected can be
    added by [`TailCorrection`][systems.molecular.corrections.TailCorrection].

    - `pair`: the potential.
    - `radius`: the cut-off, positive, unit of length; a plain number.
    """

    radius: float = eqx.field(static=True)

    def energy(
        self, squared_distance: SquaredDistance, first: Species, second: Species
    ) -> Values:
        """See the class."""
        energy = self.pair.energy(squared_distance, first, second)
        return jnp.where(_within(squared_distance, self.radius), energy, 0.0)

    def energy_and_slope(
        self, squared_distance: SquaredDistance, first: Species, second: Species
    ) -> tuple[Values, Values]:
        """Those of the potential within the radius."""
        energy, slope = self.pair.energy_and_slope(squared_distance, first, second)
        within = _within(squared_distance, self.radius)
        return jnp.where(within, energy, 0.0), jnp.where(within, slope, 0.0)


class Shifted(AbstractCutOff):
    r"""The potential less its value at the radius: $u(r) - u(r_c)$.

    Forces are those of the plain truncation, the energy no longer jumps.

    - `pair`: the potential.
    - `radius`: the cut-off, positive, unit of length; a plain number.
    """

    radius: float = eqx.field(static=True)

    def energy_and_slope(
        self, squared_distance: SquaredDistance, first: Species, second: Species
    ) -> tuple[Values, Values]:
        """Those of the potential within the radius, the energy less a constant."""
        energy, slope = self.pair.energy_and_slope(squared_distance, first, second)
        end = self.pair.energy(_square(self.radius, squared_distance), first, second)
        within = _within(squared_distance, self.radius)
        return jnp.where(within, energy - end, 0.0), jnp.where(within, slope, 0.0)


class ForceShifted(AbstractCutOff):
    r"""The potential with a force less its value at the radius.

    $$u(r) - u(r_c) - (r - r_c)\,u'(r_c)$$

    Neither energy nor force jumps: a good choice for dynamics, and the linear-force
    shift of NIST's reference calculations.

    - `pair`: the potential.
    - `radius`: the cut-off, positive, unit of length; a plain number.

    Source: S. D. Stoddard, J. Ford, Phys. Rev. A 8, 1504 (1973).
    """

    radius: float = eqx.field(static=True)

    def energy_and_slope(
        self, squared_distance: SquaredDistance, first: Species, second: Species
    ) -> tuple[Values, Values]:
        """By the formula; one root more than the potential."""
        energy, slope = self.pair.energy_and_slope(squared_distance, first, second)
        end, end_slope = self.pair.energy_and_slope(
            _square(self.radius, squared_distance), first, second
        )
        distance = jnp.sqrt(squared_distance)
        # The slope w is -u'(r)/r.
        end_force = end_slope * self.radius
        energy = energy - end + (distance - self.radius) * end_force
        slope = slope - end_force / distance
        within = _within(squared_distance, self.radius)
        return jnp.where(within, energy, 0.0), jnp.where(within, slope, 0.0)


class Switched(AbstractCutOff):
    r"""The potential times a function that falls smoothly from one to zero.

    $$u(r)\,S(x), \quad S = 1 - 10x^3 + 15x^4 - 6x^5, \quad
      x = \frac{r - r_s}{r_c - r_s}$$

    with $x$ held between 0 and 1.

    Energies, forces and their derivatives are continuous: the scheme for minimisation,
    vibrations and long runs that conserve energy.

    - `pair`: the potential.
    - `onset`: $r_s$, where it begins to change; below the radius, not negative.
    - `radius`: $r_c$, where it ends, unit of length. Both plain numbers.
    """

    onset: float = eqx.field(static=True)
    radius: float = eqx.field(static=True)

    def __check_init__(self) -> None:
        _check_radius(self, self.pair, self.radius)
        if not (isinstance(self.onset, int | float) and 0 <= self.onset < self.radius):
            raise ValueError(
                f"Switched: onset is {self.onset}, expected a number from 0 to below the "
                f"radius {self.radius}."
            )

    def energy_and_slope(
        self, squared_distance: SquaredDistance, first: Species, second: Species
    ) -> tuple[Values, Values]:
        """By the product rule."""
        energy, slope = self.pair.energy_and_slope(squared_distance, first, second)
        distance = jnp.sqrt(squared_distance)
        width = self.radius - self.onset
        x = jnp.clip((distance - self.onset) / width, 0.0, 1.0)
        switch = 1 + x**3 * (-10 + x * (15 - 6 * x))
        falling = 30 * x**2 * (1 - x) ** 2 / (width * distance)
        return energy * switch, slope * switch + energy * falling


def _within(squared_distance: SquaredDistance, radius: float) -> Values:
    return squared_distance < radius * radius


def _square(radius: float, like: Values) -> Values:
    """The squared radius as one number: parameters that are one number stay so."""
    return jnp.asarray(radius * radius, like.dtype)


def _check_radius(scheme: AbstractPairEnergy, pair: object, radius: float) -> None:
    owner = type(scheme).__name__
    if not isinstance(pair, AbstractPairEnergy):
        raise ValueError(
            f"{owner}: pair is of type {type(pair).__name__}, expected a pair energy."
        )
    check_positive(owner, "radius", radius)
