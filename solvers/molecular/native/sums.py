"""Sums over pairs by a compiled kernel, with the derivatives of those by JAX."""

import functools
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from solvers.ensemble.law import EngineRefusal
from solvers.ensemble.native.arrays import call_arrays
from solvers.molecular.native.split import PairProgram, SplitPair
from systems.molecular.boxes import AbstractBox, OpenBox, OrthorhombicBox, TriclinicBox
from systems.molecular.neighbours import NeighbourList
from systems.molecular.pair_sums import Evaluation, Precision, evaluate_pairs
from systems.molecular.pairwise import AbstractPairEnergy


SUMS = 8
"""Numbers of each particle that a kernel needs room for, where energies are wanted."""

_SHAPES: dict[type, Literal["open", "orthorhombic", "triclinic"]] = {
    OpenBox: "open",
    OrthorhombicBox: "orthorhombic",
    TriclinicBox: "triclinic",
}


class _Arguments(eqx.Module):
    """What the sums depend on."""

    positions: Float[Array, "particles 3"]
    pair: AbstractPairEnergy
    species: Int[Array, " particles"]
    box: AbstractBox
    neighbours: NeighbourList


def native_sums(
    pair: AbstractPairEnergy,
    positions: Float[Array, "particles 3"],
    species: Int[Array, " particles"],
    box: AbstractBox,
    neighbours: NeighbourList,
    *,
    precision: Precision,
    kinds: int,
) -> Evaluation:
    """As [`evaluate_pairs`][systems.molecular.pair_sums.evaluate_pairs], by a kernel.

    Its derivatives are those of that function, which then computes them.

    **Arguments:**

    - `kinds`: how many species there are.
    """
    given = _Arguments(positions, pair, species, box, neighbours)
    run = functools.partial(_run, precision=precision, kinds=kinds, with_sums=True)
    return _with_derivatives(run, precision, given)


def native_forces(
    pair: AbstractPairEnergy,
    positions: Float[Array, "particles 3"],
    species: Int[Array, " particles"],
    box: AbstractBox,
    neighbours: NeighbourList,
    *,
    precision: Precision,
    kinds: int,
) -> Float[Array, "particles 3"]:
    """The forces alone, which take less time; arguments as those of `native_sums`."""
    given = _Arguments(positions, pair, species, box, neighbours)
    run = functools.partial(_run, precision=precision, kinds=kinds, with_sums=False)
    return _with_derivatives(run, precision, given)


def _with_derivatives(run: Any, precision: Precision, given: _Arguments) -> Any:
    arrays, rest = eqx.partition(given, eqx.is_array_like)
    arrays = jax.tree.map(jnp.asarray, arrays)

    @jax.custom_jvp
    def evaluated(arrays: Any) -> Any:
        return run(eqx.combine(arrays, rest))

    def by_jax(arrays: Any) -> Any:
        g = eqx.combine(arrays, rest)
        found = evaluate_pairs(
            g.pair, g.positions, g.species, g.box, g.neighbours, precision=precision
        )
        return found.forces if run.keywords["with_sums"] is False else found

    def derivative(primals: Any, tangents: Any) -> Any:
        return evaluated(*primals), jax.jvp(by_jax, primals, tangents)[1]

    evaluated.defjvp(derivative)
    return evaluated(arrays)


def check_pair(pair: AbstractPairEnergy) -> None:
    """Look if a kernel can serve a pair energy.

    **Raises:** `EngineRefusal` if it cannot; the sentence says why.
    """
    name = type(pair).__name__
    if not jax.config.read("jax_enable_x64"):
        raise EngineRefusal("Its kernels need the double precision of jax (jax_enable_x64).")
    if pair.range is None:
        raise EngineRefusal(f"{name} has no range, which a neighbour list needs.")
    leaves, tree = jax.tree.flatten(pair)
    forms = tuple(
        (np.shape(x), jnp.result_type(x)) if eqx.is_array_like(x) else x for x in leaves
    )
    try:
        obstacle = _obstacle(tree, forms)
    except TypeError:  # what cannot be hashed is looked at anew
        obstacle = _obstacle.__wrapped__(tree, forms)
    if obstacle is not None:
        raise EngineRefusal(f"{name} has no straight-line program: {obstacle}")


@functools.lru_cache(maxsize=256)
def _obstacle(tree: Any, forms: tuple[Any, ...]) -> str | None:
    """Why pair energies of this structure have no kernel; values play no part."""
    leaves = [np.ones(*form) if isinstance(form, tuple) else form for form in forms]
    try:
        SplitPair(jax.tree.unflatten(tree, leaves), with_energy=True)
    except EngineRefusal as refusal:
        return str(refusal)
    return None


def _run(given: _Arguments, *, precision: Precision, kinds: int, with_sums: bool) -> Any:
    from solvers.molecular.native.pairs import WIDTH

    positions, box, neighbours = given.positions, given.box, given.neighbours
    split = SplitPair(given.pair, with_energy=with_sums)
    double = positions.dtype == jnp.float64
    pairs = jnp.float64 if double and precision == "positions" else jnp.float32
    kernel, lanes = _kernel(
        split.made, _SHAPES[type(box)], bool(double), pairs == jnp.float64, with_sums
    )
    rows = kinds if split.made.by_species else 1
    table = split.table(rows).astype(pairs).reshape(rows, rows, -1)
    short = -table.shape[-1] % WIDTH if table.shape[-1] else WIDTH
    table = jnp.pad(table, ((0, 0), (0, 0), (0, short)))
    operands = (
        positions,
        _whole_groups(neighbours.indices, lanes),
        table,
        given.species.astype(jnp.int32),
        _numbers_of(box, positions.dtype),
    )
    count = len(positions)
    stored = jnp.int32 if pairs == jnp.float32 and box.periodic else positions.dtype
    results: list[Any] = [((count, 3), positions.dtype), ((count, WIDTH), stored)]
    if not with_sums:
        return call_arrays(kernel, operands, results)[0]
    results += [((count, SUMS), jnp.float64), ((), positions.dtype), ((3, 3), positions.dtype)]
    forces, _, _, energy, virial = call_arrays(kernel, operands, results)
    return Evaluation(energy, forces, virial)


@functools.lru_cache(maxsize=64)
def _kernel(
    made: PairProgram, shape: Any, double: bool, pairs_double: bool, with_sums: bool
) -> tuple[Any, int]:
    """The compiled kernel, and how many neighbours it takes at a time."""
    from solvers.ensemble.native.build import F32, F64
    from solvers.ensemble.native.compile import host
    from solvers.ensemble.native.registry import registry
    from solvers.molecular.native.coordinates import Coordinates
    from solvers.molecular.native.pairs import PairKernel, pair_module

    given, pairs = (F64 if double else F32), (F64 if pairs_double else F32)
    # Rows are gathered four at a time.
    lanes = max(host().lanes, 4) * (1 if pairs_double else 2)
    kernel = PairKernel(made, Coordinates(shape, given, pairs), given, with_sums, lanes)
    return registry.kernel(str(pair_module(kernel))), lanes


def _numbers_of(box: AbstractBox, dtype: Any) -> Array:
    if isinstance(box, OrthorhombicBox):
        return jnp.asarray(box.lengths).astype(dtype)
    if isinstance(box, TriclinicBox):
        return jnp.asarray(box.edges).astype(dtype).reshape(9)
    return jnp.zeros(1, dtype)


def _whole_groups(indices: Any, lanes: int) -> Any:
    """The list with room for a whole number of groups; lists have it as a rule."""
    short = -indices.shape[1] % lanes
    if not short:
        return indices
    own = np.arange(indices.shape[0], dtype=np.int32)[:, None]
    padding = jnp.broadcast_to(jnp.asarray(own), (indices.shape[0], short))
    return jnp.concatenate([indices, padding], axis=1)
