"""A molecular model: particles, and the sum of terms that is their energy."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from systems.base import parameter
from systems.molecular.boxes import AbstractBox, deform, known
from systems.molecular.neighbours import NeighbourList
from systems.molecular.pair_sums import Evaluation, Precision, evaluate_pairs
from systems.molecular.pairwise import AbstractPairEnergy, as_function, known_species
from systems.molecular.units import REDUCED, Units


Positions = Float[Any, "particles 3"]
SpeciesVector = Int[Array, " particles"]


class AbstractTerm(eqx.Module):
    """One contribution to the energy of all particles.

    A term promises `evaluate`, and `range` if it needs a list. Its parameters are leaves.
    """

    @property
    def range(self) -> float | None:
        """How far apart particles feel each other by it.

        Neighbour lists reach so far. `None` if the term needs no list.
        """
        return None

    @abc.abstractmethod
    def evaluate(
        self,
        positions: Positions,
        species: SpeciesVector,
        box: AbstractBox,
        neighbours: NeighbourList | None,
    ) -> Evaluation:
        """Energy, forces `(particles, 3)` and virial `(3, 3)`.

        **Arguments:**

        - `positions`: shape `(particles, 3)`, wrapped or not.
        - `species`: whole numbers from zero, shape `(particles,)`.
        - `box`: the space they live in.
        - `neighbours`: a list that is right for these positions, or `None`.
        """

    def forces(
        self,
        positions: Positions,
        species: SpeciesVector,
        box: AbstractBox,
        neighbours: NeighbourList | None,
    ) -> Float[Array, "particles 3"]:
        """The forces of `evaluate`, for terms that are quicker without the rest."""
        return self.evaluate(positions, species, box, neighbours).forces

    def reordered(self, permutation: Int[Any, " particles"]) -> "AbstractTerm":
        """The term for particles in another order: particle `k` is the former `permutation[k]`.

        A term that treats all particles of a species alike is the same in any order.
        """
        del permutation
        return self

    def with_precision(self, precision: Precision) -> "AbstractTerm":
        """The term with another precision of its sums, if it has a choice."""
        del precision
        return self


class PairTerm(AbstractTerm):
    """The sum of a pair energy over all pairs.

    - `pair`: the potential; of finite range in a periodic box.
    - `precision`: `"positions"`, that of the positions, or `"mixed"`: forces of pairs in
      single precision, differences and sums in that of the positions.
    """

    pair: AbstractPairEnergy
    precision: Precision = eqx.field(static=True, default="positions")

    def __check_init__(self) -> None:
        if not isinstance(self.pair, AbstractPairEnergy):
            raise ValueError(
                f"PairTerm: pair is of type {type(self.pair).__name__}, expected a pair energy."
            )

    @property
    def range(self) -> float | None:
        """That of the potential."""
        return self.pair.range

    def evaluate(
        self,
        positions: Positions,
        species: SpeciesVector,
        box: AbstractBox,
        neighbours: NeighbourList | None,
    ) -> Evaluation:
        """See [`evaluate_pairs`][systems.molecular.pair_sums.evaluate_pairs]."""
        return evaluate_pairs(
            self.pair, positions, species, box, neighbours, precision=self.precision
        )

    def with_precision(self, precision: Precision) -> "PairTerm":
        """The same sum in another precision."""
        return PairTerm(self.pair, precision)


class ExternalTerm(AbstractTerm):
    """A field that acts on each particle by itself: gravity, a wall, a trap.

    - `function`: called as `function(position, species)` with one position of shape
      `(3,)` and one species, and to give the energy of that particle. Positions come as
      they are, wrapped or not: in a periodic box the function must repeat with it.

    Its virial is zero: a field that is bound to points in space has no pressure. Forces
    come from reverse differentiation.
    """

    function: Callable[..., Float[Array, ""]] = eqx.field(converter=as_function)

    def evaluate(
        self,
        positions: Positions,
        species: SpeciesVector,
        box: AbstractBox,
        neighbours: NeighbourList | None,
    ) -> Evaluation:
        """The function of each particle, and its gradient."""
        del box, neighbours
        energies, gradients = jax.vmap(jax.value_and_grad(self.function))(positions, species)
        return Evaluation(energy=jnp.sum(energies), forces=-gradients, virial=jnp.zeros((3, 3)))


class EnergyTerm(AbstractTerm):
    """Any energy of all particles as a function.

    - `function`: called as `function(positions, box)` and to give one energy. It sees
      the particles in the order in which the model was made, however a run sorts them.
      An Equinox module with a `__call__` keeps its arrays as leaves.
    - `order`: for internal use, where a run has sorted the particles.

    Forces and the virial come from one reverse differentiation, the virial by a strain
    of positions and box; so the function must take displacements by `box.displacement`
    or other methods of the box, and should not depend on the orientation of space.
    """

    function: Callable[..., Float[Array, ""]] = eqx.field(converter=as_function)
    order: Int[Array, " particles"] | None = None

    def evaluate(
        self,
        positions: Positions,
        species: SpeciesVector,
        box: AbstractBox,
        neighbours: NeighbourList | None,
    ) -> Evaluation:
        """The function, and its derivatives."""
        del species, neighbours
        if self.order is None:
            return evaluate_function(self.function, positions, box)
        found = evaluate_function(self.function, positions[jnp.argsort(self.order)], box)
        return Evaluation(
            energy=found.energy, forces=found.forces[self.order], virial=found.virial
        )

    def reordered(self, permutation: Int[Any, " particles"]) -> "EnergyTerm":
        """Remembers the order."""
        order = permutation if self.order is None else self.order[permutation]
        return EnergyTerm(self.function, order)


def evaluate_function(
    function: Callable[[Positions, AbstractBox], Float[Array, ""]],
    positions: Positions,
    box: AbstractBox,
) -> Evaluation:
    """Energy, forces and virial of an energy that is a function of positions and box.

    Forces are the negative gradient, the virial is the negative derivative with respect
    to a strain of both, so that it is `sum of x_ij (outer) f_ij` for pairs.
    """

    def strained(positions: Positions, strain: Float[Array, "3 3"]) -> Float[Array, ""]:
        return function(deform(positions, strain), box.strained(strain))

    strain = jnp.zeros((3, 3), positions.dtype)
    energy, (gradient, by_strain) = jax.value_and_grad(strained, argnums=(0, 1))(
        positions, strain
    )
    # Strains are upper triangular; the virial of an energy that does not depend on the
    # orientation is symmetric.
    upper = jnp.triu(by_strain)
    return Evaluation(energy=energy, forces=-gradient, virial=-(upper + jnp.triu(upper, 1).T))


Term = AbstractTerm | AbstractPairEnergy
"""What a model is made of; a pair energy stands for the sum of it over all pairs."""


class MolecularModel(eqx.Module):
    """Particles with masses and species, and the terms of their energy.

    Its parameters are those of its terms, by name such as `terms.0.pair.epsilon`:
    [`parameter_declarations`][systems.base.parameter_declarations] lists them,
    [`replace_parameters`][systems.base.replace_parameters] replaces them.

    - `terms`: the terms; one term or one pair energy may stand for itself.
    - `masses`: mass of each particle, shape `(particles,)`, positive, in `units.mass`.
    - `species`: whole numbers from zero, shape `(particles,)`; all zero if left out.
    - `units`: the units of all its numbers.

    Raises `ValueError` for masses or species of another shape, masses that are not
    positive, and species for which a term has no parameters.
    """

    terms: tuple[AbstractTerm, ...]
    masses: Float[Any, " particles"] = parameter(
        unit="mass", positive=True, description="mass of each particle"
    )
    # The type checker takes a declared parameter for a default value.
    species: Int[Any, " particles"] = eqx.field(kw_only=True)
    units: Units = eqx.field(static=True, kw_only=True)

    def __init__(
        self,
        terms: Term | tuple[Term, ...],
        masses: Float[Any, " particles"],
        species: Int[Any, " particles"] | None = None,
        units: Units = REDUCED,
    ) -> None:
        """See the class."""
        given = tuple(terms) if isinstance(terms, tuple | list) else (terms,)
        self.terms = tuple(map(_as_term, given))
        self.masses = masses if isinstance(masses, jax.Array) else np.asarray(masses, float)
        if species is None:
            species = np.zeros(np.shape(masses), dtype=np.int32)
        self.species = _as_species(species)
        self.units = units

    def __check_init__(self) -> None:
        if np.ndim(self.masses) != 1:
            raise ValueError(
                f"MolecularModel: masses have shape {np.shape(self.masses)}, expected one "
                "number for each particle."
            )
        if np.shape(self.species) != np.shape(self.masses):
            raise ValueError(
                f"MolecularModel: species have shape {np.shape(self.species)}, expected "
                f"{np.shape(self.masses)} as the masses."
            )
        if not isinstance(self.units, Units):
            raise ValueError(
                f"MolecularModel: units are {self.units!r}, expected such as REDUCED or METAL."
            )
        _check_masses(self.masses)
        _check_species(self.species, self.terms)

    @property
    def particles(self) -> int:
        """How many particles there are."""
        return int(np.shape(self.masses)[0])

    @property
    def range(self) -> float | None:
        """The longest range of a term: what a neighbour list must reach; `None` if none."""
        ranges = [term.range for term in self.terms if term.range is not None]
        return max(ranges) if ranges else None

    def evaluate(
        self,
        positions: Positions,
        box: AbstractBox,
        neighbours: NeighbourList | None = None,
    ) -> Evaluation:
        """Energy, forces `(particles, 3)` and virial `(3, 3)` of all terms.

        **Arguments:**

        - `positions`: shape `(particles, 3)`, in the unit of length.
        - `box`: the space they live in.
        - `neighbours`: a list that is right for these positions; all pairs if left out.

        Raises `ValueError` for positions of another shape.
        """
        self._check_positions(positions)
        species = jnp.asarray(self.species)
        found = [term.evaluate(positions, species, box, neighbours) for term in self.terms]
        return jax.tree.map(lambda *parts: sum(parts[1:], parts[0]), *found)

    def forces(
        self,
        positions: Positions,
        box: AbstractBox,
        neighbours: NeighbourList | None = None,
    ) -> Float[Array, "particles 3"]:
        """The forces of all terms alone; arguments as those of `evaluate`."""
        self._check_positions(positions)
        species = jnp.asarray(self.species)
        found = [term.forces(positions, species, box, neighbours) for term in self.terms]
        return sum(found[1:], found[0])

    def energy(
        self,
        positions: Positions,
        box: AbstractBox,
        neighbours: NeighbourList | None = None,
    ) -> Float[Array, ""]:
        """The energy of all terms; arguments as those of `evaluate`.

        It has derivatives of every order and mode with respect to positions, box and
        parameters. Those of pair energies with respect to positions are the forces, so
        that no sum over neighbours is reversed for them.
        """
        return self.evaluate(positions, box, neighbours).energy

    def reordered(self, permutation: Int[Any, " particles"]) -> "MolecularModel":
        """The model with its particles in another order.

        **Arguments:**

        - `permutation`: particle `k` of the result is particle `permutation[k]` of this
          one; each number once.
        """
        return eqx.tree_at(
            lambda model: (model.terms, model.masses, model.species),
            self,
            (
                tuple(term.reordered(permutation) for term in self.terms),
                jnp.asarray(self.masses)[permutation],
                jnp.asarray(self.species)[permutation],
            ),
        )

    def with_precision(self, precision: Precision) -> "MolecularModel":
        """The model with another precision of its pair sums.

        **Arguments:**

        - `precision`: `"positions"` (that of the positions) or `"mixed"`, see
          [`PairTerm`][systems.molecular.model.PairTerm].
        """
        terms = tuple(term.with_precision(precision) for term in self.terms)
        return eqx.tree_at(lambda model: model.terms, self, terms)

    def _check_positions(self, positions: Any) -> None:
        if np.shape(positions) != (self.particles, 3):
            raise ValueError(
                f"Positions have shape {np.shape(positions)}, expected ({self.particles}, 3): "
                "one row for each particle of the model."
            )


def _as_term(given: Any) -> AbstractTerm:
    if isinstance(given, AbstractPairEnergy):
        return PairTerm(given)
    if isinstance(given, AbstractTerm):
        return given
    raise ValueError(
        f"MolecularModel: a term is of type {type(given).__name__}, expected a term or a pair "
        "energy; EnergyTerm makes one of a function."
    )


def _as_species(species: Any) -> Any:
    values = species if isinstance(species, jax.Array) else np.asarray(species)
    if values.dtype.kind not in "iu":
        raise ValueError(
            f"MolecularModel: species are of type {values.dtype}, expected whole numbers."
        )
    return values.astype(np.int32)


def _check_masses(masses: Any) -> None:
    values = known(masses)
    if values is None:
        return
    for place in np.flatnonzero(~((values > 0) & np.isfinite(values)))[:1]:
        raise ValueError(
            f"MolecularModel: the mass of particle {place} is {values[place]}, expected a "
            "positive number."
        )


def _check_species(species: Any, terms: tuple[AbstractTerm, ...]) -> None:
    values = known(species)
    if values is None or values.size == 0:
        return
    if values.min() < 0:
        raise ValueError(
            f"MolecularModel: species {int(values.min())}, expected whole numbers from zero."
        )
    for place, term in enumerate(terms):
        size = known_species(term)
        if size is not None and values.max() >= size:
            raise ValueError(
                f"MolecularModel: a particle is of species {int(values.max())}, but term "
                f"{place} ({type(term).__name__}) has parameters for {size} species, which "
                "are counted from zero."
            )
