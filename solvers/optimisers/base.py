"""Questions, reasons to stop, and the driver that all optimisers share.

An optimiser of this room is an optimistix solver: a subclass of
`optimistix.AbstractMinimiser` or `optimistix.AbstractLeastSquaresSolver`, usable through
`optimistix.minimise` and `optimistix.least_squares` as well as through `optimise`. Beyond
optimistix it reads bounds from `options["lower"]` and `options["upper"]`, and its
statistics hold `stop`, a member of `STOP`.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, PyTree


class STOP(optx.RESULTS):  # pyright: ignore[reportGeneralTypeIssues]
    """Why an optimiser stopped; each member is a sentence."""

    running = "The optimiser has not stopped yet."
    gradient = "The gradient vanished: a stationary point, to the tolerance."
    objective = "The objective no longer falls, to the tolerance."
    step = "The steps no longer change the parameters, to the tolerance."
    nonfinite_start = (
        "The objective or its derivatives are not finite numbers at the start. Choose "
        "another start, or bounds that keep out where the model fails."
    )
    stalled = (
        "No step made the objective fall although its gradient is not zero: the "
        "derivatives are wrong or too rough. Check them, or solve more accurately."
    )
    flat = (
        "The objective does not depend on the parameters here: gradient and curvature "
        "vanish together. Choose another start."
    )
    unbounded = "The objective falls without limit. Add bounds or a prior."
    abandoned = "The start was given up early: it is far behind the others and barely falls."
    false_convergence = (
        "The optimiser took this for a minimum, but the gradient is far from zero. Ask for a "
        "smaller tolerance, or solve more accurately."
    )


# Inherited members, which type checkers take for those of optimistix.
SUCCESSFUL: Any = STOP.successful
"""A success of which no more is known."""
STEP_LIMIT: Any = STOP.nonlinear_max_steps_reached
"""The reason of a driver whose allowed iterations ended first."""

_CONVERGED = (SUCCESSFUL, STOP.gradient, STOP.objective, STOP.step)


def has_converged(stop: Any) -> Array:
    """Whether this reason to stop is a success."""
    return jnp.any(jnp.stack([stop == good for good in _CONVERGED]), axis=0)


def is_running(stop: Any) -> Array:
    """Whether the optimiser goes on."""
    return stop == STOP.running


def to_optimistix(stop: Any) -> tuple[Array, Any]:
    """What `terminate` returns for a reason to stop: whether to stop, and the result."""
    result = optx.RESULTS.where(
        has_converged(stop) | is_running(stop),
        optx.RESULTS.successful,
        optx.RESULTS.nonlinear_divergence,
    )
    result = optx.RESULTS.where(stop == STOP.nonfinite_start, optx.RESULTS.nonfinite, result)
    return ~is_running(stop), result


def reason_to_stop(stop: Any, done: Array, result: Any) -> Any:
    """The reason from `statistics["stop"]`, or from what `terminate` returned.

    optimistix' own methods have no `stop`: they know success and failure only.
    """
    return STOP.where(done, STOP.promote(result), STOP.running) if stop is None else stop


def stop_names() -> tuple[str, ...]:
    """Short names of all reasons to stop, indexed by their number."""
    members = {int(item._value): name for name, item in STOP._name_to_item.items()}
    return tuple(members[i] for i in range(len(members)))


def describe_stop(name: str) -> str:
    """The sentence behind the short name of a reason to stop."""
    return STOP[getattr(STOP, name)]


class OptimisationError(RuntimeError):
    """An optimisation that did not converge; raised outside compiled programs."""


class Minimisation(eqx.Module):
    """Find the `y` between the bounds at which a scalar objective is smallest.

    - `function`: `objective(y, args)`, a scalar; `y` is any pytree of real arrays.
    - `lower`, `upper`: bounds, each `None`, a number, or a pytree like `y`.
    """

    function: Callable[[Any, Any], Any]
    lower: PyTree | None = None
    upper: PyTree | None = None


class LeastSquares(eqx.Module):
    r"""Find the `y` between the bounds with the smallest $\tfrac12 \sum_i r_i(y)^2$.

    - `function`: `residuals(y, args)`, any pytree of real arrays.
    - `lower`, `upper`: bounds, each `None`, a number, or a pytree like `y`.
    """

    function: Callable[[Any, Any], Any]
    lower: PyTree | None = None
    upper: PyTree | None = None


class Optimum(eqx.Module):
    """What `optimise` returns; under `vmap` each array has the batch axis in front.

    - `value`: the last `y`.
    - `objective`: the objective there (half the sum of squares for least squares).
    - `stop`: a member of `STOP`.
    - `steps`: iterations.
    - `statistics`: what else the method counts, by name.
    """

    value: PyTree
    objective: Float[Array, ""]
    stop: Any
    steps: Int[Array, ""]
    statistics: dict[str, Any]

    @property
    def converged(self) -> Array:
        """Whether it stopped for a good reason."""
        return has_converged(self.stop)


Progress = Callable[[int, Any, Any], None]
"""Called as `progress(iteration, y, state)` after each iteration."""


def optimise(
    problem: Minimisation | LeastSquares,
    method: Any,
    start: PyTree,
    args: PyTree = None,
    *,
    max_steps: int = 1000,
    throw: bool = True,
    progress: Progress | None = None,
) -> Optimum:
    """Solve an optimisation problem from one start.

    **Arguments:**

    - `problem`, `method`: what is sought, and how.
    - `start`: where to begin, between the bounds.
    - `args`: passed on to the function; derivatives do not pass through it here (call
      `optimistix.minimise` with the same method for derivatives of the optimum).
    - `max_steps`: iterations after which it is given up.
    - `throw`: raise `OptimisationError` if it did not converge. Inside `jit` or `vmap`
      nothing is raised: look at `Optimum.stop`.
    - `progress`: called after each iteration, outside the compiled program. Without it
      all iterations are one program.

    **Raises:** `ValueError` for bounds that cross, a start outside them, or a function
    whose result has the wrong shape; `OptimisationError` as above.
    """
    start = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype=float), start)
    lower, upper = full_bounds(start, problem.lower, problem.upper)
    check_bounds(start, lower, upper)
    check_function(problem, start, args)
    options = {"lower": lower, "upper": upper}
    if progress is None:
        result = _run(problem, method, start, args, options, jnp.asarray(max_steps))
    else:
        result = _run_in_steps(problem, method, start, args, options, max_steps, progress)
    if throw:
        raise_unless_converged(result)
    return result


def full_bounds(y: PyTree, lower: Any, upper: Any) -> tuple[PyTree, PyTree]:
    """Bounds as pytrees like `y`; infinite where there is none."""
    return _like(y, lower, -jnp.inf, "lower"), _like(y, upper, jnp.inf, "upper")


def _like(y: PyTree, bound: Any, default: float, name: str) -> PyTree:
    if bound is None:
        bound = default
    if jax.tree.structure(bound) == jax.tree.structure(0.0):
        return jax.tree.map(
            lambda leaf: jnp.broadcast_to(jnp.asarray(bound, leaf.dtype), leaf.shape), y
        )
    if jax.tree.structure(bound) != jax.tree.structure(y):
        raise ValueError(f"The {name} bound has another structure than the start.")
    return jax.tree.map(
        lambda leaf, b: jnp.broadcast_to(jnp.asarray(b, leaf.dtype), leaf.shape), y, bound
    )


def check_bounds(start: PyTree, lower: PyTree, upper: PyTree, whose: str = "") -> None:
    """Raise `ValueError` for bounds that cross or a start outside; not under `jit`.

    `whose` stands behind the number of the parameter in the sentence.
    """
    leaves = [jax.tree.leaves(tree) for tree in (start, lower, upper)]
    if any(isinstance(leaf, Tracer) for group in leaves for leaf in group):
        return
    flat = [np.concatenate([np.ravel(leaf) for leaf in group]) for group in leaves]
    y, low, high = flat
    crossed = np.flatnonzero(~(low <= high))
    if crossed.size:
        i = int(crossed[0])
        raise ValueError(
            f"Parameter {i} has the lower bound {low[i]:g} above the upper {high[i]:g}."
        )
    outside = np.flatnonzero((y < low) | (y > high))
    if outside.size:
        i = int(outside[0])
        raise ValueError(
            f"Parameter {i}{whose} starts at {y[i]:g}, outside its bounds from {low[i]:g} to "
            f"{high[i]:g}."
        )


def check_function(problem: Any, start: PyTree, args: PyTree) -> None:
    """Raise `ValueError` if the function of a problem returns what it must not."""
    shape = eqx.filter_eval_shape(problem.function, start, args)
    leaves = jax.tree.leaves(shape)
    kinds = {str(leaf.dtype) for leaf in leaves if not jnp.issubdtype(leaf.dtype, jnp.floating)}
    if kinds or not leaves:
        raise ValueError(
            f"The function returns {', '.join(kinds) or 'nothing'}, expected real numbers."
        )
    if isinstance(problem, Minimisation) and [leaf.shape for leaf in leaves] != [()]:
        raise ValueError(
            f"The objective has shape {leaves[0].shape}, expected a scalar; residuals belong "
            "to a LeastSquares problem."
        )


def suited_function(problem: Any, method: Any) -> Callable[[PyTree, PyTree], Any]:
    """The function of a problem in the form that the method takes.

    Raises `ValueError` if the method cannot solve such a problem.
    """
    least_squares = isinstance(problem, LeastSquares)
    by_squares = isinstance(method, optx.AbstractLeastSquaresSolver)
    minimises = isinstance(method, optx.AbstractMinimiser)
    if not ((by_squares and least_squares) or minimises):
        raise ValueError(
            f"{type(method).__name__} cannot solve a {type(problem).__name__} problem."
        )
    if by_squares or not least_squares:
        return problem.function
    return lambda y, args: half_sum_of_squares(problem.function(y, args))


def _pieces(problem: Any, method: Any, args: PyTree, start: PyTree) -> Any:
    """The function with an empty aux, and its shapes."""
    bare = suited_function(problem, method)

    def function(y: PyTree, args: PyTree) -> tuple[Any, None]:
        return bare(y, args), None

    return function, jax.eval_shape(lambda y: bare(y, args), start)


def choose(condition: Bool[Array, ""], one: Any, other: Any) -> Any:
    """`one` where the condition holds, else `other`, leaf by leaf."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), one, other)


def half_sum_of_squares(residuals: PyTree) -> Float[Array, ""]:
    """The objective of a least-squares problem."""
    squares = [jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(residuals)]
    return 0.5 * jnp.sum(jnp.stack(squares))


_TAGS: frozenset[object] = frozenset()


@eqx.filter_jit
def _run(
    problem: Any, method: Any, start: PyTree, args: PyTree, options: Any, max_steps: Array
) -> Optimum:
    function, shape = _pieces(problem, method, args, start)
    state = method.init(function, start, args, options, shape, None, _TAGS)
    arrays, static = eqx.partition(state, eqx.is_array)

    def going(carry: Any) -> Array:
        y, arrays, steps = carry
        state = eqx.combine(arrays, static)
        done, _ = method.terminate(function, y, args, options, state, _TAGS)
        return ~done & (steps < max_steps)

    def step(carry: Any) -> Any:
        y, arrays, steps = carry
        state = eqx.combine(arrays, static)
        y, state, _ = method.step(function, y, args, options, state, _TAGS)
        return y, eqx.filter(state, eqx.is_array), steps + 1

    y, arrays, steps = jax.lax.while_loop(going, step, (start, arrays, jnp.asarray(0)))
    return _finish(function, method, y, args, options, eqx.combine(arrays, static), steps)


def _finish(
    function: Any, method: Any, y: Any, args: Any, options: Any, state: Any, steps: Any
) -> Optimum:
    done, result = method.terminate(function, y, args, options, state, _TAGS)
    y, _, statistics = method.postprocess(
        function, y, None, args, options, state, _TAGS, result
    )
    statistics = dict(statistics)
    stop = reason_to_stop(statistics.pop("stop", None), done, result)
    stop = STOP.where(is_running(stop), STEP_LIMIT, stop)
    objective = statistics.pop("objective", None)
    if objective is None:
        objective = (
            half_sum_of_squares(function(y, args)[0])
            if isinstance(method, optx.AbstractLeastSquaresSolver)
            else function(y, args)[0]
        )
    return Optimum(y, objective, stop, jnp.asarray(steps), statistics)


@eqx.filter_jit
def _begin(problem: Any, method: Any, y: Any, args: Any, options: Any) -> Any:
    function, shape = _pieces(problem, method, args, y)
    return method.init(function, y, args, options, shape, None, _TAGS)


@eqx.filter_jit
def _one_step(problem: Any, method: Any, y: Any, args: Any, options: Any, state: Any) -> Any:
    function, _ = _pieces(problem, method, args, y)
    y, state, _ = method.step(function, y, args, options, state, _TAGS)
    done, _ = method.terminate(function, y, args, options, state, _TAGS)
    return y, state, done


@eqx.filter_jit
def _end(
    problem: Any, method: Any, y: Any, args: Any, options: Any, state: Any, steps: Any
) -> Optimum:
    function, _ = _pieces(problem, method, args, y)
    return _finish(function, method, y, args, options, state, steps)


def _run_in_steps(
    problem: Any,
    method: Any,
    y: Any,
    args: Any,
    options: Any,
    max_steps: int,
    progress: Progress,
) -> Optimum:
    state = _begin(problem, method, y, args, options)
    steps, done = 0, False
    while steps < max_steps and not done:
        y, state, stopped = _one_step(problem, method, y, args, options, state)
        steps, done = steps + 1, bool(stopped)
        progress(steps, y, state)
    return _end(problem, method, y, args, options, state, jnp.asarray(steps))


def raise_unless_converged(result: Optimum) -> None:
    """Raise `OptimisationError` if it did not converge; does nothing under `jit`."""
    code = result.stop._value
    if isinstance(code, Tracer):
        return
    names = [stop_names()[i] for i in np.ravel(np.asarray(code)).tolist()]
    good = np.ravel(np.asarray(result.converged))
    failed = np.flatnonzero(~good)
    if not failed.size:
        return
    first = int(failed[0])
    count = "" if len(names) == 1 else f"{failed.size} of {len(names)} runs; start {first}: "
    steps = int(np.ravel(np.asarray(result.steps))[first])
    raise OptimisationError(f"{count}{describe_stop(names[first])} (after {steps} steps)")
