"""Many starts of one optimiser: the compiled programs.

All starts are one pytree of arrays. `advance` gives each that still runs a limited number
of further iterations; inside it a few lanes work through a queue, and a lane whose start
has ended takes the next one. What lies between is up to `solvers/optimisers/multistart.py`.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PyTree

from solvers.optimisers.base import (
    STEP_LIMIT,
    STOP,
    check_function,
    half_sum_of_squares,
    has_converged,
    is_running,
    reason_to_stop,
    suited_function,
)
from solvers.optimisers.stationarity import examine_minimum
from solvers.per_shard import Kind, Layout, evaluate


class Question(eqx.Module):
    """What is to be optimised, and how; the same for all starts.

    - `problem`, `method`, `args`: as for `solvers.optimisers.base.optimise`.
    - `options`: what the method reads beside, with the bounds.
    - `check`: judges where a start ended, see `optimise_many`.
    """

    problem: Any
    method: Any
    args: PyTree
    options: dict[str, Any]
    check: Callable[[PyTree, PyTree], tuple[Any, PyTree]] | None


class Run(eqx.Module):
    """How far a start has come; of all starts, with a leading axis.

    - `y`, `state`: the point, and the arrays of the state of the method.
    - `objective`: the lowest value seen.
    - `steps`: iterations so far.
    - `done`, `success`: whether the method has stopped, and content.
    """

    y: PyTree
    state: list[Array]
    objective: Float[Array, ""]
    steps: Int[Array, ""]
    done: Bool[Array, ""]
    success: Bool[Array, ""]


class End(eqx.Module):
    """What became of a start; of all starts, with a leading axis.

    - `value`, `objective`, `stop`, `statistics`: as in `Optimum`.
    - `evidence`: what the check found.
    """

    value: PyTree
    objective: Float[Array, ""]
    stop: Any
    statistics: dict[str, Any]
    evidence: PyTree


_TAGS: frozenset[object] = frozenset()


class _Machine:
    """The method, made to work on a `Run`; only ever inside one trace."""

    def __init__(self, question: Question, y: PyTree):
        bare = suited_function(question.problem, question.method)
        squares = isinstance(question.method, optx.AbstractLeastSquaresSolver)

        def objective(y: PyTree) -> Array:
            out = bare(y, question.args)
            return half_sum_of_squares(out) if squares else out

        def function(y: PyTree, args: PyTree) -> tuple[Any, Array]:
            out = bare(y, args)
            return out, half_sum_of_squares(out) if squares else out

        self.objective, self._function = objective, function
        self._method, self._args, self._options = (
            question.method,
            question.args,
            question.options,
        )
        out, self._aux = jax.eval_shape(lambda y: function(y, question.args), y)
        self._shape = out
        # Of the state only arrays go through loops and from program to program: the rest,
        # such as linearised functions of optimistix, belongs to the trace that made it.
        state = eqx.filter_eval_shape(self._begin, y)
        arrays, self._static = eqx.partition(state, _is_shape)
        self._structure = jax.tree.structure(arrays)

    def _begin(self, y: PyTree) -> Any:
        return self._method.init(
            self._function, y, self._args, self._options, self._shape, self._aux, _TAGS
        )

    def begin(self, y: PyTree) -> Run:
        """A start before its first iteration."""
        state = jax.tree.leaves(eqx.filter(self._begin(y), eqx.is_array))
        infinite, no = jnp.full((), jnp.inf, self._aux.dtype), jnp.asarray(False)
        return Run(y, state, infinite, jnp.asarray(0), no, no)

    def tick(self, run: Run) -> Run:
        """One iteration."""
        state = self._state(run)
        y, state, seen = self._method.step(
            self._function, run.y, self._args, self._options, state, _TAGS
        )
        done, result = self._terminate(y, state)
        # The first iteration of every method evaluates the start. Optimistix' own would go
        # on from one that is no number.
        first = run.steps == 0
        lost = first & ~jnp.isfinite(seen)
        success = done & ~lost & (result == optx.RESULTS.successful)
        seen = jnp.where(lost | (first & done & ~success), jnp.inf, seen)
        return Run(
            y=y,
            state=jax.tree.leaves(eqx.filter(state, eqx.is_array)),
            objective=jnp.fmin(run.objective, jnp.asarray(seen, run.objective.dtype)),
            steps=run.steps + 1,
            done=done | lost,
            success=success,
        )

    def end(self, run: Run, abandoned: Array) -> tuple[PyTree, Array, Any, dict[str, Any]]:
        """Point, objective, reason to stop, and statistics."""
        state = self._state(run)
        done, result = self._terminate(run.y, state)
        y, _, statistics = self._method.postprocess(
            self._function,
            run.y,
            run.objective,
            self._args,
            self._options,
            state,
            _TAGS,
            result,
        )
        statistics = dict(statistics)
        stop = reason_to_stop(statistics.pop("stop", None), done, result)
        for condition, reason in (
            (run.done, STOP.nonfinite_start),
            (abandoned, STOP.abandoned),
            (True, STEP_LIMIT),
        ):
            stop = STOP.where(is_running(stop) & condition, reason, stop)
        objective = statistics.pop("objective", None)
        return y, self.objective(y) if objective is None else objective, stop, statistics

    def _state(self, run: Run) -> Any:
        return eqx.combine(jax.tree.unflatten(self._structure, run.state), self._static)

    def _terminate(self, y: PyTree, state: Any) -> tuple[Array, Any]:
        return self._method.terminate(
            self._function, y, self._args, self._options, state, _TAGS
        )


def _is_shape(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)


def _one(tree: PyTree) -> PyTree:
    """The shapes of one of many."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), tree)


def _spread(function: Callable[[Any], Any], layout: Layout | None, rows: Any) -> Any:
    """Evaluate a function of rows, on each device for its own."""
    if layout is None:
        return function(rows)
    return evaluate(lambda _, some: function(some), layout, (), rows, Kind.ROWS)


@eqx.filter_jit
def begin(question: Question, starts: PyTree, layout: Layout | None) -> Run:
    """All starts before their first iteration."""

    def local(starts: PyTree) -> Run:
        one = _one(starts)
        check_function(question.problem, one, question.args)
        return jax.vmap(_Machine(question, one).begin)(starts)

    return _spread(local, layout, jax.tree.map(jnp.asarray, starts))


@eqx.filter_jit
def advance(
    question: Question,
    runs: Run,
    order: Int[ArrayLike, " starts"],
    busy: Bool[ArrayLike, " starts"],
    limits: tuple[Int[Array, ""], Int[Array, ""]],
    lanes: int,
    layout: Layout | None,
) -> tuple[Run, Int[Array, " devices"]]:
    """Give each busy start some further iterations.

    **Arguments:**

    - `order`: how the starts are put first; those on one device lie side by side.
    - `busy`: in that order, which starts still run: the first ones on each device.
    - `limits`: iterations that each may make now, and in all.
    - `lanes`: how many run side by side on a device.

    **Returns:** the starts in their new order, and how often the loop went round on each
    device.
    """

    def local(rows: tuple[Run, Array]) -> tuple[Run, Array]:
        runs, busy = rows
        tick = _Machine(question, _one(runs.y)).tick
        work = _one_by_one if lanes == 1 else _side_by_side
        return work(tick, runs, jnp.sum(busy), limits, lanes)

    return _spread(local, layout, (_take(runs, order), busy))


def _take(tree: PyTree, index: Any) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[index], tree)


def _one_by_one(
    tick: Callable[[Run], Run], runs: Run, count: Array, limits: Any, lanes: int
) -> tuple[Run, Array]:
    """One lane needs no `vmap`, under which both sides of each condition are computed."""
    del lanes

    def work(carry: Any) -> Any:
        position, runs, ticks = carry
        run = _take(runs, position)
        limit = jnp.minimum(run.steps + limits[0], limits[1])
        begin = run.steps
        run = jax.lax.while_loop(lambda run: ~run.done & (run.steps < limit), tick, run)
        runs = jax.tree.map(lambda whole, leaf: whole.at[position].set(leaf), runs, run)
        return position + 1, runs, ticks + (run.steps - begin)

    first = (jnp.asarray(0), runs, jnp.asarray(0))
    _, runs, ticks = jax.lax.while_loop(lambda carry: carry[0] < count, work, first)
    return runs, ticks[None]


def _side_by_side(
    tick: Callable[[Run], Run], runs: Run, count: Array, limits: Any, lanes: int
) -> tuple[Run, Array]:
    """Lanes under `vmap`; one that is through with its start takes the next."""
    size = runs.steps.shape[0]

    def choose(condition: Array, yes: Any, no: Any) -> Any:
        def one(a: Array, b: Array) -> Array:
            return jnp.where(condition.reshape(-1, *(1,) * (a.ndim - 1)), a, b)

        return jax.tree.map(one, yes, no)

    def limit_of(run: Run) -> Array:
        return jnp.minimum(run.steps + limits[0], limits[1])

    def work(carry: Any) -> Any:
        index, taken, now, limit, runs, ticks = carry
        now = jax.vmap(tick)(now)
        through = (index < count) & (now.done | (now.steps >= limit))
        place = jnp.where(through, index, size)
        runs = jax.tree.map(
            lambda whole, leaf: whole.at[place].set(leaf, mode="drop"), runs, now
        )
        # The lanes that are through take the next starts of the queue in their order.
        following = taken + jnp.cumsum(through) - 1
        index = jnp.where(through, following, index)
        fresh = _take(runs, jnp.minimum(index, size - 1))
        now = choose(through, fresh, now)
        limit = jnp.where(through, limit_of(fresh), limit)
        return index, taken + jnp.sum(through), now, limit, runs, ticks + 1

    index = jnp.arange(lanes)
    now = _take(runs, jnp.minimum(index, size - 1))
    first = (index, jnp.asarray(lanes), now, limit_of(now), runs, jnp.asarray(0))
    last = jax.lax.while_loop(lambda carry: jnp.any(carry[0] < count), work, first)
    return last[4], last[5][None]


@eqx.filter_jit
def finish(
    question: Question,
    runs: Run,
    order: Int[ArrayLike, " starts"],
    starts: PyTree,
    abandoned: Bool[ArrayLike, " starts"],
    lanes: int,
    layout: Layout | None,
) -> End:
    """What became of all starts, put in order: each success is checked once more."""

    def local(rows: Any) -> End:
        machine = _Machine(question, _one(starts))

        def one(row: Any) -> End:
            run, start, abandoned = row
            y, objective, stop, statistics = machine.end(run, abandoned)
            if question.check is None:
                verdict, evidence = examine_minimum(
                    machine.objective,
                    y,
                    start,
                    objective,
                    question.options,
                    forward=_only_forward(question.method),
                )
            else:
                verdict, evidence = question.check(y, question.args)
            wrong = has_converged(stop) & ~has_converged(verdict)
            return End(y, objective, STOP.where(wrong, verdict, stop), statistics, evidence)

        return jax.lax.map(one, rows, batch_size=None if lanes == 1 else lanes)

    given = jax.tree.map(jnp.asarray, starts)
    return _spread(local, layout, (_take(runs, order), given, abandoned))


def _only_forward(method: Any) -> bool:
    """Whether the method gets along with functions that have forward mode alone."""
    squares = isinstance(method, optx.AbstractLeastSquaresSolver)
    return squares or bool(getattr(method, "forward", False))
