"""Single, double and mixed precision as a choice."""

from typing import Any, Literal, TypeVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from solvers.molecular.dynamics import AbstractDynamics
from solvers.molecular.state import as_arrays
from systems.molecular.boxes import AbstractBox
from systems.molecular.model import AbstractTerm, MolecularModel, PairTerm
from systems.molecular.neighbours import NeighbourList
from systems.molecular.pair_sums import Evaluation, evaluate_pairs
from systems.molecular.pairwise import AbstractPairEnergy


Precision = Literal["double", "single", "mixed"]
_Method = TypeVar("_Method", bound=AbstractDynamics)


class MixedPairTerm(AbstractTerm):
    """The sum of a pair energy, each pair in single and the sums in double precision.

    - `pair`: the potential.
    """

    pair: AbstractPairEnergy

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
        """See [`evaluate_pairs`][systems.molecular.pair_sums.evaluate_pairs]."""
        return evaluate_pairs(self.pair, positions, species, box, neighbours, precision="mixed")


def in_precision(
    model: MolecularModel, method: _Method, precision: Precision
) -> tuple[MolecularModel, _Method, Any]:
    """The model and the method with their numbers in a precision, and the type of states.

    Raises `ValueError` for an unknown precision.
    """
    if precision not in ("double", "single", "mixed"):
        raise ValueError(f"precision is {precision!r}, expected 'double', 'single' or 'mixed'.")
    dtype = jnp.float32 if precision == "single" else jnp.float64
    if precision == "mixed":
        model = eqx.tree_at(lambda m: m.terms, model, tuple(map(as_mixed, model.terms)))
    model = as_arrays(model, dtype)
    # Terms that know an order start with that of the user, so that no structure changes.
    model = model.reordered(jnp.arange(model.particles, dtype=jnp.int32))
    return model, as_arrays(method, dtype), dtype


def as_mixed(term: AbstractTerm) -> AbstractTerm:
    """The term with pairs in single and sums in double precision, if it is one over pairs."""
    return MixedPairTerm(term.pair) if isinstance(term, PairTerm) else term
