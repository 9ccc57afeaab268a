"""The reference engine: every member by diffrax, side by side."""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array

from solvers.ensemble.law import Answer, Law, Question
from solvers.integrators.base import AbstractMethod
from solvers.problem import InitialValueProblem
from solvers.solve import solve
from systems.base import AbstractODE, State


class _Flat(AbstractODE):
    """A law as a system, whose states have numbers for names."""

    varied: Array
    shared: Array
    law: Law
    states: tuple[State, ...] = eqx.field(static=True)

    def vector_field(self, t: Any, y: Any, inputs: Any) -> Any:
        """The drift."""
        del inputs
        return self.law.drift(t, y, self.varied, self.shared)


def run_reference(law: Law, method: AbstractMethod, question: Question) -> Answer:
    """Answer by diffrax under `vmap`, with derivatives by following the recorded steps.

    For ordinary differential equations alone: the noise of the other engines is their own.
    """
    states = tuple(State(str(i), 0.0) for i in range(law.states))

    def member(start: Any, stop: Any, initial: Any, varied: Any, times: Any) -> Answer:
        system = _Flat(varied, question.shared, law, states)
        problem = InitialValueProblem(system, start, stop, initial)
        solution = solve(problem, method, save_at=times, throw=False)
        return Answer(
            saved=solution.states,
            final_time=solution.final_time,
            final_state=solution.final_state,
            status=solution.status._value,
            accepted=solution.statistics["accepted_steps"],
            rejected=solution.statistics["rejected_steps"],
        )

    axes = (0, 0, 0, 0, None if question.times.ndim == 1 else 0)
    return jax.vmap(member, axes)(
        question.start,
        question.stop,
        question.initial_states,
        question.varied,
        question.times,
    )
