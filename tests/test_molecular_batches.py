"""Batches: every system moves as it would alone, whatever stands beside it."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from solvers.ensemble.law import EngineRefusal
from solvers.molecular import (
    FIRE,
    Langevin,
    MolecularProblem,
    MonteCarloBarostat,
    StochasticCellRescaling,
    StochasticVelocityRescaling,
    VelocityVerlet,
    run_batch,
    run_dynamics,
)
from solvers.molecular.batch_forces import evaluate_systems
from solvers.sharding import make_mesh
from systems.molecular import (
    EnergyTerm,
    ExternalTerm,
    ForceShifted,
    LennardJones,
    MolecularModel,
    OpenBox,
    OrthorhombicBox,
    TailCorrection,
    TriclinicBox,
    Truncated,
    lattice,
)


FIELDS = (
    "steps",
    "times",
    "positions",
    "velocities",
    "potential_energy",
    "kinetic_energy",
    "temperature",
    "pressure_tensor",
    "conserved_energy",
    "volume",
    "box_vectors",
)


def fluid(seed, particles, *, density=0.7, temperature=1.2, epsilon=1.0, mass=1.0, box=None):
    """Particles of two species on a part of a crystal, in a box of their own."""
    positions, whole = lattice("fcc", 3, density=density)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(positions))[:particles])
    pair = ForceShifted(LennardJones(epsilon=np.array([epsilon, 0.8]), sigma=1.0), radius=2.3)
    model = MolecularModel(
        pair, mass * (1 + np.arange(particles) % 2), np.arange(particles, dtype=np.int32) % 2
    )
    box = box or whole
    return MolecularProblem(
        model, positions[chosen], box, temperature=temperature, key=jax.random.key(seed)
    )


@pytest.fixture(scope="module")
def unlike():
    """Systems that differ in everything that is a number."""
    return [
        fluid(0, 60),
        fluid(1, 97, density=0.8, epsilon=1.3, mass=2.0, temperature=0.6),
        fluid(2, 97, density=0.75),
    ]


# Friction, temperature and time step of their own as well.
METHODS = [Langevin(0.002 + 0.0005 * i, 0.8 + 0.1 * i, 1.0 + i) for i in range(3)]
OPTIONS: dict[str, Any] = {"steps": 40, "save_every": 15}


@pytest.fixture(scope="module")
def alone(unlike):
    """Each by itself."""
    return [
        run_dynamics(problem, method, lists=False, engine="jax", **OPTIONS)
        for problem, method in zip(unlike, METHODS, strict=True)
    ]


@pytest.fixture(scope="module")
def native(unlike):
    """All in one batch, by the compiled kernel."""
    return run_batch(unlike, METHODS, engine="native", **OPTIONS)


def worst(trajectory, alone):
    """The largest difference of any number, relative to the largest of its kind."""
    found = 0.0
    for name in FIELDS:
        mine, theirs = getattr(trajectory, name), getattr(alone, name)
        assert mine.shape == theirs.shape, name
        assert np.array_equal(np.isnan(mine), np.isnan(theirs)), name
        scale = max(np.nanmax(np.abs(theirs), initial=0.0), 1.0)
        found = max(found, float(np.nanmax(np.abs(mine - theirs), initial=0.0) / scale))
    return found


def test_unlike_systems_move_as_alone(unlike, alone, native):
    by_jax = run_batch(unlike, METHODS, engine="jax", **OPTIONS)
    for engine, batch in (("jax", by_jax), ("native", native)):
        assert batch.engine == batch.trajectory(0).engine == engine
        assert batch.succeeded
        assert len(batch) == 3
        for mine, theirs in zip(batch, alone, strict=True):
            assert mine.steps.tolist() == [0, 15, 30]
            assert worst(mine, theirs) < 1e-10


def test_company_changes_no_bit(unlike, native, monkeypatch):
    """Copies fill up the last group, which nobody sees, and each system is as before."""
    monkeypatch.setattr("solvers.molecular.batches._ROWS_OF_A_GROUP", 1)
    monkeypatch.setattr("solvers.molecular.batches._FEWEST_SYSTEMS", 2)
    monkeypatch.setattr("solvers.molecular.batches.usable_cores", lambda: 1)
    batch = run_batch(unlike, METHODS, engine="native", mesh=make_mesh(1), **OPTIONS)
    for mine, theirs in zip(batch, native, strict=True):
        assert np.array_equal(mine.positions, theirs.positions)
        assert mine.velocities is not None and theirs.velocities is not None
        assert np.array_equal(mine.velocities, theirs.velocities)


def test_one_that_explodes_leaves_the_others(unlike, alone):
    hot = eqx.tree_at(lambda p: p.velocities, unlike[1], unlike[1].velocities.at[7].set(150.0))
    options: dict[str, Any] = {**OPTIONS, "save_every": 1}
    single = run_dynamics(hot, METHODS[1], lists=False, engine="jax", throw=False, **options)
    assert single.status == "exploded"
    batch = run_batch([unlike[0], hot, unlike[2]], METHODS, engine="jax", **options)
    assert batch.statuses == ("successful", "exploded", "successful")
    assert batch.messages[1] == single.message
    assert "atom" in batch.messages[1]
    assert not batch.succeeded
    stopped = batch.trajectory(1)
    assert stopped.message == batch.messages[1]
    assert stopped.steps.tolist() == single.steps.tolist()
    assert int(stopped.state.step) == int(single.state.step) == batch.steps[1] < 40
    assert worst(stopped, single) < 1e-9
    for place in (0, 2):
        assert batch.steps[place] == 40
        mine = batch.trajectory(place).positions[[0, 15, 30]]
        assert np.allclose(mine, alone[place].positions, rtol=0, atol=1e-10)


def test_a_system_goes_on_alone(unlike, alone, native):
    later = run_dynamics(
        unlike[1],
        METHODS[1],
        steps=5,
        save_every=15,
        state=native.trajectory(1).state,
        engine="jax",
    )
    whole = run_dynamics(
        unlike[1], METHODS[1], steps=45, save_every=15, lists=False, engine="jax"
    )
    assert later.steps.tolist() == [45]
    assert np.allclose(later.positions[-1], whole.positions[-1], rtol=0, atol=1e-10)


def test_barostats_and_thermostats_count_no_padding(unlike):
    thermostat = StochasticVelocityRescaling(0.004, 1.0, 0.2)
    method = StochasticCellRescaling(thermostat, 0.5, 1.0, 0.05)
    # Replicas: the same problem with several keys.
    replica = dataclasses.replace(unlike[0], key=jax.random.key(7))
    batch = run_batch([unlike[0], unlike[1], replica], method, steps=20, save_every=20)
    first, _, second = batch
    single = run_dynamics(unlike[0], method, steps=20, save_every=20, lists=False, engine="jax")
    assert worst(first, single) < 1e-10
    assert not np.allclose(first.positions[-1], second.positions[-1])


def test_forces_of_many_terms_and_open_boxes():
    """Corrections, fields and pairs of padded systems against each model by itself."""
    rng = np.random.default_rng(5)
    pair = Truncated(LennardJones(), radius=2.0)

    def field(position, species):
        return jnp.sum((position - 0.3) ** 2) * (1.0 + species)

    for box, terms in (
        (OrthorhombicBox(np.array([5.0, 5.5, 6.0])), (pair, TailCorrection(pair))),
        (OpenBox(), (LennardJones(), ExternalTerm(field))),
    ):
        counts, rows = (11, 17), 17
        models = [MolecularModel(terms, np.ones(n)) for n in counts]
        places = [rng.uniform(0, 5, (n, 3)) for n in counts]
        padded = np.stack([np.vstack([x, np.zeros((rows - len(x), 3))]) for x in places])
        species = np.stack([np.where(np.arange(rows) < n, 0, -1) for n in counts])
        stacked = jax.tree.map(
            lambda v: jnp.broadcast_to(jnp.asarray(v), (2, *np.shape(v))), models[0].terms
        )
        model = eqx.tree_at(
            lambda m: (m.terms, m.masses, m.species),
            models[0],
            (stacked, jnp.ones((2, rows)), jnp.asarray(species, jnp.int32)),
        )
        boxes = jax.tree.map(lambda v: jnp.stack([jnp.asarray(v)] * 2), box)
        for engine in ("jax", "native"):
            found = evaluate_systems(
                model, jnp.asarray(padded), boxes, engine=engine, padded=True, sums=True
            )
            for i, (one, x) in enumerate(zip(models, places, strict=True)):
                alone = one.evaluate(jnp.asarray(x), box)
                scale = float(jnp.max(jnp.abs(alone.forces)))
                assert np.isclose(found.energy[i], alone.energy, rtol=1e-12)
                assert np.allclose(
                    found.virial[i], alone.virial, rtol=1e-11, atol=1e-12 * scale
                )
                mine = np.asarray(found.forces[i])
                assert np.max(np.abs(mine[: len(x)] - alone.forces)) < 1e-12 * scale
                assert np.all(mine[len(x) :] == 0)


def test_padding_changes_no_bit_of_the_compiled_kernel():
    rng = np.random.default_rng(6)
    skewed = TriclinicBox(np.array([[5.6, 0, 0], [0.9, 5.5, 0], [-0.4, 0.7, 5.8]]))
    model = MolecularModel(Truncated(LennardJones(), radius=2.2), np.ones(20))
    place = rng.uniform(0, 5, (20, 3))
    results = []
    for rows, systems in ((20, 1), (27, 11)):
        padded = np.zeros((systems, rows, 3))
        padded[-1, :20] = place
        padded[:-1] = rng.uniform(0, 5, (systems - 1, rows, 3))
        species = np.zeros((systems, rows), np.int32)
        species[-1, 20:] = -1
        stacked, boxes = jax.tree.map(
            lambda v, n=systems: jnp.broadcast_to(jnp.asarray(v, float), (n, *np.shape(v))),
            (model.terms, skewed),
        )
        many = eqx.tree_at(
            lambda m: (m.terms, m.masses, m.species),
            model,
            (stacked, jnp.ones((systems, rows)), jnp.asarray(species)),
        )
        found = evaluate_systems(
            many, jnp.asarray(padded), boxes, engine="native", padded=rows > 20, sums=True
        )
        results.append([found.forces[-1, :20], found.energy[-1], found.virial[-1]])
    alone = model.evaluate(jnp.asarray(place), skewed)
    assert np.isclose(results[0][1], alone.energy, rtol=1e-12)
    for mine, theirs in zip(*results, strict=True):
        assert np.array_equal(mine, theirs)


def refused(problems, method, **options):
    with pytest.raises(ValueError) as caught:
        run_batch(problems, method, steps=2, **options)
    return str(caught.value)


def test_bad_batches_are_one_sentence(unlike):
    method = VelocityVerlet(0.004)
    close = eqx.tree_at(
        lambda p: p.positions,
        unlike[1],
        unlike[1].positions.at[4].set(unlike[1].positions[9] + 0.01),
    )
    assert refused([unlike[0], close], method).startswith(
        "Problem 1: Atoms 4 and 9 overlap at the start"
    )
    assert refused([], method) == "run_batch: there are no problems, expected one or more."
    assert "1 methods for 2 problems" in refused(unlike[:2], [method])
    assert "save_every is 0" in refused(unlike[:2], method, save_every=0)
    assert "'auto', 'jax' or 'native'" in refused(unlike[:1], method, engine="fast")
    longer = MolecularModel(Truncated(LennardJones(), radius=2.0), np.ones(60))
    other = dataclasses.replace(unlike[0], model=longer)
    assert "terms of problem 1 are of another kind" in refused([unlike[0], other], method)
    assert "method 1 (Langevin) is of another kind" in refused(
        unlike[:2], [method, Langevin(0.004, 1.0, 1.0)]
    )
    assert "FIRE is not for batches" in refused(unlike[:1], FIRE())
    barostat = MonteCarloBarostat(Langevin(0.004, 1.0, 1.0), 1.0)
    assert "expected dynamics, at constant pressure StochasticCellRescaling" in refused(
        unlike[:1], barostat
    )
    small = dataclasses.replace(unlike[0], box=OrthorhombicBox(np.array([9.0, 4.5, 9.0])))
    assert refused([unlike[0], small], method).startswith("Problem 1: the box is 4.5 wide")
    opened = dataclasses.replace(unlike[0], box=OpenBox())
    assert "some boxes are open and some periodic" in refused([unlike[0], opened], method)


def test_terms_that_know_no_padding_are_refused():
    def spring(positions, box):
        return jnp.sum(positions**2)

    problems = [
        MolecularProblem(
            MolecularModel(EnergyTerm(spring), np.ones(n)), np.ones((n, 3)), OpenBox()
        )
        for n in (2, 3)
    ]
    assert "EnergyTerm does not know which are there" in refused(problems, VelocityVerlet(0.01))
    # Of equal size they may be any, but no kernel serves them.
    with pytest.raises(EngineRefusal, match="engine='native' cannot serve: No term"):
        run_batch(problems[:1], VelocityVerlet(0.01), steps=3, engine="native")


def test_single_precision_is_not_native(unlike):
    with pytest.raises(EngineRefusal, match="double precision"):
        run_batch(
            unlike[:1], VelocityVerlet(0.004), steps=2, precision="single", engine="native"
        )
