"""Whether a method can solve a system; if not, an error that names those that can."""

from solvers.gradients import AbstractGradient, Backsolve, Replayed
from solvers.integrators.base import (
    AbstractMethod,
    AbstractStochasticMethod,
    Calculus,
    EquationKind,
)
from solvers.integrators.stochastic import Milstein, StratonovichMilstein
from solvers.integrators.symplectic import StormerVerlet
from systems.base import (
    AbstractHamiltonian,
    AbstractSDE,
    AbstractSystem,
    Interpretation,
    NoiseKind,
)


_SUGGESTION = {
    Interpretation.ITO: "EulerMaruyama or Milstein",
    Interpretation.STRATONOVICH: "StratonovichHeun or StratonovichMilstein",
}


def check_method(system: AbstractSystem, method: AbstractMethod) -> None:
    """Raise `ValueError` if the method would not converge to the system's solution."""
    system_name, method_name = type(system).__name__, type(method).__name__
    if not isinstance(system, AbstractSDE):
        if method.kind is not EquationKind.ODE:
            raise ValueError(
                f"{method_name} is for stochastic differential equations and {system_name} has "
                "no noise; use for example Tsit5, or Kvaerno5 if it is stiff."
            )
        if isinstance(method, StormerVerlet) and not isinstance(system, AbstractHamiltonian):
            raise ValueError(
                f"{method_name} is for Hamiltonian systems and {system_name} is not one; use "
                "for example Tsit5, or Kvaerno5 if it is stiff."
            )
        return
    suggestion = _SUGGESTION[system.interpretation]
    if not isinstance(method, AbstractStochasticMethod):
        raise ValueError(
            f"{method_name} is for ordinary differential equations and {system_name} is "
            f"stochastic ({system.interpretation.value}); use {suggestion}."
        )
    if method.calculus is Calculus.ADDITIVE:
        if system.noise is not NoiseKind.ADDITIVE:
            raise ValueError(
                f"{method_name} is for additive noise and that of {system_name} is "
                f"{system.noise.value}; use {suggestion}."
            )
        return
    if system.noise is not NoiseKind.ADDITIVE and (
        method.calculus.value != system.interpretation.value
    ):
        raise ValueError(
            f"{method_name} converges to the {method.calculus.value} solution and "
            f"{system_name} is written in the {system.interpretation.value} calculus; "
            f"use {suggestion}."
        )
    if isinstance(method, Milstein | StratonovichMilstein) and (
        system.noise is NoiseKind.GENERAL
    ):
        raise ValueError(
            f"{method_name} is for diagonal or additive noise and that of {system_name} is "
            "general; use EulerMaruyama (Ito) or StratonovichHeun (Stratonovich)."
        )


def check_gradient(method: AbstractMethod, gradient: AbstractGradient, dense: bool) -> None:
    """Raise `ValueError` if derivatives cannot pass through the method in that way."""
    if dense and isinstance(gradient, Replayed):
        raise ValueError(
            "Replayed() gives no derivatives of dense output; use Checkpointed() or "
            "Forward(), or `save_at` with the times that are needed."
        )
    gradient.adjoint(isinstance(method, AbstractStochasticMethod))
    if isinstance(gradient, Backsolve) and isinstance(method, StormerVerlet):
        raise ValueError(
            "Backsolve cannot differentiate StormerVerlet, as the adjoint equation is not "
            "Hamiltonian in the same states; use Checkpointed() or Forward()."
        )
