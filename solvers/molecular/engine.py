"""Which engine sums over pairs in a run, and why."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import equinox as eqx
import numpy as np

from solvers.ensemble.law import EngineRefusal
from systems.molecular.boxes import AbstractBox, OpenBox, OrthorhombicBox, TriclinicBox
from systems.molecular.model import AbstractTerm, MolecularModel, PairTerm


Engine = Literal["auto", "jax", "native"]

_NAMES = ("auto", "jax", "native")


class Chosen(NamedTuple):
    """What an engine runs, which it is, and why that one.

    - `model`: the model, with terms of the engine.
    """

    model: MolecularModel
    engine: str
    reason: str


def choose_engine(
    engine: str, model: MolecularModel, box: AbstractBox, *, with_lists: bool
) -> Chosen:
    """The model with its sums over pairs by an engine.

    **Arguments:**

    - `engine`: `"jax"`, `"native"`, or `"auto"`: native where that can serve.
    - `model`: in the precision of the run.
    - `box`: the box.
    - `with_lists`: whether the run has neighbour lists.

    Raises `ValueError` for another name, `EngineRefusal` (a `ValueError`) if `"native"` was
    asked for and cannot serve.
    """
    return chosen_of(engine, model, lambda: _native(model, box, with_lists))


def chosen_of(
    engine: str, model: MolecularModel, native: Callable[[], MolecularModel]
) -> Chosen:
    """The choice where `native` gives the model of that engine, or raises `EngineRefusal`.

    Raises as [`choose_engine`][solvers.molecular.engine.choose_engine].
    """
    if engine not in _NAMES:
        raise ValueError(f"engine is {engine!r}, expected 'auto', 'jax' or 'native'.")
    if engine == "jax":
        return Chosen(model, "jax", "It was asked for.")
    try:
        found = native()
    except EngineRefusal as refusal:
        if engine == "native":
            raise EngineRefusal(f"engine='native' cannot serve: {refusal}") from refusal
        return Chosen(model, "jax", f"Not native: {refusal}")
    reason = (
        "Pair energies became compiled kernels." if engine == "auto" else "It was asked for."
    )
    return Chosen(found, "native", reason)


def _native(model: MolecularModel, box: AbstractBox, with_lists: bool) -> MolecularModel:
    from solvers.ensemble.native.arrays import check_device
    from solvers.molecular.native.sums import check_pair

    pairs = [term for term in model.terms if isinstance(term, PairTerm)]
    if not pairs:
        raise EngineRefusal("The model has no term over pairs.")
    if not with_lists:
        raise EngineRefusal("The run sums over all pairs, and its kernels are for lists.")
    if not isinstance(box, OpenBox | OrthorhombicBox | TriclinicBox):
        raise EngineRefusal(f"It knows no box of type {type(box).__name__}.")
    check_device()
    for term in pairs:
        check_pair(term.pair)
    kinds = int(np.max(np.asarray(model.species), initial=0)) + 1
    terms = tuple(_as_native(term, kinds) for term in model.terms)
    return eqx.tree_at(lambda m: m.terms, model, terms)


def _as_native(term: AbstractTerm, kinds: int) -> Any:
    from solvers.molecular.native.term import NativePairTerm

    if isinstance(term, PairTerm):
        return NativePairTerm(term.pair, term.precision, kinds)
    return term
