"""Neighbour lists hold what a search through all pairs finds, or say that they do not."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from systems.molecular.boxes import OpenBox, OrthorhombicBox, TriclinicBox
from systems.molecular.neighbours import (
    NeighbourList,
    allocate,
    cell_order,
    moved_too_far,
    rebuild,
)


RANGE, SKIN, PARTICLES = 1.0, 0.4, 90
RADIUS = RANGE + SKIN
moved = eqx.filter_jit(moved_too_far)
ordered = eqx.filter_jit(cell_order)


def make_box(kind, lengths):
    """A box of some kind whose heights are about these lengths."""
    lengths = jnp.asarray(lengths, jnp.float64)
    if kind == "open":
        return OpenBox()
    if kind == "triclinic":
        lower = jnp.asarray([[0.0, 0.0, 0.0], [0.3, 0.0, 0.0], [-0.25, 0.2, 0.0]])
        return TriclinicBox(jnp.diag(lengths) * 1.25 + lower * lengths[0])
    return OrthorhombicBox(lengths)


def distances(positions, box):
    """Of all pairs, by whole box vectors from -2 to 2: the shortest that there is."""
    positions = np.asarray(positions)
    away = positions[:, None] - positions[None, :]
    if isinstance(box, OpenBox):
        return np.linalg.norm(away, axis=-1)
    vectors = np.asarray(box.vectors())
    fractions = away @ np.linalg.inv(vectors)
    away = (fractions - np.round(fractions)) @ vectors
    steps = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3), axis=-1).reshape(-1, 3)
    return np.min([np.linalg.norm(away + s @ vectors, axis=-1) for s in steps], axis=0)


def pairs(neighbours: NeighbourList):
    """The list as a matrix of truths."""
    found = np.zeros((len(neighbours.indices),) * 2, int)
    np.add.at(found, (np.arange(len(found))[:, None], np.asarray(neighbours.indices)), 1)
    np.fill_diagonal(found, 0)
    assert found.max(initial=0) <= 1, "a neighbour is listed twice"
    return found.astype(bool)


def assert_complete(neighbours, positions, box):
    assert not neighbours.overflow
    found, apart = pairs(neighbours), distances(positions, box)
    np.fill_diagonal(apart, np.inf)
    assert not np.any((apart < RADIUS) & ~found)
    if neighbours.capacities.grid.divided:
        assert not np.any((apart > RADIUS * (1 + 1e-4)) & found)


CASES = {
    "orthorhombic": ("orthorhombic", (4.5, 6.0, 4.9)),
    "triclinic": ("triclinic", (4.6, 4.9, 5.5)),
    "open": ("open", (4.5, 5.0, 6.0)),
    "two cells": ("orthorhombic", (3.1, 4.6, 3.0)),
    "triclinic, two cells": ("triclinic", (2.3, 2.4, 2.6)),
}


@functools.cache
def template(case):
    """A list with room for all that is drawn."""
    kind, lengths = CASES[case]
    box = make_box(kind, lengths)
    cells = np.random.default_rng(1).uniform(size=(PARTICLES, 3)) * lengths
    return allocate(jnp.asarray(cells), box, RANGE, SKIN, spare=4.0)


@settings(max_examples=15, deadline=None)
@given(
    case=st.sampled_from(sorted(CASES)),
    seed=st.integers(0, 10**6),
    scale=st.floats(1.0, 1.3),
    kind=st.sampled_from(["anywhere", "on edges", "outside"]),
)
def test_list_is_that_of_all_pairs_also_after_moves(case, seed, scale, kind):
    rng = np.random.default_rng(seed)
    name, lengths = CASES[case]
    box = make_box(name, np.asarray(lengths) * scale)
    fractions = rng.uniform(size=(PARTICLES, 3))
    if kind == "on edges":  # of cells, and the faces of the box
        counts = template(case).capacities.grid.counts
        fractions[::2] = rng.integers(0, np.asarray(counts) + 1, (45, 3)) / np.asarray(counts)
        fractions[::2] += 1e-3 * rng.normal(size=(45, 3)) * rng.integers(0, 2, (45, 1))
    if name == "open":
        positions = jnp.asarray(fractions * lengths * scale)
    else:
        fractions += 0 if kind != "outside" else rng.integers(-2, 3, (PARTICLES, 3))
        positions = box.cartesian(jnp.asarray(fractions))
    neighbours = rebuild(template(case), positions, box)
    assert_complete(neighbours, positions, box)
    # Nothing is missing within the range as long as nothing is said to have moved too far.
    steps = rng.normal(size=(PARTICLES, 3))
    steps *= rng.uniform(0, 0.499 * SKIN) / np.linalg.norm(steps, axis=1).max()
    later = positions + steps
    assert not moved(neighbours, later, box)
    near = distances(later, box) < RANGE
    np.fill_diagonal(near, False)
    assert not np.any(near & ~pairs(neighbours))


@pytest.mark.parametrize("case", ["orthorhombic", "open", "triclinic, two cells"])
def test_particles_sorted_by_cell_have_the_same_neighbours(case):
    kind, lengths = CASES[case]
    box = make_box(kind, lengths)
    positions = jnp.asarray(np.random.default_rng(5).uniform(size=(PARTICLES, 3)) * lengths)
    neighbours = rebuild(template(case), positions, box)
    order = ordered(neighbours, positions, box)
    assert sorted(order.tolist()) == list(range(PARTICLES))
    again = rebuild(neighbours, positions[order], box, in_cell_order=True)
    assert not again.overflow
    assert np.array_equal(pairs(again), pairs(neighbours)[np.ix_(order, order)])
    if neighbours.capacities.grid.cells > 1:
        unsorted = rebuild(neighbours, positions[order][::-1], box, in_cell_order=True)
        assert unsorted.overflow


def test_overflow_is_set_whenever_the_list_is_not_whole():
    kind, lengths = CASES["orthorhombic"]
    box = make_box(kind, lengths)
    rng = np.random.default_rng(3)
    positions = jnp.asarray(rng.uniform(size=(PARTICLES, 3)) * lengths)
    tight = allocate(positions, box, RANGE, SKIN, spare=1.0)
    flagged, last = 0, positions
    for _ in range(12):
        centre = rng.uniform(size=3) * lengths
        spread = (np.asarray(positions) - centre) * rng.uniform(0.6, 1.0)
        gathered = jnp.asarray(centre + spread)
        made = rebuild(tight, gathered, box)
        flagged += int(made.overflow)
        if made.overflow:
            last = gathered
        else:
            assert_complete(made, gathered, box)
    assert flagged > 0
    assert_complete(allocate(last, box, RANGE, SKIN), last, box)
    assert rebuild(tight, positions.at[4, 1].set(jnp.nan), box).overflow
    assert rebuild(tight, positions, make_box(kind, (4.1, 6.0, 4.9))).overflow  # its cells
    assert rebuild(tight, positions, make_box(kind, (1.9, 6.0, 4.9))).overflow


def test_a_box_that_changes_is_told_from_particles_that_move():
    kind, lengths = CASES["triclinic"]
    box = make_box(kind, lengths)
    rng = np.random.default_rng(4)
    positions = box.cartesian(jnp.asarray(rng.uniform(size=(PARTICLES, 3))))
    neighbours = rebuild(template("triclinic"), positions, box)
    assert not moved(neighbours, positions, box)
    assert moved(neighbours, positions.at[7].add(0.13), box)
    assert moved(neighbours, positions.at[0, 0].set(jnp.nan), box)
    found = pairs(neighbours)
    for factor in (0.5, 0.8, 0.9, 0.97, 1.03, 1.5):
        strained = box.strained(factor - 1.0)
        later = strained.cartesian(box.fractional(positions)) + 0.02
        near = distances(later, strained) < RANGE
        np.fill_diagonal(near, False)
        if not moved(neighbours, later, strained):
            assert not np.any(near & ~found)
        assert bool(moved(neighbours, later, strained)) == (factor < 0.9)


def test_padding_has_no_neighbours_and_lists_of_several_systems_share_one_shape():
    kind, lengths = CASES["two cells"]
    box = make_box(kind, lengths)
    rng = np.random.default_rng(6)
    positions = jnp.asarray(rng.uniform(size=(PARTICLES, 3)) * lengths)
    padded = positions.at[60:].set(jnp.nan)
    first = allocate(positions, box, RANGE, SKIN)
    some = allocate(padded, box, RANGE, SKIN, particles=60, minimum=first.capacities)
    assert some.indices.shape == first.indices.shape
    assert not some.overflow
    found = pairs(some)
    assert not found[60:].any() and not found[:, 60:].any()
    assert np.array_equal(found[:60, :60], pairs(first)[:60, :60])
    assert ordered(some, padded, box)[60:].tolist() == list(range(60, PARTICLES))
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), first, some)
    mapped = jax.jit(jax.vmap(rebuild, in_axes=(0, 0, None)))
    made = mapped(both, jnp.stack([positions, padded]), box)
    assert np.array_equal(made.indices[0], first.indices)
    assert np.array_equal(made.indices[1], some.indices)


def test_no_scatter():
    box = make_box(*CASES["orthorhombic"])
    positions = jnp.zeros((PARTICLES, 3))
    text = jax.jit(rebuild).lower(template("orthorhombic"), positions, box).as_text()
    assert "scatter" not in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"range": 2.3}, "less than twice the range"),
        ({"skin": 0.0}, "the skin is 0.0"),
        ({"spare": 0.5}, "spare is 0.5"),
        ({"particles": 91}, "expected 0 to 90"),
    ],
)
def test_bad_input_is_one_sentence(change, words):
    kind, lengths = CASES["orthorhombic"]
    given = {"range": RANGE, "skin": SKIN, "spare": 1.2, "particles": None} | change
    with pytest.raises(ValueError, match=words):
        allocate(jnp.zeros((PARTICLES, 3)), make_box(kind, lengths), **given)


def test_a_position_that_is_no_number_is_named():
    positions = jnp.zeros((PARTICLES, 3)).at[17, 2].set(jnp.inf)
    with pytest.raises(ValueError, match="particle 17"):
        allocate(positions, OpenBox(), RANGE, SKIN)
