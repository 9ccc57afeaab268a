"""More pair energies: of salts, molecules, soft and screened particles, and the user's own."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Float

from systems.base import parameter
from systems.molecular.pairwise import (
    AbstractPairEnergy,
    Species,
    SquaredDistance,
    Values,
    as_function,
    check_positive,
    longest_range,
    pair_value,
    poison_beyond,
)


class Buckingham(AbstractPairEnergy):
    r"""Exponential repulsion and dispersion.

    $$u(r) = A e^{-r/\rho} - C / r^6$$

    Below some short distance the dispersion wins and the energy falls without bound:
    starts with particles that close are no use.

    - `repulsion`: $A$, unit of energy. `decay`: $\rho$, unit of length. `dispersion`:
      $C$, energy times length to the sixth. Each a number or a matrix.

    Source: R. A. Buckingham, Proc. R. Soc. A 168, 264 (1938).
    """

    repulsion: Float[Any, "..."] = parameter(
        unit="energy", positive=True, description="strength of the repulsion, A"
    )
    decay: Float[Any, "..."] = parameter(
        unit="length", positive=True, description="length of the repulsion, rho"
    )
    dispersion: Float[Any, "..."] = parameter(
        unit="energy * length**6", positive=True, description="strength of the dispersion, C"
    )

    def energy(
        self, squared_distance: SquaredDistance, first: Species, second: Species
    ) -> Values:
        """See the class."""
        dtype = squared_distance.dtype
        repulsion = pair_value(self.repulsion, first, second, dtype)
        decay = pair_value(self.decay, first, second, dtype)
        dispersion = pair_value(self.dispersion, first, second, dtype)
        distance = jnp.sqrt(squared_distance)
        return repulsion * jnp.exp(-distance / decay) - dispersion / squared_distance**3


class Morse(AbstractPairEnergy):
    r"""The potential of Morse, with its minimum at $-D$ and zero at infinity.

    $$u(r) = D\left[e^{-2a(r - r_0)} - 2 e^{-a(r - r_0)}\right]$$

    - `depth`: $D$, unit of energy. `steepness`: $a$, one over length. `distance`:
      $r_0$, unit of length. Each a number or a matrix.

    Source: P. M. Morse, Phys. Rev. 34, 57 (1929).
    """

    depth: Float[Any, "..."] = parameter(
        1.0, unit="energy", positive=True, description="depth of the minimum, D"
    )
    steepness: Float[Any, "..."] = parameter(
        5.0, unit="1/length", positive=True, description="inverse width of the well, a"
    )
    distance: Float[Any, "..."] = parameter(
        1.0, unit="length", positive=True, description="distance of the minimum, r0"
    )

    def energy(
        self, squared_distance: SquaredDistance, first: Species, second: Species
    ) -> Values:
        """See the class."""
        dtype = squared_distance.dtype
        depth = pair_value(self.depth, first, second, dtype)
        steepness = pair_value(self.steepness, first, second, dtype)
        distance = pair_value(self.distance, first, second, dtype)
        decay = jnp.exp(-steepness * (jnp.sqrt(squared_distance) - distance))
        return depth * decay * (decay - 2)


class SoftSphere(AbstractPairEnergy):
    r"""Repulsion by an inverse power.

    $$u(r) = \epsilon (\sigma/r)^n$$

    - `epsilon`: energy at the distance sigma. `sigma`: unit of length. `exponent`: $n$,
      one number above zero; above three, or energies depend on the size of the system.

    Source: W. G. Hoover et al., J. Chem. Phys. 52, 4931 (1970).
    """

    epsilon: Float[Any, "..."] = parameter(
        1.0, unit="energy", positive=True, description="energy at the distance sigma"
    )
    sigma: Float[Any, "..."] = parameter(
        1.0, unit="length", positive=True, description="diameter"
    )
    exponent: Float[Any, ""] = parameter(
        12.0, positive=True, description="power of the inverse distance, n"
    )

    def energy(
        self, squared_distance: SquaredDistance, first: Species, second: Species
    ) -> Values:
        """See the class."""
        dtype = squared_distance.dtype
        epsilon = pair_value(self.epsilon, first, second, dtype)
        sigma = pair_value(self.sigma, first, second, dtype)
        half = jnp.asarray(self.exponent).astype(dtype) / 2
        return epsilon * (sigma * sigma / squared_distance) ** half


class HarmonicSphere(AbstractPairEnergy):
    r"""Spheres that push where they overlap, of foams and granular packings.

    $$u(r) = \frac{\epsilon}{\alpha}\,(1 - r/\sigma)^\alpha$$

    where $r < \sigma$, and zero beyond.

    - `epsilon`: unit of energy. `sigma`: diameter, unit of length. `exponent`:
      $\alpha$, at least 2 (harmonic); 2.5 is that of Hertz.
    - `longest`: as of
      [`WeeksChandlerAndersen`][systems.molecular.pairwise.WeeksChandlerAndersen].

    Source: C. S. O'Hern et al., Phys. Rev. E 68, 011306 (2003).
    """

    epsilon: Float[Any, "..."] = parameter(
        1.0, unit="energy", positive=True, description="strength of the repulsion"
    )
    sigma: Float[Any, "..."] = parameter(
        1.0, unit="length", positive=True, description="diameter"
    )
    exponent: Float[Any, ""] = parameter(2.0, lower=2.0, description="power of the overlap")
    longest: float = eqx.field(static=True, kw_only=True, default=0.0)

    def __post_init__(self) -> None:
        if self.longest == 0.0:
            self.longest = longest_range(self.sigma, 1.0, "HarmonicSphere")

    @property
    def range(self) -> float | None:
        """The field `longest`."""
        return self.longest

    def energy(
        self, squared_distance: SquaredDistance, first: Species, second: Species
    ) -> Values:
        """See the class."""
        dtype = squared_distance.dtype
        epsilon = pair_value(self.epsilon, first, second, dtype)
        sigma = pair_value(self.sigma, first, second, dtype)
        exponent = jnp.asarray(self.exponent).astype(dtype)
        overlap = 1 - jnp.sqrt(squared_distance) / sigma
        # A power of zero or less has no derivative; it is of no pair that overlaps.
        touching = overlap > 0
        power = jnp.where(touching, overlap, 1.0) ** exponent
        energy = jnp.where(touching, epsilon / exponent * power, 0.0)
        return energy * poison_beyond(sigma, self.longest)


class Yukawa(AbstractPairEnergy):
    r"""Screened repulsion (or attraction) of charges.

    $$u(r) = A\, e^{-\kappa r} / r$$

    - `strength`: $A$, energy times length, of either sign. `screening`: $\kappa$, one
      over length. Each a number or a matrix.

    Source: H. Yukawa, Proc. Phys.-Math. Soc. Japan 17, 48 (1935).
    """

    strength: Float[Any, "..."] = parameter(
        1.0, unit="energy * length", description="strength, A"
    )
    screening: Float[Any, "..."] = parameter(
        1.0, unit="1/length", positive=True, description="inverse screening length, kappa"
    )

    def energy(
        self, squared_distance: SquaredDistance, first: Species, second: Species
    ) -> Values:
        """See the class."""
        dtype = squared_distance.dtype
        strength = pair_value(self.strength, first, second, dtype)
        screening = pair_value(self.screening, first, second, dtype)
        distance = jnp.sqrt(squared_distance)
        return strength * jnp.exp(-screening * distance) / distance


class UserPair(AbstractPairEnergy):
    """Any energy of a pair as a function.

    - `function`: called as `function(distance, first, second)` with arrays of one
      shape (or species that broadcast) and to give energies of that shape, by element.
      An Equinox module with a `__call__` keeps its arrays as leaves, and its declared
      parameters can be fitted.
    - `longest`: the distance beyond which it is zero, or `None`; wrap it in a cut-off
      then.

    Slopes come from forward differentiation.
    """

    function: Callable[..., Values] = eqx.field(converter=as_function)
    longest: float | None = eqx.field(static=True, default=None)

    def __check_init__(self) -> None:
        if self.longest is not None:
            check_positive("UserPair", "longest", self.longest)

    @property
    def range(self) -> float | None:
        """The field `longest`."""
        return self.longest

    def energy(
        self, squared_distance: SquaredDistance, first: Species, second: Species
    ) -> Values:
        """The function at the distance."""
        return self.function(jnp.sqrt(squared_distance), first, second)
