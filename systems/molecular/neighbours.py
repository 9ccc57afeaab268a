"""Neighbour lists: for every particle the particles that are near, found in linear time.

A list holds all pairs closer than its radius, which is the range of the forces and a skin.
It stays valid until something has moved half the skin. Shapes are fixed by capacities that
`allocate` finds from numbers; `rebuild` makes a list of the same shapes under `jit` and says
by a flag if it did not fit. The positions are best kept sorted by cell (`cell_order`): then
what is near in space is near in memory.

Method: cell lists (Quentrec and Brot, J. Comput. Phys. 13, 430, 1973) in Verlet lists (Verlet,
Phys. Rev. 159, 98, 1967), without a scatter: candidates become bits, and bits a compact list.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from systems.molecular.blocks import in_blocks
from systems.molecular.boxes import AbstractBox, OpenBox
from systems.molecular.candidates import near_bits
from systems.molecular.cells import (
    CellGrid,
    CellParticles,
    cells_around,
    choose_counts,
    fill_cells,
    longest_cell,
    place_particles,
    sort_by_cell,
)
from systems.molecular.compaction import count_bits, select


@dataclasses.dataclass(frozen=True)
class Capacities:
    """All that the shapes of a list depend on.

    Attributes:
        neighbours: Places for neighbours of each particle.
        grid: The cells, and how many particles each can hold.
    """

    neighbours: int
    grid: CellGrid


class NeighbourList(eqx.Module):
    """The neighbours of every particle, both ways round.

    Attributes:
        indices: Neighbours of each particle; its own number in places that are not used.
        reference: Positions when the list was made, in the unit of length.
        box: The box when the list was made.
        particles: How many particles are there; rows after these are padding, without
            neighbours.
        overflow: Whether the capacities did not suffice, the box became too narrow for its
            cells or for the minimum image, or a position was not a finite number. Then
            numbers from this list must not be used.
        most_neighbours: The most neighbours that a particle has, also if they did not fit.
        most_in_cell: The most particles that a cell has, also if they did not fit.
        range: Range of the forces, in the unit of length.
        skin: What the radius of the list is beyond the range, in the unit of length.
        spare: Factor by which `allocate` makes capacities larger than need be.
        capacities: What the shapes depend on.
    """

    indices: Int[Array, "particles capacity"]
    reference: Float[Array, "particles 3"]
    box: AbstractBox
    particles: Int[Array, ""]
    overflow: Bool[Array, ""]
    most_neighbours: Int[Array, ""]
    most_in_cell: Int[Array, ""]
    range: float = eqx.field(static=True)
    skin: float = eqx.field(static=True)
    spare: float = eqx.field(static=True)
    capacities: Capacities = eqx.field(static=True)

    @property
    def radius(self) -> float:
        """The list holds all pairs closer than this: range and skin."""
        return self.range + self.skin


Maker = Callable[[NeighbourList, Float[Array, "particles 3"], AbstractBox], NeighbourList]


def allocate(
    positions: Float[Array, "particles 3"],
    box: AbstractBox,
    range: float,
    skin: float,
    *,
    spare: float = 1.15,
    particles: int | None = None,
    minimum: Capacities | None = None,
    make: Maker | None = None,
) -> NeighbourList:
    """Makes a neighbour list and finds the capacities that it needs; not under `jit`.

    After an overflow, call it again with the last good positions.

    Args:
        positions: Positions in the unit of length; in a periodic box any image.
        box: The box.
        range: Distance beyond which no pair interacts, in the unit of length.
        skin: How much farther the list reaches, in the unit of length.
        spare: Factor by which capacities are larger than what is needed now, or would be at
            the mean density.
        particles: How many rows are particles, the first ones; `None` means all.
        minimum: Capacities of another list that must not be undercut, so that lists of
            several systems have one shape.
        make: Another way than `rebuild` to make the list for positions in a box; it must
            count also what does not fit.

    Raises:
        ValueError: Range or skin is not a positive number, a position is not a finite
            number, or a periodic box is narrower than twice the range.
    """
    _check(positions, box, range, skin, spare, particles)
    count = len(positions) if particles is None else particles
    radius = range + skin
    counts = choose_counts(np.asarray(positions)[:count], box, radius)
    grid = CellGrid(counts, 1, not isinstance(box, OpenBox))
    number = jnp.asarray(count, jnp.int32)
    given = (positions, box, number, range, skin, spare)
    if make is None:
        grid, most = _needed(grid, positions, box, radius, number, spare)
    else:
        grid, most = _counted(make, given, grid)
    expected = _expected_neighbours(count, box, radius)
    most = max(most, min(expected, count - 1))
    capacities = Capacities(_enlarged(most, spare, max(len(positions) - 1, 1), 8), grid)
    if minimum is not None:
        capacities = _at_least(capacities, minimum)
    if make is not None:
        return make(_empty(*given, capacities), positions, box)
    return _make_compiled(*given, capacities, in_cell_order=False)


def rebuild(
    neighbours: NeighbourList,
    positions: Float[Array, "particles 3"],
    box: AbstractBox,
    *,
    in_cell_order: bool = False,
) -> NeighbourList:
    """The list for other positions, with the same shapes; under `jit` or not.

    Args:
        neighbours: A list of the same particles.
        positions: Their positions now, in the unit of length.
        box: The box now.
        in_cell_order: Whether the positions are sorted by `cell_order`, which saves the
            sorting. If they are not, the overflow is set.
    """
    return _make_compiled(
        positions,
        box,
        neighbours.particles,
        neighbours.range,
        neighbours.skin,
        neighbours.spare,
        neighbours.capacities,
        in_cell_order=in_cell_order,
    )


def moved_too_far(
    neighbours: NeighbourList, positions: Float[Array, "particles 3"], box: AbstractBox
) -> Bool[Array, ""]:
    """Whether a pair within the range could be missing: the list must be made again.

    What moved with the box is told apart from what moved by itself. With `F` the deformation
    of the box since the list was made and `u` the largest other displacement, a pair at
    distance `r` was at most `|F^-1| (r + 2 u)` apart.
    """
    reference = neighbours.reference
    if isinstance(box, OpenBox):
        moved = positions - reference
        stretch = jnp.ones((), positions.dtype)
    else:
        moved = positions - box.cartesian(neighbours.box.fractional(reference))
        stretch = _stretch(box.vectors(), neighbours.box.vectors())
    columns = tuple(moved[:, axis] for axis in (0, 1, 2))
    dx, dy, dz = box.displacement(*columns)
    farthest = jnp.sqrt(jnp.max(dx * dx + dy * dy + dz * dz, initial=0.0))
    reached = stretch * (neighbours.range + 2.0 * farthest)
    # Written so that positions that are not numbers count as moved.
    return ~(reached <= neighbours.radius)


def cell_order(
    neighbours: NeighbourList, positions: Float[Array, "particles 3"], box: AbstractBox
) -> Int[Array, "particles"]:
    """The permutation that sorts particles by cell; `positions[order]` is then sorted.

    Padding stays behind the particles.
    """
    grid = neighbours.capacities.grid
    placed = _place(grid, positions, box, neighbours.radius, neighbours.particles)
    return sort_by_cell(grid, placed.cell)


def _make(
    positions,
    box,
    particles,
    range,
    skin,
    spare,
    capacities: Capacities,
    *,
    in_cell_order: bool = False,
) -> NeighbourList:
    grid, radius = capacities.grid, range + skin
    positions = jax.lax.stop_gradient(positions)
    box = jax.tree.map(jax.lax.stop_gradient, box)
    placed = _place(grid, positions, box, radius, particles)
    table = fill_cells(grid, placed, in_cell_order=in_cell_order)
    words = near_bits(grid, placed, table, positions, box, radius)
    number = jnp.arange(len(positions), dtype=jnp.int32)
    row = jnp.minimum(placed.cell, grid.cells - 1), jnp.minimum(table.place, grid.capacity - 1)
    mine = jnp.where(number[:, None] < particles, words[row], jnp.zeros((), jnp.uint32))
    counts = count_bits(mine)
    around = cells_around(grid)
    candidates = table.members[around].reshape(grid.cells, -1)

    def block(rows: tuple[Array, ...]) -> Int[Array, "rows capacity"]:
        mine, counts, cells, number = rows
        chosen = jnp.minimum(select(mine, capacities.neighbours), candidates.shape[1] - 1)
        used = jnp.arange(capacities.neighbours, dtype=jnp.int32)[None, :] < counts[:, None]
        return jnp.where(used, candidates[cells[:, None], chosen], number[:, None])

    indices = in_blocks(block, (mine, counts, row[0], number))
    most = jnp.max(counts, initial=0)
    overflow = (
        (most > capacities.neighbours)
        | (table.largest > grid.capacity)
        | ~placed.finite
        | ~placed.wide
        | _too_narrow(box, range)
    )
    if in_cell_order:
        overflow |= jnp.any(placed.cell[1:] < placed.cell[:-1])
    return NeighbourList(
        indices=indices,
        reference=positions,
        box=box,
        particles=particles,
        overflow=overflow,
        most_neighbours=most,
        most_in_cell=table.largest,
        range=range,
        skin=skin,
        spare=spare,
        capacities=capacities,
    )


def _needed(
    grid: CellGrid, positions, box, radius, particles, spare: float
) -> tuple[CellGrid, int]:
    """The grid with room for the particles of a cell, and the most neighbours of one."""
    crowd = longest_cell(grid, _place_compiled(grid, positions, box, radius, particles))
    grid = dataclasses.replace(grid, capacity=_enlarged(crowd, spare, len(positions), 1))
    return grid, int(_count_compiled(grid, positions, box, radius, particles))


def _counted(make: Maker, given: tuple[Any, ...], grid: CellGrid) -> tuple[CellGrid, int]:
    """The same, told by lists that are too small."""
    positions, box, particles, reach, skin, spare = given
    capacity = 4 * (len(positions) // grid.cells) + 64
    while True:
        small = Capacities(8, dataclasses.replace(grid, capacity=capacity))
        empty = _empty(positions, box, particles, reach, skin, spare, small)
        found = make(empty, positions, box)
        crowd = int(found.most_in_cell)
        if crowd <= capacity:
            break
        # Neighbours are counted only where the cells suffice.
        capacity = crowd
    # No array has a place for each place in a cell, so that these cost nothing.
    roomy = _enlarged(crowd, 2 * spare, len(positions), 1)
    return dataclasses.replace(grid, capacity=roomy), int(found.most_neighbours)


def _expected_neighbours(particles: int, box: AbstractBox, radius: float) -> int:
    """Neighbours at the mean density of a periodic box.

    In a crystal a shell may be just out of reach, which comes into it when it warms up.
    """
    if isinstance(box, OpenBox):
        return 0
    volume = abs(float(box.volume()))
    return math.ceil((particles / volume) * 4 / 3 * math.pi * radius**3)


def _empty(
    positions, box, particles, range, skin, spare, capacities: Capacities
) -> NeighbourList:
    """A list of these shapes that has not been made."""
    return NeighbourList(
        indices=jnp.zeros((len(positions), capacities.neighbours), jnp.int32),
        reference=positions,
        box=box,
        particles=particles,
        overflow=jnp.asarray(True),
        # Of the types that `rebuild` gives.
        most_neighbours=jnp.zeros((), int),
        most_in_cell=jnp.zeros((), jnp.int32),
        range=range,
        skin=skin,
        spare=spare,
        capacities=capacities,
    )


def _place(grid: CellGrid, positions, box, radius, particles) -> CellParticles:
    present = jnp.arange(len(positions), dtype=jnp.int32) < particles
    return place_particles(grid, positions, box, radius, present)


def _count(grid: CellGrid, positions, box, radius, particles) -> Int[Array, ""]:
    """The most neighbours of one particle."""
    placed = _place(grid, positions, box, radius, particles)
    table = fill_cells(grid, placed)
    words = near_bits(grid, placed, table, positions, box, radius)
    row = jnp.minimum(placed.cell, grid.cells - 1), jnp.minimum(table.place, grid.capacity - 1)
    there = placed.cell < grid.cells
    return jnp.max(jnp.where(there, count_bits(words)[row], 0), initial=0)


_place_compiled = eqx.filter_jit(_place)
_count_compiled = eqx.filter_jit(_count)
_make_compiled = eqx.filter_jit(_make)


def _too_narrow(box: AbstractBox, range: float) -> Bool[Array, ""]:
    if isinstance(box, OpenBox):
        return jnp.asarray(False)
    return jnp.min(box.heights()) < 2 * range


def _stretch(now: Float[Array, "3 3"], before: Float[Array, "3 3"]) -> Float[Array, ""]:
    """A bound on how much longer a vector was before the box was deformed."""
    # Both matrices are lower triangular; rows of `inverse @ before` by back substitution.
    change = []
    for row in (0, 1, 2):
        # The unit vector of an axis in terms of the box now.
        z = float(row == 2) / now[2, 2]
        y = (float(row == 1) - z * now[2, 1]) / now[1, 1]
        x = (float(row == 0) - z * now[2, 0] - y * now[1, 0]) / now[0, 0]
        for axis in (0, 1, 2):
            there = x * before[0, axis] + y * before[1, axis] + z * before[2, axis]
            change.append(there)
    matrix = jnp.stack(change)
    # The first is sharp where little has changed, the second for a box that grew.
    near_one = 1.0 + jnp.sqrt(jnp.sum(jnp.square(matrix - jnp.eye(3).ravel())))
    return jnp.minimum(near_one, jnp.sqrt(jnp.sum(jnp.square(matrix))))


def _enlarged(needed: int, spare: float, most: int, multiple: int) -> int:
    enough = min(math.ceil(needed * spare), most)
    return max(-(-enough // multiple) * multiple, multiple)


def _at_least(found: Capacities, minimum: Capacities) -> Capacities:
    if found.grid.periodic != minimum.grid.periodic:
        raise ValueError("Lists of open and of periodic boxes cannot have one shape.")
    grid = minimum.grid
    if found.grid.counts != grid.counts:
        raise ValueError(
            f"A list has {found.grid.counts} cells along the axes and the minimum "
            f"{grid.counts}; lists of one shape need equal numbers of cells."
        )
    capacity = max(found.grid.capacity, grid.capacity)
    neighbours = max(found.neighbours, minimum.neighbours)
    return Capacities(neighbours, dataclasses.replace(grid, capacity=capacity))


def _check(positions, box, range, skin, spare, particles) -> None:
    for name, value in (("range", range), ("skin", skin)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(
                f"Neighbour list: the {name} is {value}, expected a positive number."
            )
    if not spare >= 1:
        raise ValueError(f"Neighbour list: spare is {spare}, expected 1 or more.")
    if particles is not None and not 0 <= particles <= len(positions):
        raise ValueError(
            f"Neighbour list: particles is {particles}, expected 0 to {len(positions)}, "
            "the number of positions."
        )
    space = np.asarray(positions)[:particles]
    if not np.all(np.isfinite(space)):
        atom = int(np.argmin(np.all(np.isfinite(space), axis=1)))
        raise ValueError(
            f"Neighbour list: the position of particle {atom} is {space[atom].tolist()}, "
            "expected finite numbers."
        )
    if isinstance(box, OpenBox):
        return
    height = float(np.min(np.asarray(box.heights())))
    if height < 2 * range:
        raise ValueError(
            f"Neighbour list: the box is {height:.6g} wide, less than twice the range "
            f"{range:.6g}; a shorter range or more particles make it wide enough, and "
            "evaluate_pairs without a list counts several images."
        )
