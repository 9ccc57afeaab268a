"""Neighbour lists by a compiled kernel: what `systems.molecular.neighbours` makes, faster.

The kernel sorts particles into cells by counting, copies what is around each cell side by
side, and searches it by vectors. Its lists hold the same pairs, in an order that does not
depend on how many threads made them.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from solvers.ensemble.native.arrays import call_arrays
from solvers.molecular.native.lists_arrays import (
    FACTS,
    FRAME_SIZE,
    RESULTS,
    SETTINGS,
    SPARE,
)
from systems.molecular.boxes import AbstractBox, OrthorhombicBox
from systems.molecular.neighbours import NeighbourList


_PARTICLES_OF_A_THREAD = 512
"""Fewer particles are not worth a thread."""

_MOST_THREADS = 64


def rebuild_compiled(
    neighbours: NeighbourList,
    positions: Float[Array, "particles 3"],
    box: AbstractBox,
) -> NeighbourList:
    """The list for other positions, with the same shapes; under `jit` or not.

    It is [`rebuild`][systems.molecular.neighbours.rebuild] by a compiled kernel: the same
    pairs but for those that are beyond the radius by rounding, the same counts and flags.
    It has no derivatives; the positions may have.

    **Raises:** `EngineRefusal` where kernels are not served.
    """
    return sorted_list(neighbours, positions, box, after=False)[1]


def sorted_list(
    neighbours: NeighbourList,
    positions: Float[Array, "particles 3"],
    box: AbstractBox,
    *,
    after: bool = True,
) -> tuple[Int[Array, " particles"], NeighbourList]:
    """The permutation that sorts particles by cell, and the list.

    **Arguments:**

    - `neighbours`, `positions`, `box`: as of `rebuild_compiled`.
    - `after`: whether the list is for `positions[order]`; else for `positions`.

    **Raises:** `EngineRefusal` where kernels are not served.
    """
    from solvers.molecular.native.lists_kernel import list_kernel

    positions = jax.lax.stop_gradient(positions)
    box = jax.tree.map(jax.lax.stop_gradient, box)
    found = call_arrays(
        list_kernel(positions.dtype == jnp.float64),
        _operands(neighbours, positions, box, after),
        _shapes(neighbours, positions.shape[0]),
    )
    order, indices, facts = found[: len(RESULTS)]
    most, largest, faulty = (facts[place] for place in range(len(FACTS)))
    capacities = neighbours.capacities
    overflow = (
        (most > capacities.neighbours) | (largest > capacities.grid.capacity) | (faulty != 0)
    )
    made = type(neighbours)(
        indices=indices,
        reference=positions[order] if after else positions,
        box=box,
        particles=neighbours.particles,
        overflow=overflow,
        most_neighbours=most.astype(neighbours.most_neighbours.dtype),
        most_in_cell=largest.astype(neighbours.most_in_cell.dtype),
        range=neighbours.range,
        skin=neighbours.skin,
        spare=neighbours.spare,
        capacities=capacities,
    )
    return order, made


def _operands(neighbours: NeighbourList, positions: Any, box: AbstractBox, after: bool) -> Any:
    grid = neighbours.capacities.grid
    vectors = box.vectors() if grid.periodic else jnp.eye(3)
    values = (
        *grid.counts,
        grid.capacity,
        grid.periodic,
        grid.divided,
        isinstance(box, OrthorhombicBox),
        neighbours.radius,
        neighbours.range,
        after,
    )
    settings = np.asarray(values, np.float64)
    assert len(settings) == len(SETTINGS)
    if positions.dtype != jnp.float64:
        positions = positions.astype(jnp.float32)
    particles = neighbours.particles.astype(jnp.int32)
    return positions, vectors.astype(jnp.float64), settings, particles


def _shapes(neighbours: NeighbourList, particles: int) -> Any:
    """Results, and memory to work in, in the order of `lists_arrays`."""
    grid = neighbours.capacities.grid
    capacity = neighbours.indices.shape[1]
    threads = int(np.clip(particles // _PARTICLES_OF_A_THREAD, 1, _MOST_THREADS))
    # Every cell around is met once, so that there are never more candidates than particles.
    candidates = min(len(grid.offsets) * grid.capacity, particles)
    room = max(candidates, capacity) + 2 * SPARE
    whole, single = jnp.int32, jnp.float32
    return (
        ((particles,), whole),
        ((particles, capacity), whole),
        ((len(FACTS),), whole),
        ((particles,), whole),
        ((particles, 4), single),
        ((grid.cells + 3,), whole),
        ((3, particles + SPARE), single),
        ((particles + SPARE,), whole),
        ((FRAME_SIZE,), single),
        ((threads, 5, room), whole),
    )
