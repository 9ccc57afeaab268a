"""Neighbour lists by a compiled kernel hold what a search through all pairs finds."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st

from solvers.molecular.driver import run_dynamics
from solvers.molecular.lists import (
    CompiledList,
    as_kind,
    first_list,
    new_list,
    new_sorted_list,
)
from solvers.molecular.problem import MolecularProblem
from solvers.molecular.verlet import VelocityVerlet
from systems.molecular.boxes import OpenBox, OrthorhombicBox, TriclinicBox
from systems.molecular.builders import lattice
from systems.molecular.cutoffs import Shifted
from systems.molecular.model import MolecularModel, PairTerm
from systems.molecular.neighbours import NeighbourList, allocate, cell_order, rebuild
from systems.molecular.pairwise import LennardJones
from systems.molecular.units import REDUCED


pytest.importorskip("llvmlite")

from solvers.ensemble.native.arrays import call_arrays
from solvers.ensemble.native.build import F64
from solvers.ensemble.native.registry import handler, registry
from solvers.molecular.native import lists
from solvers.molecular.native.lists_kernel import list_module


RANGE, SKIN, PARTICLES = 1.0, 0.4, 90
RADIUS = RANGE + SKIN
# Beyond the radius by rounding, a pair may be in the list or not.
LOOSE = 1 + 3e-5
SKEW = np.array([[1.25, 0, 0], [0.3, 1.25, 0], [-0.25, 0.2, 1.25]])
BOXES = {
    "orthorhombic": np.diag([4.5, 6.0, 4.9]),
    "two cells": np.diag([3.1, 4.6, 3.0]),
    "one cell": np.diag([2.3, 2.1, 2.7]),
    "triclinic": SKEW * 4.3,
    "triclinic, two cells": SKEW * 2.7,
    "triclinic, one cell": SKEW * 2.0,
    "flat": np.diag([2.2, 14.0, 4.3]),
    "open": None,
}
made = eqx.filter_jit(new_list)
made_sorted = eqx.filter_jit(new_sorted_list)


def box_of(case, dtype=jnp.float64):
    vectors = BOXES[case]
    if vectors is None:
        return OpenBox()
    vectors = jnp.asarray(vectors, dtype)
    if case.startswith("triclinic"):
        return TriclinicBox(vectors)
    return OrthorhombicBox(jnp.diagonal(vectors))


def vectors_of(case):
    return np.diag([4.5, 5.0, 6.0]) if BOXES[case] is None else BOXES[case]


@functools.cache
def template(case, dtype=jnp.float64):
    """A list with room for all that is drawn."""
    positions = np.random.default_rng(1).uniform(size=(PARTICLES, 3)) @ vectors_of(case)
    positions = jnp.asarray(positions, dtype)
    box = box_of(case, dtype)
    roomy = first_list(positions, box, RANGE, SKIN, spare=8.0, kind=CompiledList)
    assert isinstance(roomy, CompiledList)
    return roomy


def distances(positions, case):
    """Of all pairs: the shortest of the images by whole vectors from -2 to 2."""
    away = np.asarray(positions, float)[:, None] - np.asarray(positions, float)[None, :]
    if BOXES[case] is None:
        return np.linalg.norm(away, axis=-1)
    vectors = BOXES[case]
    fractions = away @ np.linalg.inv(vectors)
    away = (fractions - np.round(fractions)) @ vectors
    steps = np.stack(np.meshgrid(*[[-2, -1, 0, 1, 2]] * 3), axis=-1).reshape(-1, 3)
    return np.min([np.linalg.norm(away + s @ vectors, axis=-1) for s in steps], axis=0)


def pairs(neighbours):
    """The list as a matrix of truths; used places come first in each row."""
    indices = np.asarray(neighbours.indices)
    count = len(indices)
    own = indices == np.arange(count)[:, None]
    assert np.all(own[:, 1:] >= own[:, :-1]), "a gap in a row"
    found = np.zeros((count, count), int)
    np.add.at(found, (np.arange(count)[:, None], indices), 1)
    np.fill_diagonal(found, 0)
    assert found.max(initial=0) <= 1, "a neighbour is listed twice"
    return found.astype(bool)


def assert_right(neighbours, positions, case, loose=LOOSE):
    assert not neighbours.overflow
    found, apart = pairs(neighbours), distances(positions, case)
    np.fill_diagonal(apart, np.inf)
    assert not np.any((apart < RADIUS) & ~found)
    # Where a skewed box is too narrow to tell images apart, all are near.
    narrow = case.startswith("triclinic") and not neighbours.capacities.grid.divided
    if not narrow:
        assert not np.any((apart > RADIUS * loose) & found)
    assert neighbours.most_neighbours == found.sum(axis=1).max()


@settings(max_examples=60, deadline=None)
@given(
    case=st.sampled_from(sorted(BOXES)),
    single=st.booleans(),
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(["anywhere", "faces", "outside", "crystal", "one point"]),
)
@example("orthorhombic", False, 0, "faces")
@example("triclinic", False, 0, "faces")
@example("flat", True, 1, "faces")
@example("open", True, 0, "crystal")
def test_list_is_that_of_all_pairs(case, single, seed, kind):
    dtype = jnp.float32 if single and case in ("triclinic", "flat", "open") else jnp.float64
    random = np.random.default_rng(seed)
    fractions = random.uniform(size=(PARTICLES, 3))
    if kind == "faces":  # of cells and of the box, and by rounding beside them
        counts = np.asarray(template(case).capacities.grid.counts)
        places = random.integers(0, counts + 1, (PARTICLES, 3)) / counts
        places += random.choice([0.0, -1e-17, 1e-17, -1e-9, 1e-9], (PARTICLES, 3))
        fractions = np.where(random.uniform(size=(PARTICLES, 3)) < 0.5, places, fractions)
    if kind == "crystal":
        points = np.stack(np.meshgrid(*[np.arange(5)] * 3), axis=-1).reshape(-1, 3) / 5
        fractions = random.permutation(points)[:PARTICLES]
    if kind == "outside":
        fractions += random.integers(-40, 41, (PARTICLES, 3))
    if kind == "one point":
        fractions[::9] = fractions[0]
    # In single precision two distances are as near as its rounding, and far away that is more.
    positions = jnp.asarray(fractions @ vectors_of(case), dtype)
    size = float(jnp.max(jnp.abs(positions)))
    rounding = 1e-7 * size if dtype == jnp.float32 else 1e-15 * size
    found = made(template(case, dtype), positions, box_of(case, dtype))
    apart = distances(positions, case)
    np.fill_diagonal(apart, np.inf)
    if np.any(abs(apart - RADIUS) < 12 * rounding):
        return
    assert_right(found, positions, case, LOOSE + 12 * rounding)


@pytest.mark.parametrize("case", ["orthorhombic", "triclinic, two cells"])
def test_list_is_that_of_jax(case):
    box = box_of(case)
    random = np.random.default_rng(5)
    positions = jnp.asarray(random.uniform(size=(PARTICLES, 3)) @ vectors_of(case))
    plain = allocate(positions, box, RANGE, SKIN, spare=1.0)
    compiled = as_kind(CompiledList, plain)
    found = made(compiled, positions, box)
    assert np.array_equal(pairs(found), pairs(plain))
    for name in ("most_neighbours", "most_in_cell", "overflow", "reference"):
        assert np.array_equal(getattr(found, name), getattr(plain, name)), name
    kinds = [[leaf.dtype for leaf in jax.tree.leaves(some)] for some in (found, compiled)]
    assert kinds[0] == kinds[1]
    first = first_list(positions, box, RANGE, SKIN, spare=1.0, kind=CompiledList)
    assert type(first) is CompiledList
    assert first.capacities.neighbours == plain.capacities.neighbours
    assert first.capacities.grid.counts == plain.capacities.grid.counts
    assert np.array_equal(first.indices, found.indices)
    order, found = made_sorted(compiled, positions, box)
    assert np.array_equal(order, cell_order(plain, positions, box))
    if case == "orthorhombic":
        right = rebuild(plain, positions[order], box, in_cell_order=True)
        assert np.array_equal(pairs(found), pairs(right))
        assert np.array_equal(found.reference, right.reference)
        # More than fits: the same flags, and no index that is out of bounds.
        gathered = positions * jnp.asarray([[0.7, 0.7, 1.0]])
        found, right = made(compiled, gathered, box), rebuild(plain, gathered, box)
        assert found.overflow and right.overflow
        assert found.most_in_cell == right.most_in_cell
        assert np.all((found.indices >= 0) & (found.indices < PARTICLES))


def with_capacities(neighbours, number=None, in_cell=None):
    """The list with other capacities."""
    old = neighbours.capacities
    grid = dataclasses.replace(old.grid, capacity=in_cell or old.grid.capacity)
    number = number or old.neighbours
    capacities = dataclasses.replace(old, neighbours=number, grid=grid)
    indices = jnp.zeros((len(neighbours.indices), number), jnp.int32)
    return dataclasses.replace(neighbours, capacities=capacities, indices=indices)


def test_overflow_is_set_whenever_the_list_is_not_whole():
    case = "orthorhombic"
    box, roomy = box_of(case), template(case)
    positions = jnp.asarray(np.random.default_rng(3).uniform(size=(PARTICLES, 3)) * 4.4)
    whole = made(roomy, positions, box)
    most, crowd = int(whole.most_neighbours), int(whole.most_in_cell)
    assert not made(with_capacities(roomy, most, crowd), positions, box).overflow
    few = made(with_capacities(roomy, most - 1), positions, box)
    assert few.overflow
    assert few.most_neighbours == most
    short = np.sum(pairs(whole), axis=1) < most
    assert np.array_equal(few.indices[short], whole.indices[short][:, : most - 1])
    tight = made(with_capacities(roomy, None, crowd - 1), positions, box)
    assert tight.overflow
    assert tight.most_in_cell == crowd
    # Nobody may follow an index into nowhere, even in a list that is of no use.
    assert np.array_equal(tight.indices[:, 0], np.arange(PARTICLES))
    for value in (jnp.nan, jnp.inf, -jnp.inf):
        assert made(roomy, positions.at[4, 1].set(value), box).overflow
    for lengths, bad in (([4.1, 6, 4.9], True), ([1.9, 6, 4.9], True), ([4.3, 6, 4.9], False)):
        found = made(roomy, positions, OrthorhombicBox(jnp.asarray(lengths, jnp.float64)))
        assert bool(found.overflow) == bad
    # One cell along an axis may be narrower than the radius, but not than twice the range.
    thin, positions = template("flat"), positions * jnp.asarray([[0.3, 1.0, 1.0]])
    for width, bad in ((2.01, False), (1.99, True)):
        found = made(thin, positions, OrthorhombicBox(jnp.asarray([width, 14.0, 4.3])))
        assert bool(found.overflow) == bad


@pytest.mark.parametrize("case", ["orthorhombic", "open", "two cells"])
def test_padding_has_no_neighbours_and_lists_are_mapped(case):
    box = box_of(case)
    random = np.random.default_rng(6)
    positions = jnp.asarray(random.uniform(size=(PARTICLES, 3)) @ vectors_of(case))
    some = dataclasses.replace(template(case), particles=jnp.asarray(60, jnp.int32))
    padded = positions.at[60:].set(jnp.nan)
    order, found = made_sorted(some, padded, box)
    assert order[60:].tolist() == list(range(60, PARTICLES))
    assert not found.overflow
    assert not pairs(found)[60:].any()
    direct = made(some, padded, box)
    apart = distances(positions[:60], case)
    np.fill_diagonal(apart, np.inf)
    assert np.array_equal(pairs(direct)[:60, :60], apart < RADIUS)
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), template(case), some)
    mapped = eqx.filter_jit(jax.vmap(new_list, in_axes=(0, 0, None)))
    two = mapped(both, jnp.stack([positions, padded]), box)
    assert np.array_equal(two.indices[0], made(template(case), positions, box).indices)
    assert np.array_equal(two.indices[1], direct.indices)


def test_derivatives_pass_by():
    neighbours, box = template("orthorhombic"), box_of("orthorhombic")
    positions = jnp.asarray(np.random.default_rng(2).uniform(size=(PARTICLES, 3)) * 4.4)

    def value(x):
        found = new_list(neighbours, x, box)
        return jnp.sum(x[found.indices[:, 0]] ** 2)

    slope = jax.jit(jax.grad(value))(positions)
    first = np.asarray(made(neighbours, positions, box).indices[:, 0])
    right = 2 * np.asarray(positions) * np.bincount(first, minlength=PARTICLES)[:, None]
    assert np.allclose(slope, right)


def crystal(count):
    positions, box = lattice("fcc", (count,) * 3, density=0.8)
    random = np.random.default_rng(7)
    return jnp.asarray(positions) + 0.1 * jnp.asarray(random.normal(size=positions.shape)), box


def test_threads_change_nothing():
    positions, box = crystal(9)
    found = []
    try:
        for threads in (1, 2, 5):
            handler().set_threads(threads)
            start = first_list(positions, box, 2.5, 0.3, spare=1.2, kind=CompiledList)
            found += [(start, *made_sorted(start, positions, box)) for _ in range(3)]
    finally:
        handler().set_threads(2)
    for other in found[1:]:
        for one, same in zip(jax.tree.leaves(found[0]), jax.tree.leaves(other), strict=True):
            assert np.array_equal(one, same)
    order, after = found[0][1:]
    start = found[0][0]
    assert start.indices.shape[0] == 2916
    # Sorting renames the particles, and nothing else.
    rank = np.argsort(order)
    for row in (0, 17, 2915):
        mine = set(rank[np.asarray(start.indices)[order[row]]].tolist())
        assert mine == set(after.indices[row].tolist()) | {row}


@pytest.mark.parametrize("case", ["orthorhombic", "triclinic, two cells"])
def test_processors_without_permutations_get_the_same(case):
    positions = jnp.asarray(np.random.default_rng(9).uniform(size=(PARTICLES, 3)))
    positions = positions @ jnp.asarray(vectors_of(case))
    neighbours, box = template(case), box_of(case)
    kernel = registry.kernel(str(list_module(F64, 4, permutes=False)))
    operands = lists._operands(neighbours, positions, box, after=False)
    found = call_arrays(kernel, operands, lists._shapes(neighbours, PARTICLES))
    assert np.array_equal(found[1], made(neighbours, positions, box).indices)


@pytest.mark.parametrize("kind", [CompiledList, NeighbourList])
def test_pairs_are_found_in_cells_much_wider_than_the_radius(kind):
    random = np.random.default_rng(4)
    middle = random.uniform(-1e5, 1e5, (200, 3))
    away = random.normal(size=(200, 3))
    away *= RADIUS * (1 - 1e-9) / np.linalg.norm(away, axis=1)[:, None]
    positions = jnp.asarray(np.concatenate([middle, middle + away]))
    found = first_list(positions, OpenBox(), RANGE, SKIN, spare=1.0, kind=kind)
    partner = (np.arange(400) + 200) % 400
    assert np.all(np.any(np.asarray(found.indices) == partner[:, None], axis=1))


def test_a_run_grows_its_list_and_in_segments_is_the_same():
    positions, box = crystal(4)
    pair = Shifted(LennardJones(1.0, 1.0), 2.5)
    species = np.zeros(len(positions), np.int32)
    model = MolecularModel((PairTerm(pair),), np.ones(len(positions)), species, REDUCED)
    problem = MolecularProblem(model, positions, box, temperature=1.0, key=jax.random.key(0))

    def go(steps, **given):
        method = VelocityVerlet(0.004)
        return run_dynamics(problem, method, steps=steps, save_every=20, **given)

    whole = go(80)
    assert type(whole.state.neighbours) is CompiledList
    assert whole.statistics["lists"] > 2
    assert whole.statistics["growths"] == 0
    half = go(40)
    rest = go(40, state=half.state)
    leaves = zip(jax.tree.leaves(rest.state), jax.tree.leaves(whole.state), strict=True)
    for one, other in leaves:
        np.testing.assert_array_equal(one, other)
    few = with_capacities(half.state.neighbours, 64)
    small = eqx.tree_at(lambda s: (s.neighbours, s.stale), half.state, (few, jnp.asarray(True)))
    grown = go(40, state=small)
    assert grown.statistics["growths"] == 1
    assert type(grown.state.neighbours) is CompiledList
    assert np.allclose(grown.positions[-1], whole.positions[-1], atol=1e-8)
