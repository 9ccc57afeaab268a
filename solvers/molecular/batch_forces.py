"""Energies and forces of many systems at once, each by itself.

Everything has the systems in front. A system may have fewer particles than there are rows:
the rows beyond have a species below zero, no force, and no part in any sum.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from solvers.ensemble.law import EngineRefusal
from solvers.molecular.engine import Chosen, chosen_of
from systems.molecular.boxes import AbstractBox
from systems.molecular.corrections import TailCorrection
from systems.molecular.model import (
    AbstractTerm,
    ExternalTerm,
    MolecularModel,
    PairTerm,
)
from systems.molecular.pair_sums import Evaluation, evaluate_pairs


_SYSTEMS_AT_A_TIME = 16
"""What plain code computes for so many systems stays near the processor."""


def choose_batch_engine(
    engine: str, model: MolecularModel, positions: Array, box: AbstractBox
) -> Chosen:
    """The engine for stacked systems, as `choose_engine` for one.

    Raises `ValueError` for another name than `"auto"`, `"jax"` and `"native"`, `EngineRefusal`
    if `"native"` was asked for and cannot serve.
    """

    def native() -> MolecularModel:
        _check_native(model, positions, box)
        return model

    return chosen_of(engine, model, native)


def _check_native(model: MolecularModel, positions: Array, box: AbstractBox) -> None:
    if not any(isinstance(term, PairTerm) for term in model.terms):
        raise EngineRefusal("No term is a plain sum over pairs, which its kernels are for.")
    from solvers.ensemble.native.arrays import check_device

    check_device()
    jax.eval_shape(
        lambda x: evaluate_systems(model, x, box, engine="native", padded=False, sums=True),
        positions,
    )


def check_terms(model: MolecularModel) -> None:
    """Raise `ValueError` for a term that cannot leave out rows that are no particles."""
    for term in model.terms:
        if not isinstance(term, PairTerm | TailCorrection | ExternalTerm):
            raise ValueError(
                f"run_batch: the systems have different numbers of particles, and "
                f"{type(term).__name__} does not know which are there; expected pair "
                "energies, TailCorrection and ExternalTerm, or systems of equal size."
            )


def evaluate_systems(
    model: MolecularModel,
    positions: Float[Array, "systems particles 3"],
    box: AbstractBox,
    *,
    engine: str,
    padded: bool,
    sums: bool,
) -> Evaluation:
    """Energy, forces and virial of each system.

    **Arguments:**

    - `model`, `positions`, `box`: stacked.
    - `engine`: of the sums over pairs.
    - `padded`: whether systems have different numbers of particles.
    - `sums`: whether energy and virial are wanted; else they may be anything.
    """
    native = [engine == "native" and isinstance(term, PairTerm) for term in model.terms]
    compiled = [term for term, is_native in zip(model.terms, native, strict=True) if is_native]
    rest = [term for term, is_native in zip(model.terms, native, strict=True) if not is_native]
    found = [_plain(term, model, positions, box, padded) for term in rest]
    if compiled:
        found.append(_compiled(compiled, model, positions, box, sums))
    total = jax.tree.map(lambda *parts: sum(parts[1:], parts[0]), *found)
    return _only_particles(total, model) if padded else total


def _compiled(
    terms: list[Any], model: MolecularModel, positions: Any, box: Any, sums: bool
) -> Evaluation:
    from solvers.molecular.native.batch_pairs import pair_sums_of_systems

    pairs = tuple(term.pair for term in terms)
    species = jnp.asarray(model.species)
    counts = jnp.sum(species >= 0, axis=1, dtype=jnp.int32)
    found = pair_sums_of_systems(pairs, positions, species, box, counts, sums)
    reach = max((pair.range for pair in pairs if pair.range is not None), default=None)
    if not box.periodic or reach is None:
        return found
    # As elsewhere, a box that became too narrow for nearest images gives no numbers.
    wide = eqx.filter_vmap(lambda box: jnp.min(box.heights()) >= 2 * reach)(box)
    return jax.tree.map(
        lambda v: jnp.where(wide.reshape(-1, *(1,) * (v.ndim - 1)), v, jnp.nan), found
    )


def _plain(
    term: AbstractTerm, model: MolecularModel, positions: Any, box: Any, padded: bool
) -> Evaluation:
    """A term of all systems, some at a time; results are those of one system alone."""
    stacked, static = eqx.partition((term, positions, model.species, box), eqx.is_array)

    def one(arrays: Any) -> Evaluation:
        term, positions, species, box = eqx.combine(arrays, static)
        if not padded:
            return term.evaluate(positions, species, box, None)
        present = species >= 0
        known = jnp.maximum(species, 0)
        if isinstance(term, ExternalTerm):
            energies, gradients = jax.vmap(jax.value_and_grad(term.function))(positions, known)
            energy = jnp.sum(energies, where=present)
            return Evaluation(energy, -gradients, jnp.zeros((3, 3), positions.dtype))
        if isinstance(term, PairTerm):
            return evaluate_pairs(
                term.pair,
                positions,
                known,
                box,
                precision=term.precision,
                particles=jnp.sum(present, dtype=jnp.int32),
            )
        return term.evaluate(positions, species, box, None)

    return jax.lax.map(one, stacked, batch_size=_SYSTEMS_AT_A_TIME)


def _only_particles(found: Evaluation, model: MolecularModel) -> Evaluation:
    present = jnp.asarray(model.species)[..., None] >= 0
    return eqx.tree_at(lambda e: e.forces, found, jnp.where(present, found.forces, 0.0))
