r"""Sums of a pair energy over particles: energy, forces and virial in one pass.

Forces come from the slope of the pair energy, coordinates are three separate arrays, and
every particle adds up its own neighbours, so that all pairs are met twice and nothing is
scattered: this is what a compiler turns into vector code. Derivatives have rules that keep it
so: the energy moves by the forces, the sum over a pair's two ends is twice that over the
first, and the Hessian is its own transpose.

Virial: M. P. Allen, D. J. Tildesley, *Computer Simulation of Liquids*, 2nd ed. (2017), 2.4.
"""

import functools
import itertools
import math
import operator
from collections.abc import Iterable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Bool, Float, Int

from systems.molecular.blocks import merge_blocks, split_blocks
from systems.molecular.boxes import AbstractBox, known
from systems.molecular.neighbours import NeighbourList
from systems.molecular.pairwise import AbstractPairEnergy
from systems.molecular.symmetric_product import symmetric_product


Precision = Literal["positions", "mixed"]
Columns = tuple[Float[Array, "..."], Float[Array, "..."], Float[Array, "..."]]


class Evaluation(eqx.Module):
    """What a term of a model gives at some positions.

    Attributes:
        energy: Potential energy, in the unit of energy.
        forces: Force on each particle, energy per length.
        virial: Sum over pairs of the vector between two particles (outer product) the force
            on the first, in the unit of energy; symmetric. The pressure is
            `(2 * kinetic + trace(virial)) / (3 * volume)`.
    """

    energy: Float[Array, ""]
    forces: Float[Array, "particles 3"]
    virial: Float[Array, "3 3"]


class _Others(eqx.Module):
    """What sums depend on beside what they are differentiated by."""

    species: Int[Array, "particles"]
    indices: Int[Array, "particles capacity"] | None
    present: Bool[Array, "particles"] | None
    images: Int[Array, "images 3"] | None


def evaluate_pairs(
    pair: AbstractPairEnergy,
    positions: Float[Array, "particles 3"],
    species: Int[Array, "particles"],
    box: AbstractBox,
    neighbours: NeighbourList | None = None,
    *,
    precision: Precision = "positions",
    particles: Int[Array, ""] | int | None = None,
) -> Evaluation:
    """Energy, forces and virial of a pair energy summed over all pairs.

    It can be differentiated in every mode and order with respect to the positions, the
    parameters of the pair energy and the box (at fixed positions), and mapped.

    Args:
        pair: The pair energy.
        positions: Positions in the unit of length; in a periodic box any image.
        species: Species of each particle, from 0.
        box: The box.
        neighbours: A list that is valid for these positions and whose overflow is not set.
            Without it all pairs are looked at, with as many images as the range reaches,
            which takes time in the square of the number of particles. A box whose lengths
            are traced counts nearest images alone; where it is narrower than twice the
            range, everything is not a number.
        precision: "positions": that of the positions. "mixed": pair forces in single
            precision, from differences and into sums in double precision.
        particles: Without a list: how many rows are particles, the first ones; the others
            have no energy and no force.

    Raises:
        ValueError: The pair energy has no range but the box is periodic, or its range is
            greater than that of the list, or the precision has another name.
    """
    _check(pair, box, neighbours, precision)
    present = images = None
    if neighbours is None:
        if particles is not None:
            present = jnp.arange(len(positions), dtype=jnp.int32) < particles
        images = _images(pair, box)
    indices = None if neighbours is None else neighbours.indices
    others = _Others(jnp.asarray(species), indices, present, images)
    evaluation = _differentiable((positions, pair, box), others, precision)
    if neighbours is None and images is None and box.periodic:
        assert pair.range is not None, "a periodic box needs a range, as was checked"
        # The one image is not enough in a box that became too narrow under `jit`.
        wide = jnp.min(box.heights()) >= 2 * pair.range
        evaluation = jax.tree.map(lambda v: jnp.where(wide, v, jnp.nan), evaluation)
    return evaluation


def _differentiable(inputs: Any, others: _Others, precision: Precision) -> Evaluation:
    """The sums with the rule of their derivatives."""
    smooth, rest = eqx.partition(inputs, eqx.is_inexact_array_like)
    leaves, tree = jax.tree.flatten(smooth)
    leaves = [jnp.asarray(leaf) for leaf in leaves]
    # A function with a rule of its own must not close over traced arrays.
    arrays, static = eqx.partition((rest, others), eqx.is_array)

    def restore(leaves: Any, arrays: Any) -> tuple[Any, _Others]:
        rest, others = eqx.combine(arrays, static)
        return eqx.combine(jax.tree.unflatten(tree, leaves), rest), others

    def sums(leaves: Any, arrays: Any, precision: Precision = "positions", ends: Any = None):
        (positions, pair, box), others = restore(leaves, arrays)
        columns = tuple(positions[:, axis] for axis in range(3))
        return _sums(pair, columns if ends is None else ends, columns, box, others, precision)

    @jax.custom_jvp
    def evaluated(leaves: Any, arrays: Any) -> Evaluation:
        return sums(leaves, arrays, precision)

    def derivative(primals: Any, tangents: Any) -> Any:
        leaves, arrays = primals
        value = evaluated(leaves, arrays)
        change = jax.tree.map(jnp.zeros_like, value)
        # The positions are the first leaf.
        others = enumerate(tangents[0][1:], 1)
        moved = [i for i, t in others if not isinstance(t, SymbolicZero)]
        if moved:

            def of_moved(some: Any) -> Evaluation:
                values = list(leaves)
                for i, one in zip(moved, some, strict=True):
                    values[i] = one
                return sums(values, arrays)

            at = [leaves[i] for i in moved]
            _, change = jax.jvp(of_moved, (at,), ([tangents[0][i] for i in moved],))
        step = tangents[0][0]
        if not isinstance(step, SymbolicZero):
            moving = _as_positions_move(sums, leaves, arrays, value.forces, step)
            change = jax.tree.map(jnp.add, change, moving)
        return value, change

    evaluated.defjvp(derivative, symbolic_zeros=True)
    return evaluated(leaves, arrays)


def _as_positions_move(
    sums: Any, leaves: Any, arrays: Any, forces: Any, step: Any
) -> Evaluation:
    """How the sums change as the positions, the first leaf, move by a step."""

    def product(at: Any, vector: Any) -> Any:
        (first, *others), arrays = at
        return jax.jvp(lambda x: sums([x, *others], arrays).forces, (first,), (vector,))[1]

    # Both ends of a pair contribute the same to a sum over all pairs.
    ends, moves = (tuple(a[:, axis] for axis in range(3)) for a in (leaves[0], step))
    _, virial = jax.jvp(lambda e: sums(leaves, arrays, ends=e).virial, (ends,), (moves,))
    return Evaluation(
        energy=-jnp.sum(forces * step),
        forces=symmetric_product(product, (leaves, arrays), step),
        virial=2.0 * virial,
    )


def _sums(
    pair: AbstractPairEnergy,
    ends: Columns,
    columns: Columns,
    box: AbstractBox,
    others: _Others,
    precision: Precision,
) -> Evaluation:
    """Sums over all pairs of which the first particle is at `ends`, the other at `columns`."""
    if others.indices is None:
        return _sums_over_all(pair, ends, columns, box, others, precision)
    particles, species = len(ends[0]), others.species
    number = jnp.arange(particles, dtype=jnp.int32)
    dtype = columns[0].dtype

    def block(rows: Any) -> Evaluation:
        ends, indices, number, first = rows
        away = tuple(e[:, None] - c[indices] for e, c in zip(ends, columns, strict=True))
        kinds = (first[:, None], species[indices])
        apart = indices != number[:, None]
        return _add_up(pair, box.displacement(*away), apart, kinds, dtype, precision)

    rows = (ends, others.indices, number, species)
    # Values in between are computed again, not kept, where derivatives need them.
    parts = jax.lax.map(jax.checkpoint(block), split_blocks(rows))
    return Evaluation(
        energy=jnp.sum(parts.energy),
        forces=merge_blocks(parts.forces, rows),
        virial=jnp.sum(parts.virial, axis=0),
    )


def _sums_over_all(
    pair: AbstractPairEnergy,
    ends: Columns,
    columns: Columns,
    box: AbstractBox,
    others: _Others,
    precision: Precision,
) -> Evaluation:
    """Sums over all particles, and as many images as are asked for."""
    number = jnp.arange(len(ends[0]), dtype=jnp.int32)
    apart = number[:, None] != number[None, :]
    if others.present is not None:
        apart &= others.present[:, None] & others.present[None, :]
    away = _columns(e[:, None] - c[None, :] for e, c in zip(ends, columns, strict=True))
    kinds = (others.species[:, None], others.species[None, :])
    dtype = columns[0].dtype
    if others.images is None:
        return _add_up(pair, box.displacement(*away), apart, kinds, dtype, precision)
    nearest = _nearest(box, away)
    vectors = box.vectors()
    itself = number[:, None] == number[None, :]
    if others.present is not None:
        itself &= others.present[:, None]

    def one_image(total: Evaluation, image: Int[Array, "3"]) -> tuple[Evaluation, None]:
        moved = [[image[k] * vectors[k, axis] for k in range(3)] for axis in range(3)]
        shift = [functools.reduce(operator.add, m).astype(dtype) for m in moved]
        there = apart | (itself & jnp.any(image != 0))
        shifted = _columns(d + s for d, s in zip(nearest, shift, strict=True))
        part = _add_up(pair, shifted, there, kinds, dtype, precision)
        return jax.tree.map(jnp.add, total, part), None

    zero = Evaluation(
        jnp.zeros((), dtype), jnp.zeros((len(number), 3), dtype), jnp.zeros((3, 3), dtype)
    )
    return jax.lax.scan(one_image, zero, others.images)[0]


def _add_up(
    pair: AbstractPairEnergy,
    away: Columns,
    apart: Bool[Array, "particles others"],
    kinds: tuple[Int[Array, "..."], Int[Array, "..."]],
    dtype: Any,
    precision: Precision,
) -> Evaluation:
    """The sums for vectors from the other particle to the first."""
    if precision == "mixed":
        away = _columns(d.astype(jnp.float32) for d in away)
    square = away[0] * away[0] + away[1] * away[1] + away[2] * away[2]
    # A particle and itself are no pair, but two particles at one point are.
    energy, slope = pair.energy_and_slope(jnp.where(apart, square, 1.0), *kinds)
    energy = jnp.where(apart, energy, 0.0)
    slope = jnp.where(apart, slope, 0.0)
    forces = [jnp.sum((slope * d).astype(dtype), axis=1) for d in away]
    moments = {
        (a, b): 0.5 * jnp.sum((slope * away[a] * away[b]).astype(dtype))
        for a, b in itertools.combinations_with_replacement(range(3), 2)
    }
    virial = [[moments[min(a, b), max(a, b)] for b in range(3)] for a in range(3)]
    return Evaluation(
        energy=0.5 * jnp.sum(energy.astype(dtype)),
        forces=jnp.stack(forces, axis=1),
        virial=jnp.asarray(virial),
    )


def _nearest(box: AbstractBox, away: Columns) -> Columns:
    """Vectors less whole box vectors, so that their fractions are at most a half."""
    vectors = box.vectors()
    whole = jax.lax.stop_gradient(jnp.round(box.fractional(jnp.stack(away, axis=-1))))
    moved = [[whole[..., k] * vectors[k, axis] for k in range(3)] for axis in range(3)]
    return _columns(
        d - functools.reduce(operator.add, m).astype(d.dtype)
        for d, m in zip(away, moved, strict=True)
    )


def _columns(parts: Iterable[Float[Array, "..."]]) -> Columns:
    """The three coordinates as a tuple of known length."""
    x, y, z = parts
    return x, y, z


def _images(pair: AbstractPairEnergy, box: AbstractBox) -> Int[Array, "images 3"] | None:
    """The images that a range reaches beyond the nearest; `None` if the nearest are all."""
    if not box.periodic or any(known(leaf) is None for leaf in jax.tree.leaves(box)):
        return None
    with jax.ensure_compile_time_eval():
        heights = np.asarray(box.heights())
    # Fractions of nearest images are at most a half.
    reach = [max(math.ceil(pair.range / height - 0.5), 0) for height in heights]
    if not any(reach):
        return None
    steps = [range(-most, most + 1) for most in reach]
    return jnp.asarray(list(itertools.product(*steps)), jnp.int32)


def _check(
    pair: AbstractPairEnergy,
    box: AbstractBox,
    neighbours: NeighbourList | None,
    precision: str,
) -> None:
    if precision not in ("positions", "mixed"):
        raise ValueError(f"The precision is {precision!r}, expected 'positions' or 'mixed'.")
    name = type(pair).__name__
    if pair.range is None:
        if box.periodic or neighbours is not None:
            raise ValueError(
                f"{name} has no range, which a periodic box and a neighbour list need; "
                "wrap it in a cut-off."
            )
    elif neighbours is not None and pair.range > neighbours.range * (1 + 1e-12):
        raise ValueError(
            f"{name} reaches {pair.range:.6g}, but the neighbour list was made for a range "
            f"of {neighbours.range:.6g}."
        )
