"""Gradients through trajectories, their horizon, and minimisation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from solvers.molecular.adjoint import (
    Checkpointed,
    Forward,
    Reversible,
    differentiate_trajectory,
)
from solvers.molecular.driver import run_dynamics
from solvers.molecular.minimisation import FIRE, LBFGS, minimise_energy
from solvers.molecular.problem import MolecularProblem
from solvers.molecular.propagation import Frames
from solvers.molecular.status import MolecularError
from solvers.molecular.verlet import VelocityVerlet
from systems.base import get_parameter
from systems.molecular.boxes import TriclinicBox
from systems.molecular.builders import lattice
from systems.molecular.model import MolecularModel

from .helpers_molecular_dynamics import fluid, smooth_fluid


@pytest.fixture(scope="module")
def liquid() -> MolecularProblem:
    return smooth_fluid()


def spread(model: MolecularModel, frames: Frames) -> jax.Array:
    """How far particles went, and how fast they are: positions and velocities of all frames."""
    del model
    return jnp.mean((frames.positions - frames.positions[:1]) ** 2) + jnp.mean(
        frames.velocities[-1] ** 2
    )


OPTIONS = {"time_step": 0.004, "steps": 40, "save_every": 10}


@pytest.fixture(scope="module")
def reversible(liquid: MolecularProblem):
    return differentiate_trajectory(
        liquid, spread, gradient=Reversible(), lists=True, **OPTIONS
    )


def test_the_reversible_adjoint_agrees_with_a_checkpointed_reverse(
    liquid: MolecularProblem, reversible
) -> None:
    plain = differentiate_trajectory(
        liquid, spread, gradient=Checkpointed(every=4), lists=True, **OPTIONS
    )
    assert float(plain.value) == pytest.approx(float(reversible.value), rel=1e-12)
    for one, other in (
        (reversible.gradient, plain.gradient),
        (reversible.by_positions, plain.by_positions),
        (reversible.by_velocities, plain.by_velocities),
    ):
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9 * np.abs(b).max())


def test_the_gradient_is_that_of_runs_nearby(liquid: MolecularProblem, reversible) -> None:
    def value(change: float) -> float:
        velocities = np.asarray(liquid.velocities).copy()
        velocities[5, 1] += change
        moved = MolecularProblem(liquid.model, liquid.positions, liquid.box, velocities,
                                 degrees_of_freedom=3 * liquid.model.particles)  # fmt: skip
        run = run_dynamics(moved, VelocityVerlet(0.004), steps=40, save_every=10)
        assert run.velocities is not None
        frames = Frames(jnp.asarray(run.positions[1:]), jnp.asarray(run.velocities[1:]))
        return float(spread(liquid.model, frames))

    difference = (value(1e-4) - value(-1e-4)) / 2e-4
    assert float(reversible.by_velocities[5, 1]) == pytest.approx(difference, rel=1e-5)


def test_forward_mode_gives_the_same_parameters(liquid: MolecularProblem, reversible) -> None:
    forward = differentiate_trajectory(
        liquid, spread, gradient=Forward(), lists=False, **OPTIONS
    )
    for name in ("terms.0.pair.pair.epsilon", "terms.0.pair.pair.sigma"):
        found = get_parameter(forward.gradient, name)
        expected = get_parameter(reversible.gradient, name)
        assert float(found) == pytest.approx(float(expected), rel=1e-8)


def test_beyond_the_horizon_is_an_error_that_tells_it(liquid: MolecularProblem) -> None:
    options = {"time_step": 0.004, "steps": 400, "save_every": 10}
    with pytest.raises(MolecularError, match=r"through 400 steps is noise.*Lyapunov time"):
        differentiate_trajectory(liquid, spread, limit=10.0, **options)
    found = differentiate_trajectory(liquid, spread, limit=10.0, beyond_horizon=True, **options)
    # The Lyapunov exponent of such a liquid is a few in one over the unit of time.
    assert 1.0 < found.horizon.exponent < 10.0
    assert 40 < found.horizon.horizon < 400


@pytest.mark.parametrize("method", [FIRE(with_box=True), LBFGS(with_box=True)])
def test_minimisation_with_the_box_finds_the_lattice(method) -> None:
    problem = fluid(repeats=3, density=0.9, radius=2.2, temperature=None)
    found = minimise_energy(problem, method, most_steps=3000)
    assert found.converged
    assert found.largest_force < 1e-6
    np.testing.assert_allclose(found.pressure_tensor, 0.0, atol=1e-4)
    # The lattice that was perturbed comes back, at the constant where its energy is least.
    volume = float(found.box.volume())
    energies = []
    for stretch in (0.999, 1.0, 1.001):
        positions, box = lattice("fcc", 3, density=108 / (volume * stretch**3))
        energies.append(float(problem.model.energy(positions, box)))
    assert found.energy == pytest.approx(energies[1], rel=1e-9)
    assert energies[1] < min(energies[0], energies[2])


def test_a_triclinic_box_is_minimised_from_a_sheared_start() -> None:
    problem = fluid(repeats=3, density=0.95, radius=2.2, temperature=None)
    vectors = np.diag(np.asarray(problem.box.heights())) + np.asarray(
        [[0, 0, 0], [0.2, 0, 0], [0.1, 0.15, 0]]
    )
    box = TriclinicBox(vectors)
    start = box.cartesian(problem.box.fractional(problem.positions))
    sheared = MolecularProblem(problem.model, start, box)
    found = minimise_energy(sheared, LBFGS(with_box=True), most_steps=3000)
    assert found.converged
    np.testing.assert_allclose(found.pressure_tensor, 0.0, atol=1e-4)
