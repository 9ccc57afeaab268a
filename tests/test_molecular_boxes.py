"""Boxes and builders: images, volumes, strains, crystals, packings."""

import itertools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as stn

from systems.molecular.boxes import OpenBox, OrthorhombicBox, TriclinicBox, deform
from systems.molecular.builders import cubic_box, lattice, mixture, random_packing


CUBOID = OrthorhombicBox([4.0, 5.0, 6.0])
SKEWED = TriclinicBox([[4.0, 0, 0], [1.9, 5.0, 0], [-2.1, 2.6, 6.0]])
BOXES = {"cuboid": CUBOID, "skewed": SKEWED}
each_box = pytest.mark.parametrize("name", BOXES)
few = settings(max_examples=30, deadline=None)
POINTS = stn.arrays(np.float64, (5, 3), elements=st.floats(-40, 40))


def columns(array):
    return [jnp.asarray(array[..., axis]) for axis in range(3)]


@each_box
@few
@given(points=POINTS)
def test_the_nearest_image_is_the_nearest(name, points):
    """Wherever it is nearer than half a height; against all images within reach."""
    box = BOXES[name]
    vectors = np.asarray(box.vectors())
    shifts = np.asarray(list(itertools.product(range(-2, 3), repeat=3))) @ vectors
    found = np.stack(box.displacement(*columns(points)), axis=-1)
    fractions = (found - points) @ np.linalg.inv(vectors)
    np.testing.assert_allclose(fractions, np.round(fractions), atol=1e-9)
    best = np.min(np.linalg.norm(found[:, None] + shifts[None], axis=-1), axis=1)
    close = best < np.min(box.heights()) / 2 * (1 - 1e-12)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1)[close], best[close], atol=1e-12)


@each_box
@few
@given(points=POINTS)
def test_wrapped_positions_are_images_in_the_first_cell(name, points):
    box = BOXES[name]
    wrapped, images = box.wrap(jnp.asarray(points)), box.images(jnp.asarray(points))
    fractions = np.asarray(box.fractional(wrapped))
    assert np.all((fractions > -1e-12) & (fractions < 1))
    assert images.dtype == jnp.int32
    # On a face rounding decides between two images, which are one point.
    whole = (points - np.asarray(wrapped)) @ np.linalg.inv(np.asarray(box.vectors()))
    inside = np.all(np.minimum(fractions, 1 - fractions) > 1e-9, axis=1)
    np.testing.assert_allclose(whole[inside], images[inside], atol=1e-9)
    np.testing.assert_allclose(whole, np.round(whole), atol=1e-9)
    np.testing.assert_allclose(box.cartesian(box.fractional(points)), points, atol=1e-12)


@each_box
def test_volumes_heights_and_fractions(name):
    box = BOXES[name]
    vectors = np.asarray(box.vectors())
    assert box.volume() == pytest.approx(np.linalg.det(vectors), rel=1e-14)
    normals = np.linalg.inv(vectors)
    np.testing.assert_allclose(box.heights(), 1 / np.linalg.norm(normals, axis=0), rtol=1e-14)
    points = np.random.default_rng(0).normal(size=(7, 3))
    np.testing.assert_allclose(box.fractional(points), points @ normals, atol=1e-14)


def test_an_open_box_has_no_images():
    box = OpenBox()
    points = np.asarray([[1.0, -200.0, 3e5]])
    assert np.array_equal(box.wrap(points), points)
    assert np.array_equal(np.stack(box.displacement(*columns(points)), -1), points)
    assert not np.any(box.images(points))
    assert np.isinf(box.volume())
    assert np.all(np.isinf(box.heights()))
    assert box.strained(0.1) is box
    for method in (box.vectors, lambda: box.fractional(points), lambda: box.cartesian(points)):
        with pytest.raises(ValueError, match="An open box has no"):
            method()


def test_any_vectors_become_a_box_in_the_usual_orientation():
    turned = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    turned *= np.sign(np.linalg.det(turned))
    vectors = np.asarray(SKEWED.vectors()) @ turned
    box, rotation = TriclinicBox.from_vectors(vectors)
    np.testing.assert_allclose(box.vectors(), SKEWED.vectors(), atol=1e-13)
    np.testing.assert_allclose(vectors @ rotation, SKEWED.vectors(), atol=1e-13)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-14)
    as_it_is, same = TriclinicBox.from_vectors(SKEWED.vectors())
    assert np.array_equal(same, np.eye(3))
    assert np.array_equal(as_it_is.vectors(), SKEWED.vectors())


def test_boxes_from_edges_and_angles():
    box = TriclinicBox.from_lengths_and_angles((4.0, 5.0, 6.0), (80.0, 95.0, 110.0))
    a, b, c = np.asarray(box.vectors())
    np.testing.assert_allclose([np.linalg.norm(v) for v in (a, b, c)], [4, 5, 6], rtol=1e-14)
    angles = [
        np.degrees(np.arccos(u @ v / np.linalg.norm(u) / np.linalg.norm(v)))
        for u, v in ((b, c), (a, c), (a, b))
    ]
    np.testing.assert_allclose(angles, [80, 95, 110], rtol=1e-13)


@each_box
@pytest.mark.parametrize(
    "strain", [0.02, (0.01, -0.02, 0.03), ((0.01, 0.02, -0.01), (0, 0.03, 0.04), (0, 0, -0.02))]
)
def test_a_strain_moves_points_with_their_box(name, strain):
    """Fractions stay what they are, whether lengths are known or traced."""
    box = BOXES[name]
    strain = np.asarray(strain)
    points = jnp.asarray(np.random.default_rng(2).random((6, 3)) * 4)
    for change in (lambda e: box.strained(e), jax.jit(lambda e: box.strained(e))):
        strained = change(strain)
        np.testing.assert_allclose(
            strained.fractional(deform(points, strain)), box.fractional(points), atol=1e-14
        )
        assert np.array_equal(strained.vectors(), np.tril(strained.vectors()))
    full = np.eye(3) * strain if strain.ndim < 2 else strain
    assert strained.volume() == pytest.approx(
        float(box.volume()) * np.linalg.det(np.eye(3) + full), rel=1e-13
    )


def test_lengths_have_derivatives():
    def distance(lengths):
        away = OrthorhombicBox(lengths).displacement(*columns(np.asarray([3.5, 4.9, 0.1])))
        return sum(component**2 for component in away)

    # The nearest image is at (-0.5, -0.1, 0.1).
    np.testing.assert_allclose(
        jax.grad(distance)(jnp.asarray([4.0, 5.0, 6.0])), [1.0, 0.2, 0.0], atol=1e-13
    )


REFUSED = {
    r"lengths have shape \(2,\)": lambda: OrthorhombicBox([1.0, 2.0]),
    r"lengths are \[1.0, -2.0, 3.0\], expected positive": (
        lambda: OrthorhombicBox([1.0, -2.0, 3.0])
    ),
    "lengths are .*nan": lambda: OrthorhombicBox(jnp.asarray([1.0, jnp.nan, 3.0])),
    "expected a lower triangular": lambda: TriclinicBox([[1.0, 0.1, 0], [0, 1, 0], [0, 0, 1]]),
    "with a positive diagonal": lambda: TriclinicBox(-np.eye(3)),
    "three independent vectors that are right-handed": (
        lambda: TriclinicBox.from_vectors(np.eye(3)[[1, 0, 2]])
    ),
    "There is no box with edges": (
        lambda: TriclinicBox.from_lengths_and_angles((1.0, 1.0, 1.0), (30.0, 30.0, 90.0))
    ),
    r"A strain has shape \(2,\)": lambda: CUBOID.strained(np.zeros(2)),
    "expected an upper triangular": lambda: SKEWED.strained(np.full((3, 3), 0.1)),
    "lattice: kind is 'fc'": lambda: lattice("fc", 2, density=1.0),  # pyright: ignore
    "lattice: give either": lambda: lattice("fcc", 2),
    "expected one or three whole numbers": lambda: lattice("fcc", 0, density=1.0),
    "density or constant is -1": lambda: lattice("fcc", 1, density=-1.0),
    "no room for particle": (
        lambda: random_packing(500, cubic_box(500, 1.0), distance=1.0, seed=1, attempts=20)
    ),
    "box is 1 wide, expected at least twice": (
        lambda: random_packing(2, OrthorhombicBox([1.0, 9.0, 9.0]), distance=0.6, seed=1)
    ),
    "the box is open": lambda: random_packing(2, OpenBox(), distance=0.6, seed=1),
    "counts are": lambda: mixture([1, -2], seed=1),
    "0 particles at density": lambda: cubic_box(0, 1.0),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_cannot_be_meant_is_refused(sentence):
    with pytest.raises(ValueError, match=sentence):
        REFUSED[sentence]()


# Kind: nearest and second neighbours, the distance of the nearest in lattice constants.
CRYSTALS = {
    "sc": (6, 12, 1.0, 1),
    "bcc": (8, 6, np.sqrt(3) / 2, 2),
    "fcc": (12, 6, np.sqrt(0.5), 4),
    "hcp": (12, 6, 1.0, 4),
    "diamond": (4, 12, np.sqrt(3) / 4, 8),
}


def all_distances(positions, box):
    away = box.displacement(*columns(positions[:, None] - positions[None]))
    apart = np.sqrt(sum(np.asarray(component) ** 2 for component in away))
    return apart[~np.eye(len(positions), dtype=bool)].reshape(len(positions), -1)


@pytest.mark.parametrize("kind", CRYSTALS)
def test_crystals_have_their_neighbours(kind):
    """Every particle: how many are nearest, how many next, and how far."""
    first, second, distance, atoms = CRYSTALS[kind]
    positions, box = lattice(kind, (5, 4, 4), constant=1.5)
    assert len(positions) == 5 * 4 * 4 * atoms
    assert np.all((positions >= 0) & (positions < np.asarray(box.lengths)))
    shells = np.sort(all_distances(positions, box), axis=1)
    np.testing.assert_allclose(shells[:, :first], 1.5 * distance, rtol=1e-12)
    np.testing.assert_allclose(shells[:, first : first + second], shells[0, first], rtol=1e-12)
    assert np.all(shells[:, first] > 1.05 * shells[:, 0])
    assert np.all(shells[:, first + second] > 1.01 * shells[:, first])
    _, dense = lattice(kind, 3, density=0.8442)
    assert 27 * atoms / float(dense.volume()) == pytest.approx(0.8442, rel=1e-13)


@each_box
def test_packings_keep_their_distance(name):
    box = BOXES[name]
    positions = random_packing(40, box, distance=0.95, seed=5)
    assert positions.shape == (40, 3)
    assert np.min(all_distances(positions, box)) >= 0.95
    assert np.array_equal(positions, random_packing(40, box, distance=0.95, seed=5))
    assert not np.array_equal(positions, random_packing(40, box, distance=0.95, seed=6))
    free = random_packing(1000, box, distance=0.0, seed=5)
    # Uniform: 125 of 1,000 in each eighth of the box, with a deviation of 10.5.
    eighths = np.floor(2 * np.asarray(box.fractional(free))) @ [1, 2, 4]
    assert np.all(abs(np.bincount(eighths.astype(int), minlength=8) - 125) < 4 * 10.5)


def test_mixtures_have_their_composition():
    species = mixture([10, 0, 30], seed=1)
    assert np.bincount(species).tolist() == [10, 0, 30]
    assert species.dtype == np.int32
    assert species[:10].tolist() != [0] * 10
    assert np.array_equal(species, mixture([10, 0, 30], seed=1))
