"""How neighbour lists are made anew in a run: in JAX, or by a compiled kernel."""

import dataclasses

import equinox as eqx
from jaxtyping import Array, Float, Int

from solvers.ensemble.law import EngineRefusal
from solvers.molecular.state import MolecularState
from systems.molecular.boxes import AbstractBox
from systems.molecular.neighbours import NeighbourList, allocate, cell_order, rebuild


class CompiledList(NeighbourList):
    """A neighbour list that is made anew by a compiled kernel; the pairs are the same."""


@eqx.filter_jit
def _make(
    neighbours: NeighbourList, positions: Float[Array, "particles 3"], box: AbstractBox
) -> NeighbourList:
    return new_list(neighbours, positions, box)


def first_list(
    positions: Float[Array, "particles 3"],
    box: AbstractBox,
    range: float,
    skin: float,
    *,
    spare: float,
    kind: type[NeighbourList],
) -> NeighbourList:
    """A list whose capacities are found from numbers, of one of the two kinds; not under `jit`.

    Arguments and errors are those of [`allocate`][systems.molecular.neighbours.allocate].
    """
    if kind is NeighbourList:
        return allocate(positions, box, range, skin, spare=spare)

    def make(empty: NeighbourList, positions: Array, box: AbstractBox) -> NeighbourList:
        return _make(as_kind(kind, empty), positions, box)

    return allocate(positions, box, range, skin, spare=spare, make=make)


def kind_for(engine: str) -> type[NeighbourList]:
    """The kind of list for an engine: `"jax"`, `"native"`, or `"auto"`, native if it serves.

    Raises [`EngineRefusal`][solvers.ensemble.law.EngineRefusal] if `"native"` does not serve:
    without llvmlite, or on another device than a CPU.
    """
    if engine == "jax":
        return NeighbourList
    from solvers.ensemble.native.arrays import check_device

    try:
        check_device()
    except EngineRefusal:
        if engine == "native":
            raise
        return NeighbourList
    return CompiledList


def for_engine(state: MolecularState, engine: str) -> MolecularState:
    """The state with its list, if it has one, of the kind for an engine.

    Errors are those of `kind_for`.
    """
    if state.neighbours is None:
        return state
    return eqx.tree_at(
        lambda s: s.neighbours, state, as_kind(kind_for(engine), state.neighbours)
    )


def new_list(
    neighbours: NeighbourList, positions: Float[Array, "particles 3"], box: AbstractBox
) -> NeighbourList:
    """The list for other positions, with the same shapes, in its own way."""
    if not isinstance(neighbours, CompiledList):
        return rebuild(neighbours, positions, box)
    from solvers.molecular.native.lists import rebuild_compiled

    return rebuild_compiled(neighbours, positions, box)


def new_sorted_list(
    neighbours: NeighbourList, positions: Float[Array, "particles 3"], box: AbstractBox
) -> tuple[Int[Array, " particles"], NeighbourList]:
    """The permutation that sorts particles by cell, and the list of `positions[order]`."""
    if not isinstance(neighbours, CompiledList):
        order = cell_order(neighbours, positions, box)
        return order, rebuild(neighbours, positions[order], box, in_cell_order=True)
    from solvers.molecular.native.lists import sorted_list

    return sorted_list(neighbours, positions, box)


def as_kind(kind: type[NeighbourList], neighbours: NeighbourList) -> NeighbourList:
    """The list as one of a kind; what it holds stays."""
    if type(neighbours) is kind:
        return neighbours
    names = (field.name for field in dataclasses.fields(NeighbourList))
    return kind(**{name: getattr(neighbours, name) for name in names})
