"""Models: published energies and forces, invariances, small boxes, virials, parameters."""

import functools
import subprocess
import sys
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from systems.base import get_parameter, parameter_declarations, replace_parameters
from systems.molecular.boxes import (
    AbstractBox,
    OpenBox,
    OrthorhombicBox,
    TriclinicBox,
    deform,
)
from systems.molecular.builders import lattice, mixture, random_packing
from systems.molecular.corrections import TailCorrection, tail_energy
from systems.molecular.cutoffs import ForceShifted, Shifted, Switched, Truncated
from systems.molecular.model import EnergyTerm, ExternalTerm, MolecularModel, PairTerm
from systems.molecular.neighbours import allocate
from systems.molecular.pairwise import LennardJones
from systems.molecular.potentials import Morse, UserPair, Yukawa
from systems.molecular.units import METAL

from .helpers_molecular import (
    brute_force,
    lammps_state,
    lennard_jones,
    needs_data,
    nist_configuration,
    nist_values,
)


EPSILON = [[1.0, 0.7], [0.7, 0.5]]
SIGMA = [[1.0, 0.9], [0.9, 0.8]]
MIXTURE = LennardJones(EPSILON, SIGMA)


@eqx.filter_jit
def evaluate(model, positions, box, neighbours=None):
    return model.evaluate(positions, box, neighbours)


def liquid(particles=40, box=None):
    """A mixture without overlap, in a skewed box unless another is given."""
    box = box or TriclinicBox([[4.2, 0, 0], [1.0, 4.0, 0], [-0.8, 0.7, 3.9]])
    positions = random_packing(particles, box, distance=0.75, seed=3)
    return positions, mixture([particles // 2, particles - particles // 2], seed=4), box


def mixed_model(pair, species):
    return MolecularModel(pair, np.ones(len(species)), species)


@needs_data
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("scheme", ["rc3.0", "rc4.0", "LFS3"])
def test_nist_reference_configurations(number, scheme):
    """To the five digits that NIST prints; the stored values have more."""
    positions, edges = nist_configuration(number)
    expected = nist_values()[f"c{number}_{scheme}"]
    fluid, box = LennardJones(), OrthorhombicBox(edges)
    cut = scheme != "LFS3"
    pair = Truncated(fluid, float(scheme[2:])) if cut else ForceShifted(fluid, 3.0)
    found = evaluate(MolecularModel(pair, np.ones(len(positions))), positions, box)
    assert found.energy == pytest.approx(expected[0], rel=1e-12)
    assert np.trace(found.virial) == pytest.approx(expected[1], rel=1e-12)
    printed = [f"{float(value):.4E}" for value in (found.energy, np.trace(found.virial))]
    assert printed == NIST_PRINTS[number, scheme]
    if isinstance(pair, Truncated):
        tail = tail_energy(pair, [len(positions)], box.volume())
        assert tail == pytest.approx(expected[2], rel=1e-12)


# As on NIST's page: energy and virial.
NIST_PRINTS = {
    (1, "rc3.0"): ["-4.3515E+03", "-5.6867E+02"],
    (1, "rc4.0"): ["-4.4675E+03", "-1.2639E+03"],
    (1, "LFS3"): ["-3.8709E+03", "3.1754E+02"],
    (2, "rc3.0"): ["-6.9000E+02", "-5.6846E+02"],
    (2, "rc4.0"): ["-7.0460E+02", "-6.5599E+02"],
    (2, "LFS3"): ["-6.2012E+02", "-4.4533E+02"],
}


@needs_data
@pytest.mark.parametrize("radius", ["2.5", "3.0"])
@pytest.mark.parametrize("name", ["lj500", "lj2048"])
def test_energies_forces_and_pressure_of_lammps(name, radius):
    """All pairs, and through a neighbour list."""
    state = lammps_state(name)
    box = OrthorhombicBox([float(state["L"])] * 3)
    positions = jnp.asarray(state["x"])
    model = MolecularModel(Truncated(LennardJones(), float(radius)), np.ones(len(positions)))
    lists = [allocate(positions, box, float(radius), 0.3)] if name == "lj2048" else [None]
    for neighbours in lists:
        found = evaluate(model, positions, box, neighbours)
        assert found.energy == pytest.approx(float(state[f"pe_rc{radius}"]), rel=1e-12)
        forces = state[f"f_rc{radius}"]
        np.testing.assert_allclose(
            found.forces, forces, rtol=0, atol=1e-10 * np.sqrt(np.mean(forces**2))
        )
        kinetic = np.sum(state["v"] ** 2) / 2
        pressure = (2 * kinetic + np.trace(found.virial)) / (3 * float(box.volume()))
        assert pressure == pytest.approx(float(state[f"press_rc{radius}"]), rel=1e-10)


def test_a_crystal_is_the_same_in_a_skewed_box():
    """Face-centred cubic from its conventional cells, and from its primitive ones."""
    positions, cubic = lattice("fcc", 4, density=1.1)
    constant = float(cubic.lengths[0]) / 4
    primitive = constant / 2 * np.asarray([[0.0, 1, 1], [1, 0, 1], [1, 1, 0]])
    box, rotation = TriclinicBox.from_vectors(primitive[[0, 1, 2]] * 7)
    corners = np.stack(np.meshgrid(*[np.arange(7)] * 3), -1).reshape(-1, 3)
    places = corners @ primitive @ rotation
    model = MolecularModel(Truncated(LennardJones(), 2.4), np.ones(256))
    other = MolecularModel(Truncated(LennardJones(), 2.4), np.ones(343))
    found, skewed = evaluate(model, positions, cubic), evaluate(other, places, box)
    assert skewed.energy / 343 == pytest.approx(float(found.energy) / 256, rel=1e-12)
    np.testing.assert_allclose(skewed.virial / 343, found.virial / 256, atol=1e-10)
    np.testing.assert_allclose(skewed.forces, 0.0, atol=1e-10)


@pytest.mark.parametrize("shape", ["skewed", "cuboid"])
def test_small_boxes_see_several_images(shape):
    """Against sums over all images in NumPy, and against a box of eight copies."""
    cuboid = OrthorhombicBox([2.3, 3.1, 4.2])
    skewed = TriclinicBox([[2.4, 0, 0], [1.1, 2.9, 0], [-1.2, 1.4, 3.3]])
    box = skewed if shape == "skewed" else cuboid
    positions, species, _ = liquid(9, box)
    model = mixed_model(Truncated(MIXTURE, 2.5), species)
    found = model.evaluate(positions, box)
    energy, forces, virial = brute_force(
        lennard_jones(EPSILON, SIGMA), positions, species, np.asarray(box.vectors()), 2.5
    )
    assert found.energy == pytest.approx(energy, rel=1e-12)
    np.testing.assert_allclose(found.forces, forces, rtol=1e-11, atol=1e-10)
    np.testing.assert_allclose(found.virial, virial, rtol=1e-11, atol=1e-10)
    corners = np.stack(np.meshgrid(*[[0, 1]] * 3), -1).reshape(-1, 1, 3)
    copies = (positions + corners @ np.asarray(box.vectors())).reshape(-1, 3)
    large = mixed_model(Truncated(MIXTURE, 2.5), np.tile(species, 8))
    doubled = large.evaluate(copies, box.strained(1.0))
    assert doubled.energy == pytest.approx(8 * float(found.energy), rel=1e-12)
    np.testing.assert_allclose(
        doubled.forces, np.tile(found.forces, (8, 1)), rtol=1e-10, atol=1e-9
    )


@pytest.fixture(scope="module")
def reference():
    """A mixture with a smooth potential, and what is known of it."""
    positions, species, box = liquid()
    model = mixed_model(Switched(MIXTURE, 1.4, 1.9), species)
    return model, positions, box, evaluate(model, positions, box)


def same(found, expected, order=None):
    forces = np.asarray(expected.forces)
    assert found.energy == pytest.approx(float(expected.energy), rel=1e-11)
    np.testing.assert_allclose(
        found.forces, forces if order is None else forces[order], rtol=1e-9, atol=1e-9
    )
    np.testing.assert_allclose(found.virial, expected.virial, rtol=1e-9, atol=1e-9)


def test_energies_do_not_depend_on_origin_images_or_order(reference):
    model, positions, box, expected = reference
    moved = positions + np.asarray([0.37, -11.2, 5.01])
    same(evaluate(model, moved, box), expected)
    drawn = np.random.default_rng(7)
    images = drawn.integers(-4, 5, positions.shape) @ np.asarray(box.vectors())
    same(evaluate(model, positions + images, box), expected)
    same(evaluate(model, box.wrap(moved), box), expected)
    order = drawn.permutation(len(positions))
    same(evaluate(model.reordered(order), positions[order], box), expected, order)


def test_forces_are_the_gradient_and_add_up_to_nothing(reference):
    model, positions, box, expected = reference
    gradient = jax.jit(jax.grad(model.energy))(jnp.asarray(positions), box)
    np.testing.assert_allclose(expected.forces, -gradient, rtol=1e-12, atol=1e-11)
    np.testing.assert_allclose(np.sum(expected.forces, axis=0), 0.0, atol=1e-10)
    step = 1e-5
    for particle, axis in ((0, 0), (7, 1), (23, 2)):
        change = np.zeros_like(positions)
        change[particle, axis] = step
        low, high = (evaluate(model, positions + sign * change, box).energy for sign in (-1, 1))
        assert expected.forces[particle, axis] == pytest.approx(
            float(low - high) / (2 * step), rel=1e-6, abs=1e-6
        )


STRAINS = [(i, j) for i in range(3) for j in range(i, 3)]


@pytest.mark.parametrize("place", STRAINS)
def test_the_virial_is_the_derivative_by_strain(reference, place):
    """And symmetric."""
    model, positions, box, expected = reference
    direction = np.zeros((3, 3))
    direction[place] = 1.0

    def energy(size):
        strain = size * direction
        return evaluate(
            model, deform(jnp.asarray(positions), strain), box.strained(strain)
        ).energy

    step = 1e-5
    numeric = (energy(-step) - energy(step)) / (2 * step)
    assert expected.virial[place] == pytest.approx(float(numeric), rel=1e-6, abs=1e-6)
    assert expected.virial[place[::-1]] == pytest.approx(float(expected.virial[place]))


def test_the_energy_has_second_derivatives(reference):
    """Hessian-vector products against differences of forces, and mixed with parameters."""
    model, positions, box, _ = reference
    positions = jnp.asarray(positions)
    vector = jnp.asarray(np.random.default_rng(1).normal(size=positions.shape))
    gradient = jax.jit(jax.grad(lambda x, m: m.energy(x, box)))
    product = jax.jvp(lambda x: gradient(x, model), (positions,), (vector,))[1]
    step = 1e-6
    numeric = (
        gradient(positions + step * vector, model) - gradient(positions - step * vector, model)
    ) / (2 * step)
    np.testing.assert_allclose(product, numeric, rtol=1e-5, atol=1e-5)
    name = "terms.0.pair.pair.sigma"
    base = np.asarray(get_parameter(model, name))

    def varied(size):
        return replace_parameters(model, {name: base * (1 + size)})

    mixed = jax.jacfwd(lambda s: gradient(positions, varied(s)))(0.0)
    numeric = (gradient(positions, varied(step)) - gradient(positions, varied(-step))) / (
        2 * step
    )
    np.testing.assert_allclose(mixed, numeric, rtol=1e-5, atol=1e-5)


def test_parameters_of_a_model_have_names(reference):
    model = reference[0]
    names = [item.name for item in parameter_declarations(model)]
    assert names == ["terms.0.pair.pair.epsilon", "terms.0.pair.pair.sigma", "masses"]
    other = replace_parameters(model, {"terms.0.pair.pair.epsilon": np.eye(2)})
    assert np.array_equal(get_parameter(other, "terms.0.pair.pair.epsilon"), np.eye(2))
    with pytest.raises(KeyError, match=r"no parameter 'terms.1.pair.epsilon'"):
        get_parameter(model, "terms.1.pair.epsilon")


def test_terms_add_up(reference):
    """Pairs, a function of all particles, an outer field and a correction."""
    _, positions, box, _ = reference
    trap = ExternalTerm(lambda position, species: (1 + species) * jnp.sum(position**2))

    def bond(positions: jax.Array, box: AbstractBox) -> jax.Array:
        away = positions[0] - positions[1]
        away = jnp.stack(box.displacement(*away))
        return 3.0 * (jnp.sqrt(jnp.sum(away**2)) - 1.0) ** 2

    species = np.zeros(len(positions), np.int32)
    species[:3] = 1
    pair = Truncated(Yukawa([[1.0, 2.0], [2.0, 3.0]]), 1.9)
    terms = (PairTerm(pair), trap, EnergyTerm(bond), TailCorrection(pair, 2))
    model = MolecularModel(terms, np.ones(len(positions)), species)
    found = evaluate(model, positions, box)
    parts = jax.jit(
        lambda x: [term.evaluate(x, jnp.asarray(species), box, None) for term in terms]
    )(jnp.asarray(positions))
    assert found.energy == pytest.approx(float(sum(part.energy for part in parts)), rel=1e-12)
    np.testing.assert_allclose(found.forces, sum(part.forces for part in parts), atol=1e-10)
    np.testing.assert_allclose(
        parts[1].forces, -2 * positions * (1 + species)[:, None], rtol=1e-12
    )
    assert not np.any(parts[1].virial)
    away = np.stack(box.displacement(*(positions[0] - positions[1])))
    length = np.linalg.norm(away)
    force = -6.0 * (length - 1.0) * away / length
    np.testing.assert_allclose(parts[2].forces[0], force, rtol=1e-12)
    np.testing.assert_allclose(parts[2].forces[1], -force, rtol=1e-12)
    np.testing.assert_allclose(parts[2].virial, np.outer(away, force), rtol=1e-11, atol=1e-11)
    assert parts[3].energy == pytest.approx(
        float(tail_energy(pair, [37.0, 3.0], box.volume())), rel=1e-12
    )
    # The bond stays between the same two particles, twice sorted.
    order = np.random.default_rng(2).permutation(len(positions))
    sorted_model = model.reordered(order).reordered(order)
    twice = order[order]
    again = evaluate(sorted_model, positions[twice], box)
    same(again, found, twice)


def test_a_cluster_in_open_space():
    """Two particles at the minimum of Morse's potential, and a third by the formula."""
    model = MolecularModel(Morse(2.0, 3.0, 1.1), np.ones(2))
    pair = model.evaluate(np.asarray([[0.0, 0, 0], [1.1, 0, 0]]), OpenBox())
    assert pair.energy == pytest.approx(-2.0, rel=1e-14)
    np.testing.assert_allclose(pair.forces, 0.0, atol=1e-13)
    own = UserPair(lambda r, first, second: r**2 * (1.0 + first + second))
    three = MolecularModel(own, np.ones(3), [0, 0, 1])
    corners = np.asarray([[0.0, 0, 0], [1.0, 0, 0], [0, 2.0, 0]])
    assert three.evaluate(corners, OpenBox()).energy == pytest.approx(1 + 2 * 4 + 2 * 5)


def test_mixed_precision_differs_by_single_rounding(reference):
    model, positions, box, expected = reference
    found = evaluate(model.with_precision("mixed"), positions, box)
    assert found.energy.dtype == found.forces.dtype == jnp.float64
    scale = np.max(abs(expected.forces))
    error = np.max(abs(found.forces - expected.forces)) / scale
    assert 1e-9 < error < 1e-5
    same(
        evaluate(model.with_precision("mixed").with_precision("positions"), positions, box),
        expected,
    )


def test_new_parameters_and_lengths_need_no_new_program():
    """Leaves of NumPy and of jax alike."""
    traces = []

    @jax.jit
    def energy(model, positions, box):
        traces.append(1)
        return model.energy(positions, box)

    positions, species, box = liquid(10, OrthorhombicBox([6.0, 6.0, 6.0]))
    model = mixed_model(Shifted(MIXTURE, 2.5), species)
    other = replace_parameters(model, {"terms.0.pair.pair.epsilon": 2 * np.asarray(EPSILON)})
    first = energy(model, positions, box)
    assert energy(other, positions, box) == pytest.approx(2 * float(first), rel=1e-12)
    energy(model, positions, box.strained(0.01))
    assert len(traces) == 1
    assert isinstance(model.range, float)


REFUSED: dict[str, Any] = {
    r"masses have shape \(2, 1\)": functools.partial(
        MolecularModel, Truncated(MIXTURE, 2.0), np.ones((2, 1))
    ),
    "the mass of particle 1 is 0.0": functools.partial(
        MolecularModel, Truncated(MIXTURE, 2.0), [1.0, 0.0]
    ),
    r"species have shape \(3,\), expected \(2,\)": functools.partial(
        MolecularModel, Truncated(MIXTURE, 2.0), np.ones(2), [0, 1, 0]
    ),
    "of type float64, expected whole numbers": functools.partial(
        MolecularModel, Truncated(MIXTURE, 2.0), np.ones(2), [0.0, 1.0]
    ),
    "species -1, expected whole numbers from zero": functools.partial(
        MolecularModel, Truncated(MIXTURE, 2.0), np.ones(2), [0, -1]
    ),
    r"species 2, but term 0 \(PairTerm\) has parameters for 2 species": functools.partial(
        MolecularModel, Truncated(MIXTURE, 2.0), np.ones(2), [0, 2]
    ),
    "a term is of type float": lambda: MolecularModel(1.0, np.ones(2)),  # pyright: ignore
    "units are 'metal', expected such as": lambda: MolecularModel(
        Truncated(MIXTURE, 2.0),
        np.ones(2),
        None,
        "metal",  # pyright: ignore
    ),
    r"Positions have shape \(3, 3\), expected \(2, 3\)": lambda: MolecularModel(
        Truncated(MIXTURE, 2.0), np.ones(2)
    ).energy(np.zeros((3, 3)), OpenBox()),
    "LennardJones has no range": lambda: MolecularModel(MIXTURE, np.ones(2)).energy(
        np.zeros((2, 3)), OrthorhombicBox([3.0, 3.0, 3.0])
    ),
    "the box is open; a tail needs": lambda: MolecularModel(
        TailCorrection(Truncated(LennardJones(), 2.0)), np.ones(2)
    ).energy(np.zeros((2, 3)), OpenBox()),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_cannot_be_meant_is_refused(sentence):
    with pytest.raises(ValueError, match=sentence):
        REFUSED[sentence]()


def test_a_model_knows_its_size_range_and_units():
    model = MolecularModel(
        (Truncated(LennardJones(), 2.5), Truncated(Yukawa(), 3.5)), np.ones(7), units=METAL
    )
    assert (model.particles, model.range, model.units) == (7, 3.5, METAL)
    assert MolecularModel(Morse(), np.ones(2)).range is None


def test_the_face_does_not_import_jax_md():
    code = "import systems.molecular, sys; print('jax' in sys.modules, 'jax_md' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "True False"
