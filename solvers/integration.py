"""The call of diffrax: terms, controller, and what is saved."""

import math
from typing import Any

import diffrax
import lineax
from jax.core import Tracer
from jaxtyping import Array, PRNGKeyArray

from solvers.integrators.base import (
    AbstractDeterministicMethod,
    AbstractMethod,
    AbstractStochasticMethod,
)
from solvers.problem import InitialValueProblem, diffusion, vector_field
from systems.base import AbstractSystem, NoiseKind


def integrate(
    problem: InitialValueProblem,
    method: AbstractMethod,
    times: Array,
    key: PRNGKeyArray | None,
    adjoint: diffrax.AbstractAdjoint,
    *,
    dense: bool = False,
    period: int | None = None,
) -> diffrax.Solution:
    """Integrate the problem; `ys` and `ts` are dictionaries.

    `saved` are the states at `times` and `final` is where it stopped. With a `period`,
    `kept` are the states after every so many steps, and `steps` the times of all, where
    neither `kept` nor the method itself tells them.
    """
    saves = {"saved": diffrax.SubSaveAt(ts=times)}
    if not isinstance(adjoint, diffrax.BacksolveAdjoint):
        # The adjoint equation allows only one kind of saved times.
        saves["final"] = diffrax.SubSaveAt(t1=True)
    if period is not None:
        saves["kept"] = diffrax.SubSaveAt(steps=period)
        if period > 1 and not has_constant_steps(method):
            saves["steps"] = diffrax.SubSaveAt(steps=1, fn=lambda t, y, args: None)
    span = (problem.start, problem.stop)
    return diffrax.diffeqsolve(
        terms(problem.system, method, span, key),
        method.stepper(),
        t0=problem.start,
        t1=problem.stop,
        dt0=method.first_step(),
        y0=problem.initial_state,
        args=(problem.system, problem.inputs),
        saveat=diffrax.SaveAt(subs=saves if len(saves) > 1 else saves["saved"], dense=dense),
        stepsize_controller=_controller(method, times),
        adjoint=adjoint,
        max_steps=method.max_steps,
        throw=False,
    )


def terms(
    system: AbstractSystem,
    method: AbstractMethod,
    span: tuple[Array, Array],
    key: PRNGKeyArray | None,
) -> diffrax.AbstractTerm:
    """Drift, and diffusion with its Wiener path, with `args = (system, inputs)`."""
    drift = diffrax.ODETerm(vector_field)
    if not isinstance(method, AbstractStochasticMethod):
        return drift
    noisy: Any = system
    resolution = method.step / 2 if method.path_resolution is None else method.path_resolution
    path = diffrax.VirtualBrownianTree(
        t0=span[0],
        t1=span[1],
        tol=resolution,
        shape=(noisy.noise_dimension,),
        key=key,  # pyright: ignore[reportArgumentType]
        levy_area=method.levy_area,
    )
    noise = _diagonal_diffusion if noisy.noise is NoiseKind.DIAGONAL else diffusion
    return diffrax.MultiTerm(drift, diffrax.ControlTerm(noise, path))


def _diagonal_diffusion(t: Any, y: Array, args: Any) -> lineax.DiagonalLinearOperator:
    return lineax.DiagonalLinearOperator(diffusion(t, y, args))


def _controller(method: AbstractMethod, times: Array) -> diffrax.AbstractStepSizeController:
    controller = method.controller()
    if not steps_on_saves(method):
        return controller
    return diffrax.ClipStepSizeController(controller, step_ts=times)  # pyright: ignore


def has_constant_steps(method: AbstractMethod) -> bool:
    """Whether all steps are as long as the method says."""
    return isinstance(method.controller(), diffrax.ConstantStepSize)


def steps_on_saves(method: AbstractMethod) -> bool:
    """Whether steps end on the saved times."""
    adaptive = isinstance(method, AbstractDeterministicMethod)
    return adaptive and method.steps_on_saves and not has_constant_steps(method)


def split_saves(solution: diffrax.Solution) -> dict[str, tuple[Array, Any]]:
    """Times and states by the kind of save; `final` is one time and one state."""
    saved_times: Any = solution.ts
    saved: Any = solution.ys
    if not isinstance(saved, dict):
        saved_times, saved = {"saved": saved_times}, {"saved": saved}
    parts = {name: (saved_times[name], saved[name]) for name in saved}
    times, states = parts.get("final", parts["saved"])
    return {**parts, "final": (times[-1], states[-1])}


def room_for_steps(method: AbstractMethod, start: Any, stop: Any) -> int:
    """How many steps a solve may take; few where the step is constant and the times known."""
    step = method.first_step()
    if step is None or any(isinstance(x, Tracer) for x in (start, stop, step)):
        return method.max_steps
    count = abs(float(stop) - float(start)) / float(step) + 2
    if not math.isfinite(count):
        return method.max_steps
    # A power of two, so that similar spans share a compiled program.
    return min(method.max_steps, 1 << max(4, math.ceil(count).bit_length()))
