"""Constant pressure by Monte Carlo moves of the box."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from solvers.molecular.barostats import (
    AbstractBarostat,
    check_periodic,
    strained_state,
    upper_strain,
)
from solvers.molecular.dynamics import (
    as_value,
    thermal_energy,
    with_variables,
)
from solvers.molecular.lists import new_list
from solvers.molecular.noise import draw_key
from solvers.molecular.state import MolecularState
from systems.molecular.boxes import OrthorhombicBox
from systems.molecular.model import MolecularModel
from systems.molecular.neighbours import moved_too_far


class MonteCarloVariables(eqx.Module):
    """What the barostat carries.

    - `dynamics`: variables of the thermostat.
    - `tried`, `accepted`: moves of the box so far.
    """

    dynamics: Any
    tried: Int[Array, ""]
    accepted: Int[Array, ""]


class MonteCarloBarostat(AbstractBarostat):
    r"""Constant pressure by Monte Carlo moves of the box, on top of a thermostat.

    Every so many steps the box and all positions are scaled by a random factor, which is
    accepted with probability

    $$\min\left(1, \exp\left[-\frac{\Delta U + P \Delta V}{k T}
      + (N + 1) \ln \frac{V'}{V}\right]\right).$$

    No virial is needed, and the ensemble is exact whatever the size of the moves.

    - `dynamics`: a thermostat, which also has the time step.
    - `pressure`: $P$, in the unit of pressure.
    - `every`: steps between moves.
    - `size`: the largest change of the logarithm of the volume, or of one component of
      the strain if `flexible`; best where about half of the moves are accepted.
    - `flexible`: `False` scales the box as a whole; `True` changes one component at a time of
      all that the box has: three edges if orthorhombic, six components if triclinic.

    Source: K.-H. Chow, D. M. Ferguson, Comput. Phys. Commun. 91, 283 (1995); J. Aqvist et
    al., Chem. Phys. Lett. 384, 288 (2004).
    """

    every: int = eqx.field(default=25, static=True)
    size: Float[Any, ""] = eqx.field(default=0.03, converter=as_value)
    flexible: bool = eqx.field(default=False, static=True)

    def __check_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"MonteCarloBarostat: every is {self.every}, expected 1 or more.")

    def start(self, state: MolecularState, model: MolecularModel) -> MonteCarloVariables:
        """The variables of the thermostat, and counters."""
        check_periodic("MonteCarloBarostat", state)
        zero = jnp.zeros((), jnp.int32)
        return MonteCarloVariables(self.dynamics.start(state, model), zero, zero)

    def before_forces(self, state: MolecularState, model: MolecularModel) -> MolecularState:
        """The thermostat's part."""
        variables = state.variables
        inner = self.dynamics.before_forces(with_variables(state, variables.dynamics), model)
        return with_variables(
            inner, eqx.tree_at(_inner, variables, inner.variables, is_leaf=_is_none)
        )

    def after_forces(self, state: MolecularState, model: MolecularModel) -> MolecularState:
        """The thermostat's part, then a move of the box if one is due."""
        variables = state.variables
        inner = self.dynamics.after_forces(with_variables(state, variables.dynamics), model)
        state = with_variables(
            inner, eqx.tree_at(_inner, variables, inner.variables, is_leaf=_is_none)
        )
        due = (state.step + 1) % self.every == 0
        arrays, rest = eqx.partition(state, eqx.is_array)

        def move(carry: Any) -> Any:
            moved = self._move(eqx.combine(carry[0], rest), model)
            return eqx.filter(moved, eqx.is_array), jnp.asarray(False)

        # A loop of at most one turn: unlike a condition it works on the list in place.
        arrays, _ = jax.lax.while_loop(lambda carry: carry[1], move, (arrays, due))
        return eqx.combine(arrays, rest)

    def _strain(
        self, state: MolecularState, key: Array
    ) -> tuple[Float[Array, "..."], Float[Array, ""]]:
        """A random strain, and by how much it changes the logarithm of the volume."""
        dtype = state.positions.dtype
        which, amount = jax.random.split(key)
        change = self.size * jax.random.uniform(amount, (), dtype, -1.0, 1.0)
        if not self.flexible:
            return jnp.expm1(change / 3), change
        if isinstance(state.box, OrthorhombicBox):
            axis = jax.random.randint(which, (), 0, 3)
            along = change * (jnp.arange(3) == axis)
            return jnp.expm1(along), change
        place = jax.random.randint(which, (), 0, 6)
        rows, columns = jnp.asarray([0, 1, 2, 0, 0, 1]), jnp.asarray([0, 1, 2, 1, 2, 2])
        on = jnp.zeros((3, 3), dtype).at[rows[place], columns[place]].set(1.0)
        generator = jnp.maximum(on, on.T) * change
        return upper_strain(generator), jnp.trace(generator)

    def _move(self, state: MolecularState, model: MolecularModel) -> MolecularState:
        key, chance = jax.random.split(draw_key(state.key, state.step, 3))
        strain, growth = self._strain(state, key)
        before = model.evaluate(state.positions, state.box, state.neighbours).energy
        trial = strained_state(state, strain, momenta=False)
        neighbours = _list_for(trial)
        lost = jnp.asarray(False) if neighbours is None else neighbours.overflow
        found = model.evaluate(trial.positions, trial.box, neighbours)
        thermal = thermal_energy(self.temperature, model, state.positions.dtype)
        work = self.pressure / model.units.compression
        work = work * (trial.box.volume() - state.box.volume())
        count = state.identity.shape[0] + 1
        exponent = count * growth - (found.energy - before + work) / thermal
        accepted = jnp.log(jax.random.uniform(chance, (), thermal.dtype)) < exponent

        def pick(new: Any, old: Any) -> Any:
            return jax.tree.map(lambda a, b: jnp.where(accepted, a, b), new, old)

        variables = state.variables
        variables = MonteCarloVariables(
            variables.dynamics, variables.tried + 1, variables.accepted + accepted
        )
        return eqx.tree_at(
            lambda s: (s.positions, s.box, s.forces, s.neighbours, s.variables),
            state,
            (
                pick(trial.positions, state.positions),
                pick(trial.box, state.box),
                pick(found.forces.astype(state.forces.dtype), state.forces),
                # A trial whose list was too small is told by its list.
                jax.tree.map(
                    lambda a, b: jnp.where(accepted | lost, a, b), neighbours, state.neighbours
                ),
                variables,
            ),
            is_leaf=_is_none,
        )


def _inner(variables: MonteCarloVariables) -> Any:
    return variables.dynamics


def _is_none(leaf: Any) -> bool:
    return leaf is None


def _list_for(trial: MolecularState) -> Any:
    """The list of a trial: the old one if it holds the pairs of the trial too."""
    if trial.neighbours is None:
        return None
    arrays, rest = eqx.partition(trial.neighbours, eqx.is_array)

    def renew(carry: Any) -> tuple[Any, Bool[Array, ""]]:
        made = new_list(eqx.combine(carry[0], rest), trial.positions, trial.box)
        return eqx.filter(made, eqx.is_array), jnp.asarray(False)

    renewed = moved_too_far(trial.neighbours, trial.positions, trial.box)
    arrays, _ = jax.lax.while_loop(lambda carry: carry[1], renew, (arrays, renewed))
    return eqx.combine(arrays, rest)
