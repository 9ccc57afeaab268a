"""Many-body and learned potentials: through jax-md, and Tersoff's beside it."""

import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from systems.base import get_parameter, parameter_declarations, replace_parameters
from systems.molecular.boxes import OrthorhombicBox, deform
from systems.molecular.builders import lattice
from systems.molecular.jax_md_terms import (
    EmbeddedAtom,
    JaxMDTerm,
    StillingerWeber,
    learned_potential,
)
from systems.molecular.model import MolecularModel
from systems.molecular.neighbours import allocate
from systems.molecular.tersoff import Tersoff
from systems.molecular.units import METAL


pytestmark = pytest.mark.slow

# Silicon, J. Tersoff, Phys. Rev. B 38, 9902 (1988), with lambda3 as in his second set.
SILICON: dict[str, Any] = {
    "a": 1830.8,
    "b": 471.18,
    "lambda1": 2.4799,
    "lambda2": 1.7322,
    "lambda3": 1.3258,
    "beta": 1.1e-6,
    "n": 0.78734,
    "c": 1.0039e5,
    "d": 16.217,
    "h": -0.59825,
    "radius": 2.85,
    "width": 0.15,
}


def density(r):
    return jnp.exp(-2 * (r - 2.5)) * (1 - r / 4.5) ** 3


def embedding(charge):
    return -1.7 * jnp.sqrt(charge)


def repulsion(r):
    return 0.6 * jnp.exp(-5 * (r - 2.5)) * (1 - r / 4.5) ** 3


@eqx.filter_jit
def energy_in(model, positions, box):
    return model.energy(jnp.asarray(positions), box)


METALLIC = EmbeddedAtom(density, embedding, repulsion, 4.5)


@pytest.fixture(scope="module")
def jax_md():
    """Imported once, with whatever its many packages warn about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import jax_md
    return jax_md


@pytest.fixture(scope="module")
def shaken():
    """Silicon away from its lattice: bonds lie where the cut-offs fall."""
    positions, box = lattice("diamond", 2, constant=5.431)
    drawn = np.random.default_rng(0)
    return jnp.asarray(positions + 0.12 * drawn.normal(size=positions.shape)), box


TERMS = {
    "StillingerWeber": StillingerWeber(),
    "Tersoff": Tersoff(**SILICON),
    "EmbeddedAtom": METALLIC,
}


@pytest.mark.parametrize("name", TERMS)
def test_forces_and_virials_are_derivatives(name, jax_md, shaken):
    """By differences; the same through a neighbour list."""
    positions, box = shaken
    term = TERMS[name]
    model = MolecularModel(term, np.full(len(positions), 28.0855), units=METAL)
    evaluate = jax.jit(lambda x, box, near=None: model.evaluate(x, box, near))
    found = evaluate(positions, box)
    assert np.all(np.isfinite(found.forces))
    np.testing.assert_allclose(np.sum(found.forces, axis=0), 0.0, atol=1e-10)
    step = 1e-5
    for particle, axis in ((0, 0), (53, 1), (59, 2)):
        change = np.zeros(positions.shape)
        change[particle, axis] = step
        low, high = (evaluate(positions + sign * change, box).energy for sign in (-1, 1))
        assert found.forces[particle, axis] == pytest.approx(
            float(low - high) / (2 * step), rel=1e-6, abs=1e-6
        )
    strain = np.zeros((3, 3))
    strain[0, 1] = step
    low, high = (
        evaluate(deform(positions, sign * strain), box.strained(sign * strain)).energy
        for sign in (-1, 1)
    )
    assert found.virial[0, 1] == pytest.approx(
        float(low - high) / (2 * step), rel=1e-5, abs=1e-5
    )
    listed = evaluate(positions, box, allocate(positions, box, term.range, 0.2))
    assert listed.energy == pytest.approx(float(found.energy), rel=1e-12)
    np.testing.assert_allclose(listed.forces, found.forces, atol=1e-10)
    np.testing.assert_allclose(listed.virial, found.virial, atol=1e-9)


def test_cohesive_energies_of_silicon(jax_md):
    """As published: 4.3366 and 4.63 eV per atom at their lattice constant."""
    positions, box = lattice("diamond", 2, constant=5.431)
    masses = np.full(len(positions), 28.0855)
    stillinger = MolecularModel(StillingerWeber(), masses, units=METAL)
    assert energy_in(stillinger, positions, box) / 64 == pytest.approx(-4.3366, abs=1e-4)
    tersoff = MolecularModel(Tersoff(**SILICON), masses, units=METAL)
    assert energy_in(tersoff, positions, box.strained(5.432 / 5.431 - 1)) / 64 == pytest.approx(
        -4.63, abs=5e-3
    )


def test_tersoff_has_the_energy_of_jax_md(jax_md, shaken):
    """To the 1e-7 that jax-md adds to the lengths in its cosines."""
    positions, box = shaken
    term = Tersoff(**SILICON)
    names = {"lambda1": "lam1", "lambda2": "lam2", "lambda3": "lam3", "a": "A", "b": "B"}
    names |= {"radius": "R", "width": "D", "beta": "beta"}
    names |= {letter: f"{letter}Tf" for letter in "ncdh"}
    values = {names[name]: value for name, value in SILICON.items()} | {"mTf": 3}
    other = JaxMDTerm(lambda displacement: jax_md.energy.tersoff(displacement, [values]), 3.0)
    ours, theirs = (
        energy_in(MolecularModel(one, np.ones(len(positions))), positions, box)
        for one in (term, other)
    )
    assert ours == pytest.approx(float(theirs), rel=1e-6)


def test_embedded_atoms_by_hand(jax_md):
    """Three atoms in a row, by the formula."""
    box = OrthorhombicBox([20.0, 20.0, 20.0])
    positions = np.asarray([[0.0, 0, 0], [2.4, 0, 0], [5.0, 0, 0]])
    model = MolecularModel(METALLIC, np.ones(3))
    near, far = float(density(2.4)), float(density(2.6))
    expected = sum(float(embedding(jnp.asarray(q))) for q in (near, near + far, far))
    expected += float(repulsion(2.4)) + float(repulsion(2.6))
    assert energy_in(model, positions, box) == pytest.approx(expected, rel=1e-12)


def test_a_learned_potential_has_weights_that_can_be_fitted(jax_md):
    """Jax-md's graph network: forces by differences, derivatives by its weights."""

    def make(displacement):
        return jax_md.energy.graph_network(
            displacement, 1.8, key=jax.random.key(1), n_recurrences=1, mlp_sizes=(4, 4)
        )

    term = learned_potential(make, 1.8)
    positions, box = lattice("fcc", 2, density=0.6)
    positions = jnp.asarray(
        positions + 0.05 * np.random.default_rng(3).normal(size=positions.shape)
    )
    model = MolecularModel(term, np.ones(len(positions)))
    declared = {item.name: item.size for item in parameter_declarations(model)}
    assert declared["terms.0.parameters"] > 20
    weights = get_parameter(model, "terms.0.parameters")

    @jax.jit
    def energy_and_slopes(weights, positions):
        return jax.value_and_grad(
            lambda w, x: replace_parameters(model, {"terms.0.parameters": w}).energy(x, box),
            (0, 1),
        )(weights, positions)

    _, (by_weights, by_positions) = energy_and_slopes(weights, positions)
    forces = jax.jit(lambda x: model.evaluate(x, box).forces)(positions)
    np.testing.assert_allclose(forces, -by_positions, rtol=1e-6, atol=1e-8)
    # Uphill by the gradient of the weights, the energy grows by its length.
    length = np.sqrt(sum(float(jnp.sum(g**2)) for g in jax.tree.leaves(by_weights)))
    step = 1e-3
    moved = jax.tree.map(lambda w, g: w + step * g / length, weights, by_weights)
    low = jax.tree.map(lambda w, g: w - step * g / length, weights, by_weights)
    change = energy_and_slopes(moved, positions)[0] - energy_and_slopes(low, positions)[0]
    assert length > 0
    assert change == pytest.approx(2 * step * length, rel=1e-2)
    with pytest.raises(ValueError, match=r"no function with a network as `.model`"):
        learned_potential(lambda displacement: lambda positions: 0.0)


def test_parameters_of_many_body_potentials_can_be_fitted(jax_md, shaken):
    positions, box = shaken
    model = MolecularModel(StillingerWeber(), np.ones(len(positions)))
    name = "terms.0.strength"

    @jax.jit
    def energy(strength):
        return replace_parameters(model, {name: strength}).energy(positions, box)

    slope = jax.grad(energy)(21.0)
    assert slope == pytest.approx(float(energy(21.5) - energy(20.5)), rel=1e-8)


TERSOFF_FILE = """# a comment
Si Si Si 3.0 1.0 1.3258 1.0039e5 16.217 -0.59825 0.78734 # wrapped
         1.1e-6 1.7322 471.18 2.85 0.15 2.4799 1830.8
"""


def test_parameter_files_of_lammps(jax_md, tmp_path, shaken):
    path = tmp_path / "Si.tersoff"
    path.write_text(TERSOFF_FILE)
    read = Tersoff.from_lammps(path)
    assert {name: getattr(read, name) for name in SILICON} == SILICON
    assert (read.m, read.gamma) == (3, 1.0)
    path.write_text(TERSOFF_FILE + TERSOFF_FILE)
    with pytest.raises(ValueError, match=r"Si.tersoff: has 34 entries, expected 17"):
        Tersoff.from_lammps(path)
    path.write_text(TERSOFF_FILE.replace("471.18", "B"))
    with pytest.raises(ValueError, match=r"Si.tersoff: not a file of Tersoff parameters"):
        Tersoff.from_lammps(path)


def test_tables_in_the_format_setfl(jax_md, tmp_path, shaken):
    """A table of the analytic functions gives their energies, to single precision."""
    distances = np.arange(2000) * (4.5 / 1999)
    charges = np.arange(2000) * 0.01
    blocks = [
        embedding(jnp.asarray(charges)),
        density(jnp.asarray(distances)),
        repulsion(jnp.asarray(distances)) * distances,
    ]
    numbers = "\n".join(repr(float(value)) for block in blocks for value in block)
    head = "one\ntwo\nthree\n1 Xx\n"
    head += f"2000 0.01 2000 {4.5 / 1999!r} 4.5\n14 28.0855 5.43 diamond\n"
    path = tmp_path / "Xx.eam.alloy"
    path.write_text(head + numbers + "\n")
    positions, box = shaken
    table = MolecularModel(EmbeddedAtom.from_lammps(path), np.ones(len(positions)))
    formula = MolecularModel(METALLIC, np.ones(len(positions)))
    assert energy_in(table, positions, box) == pytest.approx(
        float(energy_in(formula, positions, box)), rel=1e-5
    )
    path.write_text(head.replace("1 Xx", "2 Xx Yy") + numbers)
    with pytest.raises(ValueError, match="line 4 does not say one element"):
        EmbeddedAtom.from_lammps(path)
    path.write_text(head + "1.0\nx\n")
    with pytest.raises(ValueError, match="not a table in the format setfl"):
        EmbeddedAtom.from_lammps(path)


@pytest.mark.parametrize("name", TERMS)
def test_narrow_boxes_are_refused_or_no_numbers(name, jax_md):
    positions, box = lattice("diamond", 1, constant=5.431)
    model = MolecularModel(TERMS[name], np.ones(8))
    with pytest.raises(ValueError, match=r"the box is 5.431 wide, less than twice the cut-off"):
        model.energy(positions, box)
    assert np.isnan(energy_in(model, jnp.asarray(positions), box))
