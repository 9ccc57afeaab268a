"""Molecular dynamics: known motion, what must be conserved, restarts, and bad input."""

import dataclasses
from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from solvers.molecular.brownian import Langevin
from solvers.molecular.driver import run_dynamics
from solvers.molecular.kernel import observe_once
from solvers.molecular.precision import in_precision
from solvers.molecular.problem import MolecularProblem
from solvers.molecular.start import initial_state
from solvers.molecular.state import total_momentum
from solvers.molecular.status import MolecularError
from solvers.molecular.trajectory import MolecularTrajectory, joined
from solvers.molecular.velocities import maxwell_boltzmann
from solvers.molecular.verlet import VelocityVerlet
from systems.molecular.boxes import OpenBox, OrthorhombicBox
from systems.molecular.cutoffs import ForceShifted, Truncated
from systems.molecular.model import EnergyTerm, MolecularModel
from systems.molecular.neighbours import allocate
from systems.molecular.pairwise import LennardJones

from .helpers_molecular import lammps_state, needs_data
from .helpers_molecular_dynamics import fluid, smooth_fluid


# Runs of one shape share their compiled program: same atoms, same kind of method.
@pytest.fixture(scope="module")
def liquid() -> MolecularProblem:
    # Wide enough for three cells an axis, with a range that keeps lists short.
    return fluid(repeats=4, density=0.8442, radius=1.8, temperature=1.4)


@pytest.fixture(scope="module")
def whole(liquid: MolecularProblem) -> MolecularTrajectory:
    return run_dynamics(liquid, VelocityVerlet(0.002), steps=400, save_every=20)


@pytest.fixture(scope="module")
def small() -> MolecularProblem:
    return smooth_fluid()


@pytest.fixture(scope="module")
def small_whole(small: MolecularProblem) -> MolecularTrajectory:
    return run_dynamics(small, VelocityVerlet(0.004), steps=200, save_every=20)


def spring(positions: jax.Array, box: object) -> jax.Array:
    del box
    return 25.0 / 2 * (jnp.sqrt(jnp.sum((positions[1] - positions[0]) ** 2)) - 1.0) ** 2


def test_a_harmonic_dimer_follows_the_exact_solution_with_order_two() -> None:
    # Reduced mass 2/3, stiffness 25, stretched by 0.1 along x and released.
    model = MolecularModel(EnergyTerm(spring), [1.0, 2.0])
    problem = MolecularProblem(model, np.asarray([[0.0, 0, 0], [1.1, 0, 0]]), OpenBox())
    errors = []
    for step in (0.02, 0.01, 0.005):
        steps = round(2.0 / step)
        found = run_dynamics(problem, VelocityVerlet(step), steps=steps, save_every=steps)
        length = found.positions[-1, 1, 0] - found.positions[-1, 0, 0]
        errors.append(abs(length - (1 + 0.1 * np.cos(np.sqrt(25 * 1.5) * 2.0))))
        middle = (found.positions[-1, 0, 0] + 2 * found.positions[-1, 1, 0]) / 3
        assert middle == pytest.approx(2.2 / 3, abs=1e-12)
    orders = np.log2(np.asarray(errors[:-1]) / errors[1:])
    np.testing.assert_allclose(orders, 2.0, atol=0.1)


def test_momentum_stays_and_lists_are_made_anew(
    liquid: MolecularProblem, whole: MolecularTrajectory
) -> None:
    momentum = total_momentum(whole.state.velocities, liquid.model)
    np.testing.assert_allclose(momentum, 0.0, atol=1e-11)
    assert whole.state.neighbours.capacities.grid.divided
    assert whole.statistics["lists"] > 5
    np.testing.assert_allclose(whole.conserved_energy, whole.total_energy)


def test_the_energy_error_is_of_order_two_and_does_not_drift(small: MolecularProblem) -> None:
    errors = []
    for step in (0.004, 0.002, 0.001):
        found = run_dynamics(
            small,
            VelocityVerlet(step),
            steps=round(0.4 / step),
            save_every=round(0.02 / step),
        )
        errors.append(found.total_energy - found.total_energy[0])
    # The motion is still the same, so that the errors are alike at every time.
    for coarse, fine in pairwise(errors):
        np.testing.assert_allclose(coarse, 4 * fine, atol=0.1 * np.abs(coarse).max())
    found = run_dynamics(small, VelocityVerlet(0.001), steps=25_000, save_every=50)
    # The lattice melts first, and the error of the energy depends on the state.
    late = found.times > 2.0
    energy = found.total_energy[late] / small.model.particles
    assert abs(np.polyfit(found.times[late], energy, 1)[0]) < 1e-6


@needs_data
def test_pressure_and_temperature_are_those_of_lammps() -> None:
    """Exactly with the drift of LAMMPS' sample, and without it less what the drift adds."""
    given = lammps_state("lj500")
    model = MolecularModel(Truncated(LennardJones(), 2.5), np.ones(500))
    box = OrthorhombicBox([float(given["L"])] * 3)
    method = VelocityVerlet(0.002)
    found = []
    for freedom in (3 * 500 - 3, None):
        problem = MolecularProblem(
            model, given["x"], box, given["v"], degrees_of_freedom=freedom
        )
        state = initial_state(problem, method, lists=False)
        whole, _, _ = in_precision(model, method, "double")
        found.append(observe_once(method, whole, state, ()))
    pressures = [np.trace(frame["pressure_tensor"]) / 3 for frame in found]
    expected = float(given["press_rc2.5"])
    assert pressures[0] == pytest.approx(expected, rel=1e-10)
    assert float(found[0]["temperature"]) == pytest.approx(float(given["temp"]), rel=1e-10)
    drift = np.sum(np.sum(given["v"], axis=0) ** 2) / 500
    assert drift > 1.0
    less = drift / (3 * float(box.volume()))
    assert pressures[1] == pytest.approx(expected - less, rel=1e-10)
    assert float(found[1]["temperature"]) == pytest.approx(
        float(given["temp"]) - drift / 1497, rel=1e-10
    )


def test_the_motion_runs_backwards(
    liquid: MolecularProblem, whole: MolecularTrajectory
) -> None:
    turned = eqx.tree_at(lambda s: s.velocities, whole.state, -whole.state.velocities)
    back = run_dynamics(liquid, VelocityVerlet(0.002), steps=400, save_every=20, state=turned)
    assert whole.velocities is not None
    assert back.velocities is not None
    # Rounding grows with the Lyapunov exponent, by a factor of some 50 each way.
    np.testing.assert_allclose(back.positions[-1], whole.positions[0], atol=1e-9)
    np.testing.assert_allclose(back.velocities[-1], -whole.velocities[0], atol=1e-8)
    assert np.abs(whole.positions[-1] - whole.positions[0]).max() > 0.5


def test_segments_equal_the_whole_bit_for_bit(liquid: MolecularProblem) -> None:
    method = Langevin(0.004, 1.0, 1.0)
    together = run_dynamics(liquid, method, steps=150, save_every=10)
    first = run_dynamics(liquid, method, steps=47, save_every=10)
    second = run_dynamics(liquid, method, steps=103, save_every=10, state=first.state)
    parts = joined(first, second)
    assert together.statistics["lists"] > 3
    for field in dataclasses.fields(MolecularTrajectory):
        if field.name in ("units", "status", "message", "state", "statistics", "forces"):
            continue
        np.testing.assert_array_equal(
            getattr(parts, field.name), getattr(together, field.name), err_msg=field.name
        )
    for one, other in zip(
        jax.tree.leaves(second.state), jax.tree.leaves(together.state), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_a_list_that_overflows_grows_and_changes_nothing(
    small: MolecularProblem, small_whole: MolecularTrajectory
) -> None:
    method = VelocityVerlet(0.004)
    model, _, _ = in_precision(small.model, method, "double")
    state = initial_state(eqx.tree_at(lambda p: p.model, small, model), method, lists=True)
    exact = allocate(
        state.positions, state.box, state.neighbours.range, state.neighbours.skin, spare=1.0
    )
    # Room for the lattice only, which the liquid soon exceeds.
    tight = eqx.tree_at(lambda s: s.neighbours, state, exact)
    found = run_dynamics(small, method, steps=200, save_every=20, state=tight)
    assert found.statistics["growths"] >= 1
    np.testing.assert_array_equal(found.steps, small_whole.steps[1:])
    np.testing.assert_allclose(found.positions, small_whole.positions[1:], atol=1e-9)


def test_all_pairs_and_lists_agree(
    liquid: MolecularProblem, whole: MolecularTrajectory
) -> None:
    found = run_dynamics(liquid, VelocityVerlet(0.002), steps=100, save_every=20, lists=False)
    np.testing.assert_allclose(found.positions, whole.positions[:6], atol=1e-10)
    np.testing.assert_allclose(found.pressure_tensor, whole.pressure_tensor[:6], atol=1e-9)


@pytest.mark.parametrize(("precision", "error"), [("mixed", 1e-4), ("single", 1e-3)])
def test_lower_precision_stays_close(
    small: MolecularProblem, small_whole: MolecularTrajectory, precision, error
) -> None:
    found = run_dynamics(
        small, VelocityVerlet(0.004), steps=60, save_every=60, precision=precision
    )
    expected = np.float32 if precision == "single" else np.float64
    assert found.positions.dtype == expected
    difference = np.abs(found.positions[-1] - small_whole.positions[3]).max()
    assert 0 < difference < error


def test_velocities_have_their_temperature_and_no_momentum() -> None:
    masses = np.linspace(0.5, 2.0, 500)
    model = MolecularModel(ForceShifted(LennardJones(), 2.5), masses)
    velocities = maxwell_boltzmann(model, 2.5, key=jax.random.key(0), exact=True)
    np.testing.assert_allclose(masses @ velocities, 0.0, atol=1e-10)
    assert np.sum(masses[:, None] * velocities**2) / (3 * 499) == pytest.approx(2.5)
    free = maxwell_boltzmann(model, 2.5, key=jax.random.key(0))
    scale = np.sum(masses[:, None] * free**2) / (3 * 499) / 2.5
    # The kinetic energy fluctuates by the root of two over its degrees of freedom.
    assert 1e-6 < abs(scale - 1) < 5 * np.sqrt(2 / 1497)


def test_an_exploding_run_names_step_and_atom_and_keeps_what_was(
    liquid: MolecularProblem,
) -> None:
    velocities = np.asarray(liquid.velocities).copy()
    velocities[17] = [300.0, 0.0, 0.0]
    hot = eqx.tree_at(lambda p: p.velocities, liquid, jnp.asarray(velocities))
    # 300 * 0.002 per step is within the limit; the collision that follows is not.
    with pytest.raises(MolecularError, match=r"step \d+.*atom \d+") as caught:
        run_dynamics(hot, VelocityVerlet(0.002), steps=100, save_every=1)
    kept = caught.value.trajectory
    assert kept.status in ("exploded", "nonfinite")
    assert kept.frames == int(kept.state.step) + 1 >= 1
    assert np.all(np.isfinite(kept.positions))
    quiet = run_dynamics(hot, VelocityVerlet(0.002), steps=100, save_every=1, throw=False)
    assert quiet.message == str(caught.value)


def test_bad_input_is_one_sentence(liquid: MolecularProblem, small: MolecularProblem) -> None:
    method = VelocityVerlet(0.002)
    moved = liquid.positions.at[40].set(liquid.positions[7] + 0.1)
    overlapping = eqx.tree_at(lambda p: p.positions, liquid, moved)
    with pytest.raises(ValueError, match="Atoms 7 and 40 overlap at the start"):
        run_dynamics(overlapping, method, steps=10)
    same = eqx.tree_at(
        lambda p: p.positions, small, small.positions.at[40].set(small.positions[7])
    )
    with pytest.raises(ValueError, match="Atoms 7 and 40"):
        run_dynamics(same, method, steps=10)
    narrow = eqx.tree_at(lambda p: p.box, small, OrthorhombicBox([4.0] * 3))
    with pytest.raises(ValueError, match="less than twice the range"):
        run_dynamics(narrow, method, steps=10)
    positions = np.asarray(liquid.positions).copy()
    positions[3, 1] = np.nan
    with pytest.raises(ValueError, match="positions of atom 3"):
        MolecularProblem(liquid.model, positions, liquid.box)
    with pytest.raises(ValueError, match="expected one"):
        MolecularProblem(
            liquid.model, liquid.positions, liquid.box, liquid.velocities, temperature=1.0
        )
    with pytest.raises(ValueError, match="no key"):
        MolecularProblem(liquid.model, liquid.positions, liquid.box, temperature=1.0)
    for steps, save_every in ((0, 1), (10, 0)):
        with pytest.raises(ValueError, match="whole number from 1"):
            run_dynamics(liquid, method, steps=steps, save_every=save_every)
