"""Single, double and mixed precision as a choice."""

from typing import Any, Literal, TypeVar

import equinox as eqx
import jax.numpy as jnp

from solvers.molecular.dynamics import AbstractDynamics
from solvers.molecular.state import as_arrays
from systems.molecular.model import AbstractTerm, MolecularModel, PairTerm


Precision = Literal["double", "single", "mixed"]
_Method = TypeVar("_Method", bound=AbstractDynamics)


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
    return term.with_precision("mixed") if isinstance(term, PairTerm) else term
