"""Sums of pair energies: with a list as without one, and with all their derivatives."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from systems.molecular.boxes import OpenBox, OrthorhombicBox, TriclinicBox
from systems.molecular.cutoffs import ForceShifted, Truncated
from systems.molecular.neighbours import allocate
from systems.molecular.pair_sums import evaluate_pairs
from systems.molecular.pairwise import LennardJones


evaluate = eqx.filter_jit(evaluate_pairs)


def lattice(cells, spacing, noise, seed=0):
    """A simple cubic lattice, somewhat disordered."""
    axis = np.arange(cells) * spacing
    points = np.stack(np.meshgrid(axis, axis, axis), axis=-1).reshape(-1, 3)
    return jnp.asarray(points + noise * np.random.default_rng(seed).normal(size=points.shape))


# No pair stands so near the cut-off that a finite difference would step across it.
POSITIONS = lattice(6, 1.12, 0.06, seed=2)
SPECIES = jnp.asarray(np.arange(len(POSITIONS)) % 2, jnp.int32)
LENGTH = 6 * 1.12
SHAPES = {
    "open": OpenBox(),
    "orthorhombic": OrthorhombicBox(jnp.asarray([LENGTH, LENGTH, 1.1 * LENGTH])),
    "triclinic": TriclinicBox(
        LENGTH * jnp.asarray([[1.0, 0.0, 0.0], [0.2, 1.05, 0.0], [-0.1, 0.15, 1.05]])
    ),
}


def binary(epsilon, sigma, radius=2.2):
    return ForceShifted(LennardJones(epsilon, sigma), radius)


PARAMETERS = (jnp.asarray([1.0, 0.6]), jnp.asarray([1.0, 0.9]))


def scatters(function, *operands):
    return "scatter" in jax.jit(function).lower(*operands).as_text()


@pytest.fixture(scope="module")
def cubic():
    box = SHAPES["orthorhombic"]
    return box, allocate(POSITIONS, box, 2.2, 0.3)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_list_gives_what_all_pairs_give(shape):
    box, pair = SHAPES[shape], binary(*PARAMETERS)
    neighbours = allocate(POSITIONS, box, 2.2, 0.3)
    seen = evaluate(pair, POSITIONS, SPECIES, box, neighbours)
    right = evaluate(pair, POSITIONS, SPECIES, box)
    scale = float(jnp.abs(right.forces).max())
    assert seen.energy == pytest.approx(float(right.energy), rel=1e-12)
    assert np.abs(seen.forces - right.forces).max() < 1e-12 * scale
    assert np.abs(seen.virial - right.virial).max() < 1e-11 * scale
    assert np.abs(np.sum(seen.forces, axis=0)).max() < 1e-11 * scale
    # By hand, with NumPy.
    away = np.asarray(POSITIONS)[:, None] - np.asarray(POSITIONS)[None]
    square = np.sum(np.stack(box.displacement(*np.moveaxis(away, 2, 0))) ** 2, axis=0)
    first, second = np.triu_indices(len(POSITIONS), 1)
    terms = pair.energy(jnp.asarray(square[first, second]), SPECIES[first], SPECIES[second])
    assert seen.energy == pytest.approx(float(np.sum(terms)), rel=1e-12)


def test_mixed_precision_is_near_double_and_conserves_momentum(cubic):
    box, neighbours = cubic
    pair = binary(*PARAMETERS)
    double = evaluate(pair, POSITIONS, SPECIES, box, neighbours)
    mixed = evaluate(pair, POSITIONS, SPECIES, box, neighbours, precision="mixed")
    scale = float(jnp.abs(double.forces).max())
    difference = float(jnp.abs(mixed.forces - double.forces).max())
    assert mixed.forces.dtype == jnp.float64
    assert 0 < difference < 1e-5 * scale
    assert np.abs(np.sum(mixed.forces, axis=0)).max() < 1e-10 * scale
    assert mixed.energy == pytest.approx(float(double.energy), rel=1e-6)


@pytest.mark.parametrize("shape", ["orthorhombic", "triclinic"])
def test_several_images_are_those_of_a_larger_box(shape):
    small = lattice(3, 1.12, 0.05)
    edges = 3.36 * (jnp.eye(3) if shape == "orthorhombic" else SHAPES[shape].edges / LENGTH)
    kind = (
        (lambda v: OrthorhombicBox(jnp.diagonal(v)))
        if shape == "orthorhombic"
        else TriclinicBox
    )
    pair = ForceShifted(LennardJones(), 2.4)
    one = evaluate_pairs(pair, small, jnp.zeros(27, jnp.int32), kind(edges))
    steps = np.stack(np.meshgrid(*[[0, 1]] * 3), axis=-1).reshape(-1, 3)
    copies = jnp.concatenate([small + jnp.asarray(s @ np.asarray(edges))[None] for s in steps])
    eight = evaluate_pairs(pair, copies, jnp.zeros(216, jnp.int32), kind(2 * edges))
    assert 8 * one.energy == pytest.approx(float(eight.energy), rel=1e-12)
    np.testing.assert_allclose(np.tile(one.forces, (8, 1)), eight.forces, atol=1e-10)
    np.testing.assert_allclose(8 * one.virial, eight.virial, rtol=1e-9, atol=1e-8)
    # Where the lengths are not known, the answer is not a number rather than a wrong one.
    traced = jax.jit(lambda b: evaluate_pairs(pair, small, jnp.zeros(27, jnp.int32), b))
    assert np.isnan(traced(kind(edges)).energy)


def test_derivatives_of_the_energy(cubic):
    box, neighbours = cubic

    @jax.jit
    def energy(positions, parameters, lengths):
        there = OrthorhombicBox(lengths)
        pair = binary(*parameters)
        return evaluate(pair, positions, SPECIES, there, neighbours).energy

    at = (POSITIONS, PARAMETERS, box.lengths)
    rng = np.random.default_rng(1)
    step = jax.tree.map(lambda a: jnp.asarray(0.1 * rng.normal(size=a.shape)), at)
    reverse = jax.jit(jax.grad(energy, (0, 1, 2)))
    gradient = reverse(*at)
    along = sum(
        jnp.vdot(a, b) for a, b in zip(*map(jax.tree.leaves, (gradient, step)), strict=True)
    )
    forward = jax.jit(lambda: jax.jvp(energy, at, step)[1])()

    def shifted(h):
        return jax.tree.map(lambda a, b: a + h * b, at, step)

    numeric = (energy(*shifted(1e-6)) - energy(*shifted(-1e-6))) / 2e-6
    assert forward == pytest.approx(float(along), rel=1e-12)
    assert numeric == pytest.approx(float(along), rel=1e-6)
    assert not scatters(reverse, *at)
    second = jax.jit(lambda: jax.jvp(lambda *a: reverse(*a), at, step)[1])()
    around = [reverse(*shifted(h)) for h in (1e-5, -1e-5)]
    numeric = jax.tree.map(lambda a, b: (a - b) / 2e-5, *around)
    for seen, right in zip(*map(jax.tree.leaves, (second, numeric)), strict=True):
        assert np.abs(seen - right).max() < 1e-6 * max(np.abs(right).max(), 1.0)


def test_derivatives_of_forces_and_virial(cubic):
    box, neighbours = cubic

    @jax.jit
    def sums(positions, parameters):
        pair = binary(*parameters)
        found = evaluate(pair, positions, SPECIES, box, neighbours)
        return found.forces, found.virial

    rng = np.random.default_rng(2)
    v, w = (jnp.asarray(rng.normal(size=POSITIONS.shape)) for _ in range(2))
    weights = jnp.asarray(rng.normal(size=(3, 3)))
    at = (POSITIONS, PARAMETERS)
    forward = jax.jit(lambda v: jax.jvp(lambda x: sums(x, PARAMETERS), (POSITIONS,), (v,))[1])
    pull = jax.jit(lambda w, m: jax.vjp(sums, *at)[1]((w, m)))
    zero = jnp.zeros((3, 3))
    # <w, J v> both ways, then against finite differences.
    forces, virial = forward(v)
    assert jnp.vdot(w, forces) == pytest.approx(float(jnp.vdot(pull(w, zero)[0], v)), rel=1e-11)
    moment = jnp.vdot(pull(jnp.zeros_like(w), weights)[0], v)
    assert jnp.vdot(weights, virial) == pytest.approx(float(moment), rel=1e-11)
    h = 1e-6
    around = [sums(POSITIONS + s * h * v, PARAMETERS) for s in (1, -1)]
    for seen, right in zip((forces, virial), zip(*around, strict=True), strict=True):
        numeric = (right[0] - right[1]) / (2 * h)
        assert np.abs(seen - numeric).max() < 1e-7 * np.abs(numeric).max()
    # The parameters.
    (epsilon, _) = pull(w, weights)[1]
    moved = [
        sums(POSITIONS, (PARAMETERS[0] + s * h * jnp.eye(2)[1], PARAMETERS[1])) for s in (1, -1)
    ]
    change = sum(
        jnp.vdot(a, (b - c) / (2 * h)) for a, b, c in zip((w, weights), *moved, strict=True)
    )
    assert float(epsilon[1]) == pytest.approx(float(change), rel=1e-6)
    assert not scatters(
        lambda w: jax.vjp(lambda x: sums(x, PARAMETERS), POSITIONS)[1]((w, zero)), w
    )
    # Third order: the derivative of a product with the Hessian.
    pulled = jax.jit(
        lambda x: jnp.vdot(jax.vjp(lambda y: sums(y, PARAMETERS)[0], x)[1](w)[0], v)
    )
    third = jax.jit(jax.grad(pulled))(POSITIONS)
    numeric = (pulled(POSITIONS + h * v) - pulled(POSITIONS - h * v)) / (2 * h)
    assert jnp.vdot(third, v) == pytest.approx(float(numeric), rel=1e-6)


def test_maps_over_replicas_with_derivatives(cubic):
    box, neighbours = cubic
    replicas = jnp.stack([POSITIONS, POSITIONS + 0.01 * jnp.sin(POSITIONS)])

    @jax.jit
    def forces(x):
        return evaluate(binary(*PARAMETERS), x, SPECIES, box, neighbours).forces

    seen = jax.jit(jax.vmap(forces))(replicas)
    v = jnp.cos(replicas)
    pulled = jax.jit(jax.vmap(lambda x, v: jax.vjp(forces, x)[1](v)[0]))(replicas, v)
    one = jax.jit(lambda x, v: jax.vjp(forces, x)[1](v)[0])
    for k in range(2):
        np.testing.assert_allclose(seen[k], forces(replicas[k]), atol=1e-11)
        np.testing.assert_allclose(pulled[k], one(replicas[k], v[k]), atol=1e-9)


def test_padding_feels_and_does_nothing():
    box, pair = SHAPES["orthorhombic"], binary(*PARAMETERS)
    fewer = evaluate(pair, POSITIONS[:150], SPECIES[:150], box)
    padded = evaluate(pair, POSITIONS, SPECIES, box, particles=150)
    listed = allocate(POSITIONS, box, 2.2, 0.3, particles=150)
    for seen in (padded, evaluate(pair, POSITIONS, SPECIES, box, listed)):
        assert seen.energy == pytest.approx(float(fewer.energy), rel=1e-12)
        np.testing.assert_allclose(seen.forces[:150], fewer.forces, atol=1e-10)
        assert not np.any(seen.forces[150:])


def test_particles_at_one_point_are_no_silence(cubic):
    box, _ = cubic
    together = POSITIONS.at[5].set(POSITIONS[9])
    neighbours = allocate(together, box, 2.2, 0.3)
    found = evaluate(binary(*PARAMETERS), together, SPECIES, box, neighbours)
    assert not np.isfinite(found.energy)


def test_bad_input_is_one_sentence(cubic):
    box, neighbours = cubic
    with pytest.raises(ValueError, match="has no range"):
        evaluate_pairs(LennardJones(), POSITIONS, SPECIES, box)
    with pytest.raises(ValueError, match="was made for a range"):
        evaluate_pairs(Truncated(LennardJones(), 2.5), POSITIONS, SPECIES, box, neighbours)
    with pytest.raises(ValueError, match="expected 'positions' or 'mixed'"):
        pair = binary(*PARAMETERS)
        evaluate_pairs(pair, POSITIONS, SPECIES, box, neighbours, precision="half")  # pyright: ignore[reportArgumentType]
