r"""Energies of pairs of particles, as functions of the squared distance.

Everything here acts by element: distances of any shape, species as whole numbers that
broadcast against them. Nothing is summed, gathered by particle or cut off; that is for
`cutoffs` and `pair_sums`.

A parameter is one number for all pairs, or a symmetric matrix of shape
`(species, species)`; of a matrix that a fit has made unsymmetric, the symmetric part
counts. Where a potential takes a mixing rule, a vector of shape `(species,)` is one
number for each species.
"""

import abc
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from systems.base import check_parameters, declared_fields, parameter
from systems.molecular.boxes import known
from systems.molecular.mixing import MixingRule, lorentz_berthelot


SquaredDistance = Float[Any, "..."]
Species = Int[Any, "..."]
Values = Float[Array, "..."]

# Up to so many species a parameter is picked by comparisons, which stay vector code;
# beyond it is looked up.
_COMPARED_SPECIES = 4


class AbstractPairEnergy(eqx.Module):
    """The energy of two particles at a distance.

    A potential promises `energy`, and `range` if it ends somewhere. Parameters are fields
    made with [`parameter`][systems.base.parameter]; they are leaves.

    Construction raises `ValueError` if a parameter lies outside its bounds, has a shape
    that is neither `()` nor `(species, species)` (nor `(species,)`, where a mixing rule
    is taken), or is not symmetric.
    """

    takes_mixing_rule: ClassVar[bool] = False

    def __check_init__(self) -> None:
        check_parameters(self)
        _check_tables(self)

    @property
    def range(self) -> float | None:
        """Distance beyond which energy and force are zero.

        `None` if there is none: in a periodic box such a potential wants a cut-off.
        """
        return None

    @abc.abstractmethod
    def energy(
        self, squared_distance: SquaredDistance, first: Species, second: Species
    ) -> Values:
        """The energy of each pair.

        **Arguments:**

        - `squared_distance`: positive, in the unit of length squared, of any shape; at
          zero the energy of most potentials is infinite or not a number.
        - `first`, `second`: species of the two particles, whole numbers from zero, that
          broadcast against it.

        The result is in the precision of `squared_distance`.
        """

    def energy_and_slope(
        self, squared_distance: SquaredDistance, first: Species, second: Species
    ) -> tuple[Values, Values]:
        r"""The energy of each pair and its slope $w = -2\, du/d(r^2) = -u'(r)/r$.

        The force on the first particle is `w` times the vector from the second to it;
        `w * r**2` is the virial of the pair. Arguments as those of `energy`.
        """
        energy, derivative = jax.jvp(
            lambda square: self.energy(square, first, second),
            (squared_distance,),
            (jnp.ones_like(squared_distance),),
        )
        return energy, -2 * derivative


class AbstractPairEnergyWithSlope(AbstractPairEnergy):
    """A pair energy whose formula gives energy and slope in one go.

    It promises `energy_and_slope` in place of `energy`.
    """

    def energy(
        self, squared_distance: SquaredDistance, first: Species, second: Species
    ) -> Values:
        """The first of `energy_and_slope`."""
        return self.energy_and_slope(squared_distance, first, second)[0]

    @abc.abstractmethod
    def energy_and_slope(
        self, squared_distance: SquaredDistance, first: Species, second: Species
    ) -> tuple[Values, Values]:
        """As of the parent, by a formula."""


class LennardJones(AbstractPairEnergyWithSlope):
    r"""The potential of Lennard-Jones, of noble gases and of most force fields.

    $$u(r) = 4\epsilon\left[(\sigma/r)^{12} - (\sigma/r)^{6}\right]$$

    - `epsilon`: depth of the minimum, unit of energy; a number, a matrix, or a vector
      by species.
    - `sigma`: distance at which the energy is zero, unit of length; the same.
    - `mixing`: rule for unlike species where vectors are given.

    Source: J. E. Jones, Proc. R. Soc. A 106, 463 (1924).
    """

    epsilon: Float[Any, "..."] = parameter(
        1.0, unit="energy", positive=True, description="depth of the minimum"
    )
    sigma: Float[Any, "..."] = parameter(
        1.0, unit="length", positive=True, description="distance of zero energy"
    )
    mixing: MixingRule = eqx.field(static=True, default=lorentz_berthelot)
    takes_mixing_rule: ClassVar[bool] = True

    def energy_and_slope(
        self, squared_distance: SquaredDistance, first: Species, second: Species
    ) -> tuple[Values, Values]:
        """By the formula: one division, no root."""
        epsilon, sigma = _mixed(self, first, second, squared_distance.dtype)
        inverse = 1 / squared_distance
        sixth = (sigma * sigma * inverse) ** 3
        scaled = 4 * epsilon * sixth
        return scaled * (sixth - 1), scaled * (12 * sixth - 6) * inverse


class WeeksChandlerAndersen(AbstractPairEnergyWithSlope):
    r"""The repulsive part of the Lennard-Jones potential, raised to end at zero.

    $$u(r) = 4\epsilon\left[(\sigma/r)^{12} - (\sigma/r)^{6}\right] + \epsilon$$

    below its minimum at $2^{1/6}\sigma$, and zero beyond.

    - `epsilon`, `sigma`, `mixing`: as of
      [`LennardJones`][systems.molecular.pairwise.LennardJones].
    - `longest`: the range that neighbour lists are made for, unit of length; left out,
      it is that of the largest sigma given, which must be known then. In a fit that
      moves sigma give some more. A sigma whose range exceeds it makes energies that are
      not a number, never energies of a truncated potential.

    Source: J. D. Weeks, D. Chandler, H. C. Andersen, J. Chem. Phys. 54, 5237 (1971).
    """

    epsilon: Float[Any, "..."] = parameter(
        1.0, unit="energy", positive=True, description="depth of the full potential"
    )
    sigma: Float[Any, "..."] = parameter(
        1.0, unit="length", positive=True, description="diameter of the full potential"
    )
    mixing: MixingRule = eqx.field(static=True, default=lorentz_berthelot)
    longest: float = eqx.field(static=True, kw_only=True, default=0.0)
    takes_mixing_rule: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.longest == 0.0:
            self.longest = longest_range(self.sigma, 2 ** (1 / 6), "WeeksChandlerAndersen")

    @property
    def range(self) -> float | None:
        """The field `longest`."""
        return self.longest

    def energy_and_slope(
        self, squared_distance: SquaredDistance, first: Species, second: Species
    ) -> tuple[Values, Values]:
        """By the formula, within the range of each pair."""
        epsilon, sigma = _mixed(self, first, second, squared_distance.dtype)
        inverse = 1 / squared_distance
        sixth = (sigma * sigma * inverse) ** 3
        scaled = 4 * epsilon * sixth
        within = sixth > 0.5
        energy: Any = jnp.where(within, scaled * (sixth - 1) + epsilon, 0.0)
        slope: Any = jnp.where(within, scaled * (12 * sixth - 6) * inverse, 0.0)
        sound = poison_beyond(2 ** (1 / 6) * sigma, self.longest)
        return energy * sound, slope * sound


def pair_value(value: Any, first: Species, second: Species, dtype: Any) -> Values:
    """The value of a parameter for each pair of species.

    **Arguments:**

    - `value`: a number, or a matrix of shape `(species, species)` whose symmetric part
      counts.
    - `first`, `second`: species, whole numbers from zero that broadcast.
    - `dtype`: the precision of the result.

    A number comes back as a scalar, so that nothing is looked up where all pairs are
    alike.
    """
    table = jnp.asarray(value).astype(dtype)
    if table.ndim == 0:
        return table
    table = (table + table.T) / 2
    species = table.shape[0]
    if species > _COMPARED_SPECIES:
        return table.at[first, second].get(mode="clip")
    found = jnp.asarray(0.0, dtype)
    for column in reversed(range(species)):
        row = table[species - 1, column]
        for line in reversed(range(species - 1)):
            row = jnp.where(first == line, table[line, column], row)
        found = row if column == species - 1 else jnp.where(second == column, row, found)
    return found


def known_species(module: eqx.Module) -> int | None:
    """For how many species a potential has parameters; `None` if for any number."""
    sizes = [
        np.shape(getattr(module, field.name))[0]
        for field, _ in declared_fields(module)
        if np.ndim(getattr(module, field.name)) > 0
    ]
    inner = getattr(module, "pair", None)
    if isinstance(inner, AbstractPairEnergy):
        sizes += [size for size in [known_species(inner)] if size is not None]
    return sizes[0] if sizes else None


def as_function(function: Any) -> Any:
    """A function without leaves of its own, so that it passes through `jax.jit`.

    Equinox modules keep their arrays as leaves. Raises `ValueError` for what cannot be
    called.
    """
    if not callable(function):
        raise ValueError(
            f"Expected a function, got something of type {type(function).__name__} that "
            "cannot be called."
        )
    if isinstance(function, eqx.Module | jax.tree_util.Partial):
        return function
    return jax.tree_util.Partial(function)


def check_positive(owner: str, name: str, value: Any) -> None:
    """Raises `ValueError` if a plain number is not positive and finite."""
    if isinstance(value, int | float | np.number) and 0 < value < np.inf:
        return
    raise ValueError(f"{owner}: {name} is {value}, expected a positive number.")


def _mixed(pair: Any, first: Species, second: Species, dtype: Any) -> tuple[Any, Any]:
    """Epsilon and sigma of each pair, by the mixing rule where they are vectors."""
    epsilon: Any = jnp.asarray(pair.epsilon)
    sigma: Any = jnp.asarray(pair.sigma)
    if epsilon.ndim == 1 or sigma.ndim == 1:
        species = (max(epsilon.size, sigma.size),)
        epsilon = jnp.broadcast_to(epsilon, species)
        epsilon, sigma = pair.mixing(epsilon, jnp.broadcast_to(sigma, species))
    return (
        pair_value(epsilon, first, second, dtype),
        pair_value(sigma, first, second, dtype),
    )


def longest_range(sigma: Any, factor: float, owner: str) -> float:
    """The range of the largest sigma; `ValueError` if that is traced."""
    values = known(sigma)
    if values is None:
        raise ValueError(f"{owner}: sigma is traced, so the range must be given as `longest`.")
    return factor * float(np.max(values))


def poison_beyond(ranges: Values, longest: float) -> Values:
    """One, or not a number where a pair would reach beyond what lists are made for."""
    # The range of the very sigma that gave `longest` may differ in the last bits, in
    # single precision by more.
    limit = longest * (1 + 8 * float(jnp.finfo(ranges.dtype).eps))
    return jnp.where(ranges <= limit, 1.0, jnp.nan).astype(ranges.dtype)


def _check_tables(pair: AbstractPairEnergy) -> None:
    owner = type(pair).__name__
    seen: dict[str, tuple[int, ...]] = {}
    for field, _ in declared_fields(pair):
        shape = np.shape(getattr(pair, field.name))
        vector = len(shape) == 1 and pair.takes_mixing_rule
        if not (shape == () or vector or (len(shape) == 2 and shape[0] == shape[1])):
            forms = "a number, a vector by species" if pair.takes_mixing_rule else "a number"
            raise ValueError(
                f"{owner}: parameter {field.name!r} has shape {shape}, expected {forms} or a "
                "square matrix of pairs of species."
            )
        values = known(getattr(pair, field.name))
        if len(shape) == 2 and values is not None and not np.array_equal(values, values.T):
            raise ValueError(
                f"{owner}: parameter {field.name!r} is {values.tolist()}, expected a "
                "symmetric matrix: the first species with the second is as the second with "
                "the first."
            )
        if shape:
            seen[field.name] = shape
    if len(set(seen.values())) > 1:
        raise ValueError(
            f"{owner}: parameters of several shapes, {seen}; expected the same number of "
            "species, and either vectors or matrices."
        )
