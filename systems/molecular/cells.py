"""Particles in cells: which cell each is in, and what stands in the cells around.

Cells are at least as wide as the radius of a neighbour list, so that every neighbour of a
particle is in its own cell or in one of the 26 around it. An axis along which a periodic box
has room for fewer than three cells is not divided by threes: its one or two cells are all
looked at, and distances are those of the minimum image.
"""

import dataclasses
import functools
import math
import operator

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from systems.molecular.boxes import AbstractBox, OpenBox


# Relative coordinate of an empty place in a cell: far from everything, and its square finite
# in single precision.
FAR = 1e15
# Cells are this much wider than need be, so that a box that breathes keeps its cells.
SLACK = 1.01


@dataclasses.dataclass(frozen=True)
class CellGrid:
    """How space is divided; all that shapes of arrays depend on.

    Attributes:
        counts: Cells along each axis.
        capacity: Places for particles in each cell.
        periodic: Whether the box repeats itself.
    """

    counts: tuple[int, int, int]
    capacity: int
    periodic: bool

    @property
    def cells(self) -> int:
        """The number of cells."""
        return math.prod(self.counts)

    @property
    def divided(self) -> bool:
        """Whether the cells around a cell are 26 others, each met in one image alone."""
        return not self.periodic or min(self.counts) >= 3

    @property
    def offsets(self) -> np.ndarray:
        """Steps from a cell to those that may hold neighbours, shape (steps, 3)."""
        axes = [
            (-1, 0, 1) if not self.periodic or count >= 3 else tuple(range(count))
            for count in self.counts
        ]
        grid = np.meshgrid(*axes, indexing="ij")
        return np.stack([axis.ravel() for axis in grid], axis=1)


class CellParticles(eqx.Module):
    """Every particle's cell, and where it stands in it.

    Attributes:
        cell: Cell of each particle; the number of cells for one that is not there.
        relative: Position within the cell from its corner, single precision.
        steps: Vectors between cells that are next to each other, as rows.
        finite: Whether every position is a finite number.
        wide: Whether the cells are at least as wide as the radius.
    """

    cell: Int[Array, "particles"]
    relative: tuple[Float[Array, "particles"], ...]
    steps: Float[Array, "3 3"]
    finite: Bool[Array, ""]
    wide: Bool[Array, ""]


class CellTable(eqx.Module):
    """The contents of the cells, as rows of equal length.

    Attributes:
        order: Particles sorted by cell.
        place: Place of each particle within its cell.
        relative: Relative coordinates of the particles in each cell, `FAR` in empty places.
        members: The particles in each cell; any number in empty places.
        largest: The most particles in one cell.
    """

    order: Int[Array, "particles"]
    place: Int[Array, "particles"]
    relative: tuple[Float[Array, "cells_and_one capacity"], ...]
    members: Int[Array, "cells_and_one capacity"]
    largest: Int[Array, ""]


def choose_counts(
    positions: Float[np.ndarray | Array, "particles 3"], box: AbstractBox, radius: float
) -> tuple[int, int, int]:
    """Cells along each axis for a radius; needs numbers, not traced values."""
    if isinstance(box, OpenBox):
        space = np.asarray(positions, np.float64)
        heights = np.ptp(space, axis=0) if len(space) else np.zeros(3)
    else:
        heights = np.asarray(box.heights(), np.float64)
    counts = np.maximum(np.floor(heights / (radius * SLACK)), 1.0)
    # More cells than particles are empty cells alone.
    most = max(len(positions), 27)
    while math.prod(counts.tolist()) > 8 * most:
        counts[np.argmax(counts)] = np.ceil(counts.max() / 2)
    while math.prod(int(count) for count in counts) > most:
        counts[np.argmax(counts)] -= 1.0
    if not isinstance(box, OpenBox) and np.any((counts < 3) & (heights >= 3 * radius)):
        counts = np.where((counts < 3) & (heights >= 3 * radius), 3.0, counts)
    return int(counts[0]), int(counts[1]), int(counts[2])


def place_particles(
    grid: CellGrid,
    positions: Float[Array, "particles 3"],
    box: AbstractBox,
    radius: float,
    present: Bool[Array, "particles"],
) -> CellParticles:
    """Finds every particle's cell and its position relative to the cell's corner."""
    dtype = positions.dtype
    finite = jnp.all(jnp.isfinite(positions) | ~present[:, None])
    positions = jnp.where(jnp.isfinite(positions) & present[:, None], positions, 0.0)
    counts = jnp.asarray(grid.counts, dtype)
    if grid.periodic:
        fractional = box.fractional(positions)
        scaled = (fractional - jnp.floor(fractional)) * counts[None, :]
        steps = box.vectors().astype(dtype) / counts[:, None]
        wide = jnp.all((box.heights() >= radius * counts) | (counts < 3))
    else:
        shown = present[:, None]
        low = jnp.min(jnp.where(shown, positions, jnp.inf), axis=0)
        high = jnp.max(jnp.where(shown, positions, -jnp.inf), axis=0)
        low, high = (jnp.where(jnp.isfinite(edge), edge, 0.0) for edge in (low, high))
        width = jnp.maximum((high - low) / counts, radius)
        scaled = (positions - low[None, :]) / width[None, :]
        steps = jnp.diag(width)
        wide = jnp.asarray(True)
    # A fraction that rounds up to one belongs to the last cell.
    corner = jnp.clip(jnp.floor(scaled), 0.0, counts[None, :] - 1.0)
    inside = scaled - corner
    moved = [[inside[:, k] * steps[k, axis] for k in range(3)] for axis in range(3)]
    relative = tuple(functools.reduce(operator.add, m).astype(jnp.float32) for m in moved)
    a, b, c = (corner[:, axis].astype(jnp.int32) for axis in range(3))
    cell = (a * grid.counts[1] + b) * grid.counts[2] + c
    cell = jnp.where(present, cell, grid.cells)
    return CellParticles(cell, relative, steps, finite, wide)


def sort_by_cell(grid: CellGrid, cell: Int[Array, "particles"]) -> Int[Array, "particles"]:
    """The particles in the order of their cells; within a cell as they were before."""
    bits = max(len(cell) - 1, 1).bit_length()
    if grid.cells.bit_length() + bits < 32:
        # One sort of single numbers is much faster than one of pairs.
        key = (cell << bits) | jnp.arange(len(cell), dtype=jnp.int32)
        return jnp.sort(key) & ((1 << bits) - 1)
    return jnp.argsort(cell, stable=True).astype(jnp.int32)


def fill_cells(
    grid: CellGrid, placed: CellParticles, *, in_cell_order: bool = False
) -> CellTable:
    """Writes the particles of each cell side by side."""
    particles = len(placed.cell)
    number = jnp.arange(particles, dtype=jnp.int32)
    order = number if in_cell_order else sort_by_cell(grid, placed.cell)
    in_order = placed.cell if in_cell_order else placed.cell[order]
    starts = jnp.searchsorted(in_order, jnp.arange(grid.cells + 1, dtype=jnp.int32))
    starts = starts.astype(jnp.int32)
    # One more cell, always empty, stands for what is outside an open box.
    starts = jnp.append(starts, starts[-1])
    rank = number if in_cell_order else jnp.argsort(order).astype(jnp.int32)
    place = rank - starts[jnp.minimum(placed.cell, grid.cells)]
    slots = starts[:-1, None] + jnp.arange(grid.capacity, dtype=jnp.int32)[None, :]
    filled = slots < starts[1:, None]
    slots = jnp.minimum(slots, particles - 1)
    members = slots if in_cell_order else order[slots]
    relative = tuple(
        jnp.where(filled, axis[members], jnp.asarray(FAR, jnp.float32))
        for axis in placed.relative
    )
    largest = jnp.max(starts[1:] - starts[:-1])
    return CellTable(order, place, relative, members, largest)


def cells_around(grid: CellGrid) -> Int[Array, "cells steps"]:
    """The cells at each of the grid's offsets; the number of cells where there is none."""
    offsets = jnp.asarray(grid.offsets, jnp.int32)
    number = jnp.arange(grid.cells, dtype=jnp.int32)
    _, ny, nz = grid.counts
    own = (number // (ny * nz), (number // nz) % ny, number % nz)
    found: list[Int[Array, "cells steps"]] = []
    exists = jnp.ones((grid.cells, len(grid.offsets)), bool)
    for axis, count in enumerate(grid.counts):
        index = own[axis][:, None] + offsets[None, :, axis]
        exists &= grid.periodic | ((index >= 0) & (index < count))
        found.append(index % count)
    around = (found[0] * ny + found[1]) * nz + found[2]
    return jnp.where(exists, around, grid.cells)


def longest_cell(grid: CellGrid, placed: CellParticles) -> int:
    """The most particles in one cell; needs numbers, not traced values."""
    counts = np.bincount(np.asarray(placed.cell), minlength=grid.cells + 1)[: grid.cells]
    return int(counts.max(initial=0))
