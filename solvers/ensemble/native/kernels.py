"""From a law and a method to a compiled kernel."""

import functools
from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from solvers.ensemble.law import EngineRefusal, Law
from solvers.ensemble.native.compile import host
from solvers.ensemble.native.driver import kernel_module
from solvers.ensemble.native.emit import FUNCTION_PREFIX
from solvers.ensemble.native.plan import Explicit, Plan, Rosenbrock, Stochastic
from solvers.ensemble.native.registry import Kernel, registry
from solvers.ensemble.scalarise.linear import linear_solver
from solvers.ensemble.scalarise.program import Program
from solvers.ensemble.scalarise.walk import scalarise
from solvers.ensemble.stepping import error_order
from solvers.integration import has_constant_steps, steps_on_saves
from solvers.integrators.base import AbstractMethod
from solvers.integrators.rosenbrock import RODAS5P, Rodas5P, dense_weights
from solvers.integrators.stochastic import (
    EulerMaruyama,
    Milstein,
    StratonovichHeun,
    StratonovichMilstein,
)


GROUPS = 2
"""Vectors that move side by side, so that one computes while the other waits."""

_STOCHASTIC: dict[type, str] = {
    EulerMaruyama: "euler",
    StratonovichHeun: "heun",
    Milstein: "milstein",
    StratonovichMilstein: "stratonovich",
}


def kernel_for(law: Law, method: AbstractMethod) -> Kernel:
    """The kernel of a law and a method.

    **Raises:** `EngineRefusal` if there is none.
    """
    plan = plan_for(law, method)
    lanes = host().lanes * GROUPS
    text = str(kernel_module(plan, lanes))
    # Functions are worth to be inlined, and noise has much to be shared.
    thorough = isinstance(plan.method, Stochastic) or FUNCTION_PREFIX in text
    return registry.kernel(text, thorough)


def plan_for(law: Law, method: AbstractMethod) -> Plan:
    """What the kernel of a law and a method is made from.

    **Raises:** `EngineRefusal` if the method has no kernel, `NotScalarisable` if the law
    has none.
    """
    stepper = method.stepper()
    if law.diffusion is not None:
        numbers: Any = _stochastic(law, method)
        order = 1.0
    elif isinstance(method, Rodas5P):
        numbers, order = _rosenbrock(law), error_order(stepper)
    elif isinstance(stepper, diffrax.AbstractERK) and not hasattr(stepper.tableau, "tableaus"):
        numbers, order = _explicit(law, stepper), error_order(stepper)
    else:
        name = type(method).__name__
        raise EngineRefusal(f"It has no kernel for the method {name}.")
    return Plan(
        states=law.states,
        varied=law.varied,
        shared=law.shared,
        noises=law.noises,
        diagonal=law.diagonal,
        controlled=law.controlled,
        method=numbers,
        adaptive=not has_constant_steps(method),
        order=order,
        on_saves=steps_on_saves(method),
    )


def _drift(law: Law) -> Program:
    return scalarise(law.drift, *law.shapes)


def _explicit(law: Law, stepper: Any) -> Explicit:
    tableau = stepper.tableau
    second = getattr(stepper, "second_error", None)
    return Explicit(
        drift=_drift(law),
        rows=tuple(_floats(row) for row in tableau.a_lower),
        solution=_floats(tableau.b_sol),
        error=_floats(tableau.b_error),
        second_error=None if second is None else _floats(second),
        times=_floats(tableau.c),
        last_is_solution=bool(tableau.ssal),
        reuses_last=bool(tableau.fsal),
        dense=_dense(type(stepper)),
    )


@functools.cache
def _dense(kind: Any) -> Program:
    """The weights of the slopes: interpolation is linear in the states and the slopes."""
    tableau, interpolation = kind.tableau, kind.interpolation_cls
    stages = len(tableau.b_sol)

    def weights(fraction: Any) -> Any:
        return interpolation(
            t0=jnp.zeros(()),
            t1=jnp.ones(()),
            y0=jnp.zeros(stages),
            y1=jnp.asarray(tableau.b_sol, float),
            k=jnp.eye(stages),
        ).evaluate(fraction)

    return scalarise(weights, ())


def _rosenbrock(law: Law) -> Rosenbrock:
    tableau = RODAS5P
    jacobian = scalarise(jax.jacfwd(law.drift, argnums=1), *law.shapes)
    solver = linear_solver(jacobian, law.states)

    def weights(fraction: Any) -> Any:
        difference, stages = dense_weights(tableau, fraction)
        return [difference, *stages]

    return Rosenbrock(
        drift=_drift(law),
        rate=scalarise(law.rate, *law.shapes),
        factors=solver.factorise,
        solve=solver.solve,
        gamma=tableau.gamma,
        rows=tableau.a,
        couplings=tableau.coupling,
        times=tableau.c,
        rate_weights=tableau.rate,
        step_weights=tableau.b,
        error=tableau.error,
        dense=scalarise(weights, ()),
    )


def _stochastic(law: Law, method: Any) -> Stochastic:
    kind = _STOCHASTIC.get(type(method))
    if kind is None:
        raise EngineRefusal(f"It has no kernel for the method {type(method).__name__}.")
    diffusion: Callable[..., Any] = law.diffusion  # pyright: ignore[reportAssignmentType]
    # Noise that is not diagonal is additive for these methods, and has no correction.
    corrected = kind in ("milstein", "stratonovich") and law.diagonal
    if not corrected and kind != "heun":
        kind = "euler"

    def together(t: Any, y: Any, varied: Any, shared: Any) -> Any:
        at = (t, y, varied, shared)
        parts = [law.drift(*at), jnp.ravel(diffusion(*at))]
        return [*parts, law.bend(*at)] if corrected else parts

    return Stochastic(kind, scalarise(together, *law.shapes))


def _floats(row: Any) -> tuple[float, ...]:
    return tuple(float(x) for x in np.asarray(row))
