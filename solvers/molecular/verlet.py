"""Newton's equations by velocity Verlet: constant energy."""

from typing import Any, ClassVar

import equinox as eqx
from jaxtyping import Array, Float

from solvers.molecular.dynamics import (
    AbstractDynamics,
    as_value,
    drifted,
    kicked,
    total_energy,
)
from solvers.molecular.state import MolecularState
from systems.molecular.model import MolecularModel


class VelocityVerlet(AbstractDynamics):
    r"""Newton's equations, order 2, symplectic and reversible: the ensemble of constant energy.

    $$v' = v + \frac{h}{2 m} F(x), \quad x_1 = x + h v', \quad
      v_1 = v' + \frac{h}{2 m} F(x_1)$$

    - `time_step`: $h$, in the unit of time; in reduced units 0.002 to 0.005 for a
      Lennard-Jones liquid.

    Source: W. C. Swope et al., J. Chem. Phys. 76, 637 (1982).
    """

    time_step: Float[Any, ""] = eqx.field(converter=as_value)

    conserves_momentum: ClassVar[bool] = True

    @property
    def duration(self) -> Float[Array, ""]:
        """The time step."""
        return self.time_step

    def before_forces(self, state: MolecularState, model: MolecularModel) -> MolecularState:
        """Half a kick and the drift."""
        return drifted(kicked(state, model, self.time_step / 2), self.time_step)

    def after_forces(self, state: MolecularState, model: MolecularModel) -> MolecularState:
        """The other half of the kick."""
        return kicked(state, model, self.time_step / 2)

    def conserved(
        self, state: MolecularState, model: MolecularModel, potential: Float[Array, ""]
    ) -> Float[Array, ""]:
        """Kinetic and potential energy."""
        return total_energy(state, model, potential)
