"""Symplectic methods: the energy of a Hamiltonian system stays bounded for ever."""

from typing import Any, ClassVar

import diffrax
import jax.numpy as jnp
from jaxtyping import Array

from solvers.integrators.base import AbstractMethod, EquationKind


class StormerVerlet(AbstractMethod):
    r"""Stoermer-Verlet (velocity Verlet, leapfrog): order 2, symplectic, reversible.

    For a separable Hamiltonian system with positions $q$ and momenta $p$, half a kick, a
    drift and half a kick:

    $$p_{1/2} = p_0 - \tfrac h2 \nabla V(q_0), \quad
      q_1 = q_0 + h \nabla T(p_{1/2}), \quad
      p_1 = p_{1/2} - \tfrac h2 \nabla V(q_1)$$

    - `step`: the constant step $h$; stable for $h\,\omega < 2$ at angular frequency
      $\omega$, accurate far below.
    - `max_steps`: steps after which a solve fails.

    The energy errs by $O(h^2)$ and does not drift, so that it suits long runs; for a short
    one at high accuracy a Runge-Kutta method of higher order is cheaper. States between
    steps are interpolated by a cubic.

    Reference: E. Hairer, C. Lubich and G. Wanner, Acta Numerica 12, 399 (2003).
    """

    kind: ClassVar[EquationKind] = EquationKind.ODE
    order: ClassVar[float] = 2
    step: float = 0.01
    max_steps: int = 1_000_000

    def stepper(self) -> diffrax.AbstractSolver:
        """See the class."""
        return _KickDriftKick()

    def controller(self) -> diffrax.AbstractStepSizeController:
        """Constant steps."""
        return diffrax.ConstantStepSize()

    def first_step(self) -> float:
        """The constant step."""
        return self.step


class _KickDriftKick(diffrax.AbstractSolver):
    """One step on the flat state `[positions, momenta]`.

    The rate of the positions depends on the momenta alone and the other way round, so
    the ordinary vector field at partly updated states gives both gradients; what is not
    used of it is dropped by the compiler. The state of the solver is the force at the
    start of the step, which the step before has computed.
    """

    term_structure: ClassVar[Any] = diffrax.ODETerm
    interpolation_cls: ClassVar[Any] = diffrax.ThirdOrderHermitePolynomialInterpolation

    def order(self, terms: Any) -> int:
        del terms
        return 2

    def init(self, terms: Any, t0: Any, t1: Any, y0: Array, args: Any) -> Array:
        del t1
        return _rates(terms, t0, y0, args)[1]

    def step(
        self,
        terms: Any,
        t0: Any,
        t1: Any,
        y0: Array,
        args: Any,
        solver_state: Array,
        made_jump: Any,
    ) -> tuple[Array, None, dict[str, Any], Array, Any]:
        del made_jump
        force = solver_state
        h = terms.contr(t0, t1)
        positions, momenta = jnp.split(y0, 2)
        momenta = momenta + h / 2 * force
        velocity, _ = _rates(terms, t0, jnp.concatenate([positions, momenta]), args)
        positions = positions + h * velocity
        _, next_force = _rates(terms, t1, jnp.concatenate([positions, momenta]), args)
        momenta = momenta + h / 2 * next_force
        y1 = jnp.concatenate([positions, momenta])
        start, _ = _rates(terms, t0, y0, args)
        stop, _ = _rates(terms, t1, y1, args)
        dense = {
            "y0": y0,
            "y1": y1,
            "k0": h * jnp.concatenate([start, force]),
            "k1": h * jnp.concatenate([stop, next_force]),
        }
        return y1, None, dense, next_force, diffrax.RESULTS.successful

    def func(self, terms: Any, t0: Any, y0: Array, args: Any) -> Array:
        return terms.vf(t0, y0, args)


def _rates(terms: Any, t: Any, y: Array, args: Any) -> tuple[Array, Array]:
    """Velocity and force."""
    velocity, force = jnp.split(terms.vf(t, y, args), 2)
    return velocity, force
