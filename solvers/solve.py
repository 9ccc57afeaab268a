"""One solve: problem and method in, solution out."""

from collections.abc import Callable, Sequence
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, PRNGKeyArray

from solvers.gradients import (
    AbstractGradient,
    Backsolve,
    Checkpointed,
    words_for_refusals,
)
from solvers.integrators.base import (
    AbstractDeterministicMethod,
    AbstractMethod,
    AbstractStochasticMethod,
)
from solvers.integrators.compatibility import check_gradient, check_method
from solvers.problem import InitialValueProblem, diffusion, is_stochastic, vector_field
from solvers.solution import RESULTS, Solution, raise_on_failure
from systems.base import NoiseKind


def solve(
    problem: InitialValueProblem,
    method: AbstractMethod,
    *,
    save_at: ArrayLike | Sequence[float] | None = None,
    dense: bool = False,
    gradient: AbstractGradient | None = None,
    key: PRNGKeyArray | None = None,
    throw: bool = True,
) -> Solution:
    """Solve an initial value problem.

    **Arguments:**

    - `problem`, `method`: what is solved, and how.
    - `save_at`: times to save, from `start` towards `stop`; default: `stop` alone.
    - `dense`: keep a continuous output, see `Solution.evaluate`.
    - `gradient`: how derivatives pass through; default: `Checkpointed()`, for the
      common case of one scalar differentiated in reverse. Use `Forward()` for `jvp`,
      `jacfwd` and second derivatives.
    - `key`: the key of the Wiener path; stochastic problems need one, others take none.
    - `throw`: raise `SolveError` if the solve fails. Inside `jit` or `vmap` nothing is
      raised: look at `Solution.status`.

    The call is compiled; a second one with the same shapes is not compiled again.

    **Raises:** `ValueError` if the method does not fit the problem (an SDE with a
    deterministic method, Ito with Stratonovich, a missing key), if the gradient does not
    fit the method, and for saved times out of order or outside the span.
    """
    check_method(problem.system, method)
    if is_stochastic(problem) and key is None:
        raise ValueError("A stochastic problem needs a `key`, e.g. jax.random.key(0).")
    if not is_stochastic(problem) and key is not None:
        raise ValueError("A deterministic problem takes no `key`.")
    gradient = Checkpointed() if gradient is None else gradient
    check_gradient(method, gradient)
    times = saved_times(problem, save_at)
    with words_for_refusals(gradient):
        solution = _solve(problem, method, times, dense, gradient, key)
    if throw:
        raise_on_failure(solution)
    return solution


def saved_times(
    problem: InitialValueProblem, save_at: ArrayLike | Sequence[float] | None
) -> Array:
    """The times to save, `stop` alone by default.

    Raises `ValueError` if they, or the span, make no sense; traced times pass unseen.
    """
    times = problem.stop[None] if save_at is None else jnp.asarray(save_at, dtype=float)
    if times.ndim != 1 or times.size == 0:
        raise ValueError(f"`save_at` has shape {times.shape}, expected (times,).")
    if any(isinstance(x, Tracer) for x in (problem.start, problem.stop, times)):
        return times
    start, stop = float(problem.start), float(problem.stop)
    if not np.isfinite([start, stop]).all():
        raise ValueError(f"The span is from {start:g} to {stop:g}, expected finite times.")
    if is_stochastic(problem) and stop <= start:
        raise ValueError(
            f"The span is from {start:g} to {stop:g}; a stochastic problem runs forwards."
        )
    given = np.asarray(times)
    low, high = min(start, stop), max(start, stop)
    outside = given[~((given >= low) & (given <= high))]
    if outside.size:
        raise ValueError(
            f"`save_at` has the time {outside[0]:g}, outside the span from {start:g} to "
            f"{stop:g}."
        )
    if np.any(np.diff(given) * np.where(stop < start, -1, 1) < 0):
        raise ValueError("The times of `save_at` are not in order from `start` to `stop`.")
    return times


@eqx.filter_jit
def _solve(
    problem: InitialValueProblem,
    method: AbstractMethod,
    times: Array,
    dense: bool,
    gradient: AbstractGradient,
    key: PRNGKeyArray | None,
) -> Solution:
    stochastic = is_stochastic(problem)
    problem, times = gradient.guard_inputs((problem, times))
    start, stop, times = gradient.guard_times((problem.start, problem.stop, times))
    saves = {"saved": diffrax.SubSaveAt(ts=times)}
    if not isinstance(gradient, Backsolve):
        # The adjoint equation allows only one kind of saved times.
        saves["final"] = diffrax.SubSaveAt(t1=True)
    solution = diffrax.diffeqsolve(
        _terms(problem, method, key),
        method.stepper(),
        t0=start,
        t1=stop,
        dt0=method.first_step(),
        y0=problem.initial_state,
        args=(problem.system, problem.inputs),
        saveat=diffrax.SaveAt(subs=saves if len(saves) > 1 else saves["saved"], dense=dense),
        stepsize_controller=_controller(method, times),
        adjoint=gradient.adjoint(stochastic),
        max_steps=method.max_steps,
        throw=False,
    )
    return gradient.guard_outputs(_package(problem, solution, times, dense))


def _controller(method: AbstractMethod, times: Array) -> diffrax.AbstractStepSizeController:
    controller = method.controller()
    if isinstance(controller, diffrax.ConstantStepSize) or not (
        isinstance(method, AbstractDeterministicMethod) and method.steps_on_saves
    ):
        return controller
    return diffrax.ClipStepSizeController(controller, step_ts=times)  # pyright: ignore


def _terms(
    problem: InitialValueProblem, method: AbstractMethod, key: PRNGKeyArray | None
) -> diffrax.AbstractTerm:
    drift = diffrax.ODETerm(vector_field)
    if not isinstance(method, AbstractStochasticMethod):
        return drift
    system: Any = problem.system
    resolution = method.step / 2 if method.path_resolution is None else method.path_resolution
    path = diffrax.VirtualBrownianTree(
        t0=problem.start,
        t1=problem.stop,
        tol=resolution,
        shape=(system.noise_dimension,),
        key=key,  # pyright: ignore[reportArgumentType]
        levy_area=method.levy_area,
    )
    noise = _diagonal_diffusion if system.noise is NoiseKind.DIAGONAL else diffusion
    return diffrax.MultiTerm(drift, diffrax.ControlTerm(noise, path))


def _diagonal_diffusion(t: Any, y: Array, args: Any) -> lineax.DiagonalLinearOperator:
    return lineax.DiagonalLinearOperator(diffusion(t, y, args))


def _package(
    problem: InitialValueProblem, solution: diffrax.Solution, times: Array, dense: bool
) -> Solution:
    saved_times: Any = solution.ts
    saved: Any = solution.ys
    if isinstance(saved, dict):
        final_time, final_state = saved_times["final"][-1], saved["final"][-1]
        saved_times, saved = saved_times["saved"], saved["saved"]
    else:
        final_time, final_state = saved_times[-1], saved[-1]
    reached = jnp.isfinite(saved_times)
    states: Any = jnp.where(reached[:, None], saved, jnp.nan)
    return Solution(
        times=times,
        states=states,
        status=_status(problem, solution.result, final_state),
        final_time=final_time,
        final_state=final_state,
        statistics={
            "steps": jnp.asarray(solution.stats["num_steps"]),
            "accepted_steps": jnp.asarray(solution.stats["num_accepted_steps"]),
            "rejected_steps": jnp.asarray(solution.stats["num_rejected_steps"]),
        },
        interpolation=solution.interpolation if dense else None,
    )


def _status(problem: InitialValueProblem, result: Any, final_state: Array) -> Any:
    """Diffrax's result, made more telling: a bad start, a state that is no number."""
    status = RESULTS.promote(result)
    stuck = result == diffrax.RESULTS.dt_min_reached
    status = RESULTS.where(stuck, RESULTS.step_size_underflow, status)
    lost = ~jnp.all(jnp.isfinite(final_state))
    status = RESULTS.where(
        lost & (status == RESULTS.successful), RESULTS.nonfinite_state, status
    )
    slope = vector_field(problem.start, problem.initial_state, (problem.system, problem.inputs))
    given = (problem.start, problem.stop, problem.initial_state, slope)
    parameters = jax.tree.leaves(eqx.filter(problem.system, eqx.is_inexact_array))
    lost = ~_all(jnp.isfinite, given)
    # An infinite parameter may be meant (no limit to growth), and one that is no number
    # may play no part: it explains a failure only.
    lost |= (status != RESULTS.successful) & ~_all(lambda x: ~jnp.isnan(x), parameters)
    return RESULTS.where(lost, RESULTS.nonfinite_start, status)


def _all(test: Callable[[Array], Array], leaves: Sequence[Array]) -> Array:
    return jnp.all(jnp.asarray([jnp.all(test(leaf)) for leaf in leaves], dtype=bool))
