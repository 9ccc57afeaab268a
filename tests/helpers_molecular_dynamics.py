"""Small molecular systems for tests of dynamics, and many replicas of one at a time."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from solvers.molecular.kernel import take_step
from solvers.molecular.precision import in_precision
from solvers.molecular.problem import MolecularProblem
from solvers.molecular.start import initial_state
from solvers.molecular.state import MolecularState, kinetic_energy
from systems.molecular.boxes import OrthorhombicBox, TriclinicBox
from systems.molecular.builders import lattice
from systems.molecular.cutoffs import ForceShifted, Switched
from systems.molecular.model import ExternalTerm, MolecularModel
from systems.molecular.pairwise import LennardJones


def fluid(
    repeats: int = 3,
    density: float = 0.8,
    radius: float = 2.2,
    temperature: float | None = 1.0,
    seed: int = 1,
) -> MolecularProblem:
    """A Lennard-Jones fluid, smooth at its cut-off, from a perturbed lattice."""
    positions, box = lattice("fcc", repeats, density=density)
    model = MolecularModel(ForceShifted(LennardJones(), radius), np.ones(len(positions)))
    moved = positions + np.random.default_rng(seed).normal(size=positions.shape) * 0.03
    return MolecularProblem(
        model, moved, box, temperature=temperature, key=jax.random.key(seed)
    )


def smooth_fluid(temperature: float = 2.0) -> MolecularProblem:
    """A Lennard-Jones fluid of 108 atoms whose forces have a continuous derivative."""
    rough = fluid(repeats=3, density=0.8, temperature=temperature)
    model = MolecularModel(Switched(LennardJones(), 1.7, 2.3), np.ones(rough.model.particles))
    return eqx.tree_at(lambda p: p.model, rough, model, is_leaf=lambda x: x is rough.model)


def ideal_gas(particles: int, side: float, triclinic: bool = False) -> MolecularProblem:
    """Particles that do not feel each other."""
    model = MolecularModel(ExternalTerm(lambda place, kind: 0.0 * place[0]), np.ones(particles))
    positions = np.random.default_rng(0).uniform(0, side, (particles, 3))
    box = TriclinicBox(np.eye(3) * side) if triclinic else OrthorhombicBox([side] * 3)
    return MolecularProblem(model, positions, box, temperature=1.0, key=jax.random.key(3))


def replicas_of(problem: MolecularProblem, method: Any, count: int) -> MolecularState:
    """States with different keys; their velocities are the same, and soon are not."""
    _, method, _ = in_precision(problem.model, method, "double")
    state = initial_state(problem, method, lists=False)
    many = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), state)
    keys = jax.random.key_data(jax.random.split(problem.key, count))
    return eqx.tree_at(lambda s: s.key, many, keys)


@eqx.filter_jit
def sampled(
    model: MolecularModel,
    methods: Any,
    states: MolecularState,
    equilibration: int,
    frames: int,
    every: int,
) -> dict[str, jax.Array]:
    """Energies and volumes of replicas with one method each, shape `(frames, replicas)`."""

    def one_step(method: Any, state: MolecularState) -> MolecularState:
        return take_step(method, model, state)[1]

    steps = eqx.filter_vmap(one_step)

    def some(states: MolecularState, count: int) -> MolecularState:
        return jax.lax.fori_loop(0, count, lambda _, s: steps(methods, s), states)

    def look(state: MolecularState) -> dict[str, jax.Array]:
        found = model.evaluate(state.positions, state.box, None)
        return {
            "potential": found.energy,
            "kinetic": kinetic_energy(state.velocities, model),
            "volume": state.box.volume(),
        }

    def frame(states: MolecularState, _: None) -> Any:
        states = some(states, every)
        return states, jax.vmap(look)(states)

    states = some(states, equilibration)
    return jax.lax.scan(frame, states, None, length=frames)[1]


def mapped_methods(build: Any, *options: Any) -> Any:
    """One method for each replica: `build` of arrays of options of one length."""
    return eqx.filter_vmap(build)(*map(jnp.asarray, options))
