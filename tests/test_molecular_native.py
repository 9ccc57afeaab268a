"""The native engine of molecular dynamics: sums over pairs by compiled kernels."""

import dataclasses
import functools
import os
import sys
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from solvers.ensemble.law import EngineRefusal
from solvers.molecular.driver import run_dynamics
from solvers.molecular.engine import choose_engine
from solvers.molecular.minimisation import FIRE, minimise_energy
from solvers.molecular.problem import MolecularProblem
from solvers.molecular.verlet import VelocityVerlet
from systems.molecular.boxes import OpenBox, OrthorhombicBox, TriclinicBox
from systems.molecular.cutoffs import ForceShifted, Shifted, Switched, Truncated
from systems.molecular.model import ExternalTerm, MolecularModel
from systems.molecular.neighbours import allocate
from systems.molecular.pair_sums import Precision, evaluate_pairs
from systems.molecular.pairwise import LennardJones
from systems.molecular.potentials import Buckingham, Morse, UserPair, Yukawa


pytest.importorskip("llvmlite")

from solvers.ensemble.native import compile
from solvers.ensemble.native.registry import handler
from solvers.molecular.native import sums as sums_module
from solvers.molecular.native.sums import native_forces, native_sums


# A prime, so that neither lanes nor parts of the work fit.
COUNT = 211
RADIUS = 2.2


EDGE = 6.6


def _fractions(count: int = COUNT) -> np.ndarray:
    """A disturbed lattice with some of its places empty, and with images of the first cell."""
    cells = int(np.ceil(count ** (1 / 3)))
    random = np.random.default_rng(0)
    places = np.stack(np.meshgrid(*[np.arange(cells)] * 3, indexing="ij"), -1).reshape(-1, 3)
    chosen = places[random.permutation(len(places))[:count]]
    moved = (chosen + random.uniform(0, 0.15, (count, 3))) / cells
    return moved + random.integers(-1, 2, (count, 3))


BOXES = {
    "orthorhombic": OrthorhombicBox([EDGE, EDGE + 0.1, EDGE + 0.2]),
    "triclinic": TriclinicBox([[EDGE, 0, 0], [0.2, EDGE, 0], [-1.0, 0.6, EDGE]]),
    "open": OpenBox(),
}


@functools.cache
def _placed(shape: str = "orthorhombic"):
    """Positions in a box, the box, and a list."""
    box = BOXES[shape]
    fractions = _fractions()
    positions = fractions % 1 * EDGE if shape == "open" else box.cartesian(fractions)
    positions = jnp.asarray(positions)
    return positions, box, allocate(positions, box, RADIUS, 0.3)


by_jax = eqx.filter_jit(evaluate_pairs)
sums = eqx.filter_jit(native_sums)
forces_alone = eqx.filter_jit(native_forces)


SPECIES = np.arange(COUNT) % 2
SIX = np.arange(COUNT) % 6
_MATRIX = np.add.outer(np.arange(6), np.arange(6)) / 20 + 0.8


def _by_kind(distance, first, second):
    """Another function for unlike species."""
    return jnp.where(
        first == second, jnp.cos(distance), jnp.array([1.0, 2.0])[first] / distance
    )


PAIRS = {
    "truncated": (Truncated(LennardJones(), RADIUS), SPECIES * 0),
    "shifted": (Shifted(LennardJones(0.7, 1.1), RADIUS), SPECIES * 0),
    "force-shifted mixture": (
        ForceShifted(LennardJones(np.array([1.0, 1.4]), np.array([1.0, 0.9])), RADIUS),
        SPECIES,
    ),
    "switched, six species": (Switched(LennardJones(_MATRIX, _MATRIX), 1.6, RADIUS), SIX),
    "morse": (Shifted(Morse(), RADIUS), SPECIES * 0),
    "buckingham": (Truncated(Buckingham(1000.0, 4.0, 2.0), RADIUS), SPECIES * 0),
    "yukawa": (ForceShifted(Yukawa(np.array([[1.0, -1], [-1, 2]]), 1.3), RADIUS), SPECIES),
    "user": (Truncated(UserPair(_by_kind), RADIUS), SPECIES),
}


def _close(found, right, tolerance) -> bool:
    """Whether all parts of two evaluations agree, relative to the largest number of each."""
    return all(
        np.max(np.abs(np.asarray(x) - np.asarray(y)))
        <= tolerance * np.max(np.abs(np.asarray(y)))
        for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(right), strict=True)
    )


@pytest.mark.parametrize("name", PAIRS)
def test_sums_agree_with_those_of_jax(name):
    pair, species = PAIRS[name]
    positions, box, neighbours = _placed()
    given = (pair, positions, jnp.asarray(species), box, neighbours)
    kinds = int(species.max()) + 1
    found = sums(*given, precision="positions", kinds=kinds)
    assert _close(found, by_jax(*given), 1e-12)
    alone = forces_alone(*given, precision="positions", kinds=kinds)
    assert np.array_equal(alone, found.forces)


@pytest.mark.parametrize("shape", ["orthorhombic", "triclinic", "open"])
def test_every_box_in_every_precision(shape):
    pair, species = PAIRS["force-shifted mixture"]
    positions, box, neighbours = _placed(shape)
    right = by_jax(pair, positions, jnp.asarray(species), box, neighbours)
    forms: list[Any] = [
        (float, "positions", 1e-12),
        (float, "mixed", 3e-6),
        (jnp.float32, "positions", 1e-5),
    ]
    for dtype, precision, tolerance in forms:
        at = jnp.asarray(positions, dtype)
        found = sums(
            pair, at, jnp.asarray(species), box, neighbours, precision=precision, kinds=2
        )
        assert found.forces.dtype == found.energy.dtype == found.virial.dtype == dtype
        assert _close(found, right, tolerance)


@pytest.fixture(scope="module")
def liquid():
    """More particles than one thread takes, with a list whose capacity fits no lanes."""
    box = OrthorhombicBox([15.4] * 3)
    positions = box.cartesian(jnp.asarray(_fractions(2600)))
    neighbours = allocate(positions, box, RADIUS, 0.3)
    own = jnp.arange(2600, dtype=jnp.int32)[:, None]
    wider = jnp.concatenate([neighbours.indices, own, own, own], axis=1)
    neighbours = eqx.tree_at(lambda n: n.indices, neighbours, wider)
    return positions, jnp.zeros(2600, jnp.int32), box, neighbours


@pytest.mark.parametrize("precision", ["positions", "mixed"])
def test_bits_do_not_depend_on_the_number_of_threads(liquid, precision):
    pair = PAIRS["truncated"][0]
    found = []
    for threads in (1, 3):
        handler().set_threads(threads)
        found.append(sums(pair, *liquid, precision=precision, kinds=1))
    handler().set_threads(os.cpu_count() or 1)
    pieces = zip(jax.tree.leaves(found[0]), jax.tree.leaves(found[1]), strict=True)
    assert all(np.array_equal(x, y) for x, y in pieces)
    right = by_jax(pair, *liquid)
    assert _close(found[0], right, 1e-12 if precision == "positions" else 3e-6)


@pytest.mark.parametrize("lanes", [2, 8])
def test_processors_with_other_vectors(monkeypatch, lanes):
    found = compile.host()
    # LLVM makes do with the vectors that this processor has.
    monkeypatch.setattr(compile, "host", lambda: found._replace(lanes=lanes))
    kernels = sums_module._kernel
    kernels.cache_clear()
    pair, species = PAIRS["force-shifted mixture"]
    positions, box, neighbours = _placed()
    given = (pair, positions, jnp.asarray(species), box, neighbours)
    right = by_jax(*given)
    limits: dict[Precision, float] = {"positions": 1e-12, "mixed": 3e-6}
    for precision, tolerance in limits.items():
        made = functools.partial(native_sums, precision=precision, kinds=2)
        assert _close(eqx.filter_jit(made)(*given), right, tolerance)
    kernels.cache_clear()


def test_what_is_no_number_stays_none():
    pair, species = PAIRS["truncated"]
    positions, box, neighbours = _placed()
    # Two particles at one place repel without end.
    together = positions.at[7].set(positions[neighbours.indices[7, 0]])
    bad = [positions.at[7, 1].set(x) for x in (np.nan, np.inf)]
    for at in (*bad, together):
        given = (pair, at, jnp.asarray(species), box, neighbours)
        for precision in ("positions", "mixed"):
            forces = forces_alone(*given, precision=precision, kinds=1)
            assert not np.isfinite(forces[7]).all()


def _problem(pair=PAIRS["truncated"][0], terms=(), **more):
    positions, box, _ = _placed()
    model = MolecularModel((pair, *terms), np.ones(COUNT), SPECIES)
    return MolecularProblem(
        model, positions, box, temperature=0.7, key=jax.random.key(1), **more
    )


METHOD = VelocityVerlet(0.004)


@pytest.fixture(scope="module")
def runs():
    """Runs of one problem by both engines, with a term that no kernel serves."""
    field = ExternalTerm(lambda x, kind: 0.01 * jnp.cos(2 * jnp.pi * x[0] / EDGE))
    problem = _problem(terms=(field,))
    return problem, {
        engine: run_dynamics(problem, METHOD, steps=100, save_every=20, engine=engine)
        for engine in ("jax", "auto")
    }


def test_a_run_is_that_of_jax(runs):
    found = runs[1]
    assert (found["jax"].engine, found["auto"].engine) == ("jax", "native")
    assert "kernels" in found["auto"].engine_reason
    assert found["auto"].statistics["lists"] > 1
    for name in ("positions", "velocities", "potential_energy", "pressure_tensor"):
        native, right = getattr(found["auto"], name), getattr(found["jax"], name)
        assert np.allclose(native, right, rtol=1e-8, atol=1e-8)


def test_a_list_that_is_too_small_grows(runs):
    problem, half = runs[0], runs[1]["auto"].state
    given = {"steps": 20, "save_every": 20, "engine": "native"}
    right = run_dynamics(problem, METHOD, state=half, **given)
    made = half.neighbours
    few = dataclasses.replace(
        made,
        indices=made.indices[:, :8],
        capacities=dataclasses.replace(made.capacities, neighbours=8),
    )
    assert int(made.most_neighbours) > 8
    small = eqx.tree_at(lambda s: (s.neighbours, s.stale), half, (few, jnp.asarray(True)))
    grown = run_dynamics(problem, METHOD, state=small, **given)
    assert grown.statistics["growths"] >= 1
    assert np.allclose(grown.positions[-1], right.positions[-1], atol=1e-8)


def test_energy_is_kept_in_mixed_precision():
    problem = _problem(PAIRS["force-shifted mixture"][0])
    given = {"steps": 200, "save_every": 50, "precision": "mixed", "engine": "native"}
    run = run_dynamics(problem, VelocityVerlet(0.002), **given)
    assert run.engine == "native"
    assert np.ptp(run.conserved_energy) < 2e-4 * COUNT


def test_derivatives_are_those_of_jax():
    problem, (positions, box, neighbours) = _problem(), _placed()
    native = choose_engine("native", problem.model, box, with_lists=True).model
    plain = problem.model

    def value(model, positions, lengths):
        return model.energy(positions, OrthorhombicBox(lengths), neighbours)

    slopes = [
        jax.jit(jax.grad(lambda x, model=model: value(model, *x)))(
            (positions, jnp.asarray(box.lengths))
        )
        for model in (native, plain)
    ]
    assert _close(slopes[0], slopes[1], 1e-10)
    # What a trajectory depends on: the forces, along positions and parameters.

    def forces(positions, epsilon, model):
        model = eqx.tree_at(lambda m: m.terms[0].pair.pair.epsilon, model, epsilon)
        return model.forces(positions, box, neighbours)

    at, along = (positions, jnp.asarray(1.1)), (positions * 0.1, jnp.asarray(0.3))
    changes = [
        jax.jit(lambda x, t, m=m: jax.jvp(functools.partial(forces, model=m), x, t))(at, along)
        for m in (native, plain)
    ]
    assert _close(changes[0], changes[1], 1e-11)


def test_replicas_are_mapped():
    pair, species = PAIRS["truncated"]
    positions, box, neighbours = _placed()
    noise = jax.random.normal(jax.random.key(0), (3, COUNT, 3))
    replicas = positions[None] + 0.01 * noise

    def of_one(positions):
        kind = jnp.asarray(species)
        return native_sums(pair, positions, kind, box, neighbours, precision="mixed", kinds=1)

    mapped = jax.jit(jax.vmap(of_one))(replicas)
    single = jax.jit(of_one)
    for i in range(3):
        alone = single(replicas[i])
        assert np.array_equal(mapped.forces[i], alone.forces)
        assert mapped.energy[i] == alone.energy


def _stepped(distance, first, second):
    del first, second
    return jnp.linspace(1.0, 0.0, 64)[(distance * 20).astype(int)] + 0 * distance


def test_what_has_no_kernel_is_refused_in_a_sentence():
    problem = _problem(Truncated(UserPair(_stepped), RADIUS))
    method = VelocityVerlet(0.004)
    with pytest.raises(EngineRefusal, match="engine='native' cannot serve: Truncated has no"):
        run_dynamics(problem, method, steps=2, engine="native")
    run = run_dynamics(problem, method, steps=2, save_every=2)
    assert run.engine == "jax"
    assert "Truncated has no straight-line program" in run.engine_reason
    with pytest.raises(EngineRefusal, match="sums over all pairs"):
        run_dynamics(_problem(), method, steps=2, engine="native", lists=False)
    with pytest.raises(EngineRefusal, match="sums over all pairs"):
        minimise_energy(_problem(), FIRE(), engine="native", lists=False)
    with pytest.raises(ValueError, match="engine is 'fast', expected 'auto'"):
        run_dynamics(_problem(), method, steps=2, engine="fast")  # pyright: ignore[reportArgumentType]


def test_without_llvmlite_jax_serves(monkeypatch):
    monkeypatch.setitem(sys.modules, "llvmlite", None)
    problem = _problem()
    chosen = choose_engine("auto", problem.model, problem.box, with_lists=True)
    assert chosen.engine == "jax"
    assert "llvmlite is missing" in chosen.reason
    with pytest.raises(EngineRefusal, match="llvmlite is missing"):
        choose_engine("native", problem.model, problem.box, with_lists=True)
