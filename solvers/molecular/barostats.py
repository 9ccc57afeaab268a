"""Constant pressure by stochastic cell rescaling."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from solvers.molecular.dynamics import (
    AbstractDynamics,
    AbstractThermostat,
    as_value,
    thermal_energy,
)
from solvers.molecular.noise import draw_key
from solvers.molecular.state import MolecularState, kinetic_tensor, particle_count
from systems.molecular.boxes import OrthorhombicBox, deform
from systems.molecular.model import MolecularModel


def upper_strain(generator: Float[Array, "3 3"]) -> Float[Array, "3 3"]:
    """The strain of a symmetric generator, turned so that the box keeps its orientation.

    `exp(generator) = Q (1 + strain)` with a rotation `Q`; the strain is upper triangular.
    """
    # Generators are far below one: nine terms give every digit.
    deformation = jnp.eye(3, dtype=generator.dtype)
    for power in range(8, 0, -1):
        deformation = (
            jnp.eye(3, dtype=generator.dtype) + _product(generator, deformation) / power
        )
    first, second, third = deformation[:, 0], deformation[:, 1], deformation[:, 2]
    a = jnp.sqrt(jnp.sum(first**2))
    e1 = first / a
    b, c = jnp.sum(e1 * second), jnp.sum(e1 * third)
    second, third = second - b * e1, third - c * e1
    d = jnp.sqrt(jnp.sum(second**2))
    e2 = second / d
    e = jnp.sum(e2 * third)
    f = jnp.sqrt(jnp.sum((third - e * e2) ** 2))
    zero = jnp.zeros_like(a)
    rows = [
        jnp.stack([a - 1, b, c]),
        jnp.stack([zero, d - 1, e]),
        jnp.stack([zero, zero, f - 1]),
    ]
    return jnp.stack(rows)


def _product(a: Float[Array, "3 3"], b: Float[Array, "3 3"]) -> Float[Array, "3 3"]:
    # By elements: products of small matrices under a map go through slow routines.
    return jnp.sum(a[:, :, None] * b[None, :, :], axis=1)


def strained_state(
    state: MolecularState, strain: Float[Array, "..."], momenta: bool
) -> MolecularState:
    """Positions and box after a strain; velocities shrink as they grow if `momenta`."""
    positions = deform(state.positions, strain)
    state = eqx.tree_at(
        lambda s: (s.positions, s.box), state, (positions, state.box.strained(strain))
    )
    if not momenta:
        return state
    velocities = state.velocities
    if strain.ndim == 2:
        velocities = _solve_transposed(strain, velocities)
    elif strain.ndim == 1:
        velocities = velocities / (1 + strain[None, :])
    else:
        velocities = velocities / (1 + strain)
    return eqx.tree_at(lambda s: s.velocities, state, velocities)


def _solve_transposed(
    strain: Float[Array, "3 3"], vectors: Float[Array, "particles 3"]
) -> Float[Array, "particles 3"]:
    """Vectors multiplied by the inverse of the transpose of `1 + strain`."""
    x = vectors[:, 0] / (1 + strain[0, 0])
    y = (vectors[:, 1] - strain[0, 1] * x) / (1 + strain[1, 1])
    z = (vectors[:, 2] - strain[0, 2] * x - strain[1, 2] * y) / (1 + strain[2, 2])
    return jnp.stack([x, y, z], axis=-1)


class AbstractBarostat(AbstractDynamics):
    """Dynamics of constant pressure on top of a thermostat.

    - `dynamics`: the thermostat, which also has the time step.
    - `pressure`: in the unit of pressure.
    """

    dynamics: AbstractThermostat
    pressure: Float[Any, ""] = eqx.field(converter=as_value)

    def __check_init__(self) -> None:
        if not isinstance(self.dynamics, AbstractThermostat):
            raise ValueError(
                f"{type(self).__name__}: dynamics is {type(self.dynamics).__name__}, expected "
                "a thermostat such as Langevin, NoseHooverChain or "
                "StochasticVelocityRescaling."
            )

    @property
    def conserves_momentum(self) -> bool:
        """As the thermostat does."""
        return self.dynamics.conserves_momentum

    @property
    def temperature(self) -> Float[Array, ""]:
        """That of the thermostat."""
        return self.dynamics.temperature

    @property
    def duration(self) -> Float[Array, ""]:
        """The time step."""
        return self.dynamics.duration


class StochasticCellRescaling(AbstractBarostat):
    r"""Constant pressure by stochastic cell rescaling, on top of a thermostat.

    The logarithm of the volume follows

    $$d\epsilon = -\frac{\beta}{\tau}\left(P_0 - P - \frac{c\,k T}{V}\right) dt
      + \sqrt{\frac{2 k T \beta}{V \tau}}\,dW,$$

    with the instantaneous pressure $P$ and $c$ a third of the degrees of freedom that a
    conserved momentum takes (1 or 0): so the volume is that of the ensemble of constant
    pressure for any number of particles. Positions grow and momenta shrink with the
    box. `flexible` cells follow the same equation for each component of the strain.

    - `dynamics`: a thermostat with velocities, which also has the time step; a run by any
      other raises `ValueError`.
    - `pressure`: $P_0$, in the unit of pressure.
    - `relaxation_time`: $\tau$, in the unit of time; some hundred time steps or more.
    - `compressibility`: $\beta$, in one over the unit of pressure; a guess will do, as it
      only sets the pace. About 0.05 for a Lennard-Jones liquid in reduced units.
    - `flexible`: `False` scales the box as a whole; `True` lets everything change that the
      box has: three edges if orthorhombic, all six components if triclinic. The shape
      of a fluid's box has nothing that holds it: use it for solids.

    Source: M. Bernetti, G. Bussi, J. Chem. Phys. 153, 114107 (2020); anisotropic: V. Del
    Tatto, P. Raiteri, M. Bernetti, G. Bussi, Appl. Sci. 12, 1139 (2022).
    """

    relaxation_time: Float[Any, ""] = eqx.field(converter=as_value)
    compressibility: Float[Any, ""] = eqx.field(converter=as_value)
    flexible: bool = eqx.field(default=False, static=True)

    @property
    def needs_virial(self) -> bool:
        """It does: the pressure moves the box."""
        return True

    def start(self, state: MolecularState, model: MolecularModel) -> Any:
        """The variables of the thermostat."""
        check_periodic("StochasticCellRescaling", state)
        if self.dynamics.overdamped:
            raise ValueError(
                f"StochasticCellRescaling needs dynamics with velocities, which "
                f"{type(self.dynamics).__name__} has not; MonteCarloBarostat takes it."
            )
        return self.dynamics.start(state, model)

    def before_forces(self, state: MolecularState, model: MolecularModel) -> MolecularState:
        """The strain from the pressure before the step; the thermostat's part; the strain."""
        strain = self._strain(state, model)
        state = self.dynamics.before_forces(state, model)
        return strained_state(state, strain, momenta=True)

    def after_forces(self, state: MolecularState, model: MolecularModel) -> MolecularState:
        """The thermostat's part."""
        return self.dynamics.after_forces(state, model)

    def _strain(self, state: MolecularState, model: MolecularModel) -> Float[Array, "..."]:
        dtype = state.positions.dtype
        volume = state.box.volume()
        thermal = thermal_energy(self.temperature, model, dtype)
        # Pressures in energy per volume from here on.
        wanted = self.pressure / model.units.compression
        pace = self.compressibility * model.units.compression / self.relaxation_time
        pace = pace * self.duration
        found = (kinetic_tensor(state.velocities, model) + state.virial) / volume
        missing = particle_count(model) - state.degrees_of_freedom / 3
        found = found + jnp.eye(3, dtype=dtype) * (missing * thermal / volume - wanted)
        key = draw_key(state.key, state.step, 2)
        width = jnp.sqrt(2 * thermal * pace / volume)
        if not self.flexible:
            change = pace * jnp.trace(found) / 3 + width * jax.random.normal(key, (), dtype)
            return jnp.expm1(change / 3)
        noise = jax.random.normal(key, (3, 3), dtype) * width / jnp.sqrt(3.0).astype(dtype)
        if isinstance(state.box, OrthorhombicBox):
            return jnp.expm1(pace / 3 * jnp.diagonal(found) + jnp.diagonal(noise))
        # Without its antisymmetric part, which would only turn the box.
        generator = pace / 3 * found + noise
        return upper_strain((generator + generator.T) / 2)


def check_periodic(name: str, state: MolecularState) -> None:
    """Raise `ValueError` for an open box, which has no volume to change."""
    if not state.box.periodic:
        raise ValueError(f"{name} needs a periodic box, which has a volume; the box is open.")
