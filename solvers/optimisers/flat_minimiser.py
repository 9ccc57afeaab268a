"""What the minimisers share that see one vector between bounds and compare values."""

import abc
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Bool, Int, PyTree

from solvers.optimisers.base import STOP, choose, is_running, to_optimistix
from solvers.optimisers.flat_objective import FlatObjective, Scalar, Vector, empty_aux, flatten
from solvers.optimisers.subproblems import norm_of


class Record(eqx.Module):
    """What is kept of the way.

    - `first_value`, `largest`: the objective at the start, and the largest absolute value
      so far of each parameter.
    - `quiet`: steps in a row that barely mattered.
    - `aux`, `stop`: what the function returned besides, and why it stopped.
    - `evaluations`, `products`: of objective and gradient, and of the Hessian (or what
      stands for it) with a vector.
    """

    first_value: Scalar
    largest: Vector
    quiet: Int[Array, ""]
    aux: PyTree
    stop: Any
    evaluations: Int[Array, ""]
    products: Int[Array, ""]

    @property
    def begins(self) -> Bool[Array, ""]:
        """Whether the evaluation under way is that of the start."""
        return self.evaluations == 0

    def after(self, value: Scalar, x: Vector, aux: PyTree, accepted: Array) -> "Record":
        """With one more evaluation: `value` there, and the point `x` where it stands now."""
        return Record(
            first_value=jnp.where(self.begins, value, self.first_value),
            largest=jnp.maximum(self.largest, jnp.abs(x)),
            quiet=self.quiet,
            aux=choose(accepted, aux, self.aux),
            stop=self.stop,
            evaluations=self.evaluations + 1,
            products=self.products,
        )

    def slight(
        self, step: Vector, predicted: Scalar, value: Scalar, rtol: float, error: Any = 0.0
    ) -> Bool[Array, ""]:
        """Whether a step from the objective `value`, known up to `error`, barely matters.

        Towards a minimum at zero or of vanishing curvature no step is ever small against
        the parameters; there it must be small against the way so far.
        """
        small = jnp.all(jnp.abs(step) <= rtol * self.largest)
        fallen = self.first_value - value
        return small & (predicted <= jnp.maximum(error, jnp.finfo(step.dtype).eps * fallen))

    def count_quiet(self, moved: Array, slight: Array) -> Int[Array, ""]:
        """Steps in a row that barely mattered; a trial that was rejected is none."""
        return jnp.where(moved, jnp.where(slight, self.quiet + 1, 0), self.quiet)

    def falls_without_limit(self, value: Scalar, x: Vector) -> Bool[Array, ""]:
        """Whether the objective still falls where parameters have lost any meaning."""
        return (value < self.first_value) & jnp.any(jnp.abs(x) > 1e20)

    def stopped(self, reason: Any) -> "Record":
        """With a reason to stop, unless there is one already."""
        stop = STOP.where(is_running(self.stop), reason, self.stop)
        return eqx.tree_at(lambda record: record.stop, self, stop)


class AbstractFlatMinimiser(optx.AbstractMinimiser):
    """A minimiser of one vector; a subclass says how it begins and goes on.

    Its state has a `record`.
    """

    @abc.abstractmethod
    def begin(self, objective: FlatObjective, x: Vector, record: Record) -> Any:
        """The state before anything is evaluated: the first step evaluates the start."""

    @abc.abstractmethod
    def advance(self, objective: FlatObjective, x: Vector, state: Any) -> tuple[Vector, Any]:
        """One evaluation, and the point and state after it."""

    @abc.abstractmethod
    def reached(self, state: Any) -> tuple[Scalar, Vector]:
        """Objective and gradient at the current point."""

    def init(
        self,
        fn: Any,
        y: PyTree,
        args: PyTree,
        options: dict[str, Any],
        f_struct: PyTree,
        aux_struct: PyTree,
        tags: frozenset[object],
    ) -> Any:
        """See optimistix."""
        del f_struct, tags
        objective, x = flatten(fn, y, args, options)
        none = jnp.asarray(0)
        record = Record(
            first_value=jnp.zeros((), x.dtype),
            largest=jnp.zeros_like(x),
            quiet=none,
            aux=empty_aux(aux_struct),
            stop=STOP.where(jnp.asarray(False), STOP.running, STOP.running),
            evaluations=none,
            products=none,
        )
        return self.begin(objective, x, record)

    def step(
        self,
        fn: Any,
        y: PyTree,
        args: PyTree,
        options: dict[str, Any],
        state: Any,
        tags: frozenset[object],
    ) -> tuple[PyTree, Any, Any]:
        """See optimistix."""
        del tags
        objective, x = flatten(fn, y, args, options)
        moved, following = self.advance(objective, x, state)
        return objective.unravel(moved), following, following.record.aux

    def terminate(
        self,
        fn: Any,
        y: PyTree,
        args: PyTree,
        options: dict[str, Any],
        state: Any,
        tags: frozenset[object],
    ) -> tuple[Array, Any]:
        """Whether it stopped, and how."""
        del fn, y, args, options, tags
        return to_optimistix(state.record.stop)

    def postprocess(
        self,
        fn: Any,
        y: PyTree,
        aux: Any,
        args: PyTree,
        options: dict[str, Any],
        state: Any,
        tags: frozenset[object],
        result: Any,
    ) -> tuple[PyTree, Any, dict[str, Any]]:
        """Adds the statistics."""
        del tags, result
        objective, x = flatten(fn, y, args, options)
        record = state.record
        value, gradient = self.reached(state)
        statistics = {
            "stop": record.stop,
            "objective": value,
            "gradient_norm": jnp.max(jnp.abs(objective.free(x, gradient))),
            "function_evaluations": record.evaluations,
            "derivative_evaluations": record.evaluations,
            "curvature_products": record.products,
        }
        return y, aux, statistics


def gradient_fell(
    objective: FlatObjective, trial: Vector, before: Vector, after: Vector, scale: Vector
) -> Bool[Array, ""]:
    """Whether a closing step, from one gradient to the other, brought it nearer to zero."""
    held = objective.held(trial, after)
    old, new = (jnp.where(held, 0.0, gradient) / scale for gradient in (before, after))
    return norm_of(new) <= norm_of(old)
