"""Which particles of the cells around are near: one bit for each candidate.

Where the cells around are all different, coordinates are relative to the cells, so that
images need no thought and single precision is exact enough: a cell is small. Otherwise the
box tells the nearest image.
"""

import functools
import operator

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from systems.molecular.boxes import AbstractBox, OrthorhombicBox
from systems.molecular.cells import FAR, CellGrid, CellParticles, CellTable, cells_around
from systems.molecular.compaction import WORD, words_needed


# Distances are compared in single precision: this much beyond the radius still counts, so
# that rounding never loses a pair.
ROUNDING = 1e-5
# The same for cells much wider than the radius: so much of the sum of their edges.
LOOSENESS = 1e-6


def near_bits(
    grid: CellGrid,
    placed: CellParticles,
    table: CellTable,
    positions: Float[Array, "particles 3"],
    box: AbstractBox,
    radius: float,
) -> UInt32[Array, "cells capacity words"]:
    """For each place in a cell, which candidates in the cells around are nearer than a radius.

    Candidate `m` is bit `m // W` of word `m % W`, of W words; the candidates of a cell are
    the places of the cells around it, in the order of `cells_around`.
    """
    if grid.divided:
        offsets = jnp.asarray(grid.offsets, jnp.float32)
        steps = placed.steps.astype(jnp.float32)
        # Coordinates are told from the corner of the cell whose particles look around.
        columns = table.relative
        shifts = tuple(
            functools.reduce(operator.add, (offsets[:, k] * steps[k, axis] for k in range(3)))
            for axis in range(3)
        )
        limit = jnp.float32(radius * (1 + ROUNDING)) + LOOSENESS * jnp.sum(jnp.abs(steps))
    else:
        columns = tuple(positions[table.members, axis] for axis in range(3))
        shifts = tuple(jnp.zeros(len(grid.offsets), positions.dtype) for _ in range(3))
        limit = jnp.asarray(radius * (1 + ROUNDING), positions.dtype)
    # A place without a particle is not a number, which is never near.
    filled = table.relative[0] < FAR
    columns = tuple(jnp.where(filled, column, jnp.nan) for column in columns)
    candidates = grid.capacity * len(grid.offsets)
    words = words_needed(candidates)
    padding = (0, words * WORD - candidates)
    everyone = _cannot_tell(grid, box, radius)
    own_bits = _own_bits(grid, words)

    def one_cell(cell: tuple[Int[Array, ""], Int[Array, "steps"]]) -> UInt32[Array, "..."]:
        number, around = cell
        own = [column[number][:, None] for column in columns]
        others = [
            jnp.pad((c[around] + s[:, None]).reshape(-1), padding, constant_values=jnp.nan)
            for c, s in zip(columns, shifts, strict=True)
        ]
        word = jnp.zeros((grid.capacity, words), jnp.uint32)
        for bit in range(WORD):
            part = slice(bit * words, (bit + 1) * words)
            dx, dy, dz = (a[None, part] - b for a, b in zip(others, own, strict=True))
            if not grid.divided:
                dx, dy, dz = box.displacement(dx, dy, dz)
            near = dx * dx + dy * dy + dz * dz < limit * limit
            if everyone is not None:
                near |= everyone & ~jnp.isnan(others[0])[None, part]
            word |= near.astype(jnp.uint32) << jnp.uint32(bit)
        return word & ~own_bits

    # One cell after another: what is computed for it stays near the processor.
    return jax.lax.map(one_cell, (jnp.arange(grid.cells, dtype=jnp.int32), cells_around(grid)))


def _own_bits(grid: CellGrid, words: int) -> UInt32[Array, "capacity words"]:
    """For each place in a cell the bit of the candidate that is the particle itself."""
    here = int((grid.offsets == 0).all(axis=1).argmax())
    candidate = here * grid.capacity + jnp.arange(grid.capacity, dtype=jnp.int32)
    bit = jnp.asarray(1, jnp.uint32) << (candidate // words).astype(jnp.uint32)
    number = jnp.arange(words, dtype=jnp.int32)
    return jnp.where(number[None, :] == (candidate % words)[:, None], bit[:, None], 0)


def _cannot_tell(grid: CellGrid, box: AbstractBox, radius: float) -> Bool[Array, ""] | None:
    """Whether the nearest image of a skewed box is unknown at the radius: all are near then."""
    if grid.divided or isinstance(box, OrthorhombicBox):
        return None
    return 2 * radius > jnp.min(box.heights())
