"""The sum of a pair energy by a compiled kernel, as a term of a model."""

import equinox as eqx
from jaxtyping import Array, Float, Int

from solvers.molecular.native.sums import native_forces, native_sums
from systems.molecular.boxes import AbstractBox
from systems.molecular.model import AbstractTerm
from systems.molecular.neighbours import NeighbourList
from systems.molecular.pair_sums import Evaluation, Precision, evaluate_pairs
from systems.molecular.pairwise import AbstractPairEnergy


class NativePairTerm(AbstractTerm):
    """What a [`PairTerm`][systems.molecular.model.PairTerm] is in a run of the native engine.

    - `pair`: the potential.
    - `precision`: as of that term.
    - `kinds`: how many species there are.

    Derivatives, and sums over all pairs without a list, are left to JAX.
    """

    pair: AbstractPairEnergy
    precision: Precision = eqx.field(static=True)
    kinds: int = eqx.field(static=True)

    @property
    def range(self) -> float | None:
        """That of the potential."""
        return self.pair.range

    def evaluate(
        self,
        positions: Float[Array, "particles 3"],
        species: Int[Array, " particles"],
        box: AbstractBox,
        neighbours: NeighbourList | None,
    ) -> Evaluation:
        """Energy, forces and virial."""
        if neighbours is None:
            return evaluate_pairs(self.pair, positions, species, box, precision=self.precision)
        return native_sums(
            self.pair,
            positions,
            species,
            box,
            neighbours,
            precision=self.precision,
            kinds=self.kinds,
        )

    def forces(
        self,
        positions: Float[Array, "particles 3"],
        species: Int[Array, " particles"],
        box: AbstractBox,
        neighbours: NeighbourList | None,
    ) -> Float[Array, "particles 3"]:
        """The forces alone."""
        if neighbours is None:
            return self.evaluate(positions, species, box, None).forces
        return native_forces(
            self.pair,
            positions,
            species,
            box,
            neighbours,
            precision=self.precision,
            kinds=self.kinds,
        )
